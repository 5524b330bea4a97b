//! Replay: the state of shards built anew from the log, in a generation beside the one in use.
//!
//! Invariant: the generation in use is not touched before the new one is whole, on disk and at least as far; then it
//! is exchanged in one step, shard by shard. A range that ends somewhere never exchanges anything.
//!
//! It begins with the newest checkpoint at or before the asked position, or with the empty state before the log's
//! first message. What a stream has no longer is read from the archive; where neither that nor a checkpoint has it,
//! there is no replay.

pub mod at;
mod job;
pub mod range;
pub mod service;
pub mod source;
#[cfg(test)]
mod tests;

use std::path::PathBuf;

use adtally_streams::time::to_rfc3339;
use serde::{Deserialize, Serialize};

use crate::archive::ArchiveError;
use crate::log::LogError;
use crate::projector::ProjectorError;
use crate::store::StoreError;

pub use job::{Job, Place, Started};

/// Why a replay does not come to its end. Unless it says otherwise, the state in use is the one from before.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// The beginning is gone.
    #[error(
        "{stream} does not begin at its first message any more: {}. A replay needs all that came before, from the log, its archive or a checkpoint, for a count without it would be wrong. {}",
        holds(*.first, *.first_ms),
        begins(.covered)
    )]
    Purged {
        /// The stream.
        stream: String,
        /// Its first sequence, or that after the last one.
        first: u64,
        /// When that message was stored, in Unix milliseconds; none when it holds no message.
        first_ms: Option<i64>,
        /// Sequences and log times of checkpoints after which it goes on, the newest first.
        covered: Vec<(u64, i64)>,
    },
    /// A sequence that is not there yet.
    #[error("{stream} ends at sequence {last}: there is no {asked} yet")]
    PastEnd {
        /// The stream.
        stream: String,
        /// Its last sequence.
        last: u64,
        /// What was asked for.
        asked: u64,
    },
    /// The state is of another stream.
    #[error(
        "{stream} is not the stream that shard {shard} was folded from: that one was created at {folded} ns of the Unix epoch, this one at {found}. If that is meant, since the stream was made again or restored, remove the folder shards/{shard} of the data folder first"
    )]
    OtherStream {
        /// The shard.
        shard: u16,
        /// Its stream.
        stream: String,
        /// Creation of the stream that was folded.
        folded: i64,
        /// Creation of the stream that is there.
        found: i64,
    },
    /// Somebody interrupted it.
    #[error("the replay was interrupted; shards that had not been switched are as they were")]
    Interrupted,
    /// One at a time.
    #[error("a replay into {generation} is under way: wait for its end, or interrupt it")]
    Busy {
        /// Its generation.
        generation: String,
    },
    /// A thread panicked.
    #[error("the replay of shard {shard} ended in a panic")]
    Panicked {
        /// The shard.
        shard: u16,
    },
    /// The archive.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// The log.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The fold.
    #[error(transparent)]
    Projector(#[from] ProjectorError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

fn holds(first: u64, first_ms: Option<i64>) -> String {
    match first_ms {
        Some(ms) => format!(
            "the first that it has is sequence {first} of {}",
            to_rfc3339(ms)
        ),
        None => format!("it begins at sequence {first} now"),
    }
}

fn begins(covered: &[(u64, i64)]) -> String {
    if covered.is_empty() {
        return "Neither the archive nor a checkpoint holds it".to_owned();
    }
    let named: Vec<String> = covered
        .iter()
        .map(|(sequence, ms)| format!("sequence {sequence} of {}", to_rfc3339(*ms)))
        .collect();
    format!(
        "Checkpoints that hold it are at {}: give a --from after one of them",
        named.join(", ")
    )
}

/// How far the replay of a shard is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// It folds, or waits for another shard's place.
    Folding,
    /// It has ended where it was told to, and nothing uses it.
    Built,
    /// It is in use.
    Switched,
}

/// The replay of one shard.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ShardStatus {
    /// The shard.
    pub shard: u16,
    /// How far it is.
    pub state: State,
    /// The sequence of the checkpoint that it began with; 0 for the empty state.
    #[serde(default)]
    pub from_sequence: u64,
    /// The last sequence that is folded.
    pub sequence: u64,
    /// The last sequence that is to be folded, as far as is known.
    pub last_sequence: u64,
    /// Messages a second since the beginning.
    pub messages_per_second: f64,
    /// Seconds that are left at that rate; none before there is one.
    pub seconds_left: Option<u64>,
    /// Folder of the new generation.
    pub folder: PathBuf,
}

impl ShardStatus {
    /// Notes that it is at `sequence` after `seconds`.
    fn at(&mut self, sequence: u64, seconds: f64) {
        self.sequence = sequence;
        self.last_sequence = self.last_sequence.max(sequence);
        self.messages_per_second = if seconds > 0.0 {
            sequence.saturating_sub(self.from_sequence) as f64 / seconds
        } else {
            0.0
        };
        let left = (self.last_sequence - sequence) as f64;
        self.seconds_left = (self.messages_per_second > 0.0)
            .then(|| (left / self.messages_per_second).ceil() as u64);
    }
}

/// A replay of all its shards.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Name of the new generation.
    pub generation: String,
    /// Its shards, in order.
    pub shards: Vec<ShardStatus>,
    /// It has come to its end, well or not.
    pub finished: bool,
    /// Why it has not come to its end well.
    pub error: Option<String>,
}
