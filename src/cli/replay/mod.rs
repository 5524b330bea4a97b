//! `adtally replay`: the state of a data folder, built anew from the log.
//!
//! A stopped folder is replayed by the command, which holds it meanwhile; a running `serve` is asked to do it, and
//! answers questions throughout. Interrupting the command interrupts the replay in either case.

mod show;

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use tokio_util::sync::CancellationToken;

use super::args::Replay;
use super::folder::{Holder, Scene};
use super::located::located;
use super::output::Output;
use super::{Exit, Usage};
use crate::archive;
use crate::config::{Config, Role};
use crate::control::{self, Verb};
use crate::data_dir::DataDirError;
use crate::replay::range::Range;
use crate::replay::service::Question;
use crate::replay::{Job, Place, Started, Status};
use crate::store::{self, Limits, Memory};
use crate::{fail_points, signals};

/// Runs `adtally replay`.
pub async fn run(args: &Replay, config: &Config, output: Output) -> anyhow::Result<Exit> {
    let range = range_of(args)?;
    let stop = signals::stop_on_signal();
    let config = &located(config, Role::Projector).await?;
    let scene = Scene::open(config).await?;
    let done = scene.run(args, range, config, output, &stop).await;
    scene.deployment.close().await;
    done.map(|()| Exit::Done)
}

fn range_of(args: &Replay) -> anyhow::Result<Option<Range>> {
    let Some(from) = &args.from else {
        return Ok(None);
    };
    let now_ms = chrono::Utc::now().timestamp_millis();
    let range = Range::read(from, args.to.as_deref(), args.shard.is_some(), now_ms);
    Ok(Some(range.map_err(Usage)?))
}

impl Scene {
    async fn run(
        &self,
        args: &Replay,
        range: Option<Range>,
        config: &Config,
        output: Output,
        stop: &CancellationToken,
    ) -> anyhow::Result<()> {
        if let (true, Holder::Process(pid)) = (args.prune, &self.holder) {
            let path = config.data_dir.clone();
            let pid = Some(*pid);
            return Err(anyhow::Error::from(DataDirError::InUse { path, pid })
                .context("generations are removed from a stopped folder only"));
        }
        let shards = self.shards(args.shard).await?;
        let mut last = None;
        if let Some(range) = range {
            let mut at_work = self.start(range, shards.clone(), config, stop).await?;
            let status = show::until_the_end(&mut at_work, output, stop).await?;
            if let Some(error) = status.error {
                anyhow::bail!(error);
            }
            last = Some(status);
        }
        let pruned = match args.prune {
            true => prune(&config.data_dir, &shards)?,
            false => Vec::new(),
        };
        show::report(last.as_ref(), args.prune.then_some(&pruned), output)
    }

    async fn start(
        &self,
        range: Range,
        shards: Vec<u16>,
        config: &Config,
        stop: &CancellationToken,
    ) -> anyhow::Result<AtWork> {
        let client = self.deployment.client.clone();
        if let Holder::Process(process) = self.holder {
            let first = shards.first().copied().unwrap_or_default();
            let in_use = store::in_use(&config.data_dir, first)?;
            let start = Question::Start {
                process,
                in_use: in_use.context("the `serve` of this folder folds nothing yet")?,
                range,
                shards,
            };
            let status = ask(&client, Verb::Replay, &start).await?;
            return Ok(AtWork::There {
                client,
                generation: status.generation,
            });
        }
        fail_points::arm_from_environment().map_err(|bad| Usage(bad.to_string()))?;
        let limits = Limits {
            block_cache_bytes: config.store.cache.0 as usize,
            write_buffer_bytes: config.store.write_buffers.0 as usize,
            retention: config.kept(),
            margins: config.sealed_after(),
        };
        let job = Job {
            client,
            place: Place::Stopped(Memory::start(&config.data_dir, limits)?),
            data_dir: config.data_dir.clone(),
            shards,
            range,
            archive: archive::Place::of(config)?,
            stop: stop.child_token(),
        };
        Ok(AtWork::Here(job.start().await?))
    }
}

/// Asks the `serve` that replays for the command.
async fn ask(
    client: &async_nats::Client,
    verb: Verb,
    question: &Question,
) -> anyhow::Result<Status> {
    let answer = control::ask(client, verb, &serde_json::to_value(question)?).await?;
    serde_json::from_value(answer)
        .context("the running `serve` is of another version: its answer cannot be read")
}

/// The replay, wherever it is done.
enum AtWork {
    Here(Started),
    There {
        client: async_nats::Client,
        generation: String,
    },
}

impl AtWork {
    /// How far it is.
    async fn status(&mut self) -> anyhow::Result<Status> {
        match self {
            AtWork::Here(started) => Ok(started.status.borrow().clone()),
            AtWork::There { client, generation } => {
                let generation = generation.clone();
                ask(client, Verb::ReplayStatus, &Question::Status { generation }).await
            }
        }
    }

    /// Asks for its end; one that is done here hears of the signal by itself.
    async fn interrupt(&mut self) -> anyhow::Result<()> {
        if let AtWork::There { client, generation } = self {
            let generation = generation.clone();
            ask(client, Verb::Replay, &Question::Interrupt { generation }).await?;
        }
        Ok(())
    }
}

fn prune(data_dir: &Path, shards: &[u16]) -> anyhow::Result<Vec<PathBuf>> {
    let mut pruned = Vec::new();
    for shard in shards {
        pruned.extend(store::prune(data_dir, *shard)?);
    }
    Ok(pruned)
}
