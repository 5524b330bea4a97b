//! Where the replay of a shard begins: with the newest checkpoint at or before the asked position, or before the
//! log's first message; and how it reads on, from the archive what the stream has no longer, and then from the stream.
//!
//! Invariant: a checkpoint is begun with only when the log in front of us is the one that it was folded from and goes
//! on where it ends: the stream was created when it says, and the message at its position, where the log still has
//! it, has its checksum.

use std::path::{Path, PathBuf};

use adtally_projections::position::STATE_FORMAT;
use adtally_streams::frame::frame_crc;
use adtally_streams::names::events_stream;
use async_nats::jetstream::Context;
use async_nats::jetstream::stream::Info;

use super::ReplayError;
use super::range::{Held, Range};
use crate::archive::{self, Coverage};
use crate::log::reader::message_at;
use crate::log::streams::info_of;
use crate::projector::rebuild::{Ended, Rebuild};
use crate::store::{Checkpoint, checkpoints};

/// A shard's stream when the replay began, and what it begins with.
#[derive(Clone, Debug)]
pub struct Source {
    /// The shard.
    pub shard: u16,
    /// Creation of its stream, in nanoseconds of the Unix epoch.
    pub created_ns: i64,
    /// The stream's last sequence.
    pub last: u64,
    /// What it begins with; none: the empty state before the first message.
    pub from: Option<Checkpoint>,
    /// The last sequence that the archive has in the place of the stream; 0 where the stream has its beginning.
    pub archived: u64,
    archive: archive::Place,
}

impl Source {
    /// Looks at a shard's stream, its archive and its checkpoints in a data folder.
    ///
    /// # Errors
    /// [`ReplayError`] when the log is not there, or has not what is needed.
    pub async fn find(
        jetstream: &Context,
        data_dir: &Path,
        archive: &archive::Place,
        shard: u16,
        range: &Range,
    ) -> Result<Self, ReplayError> {
        let info = info_of(jetstream, &events_stream(shard)).await?;
        let state = &info.state;
        let archived = match state.first_sequence > 1 {
            true => archive::cover(archive, shard, created_ns(&info), state.first_sequence).await?,
            false => None,
        };
        let kept = kept(data_dir.to_path_buf(), shard).await?;
        let held = held(&info, archived.as_ref());
        let from = newest(jetstream, shard, range, (&info, held), &kept).await?;
        let records: Vec<_> = kept.iter().map(|c| c.record.position()).collect();
        let begins_after = from.as_ref().map_or(0, |c| c.record.sequence);
        range.check(shard, held, begins_after, &records)?;
        Ok(Self {
            shard,
            created_ns: created_ns(&info),
            last: state.last_sequence,
            from,
            archived: archived.map_or(0, |_| state.first_sequence - 1),
            archive: archive.clone(),
        })
    }

    /// The sequence after which it reads.
    pub fn begins_after(&self) -> u64 {
        self.from.as_ref().map_or(0, |c| c.record.sequence)
    }

    /// Folds up to `last`. What the stream has no longer, or loses meanwhile since it is archived, is read from the
    /// archive: it never ends with [`Ended::Purged`]. Blocks.
    ///
    /// # Errors
    /// [`ReplayError`] when the fold cannot go on, [`ReplayError::Purged`] where the archive has not what is gone.
    pub fn fold(
        &self,
        rebuild: &mut Rebuild,
        last: u64,
        told: &mut dyn FnMut(u64),
    ) -> Result<Ended, ReplayError> {
        let runtime = tokio::runtime::Handle::current();
        loop {
            let ended = rebuild.fold_to(last, told)?;
            let Ended::Purged(first) = ended else {
                return Ok(ended);
            };
            let covering = archive::cover(&self.archive, self.shard, self.created_ns, first);
            let position = rebuild.sequence();
            let reaches = |archived: &Coverage| archived.first <= position + 1;
            let Some(archived) = runtime.block_on(covering)?.filter(reaches) else {
                return Err(ReplayError::Purged {
                    stream: events_stream(self.shard),
                    first,
                    first_ms: None,
                    covered: Vec::new(),
                });
            };
            rebuild.after(archived.after(position));
        }
    }
}

/// What there is of the log, in the stream and before it in the archive.
fn held(info: &Info, archived: Option<&Coverage>) -> Held {
    let state = &info.state;
    let first_ms = (state.first_timestamp.unix_timestamp_nanos() / 1_000_000) as i64;
    match archived {
        Some(archived) => Held {
            first: archived.first,
            first_ms: Some(archived.first_ms),
            last: state.last_sequence,
        },
        None => Held {
            first: state.first_sequence,
            first_ms: (state.messages > 0).then_some(first_ms),
            last: state.last_sequence,
        },
    }
}

fn created_ns(info: &Info) -> i64 {
    info.created.unix_timestamp_nanos() as i64
}

async fn kept(data_dir: PathBuf, shard: u16) -> Result<Vec<Checkpoint>, ReplayError> {
    let listed = tokio::task::spawn_blocking(move || checkpoints::list(&data_dir, shard)).await;
    Ok(listed.map_err(|_| ReplayError::Panicked { shard })??)
}

async fn newest(
    jetstream: &Context,
    shard: u16,
    range: &Range,
    (info, held): (&Info, Held),
    kept: &[Checkpoint],
) -> Result<Option<Checkpoint>, ReplayError> {
    let may = |c: &&Checkpoint| range.may_begin_at(&c.record.position());
    for checkpoint in kept.iter().rev().filter(may) {
        match difference(jetstream, shard, (info, held), checkpoint).await? {
            None => return Ok(Some(checkpoint.clone())),
            Some(why) => {
                tracing::warn!(shard, checkpoint = %checkpoint.folder.display(), %why, "a checkpoint is passed over");
            }
        }
    }
    Ok(None)
}

/// Why a replay cannot go on from a checkpoint; none when it can.
async fn difference(
    jetstream: &Context,
    shard: u16,
    (info, held): (&Info, Held),
    checkpoint: &Checkpoint,
) -> Result<Option<String>, ReplayError> {
    let record = &checkpoint.record;
    let (first, last) = (held.first, held.last);
    let why = if record.state_format != STATE_FORMAT {
        "its rows are of another version of adtally".to_owned()
    } else if record.stream_created_ns != created_ns(info) {
        "it is of another stream".to_owned()
    } else if last < record.sequence {
        format!("the stream ends at {last}, before it")
    } else if first > record.sequence + 1 {
        format!("the log begins at {first} only")
    } else {
        let stream = events_stream(shard);
        let there = message_at(jetstream, &stream, record.sequence).await?;
        match there.map(|message| frame_crc(&message.payload)) {
            Some(crc) if crc != record.crc => "the message at its position is another one".into(),
            _ => return Ok(None),
        }
    };
    Ok(Some(why))
}
