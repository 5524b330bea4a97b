//! Verification: the log is folded again into scratch, up to where the state in use stands, and the two are compared
//! line by line of their canonical dumps; and what the ledger names missing.
//!
//! Invariant: both sides are of the same position, and the state that is checked is only read. Memory and disk do not
//! grow with the log: [`work`] names their limits.
//!
//! What decides is what counts: a line that differs, an event that a producer announced and the log does not have,
//! and a stream that ends before the state. A sequence that the stream does not hold, and a message that cannot be
//! read, are told besides; where events were in them, the ledger names those, and where these were sent again, nothing
//! is missing.

pub mod last;
pub mod schedule;
#[cfg(test)]
mod tests;
mod work;

use std::collections::BTreeMap;

use adtally_projections::differences::Difference;
use adtally_projections::dump::DumpError;
use adtally_projections::incidents::BadFrame;
use adtally_streams::time::to_rfc3339;
use chrono::{Days, NaiveDate};
use serde::Serialize;

use crate::log::LogError;
use crate::producers;
use crate::projector::ProjectorError;
use crate::replay::ReplayError;
use crate::store::StoreError;

pub use work::{Job, Progress, checkpoints_at};

/// Differences of a shard that are told one by one.
pub const MAX_TOLD: usize = 1_000;

/// Why nothing was verified. The state is as it was.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// The state is of another stream.
    #[error(
        "{stream} is not the stream that shard {shard} was folded from: that one was created at {folded} ns of the Unix epoch, this one at {found}. Name the NATS of this folder with --server"
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
    /// The disk is too full.
    #[error(
        "folding shard {shard} again needs about {needed_mib} MiB in {folder}, and {free_mib} MiB are free there: make room, or name another place with --scratch"
    )]
    NoRoom {
        /// The shard.
        shard: u16,
        /// The folder.
        folder: String,
        /// What it needs.
        needed_mib: u64,
        /// What there is.
        free_mib: u64,
    },
    /// There is nothing to compare with.
    #[error("no checkpoint of shard {shard} is at or before that: {kept}")]
    NoCheckpoint {
        /// The shard.
        shard: u16,
        /// What there is.
        kept: String,
    },
    /// Too much of the stream's end is gone.
    #[error("{stream} holds none of the {looked_at} messages up to {last}")]
    NoEnd {
        /// The stream.
        stream: String,
        /// How many were asked for.
        looked_at: u64,
        /// The last of them.
        last: u64,
    },
    /// It could not begin.
    #[error("{0}")]
    Unprepared(String),
    /// Somebody interrupted it.
    #[error("the verification was interrupted")]
    Interrupted,
    /// A thread panicked.
    #[error("the verification of shard {shard} ended in a panic")]
    Panicked {
        /// The shard.
        shard: u16,
    },
    /// The log, or where in it to begin.
    #[error(transparent)]
    Replay(#[from] ReplayError),
    /// The log.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The fold.
    #[error(transparent)]
    Projector(#[from] ProjectorError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A state cannot be dumped.
    #[error(transparent)]
    Dump(#[from] DumpError<StoreError>),
}

/// What the verification of one shard found.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct ShardVerdict {
    /// The shard.
    pub shard: u16,
    /// The generation that was checked.
    pub generation: String,
    /// The sequence of the checkpoint from which it was folded again; 0: from the beginning of the log.
    pub from_sequence: u64,
    /// The position that was checked; 0 before the first message.
    pub sequence: u64,
    /// Its log time, RFC 3339.
    pub log_time: Option<String>,
    /// Messages that were read again.
    pub messages: u64,
    /// Events in them by kind, those that came again included. What an archive of the stream has to hold.
    pub events: BTreeMap<&'static str, u64>,
    /// Lines of the state's dump.
    pub lines: u64,
    /// Hash of the state in use.
    pub live_hash: String,
    /// Hash of the state that was folded again.
    pub again_hash: String,
    /// What differs, at most [`MAX_TOLD`].
    pub differences: Vec<Told>,
    /// Whether more differs.
    pub more_differences: bool,
    /// The stream's last sequence, where that is before the position.
    pub stream_ends_at: Option<u64>,
    /// Sequences that the stream does not hold, first and last; at most
    /// [`crate::projector::rebuild::MAX_MISSING_NAMED`] stretches.
    pub missing: Vec<(u64, u64)>,
    /// How many sequences it does not hold.
    pub missing_messages: u64,
    /// Messages that could not be read, oldest first, at most [`MAX_TOLD`].
    pub bad_frames: Vec<Bad>,
    /// How many there ever were.
    pub bad_frames_count: u64,
}

/// A difference, as it is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Told {
    /// The family of rows.
    pub section: &'static str,
    /// The campaign, where the row is about one.
    pub campaign: Option<String>,
    /// The day, where the row is about one.
    pub day: Option<String>,
    /// What the row is about.
    pub key: String,
    /// What the state in use says; null: it has no such row.
    pub live: Option<String>,
    /// What the state that was folded again says.
    pub again: Option<String>,
}

impl From<Difference> for Told {
    fn from(difference: Difference) -> Self {
        Self {
            section: difference.section,
            campaign: difference.campaign,
            day: difference.day.and_then(day),
            key: difference.key,
            live: difference.one,
            again: difference.other,
        }
    }
}

fn day(number: i32) -> Option<String> {
    let epoch = NaiveDate::default();
    let days = Days::new(u64::from(number.unsigned_abs()));
    let day = match number < 0 {
        true => epoch.checked_sub_days(days),
        false => epoch.checked_add_days(days),
    };
    day.map(|day| day.to_string())
}

/// A message that could not be read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Bad {
    /// Its sequence.
    pub sequence: u64,
    /// When it came, log time, RFC 3339.
    pub log_time: String,
    /// Why.
    pub error: String,
    /// Its subject.
    pub subject: String,
}

impl From<BadFrame> for Bad {
    fn from(bad: BadFrame) -> Self {
        Self {
            sequence: bad.sequence,
            log_time: to_rfc3339(bad.log_time_ms),
            error: bad.name,
            subject: bad.subject,
        }
    }
}

/// What a verification found.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Verdict {
    /// Whether the state is the fold of the log, and nothing is lost.
    pub equal: bool,
    /// How long it took, in seconds.
    pub seconds: f64,
    /// By shard.
    pub shards: Vec<ShardVerdict>,
    /// Events that producers announced and that the log does not have.
    pub lost_events: u64,
    /// Every epoch of which some are lost.
    pub lost: Vec<producers::Row>,
}

impl Verdict {
    /// Of what was found in the shards, and what the log says of its producers.
    fn of(shards: Vec<ShardVerdict>, sums: producers::Sums, seconds: f64) -> Self {
        let missing = |row: &producers::Row| row.total().missing;
        let lost: Vec<_> = sums.rows().into_iter().filter(|r| missing(r) > 0).collect();
        let lost_events = lost.iter().map(missing).sum();
        let is_equal = |shard: &ShardVerdict| {
            shard.live_hash == shard.again_hash
                && shard.differences.is_empty()
                && shard.stream_ends_at.is_none()
        };
        Self {
            equal: lost_events == 0 && shards.iter().all(is_equal),
            seconds,
            shards,
            lost_events,
            lost,
        }
    }

    /// How many lines differ, as far as they are told.
    pub fn differences(&self) -> u64 {
        self.shards.iter().map(|s| s.differences.len() as u64).sum()
    }
}
