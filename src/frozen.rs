//! The state of a data folder at one set of positions, in files that nobody writes: what a verification or a backup
//! reads while the shards fold on.
//!
//! Of a stopped folder that is the state in use itself. A running `serve` is asked for checkpoints in a scratch folder
//! of whoever asks, which are links and so take neither time nor room; they go away with that folder.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use crate::control::{self, Verb};
use crate::scratch;
use crate::store::{self, Record, Shards, StoreError, checkpoints};

/// A shard's state that stands still.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct FrozenShard {
    /// The shard.
    pub shard: u16,
    /// Where it stands and what it was made of; none before its first message.
    pub record: Option<Record>,
    /// The folder of its RocksDB.
    pub state: PathBuf,
}

/// What a `serve` is asked: checkpoints of some of its shards.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Question {
    /// The process that holds the folder, as its lock says.
    pub process: u32,
    /// The generation that the folder has in use for the first of the shards: process numbers alone name nobody.
    pub in_use: String,
    /// The shards.
    pub shards: Vec<u16>,
    /// The scratch folder that is to hold them.
    pub into: PathBuf,
}

/// Freezes open shards into a folder. Blocks.
///
/// # Errors
/// [`StoreError`] when a checkpoint cannot be made.
pub fn of_open(
    shards: &Shards,
    numbers: &[u16],
    into: &Path,
) -> Result<Vec<FrozenShard>, StoreError> {
    let now_ms = chrono::Utc::now().timestamp_millis();
    let set = shards.set();
    let chosen = set.iter().filter(|s| numbers.contains(&s.number()));
    chosen
        .map(|shard| {
            let folder = into.join(shard.number().to_string());
            let made = checkpoints::make(shard, &folder, now_ms)?;
            Ok(FrozenShard {
                shard: shard.number(),
                state: made.as_ref().map_or(folder, |c| c.state()),
                record: made.map(|c| c.record),
            })
        })
        .collect()
}

/// The states in use of a folder that this process holds and nobody has open. Blocks.
///
/// # Errors
/// [`StoreError`] when one cannot be read.
pub fn of_stopped(data_dir: &Path, numbers: &[u16]) -> Result<Vec<FrozenShard>, StoreError> {
    let now_ms = chrono::Utc::now().timestamp_millis();
    numbers
        .iter()
        .map(|shard| {
            let folder = store::shard_folder(data_dir, *shard);
            let Some(name) = store::in_use(data_dir, *shard)? else {
                return Ok(FrozenShard {
                    shard: *shard,
                    record: None,
                    state: folder,
                });
            };
            let state = folder.join(&name);
            let position = checkpoints::position_in(*shard, &name, &state)?;
            Ok(FrozenShard {
                shard: *shard,
                record: position.map(|p| Record::of(p, &name, now_ms)),
                state,
            })
        })
        .collect()
}

/// Asks the `serve` that holds the folder, by its process number.
///
/// # Errors
/// When it does not answer, or cannot make them.
pub async fn ask(
    client: &async_nats::Client,
    data_dir: &Path,
    process: u32,
    shards: &[u16],
    into: &Path,
) -> anyhow::Result<Vec<FrozenShard>> {
    let first = shards.first().copied().unwrap_or_default();
    let in_use = store::in_use(data_dir, first)?;
    let question = Question {
        process,
        in_use: in_use.context("the `serve` of this folder folds nothing yet")?,
        shards: shards.to_vec(),
        into: into
            .canonicalize()
            .with_context(|| format!("finding {}", into.display()))?,
    };
    let question = serde_json::to_value(question)?;
    let answer = control::ask(client, Verb::Checkpoint, &question).await?;
    serde_json::from_value(answer)
        .context("the running `serve` is of another version: its answer cannot be read")
}

/// Answers such a question for the open shards of a folder; none when another process is meant. Blocks.
///
/// # Errors
/// When a checkpoint cannot be made, or the folder is none for that.
pub fn answer(
    shards: &Arc<Shards>,
    data_dir: &Path,
    question: &Question,
) -> anyhow::Result<Option<Vec<FrozenShard>>> {
    let set = shards.set();
    let first = question.shards.first().copied().unwrap_or_default();
    let in_use = set.iter().nth(usize::from(first)).map(|s| s.generation());
    if question.process != std::process::id() || in_use != Some(question.in_use.as_str()) {
        return Ok(None);
    }
    anyhow::ensure!(
        scratch::is_of(&question.into, data_dir),
        "{} is no scratch folder of {}",
        question.into.display(),
        data_dir.display()
    );
    Ok(Some(of_open(shards, &question.shards, &question.into)?))
}
