//! What an operator is shown of incidents: events whose id was taken by other content, and messages of the log that
//! could not be applied.
//!
//! Every one of them is counted for good in the state; the list holds the newest, and says how many there were, so
//! that a cut list never passes for a whole one.

use adtally_streams::event::Kind;
use adtally_streams::names::events_stream;
use adtally_streams::time::to_rfc3339;
use serde::{Deserialize, Serialize};

use crate::projector::reports::{self, NamedConflict};
use crate::store::{Shards, StoreError};

/// The newest records that are listed: as many as fit an answer over NATS.
pub const MAX_LISTED: usize = 1_000;

/// The newest records of one sort, oldest first, and how many there ever were.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Incidents<T> {
    /// How many there were since the state began.
    pub total: u64,
    /// The newest of them.
    pub rows: Vec<T>,
}

/// An event that did not count, because another one of other content has its id.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConflictRow {
    /// Log time; RFC 3339.
    pub time: String,
    /// The kind of both events.
    pub kind: String,
    /// The id of both.
    pub id: String,
    /// The ad of both, unless they are conversions.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ad_id: Option<String>,
    /// The advertiser of both, when they are conversions.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub advertiser_id: Option<String>,
    /// The stream that holds both.
    pub stream: String,
    /// Sequence of the message with the event that did not count.
    pub sequence: u64,
    /// Epoch of the producer that sent it.
    pub epoch: String,
    /// Its counter there.
    pub counter: u64,
    /// Sequence of the message with the event that counts.
    pub first_sequence: u64,
}

/// A message of the log that was not applied, or not wholly.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BadFrameRow {
    /// Log time; RFC 3339.
    pub time: String,
    /// Its stream.
    pub stream: String,
    /// Its sequence there.
    pub sequence: u64,
    /// Its subject.
    pub subject: String,
    /// What is wrong with it.
    pub reason: String,
    /// How many of its events were refused, where that is known.
    pub events: u64,
}

/// The newest conflicts over all shards. Blocks.
pub fn conflicts(shards: &Shards) -> Result<Incidents<ConflictRow>, StoreError> {
    let (mut total, mut all) = (0, Vec::new());
    for shard in shards.set().iter() {
        let snapshot = shard.snapshot()?;
        total += reports::incident_counts(&snapshot)?.conflicts;
        for conflict in reports::conflicts(&snapshot)? {
            all.push((conflict.conflict.log_time_ms, shard.number(), conflict));
        }
    }
    Ok(Incidents {
        total,
        rows: newest(all, conflict_row),
    })
}

/// The newest bad messages over all shards. Blocks.
pub fn bad_frames(shards: &Shards) -> Result<Incidents<BadFrameRow>, StoreError> {
    let (mut total, mut all) = (0, Vec::new());
    for shard in shards.set().iter() {
        let snapshot = shard.snapshot()?;
        total += reports::incident_counts(&snapshot)?.bad_frames;
        for bad in reports::bad_frames(&snapshot)? {
            all.push((bad.log_time_ms, shard.number(), bad));
        }
    }
    let rows = newest(all, |shard, bad| BadFrameRow {
        time: to_rfc3339(bad.log_time_ms),
        stream: events_stream(shard),
        sequence: bad.sequence,
        subject: bad.subject,
        reason: bad.name,
        events: bad.events,
    });
    Ok(Incidents { total, rows })
}

/// Records by log time, each with its shard; of too many the oldest are left out.
fn newest<T, R>(mut all: Vec<(i64, u16, T)>, row: impl Fn(u16, T) -> R) -> Vec<R> {
    all.sort_by_key(|(time, shard, _)| (*time, *shard));
    let older = all.len().saturating_sub(MAX_LISTED);
    all.into_iter()
        .skip(older)
        .map(|(_, shard, record)| row(shard, record))
        .collect()
}

fn conflict_row(shard: u16, named: NamedConflict) -> ConflictRow {
    let NamedConflict {
        kind,
        owner,
        id,
        conflict,
    } = named;
    let (ad_id, advertiser_id) = match kind {
        Kind::Conversion => (None, Some(owner)),
        Kind::Impression | Kind::Click => (Some(owner), None),
    };
    ConflictRow {
        time: to_rfc3339(conflict.log_time_ms),
        kind: kind.name().into(),
        id,
        ad_id,
        advertiser_id,
        stream: events_stream(shard),
        sequence: conflict.sequence,
        epoch: conflict.epoch.to_string(),
        counter: conflict.counter,
        first_sequence: conflict.first_sequence,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_too_many_the_newest_are_kept_in_order_of_the_log() {
        let count = MAX_LISTED as i64 + 3;
        let all = (0..count)
            .rev()
            .map(|n| (n, (n % 2) as u16, n))
            .collect::<Vec<_>>();
        let rows = newest(all, |shard, n| {
            assert_eq!(i64::from(shard), n % 2);
            n
        });
        assert_eq!(rows, (3..count).collect::<Vec<_>>());
    }
}
