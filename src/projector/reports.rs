//! What a shard's state says of the log that it was folded from: producers, gaps, incidents, totals.
//!
//! Invariant: everything is read from one snapshot, so a gap is one at that position.

use std::ops::ControlFlow;

use adtally_projections::codec::Damaged;
use adtally_projections::completeness::{self, Gap, Producer};
use adtally_projections::family::Family;
use adtally_projections::ids::IdKey;
use adtally_projections::incidents::{self, BadFrame, Conflict};
use adtally_projections::ledger::{self, Intervals};
use adtally_projections::totals::{self, Totals};
use adtally_streams::event::Kind;

use crate::store::{ShardSnapshot, StoreError};

/// An epoch of a producer in a shard, and what is missing of it.
#[derive(Clone, Debug)]
pub struct ProducerReport {
    /// What the log tells of it.
    pub producer: Producer,
    /// By [`Kind`]: how many events of the lane were applied, duplicates not counted.
    pub applied: [u64; Kind::ALL.len()],
    /// By [`Kind`]: what is missing.
    pub gaps: [Gap; Kind::ALL.len()],
}

/// Every producer of a shard, by name and epoch.
///
/// # Errors
/// [`StoreError`] when the state cannot be read.
pub fn producers(snapshot: &ShardSnapshot<'_>) -> Result<Vec<ProducerReport>, StoreError> {
    let rows = decode_all(snapshot, Family::Completeness, Producer::decode)?;
    let log_time_ms = snapshot.position().map_or(0, |p| p.log_time_ms);
    rows.into_iter()
        .map(|producer| {
            let mut report = ProducerReport {
                producer,
                applied: Default::default(),
                gaps: Default::default(),
            };
            for kind in Kind::ALL {
                let mut key = Vec::new();
                ledger::key(&mut key, report.producer.epoch, kind);
                let value = snapshot.get(Family::Ledger, &key)?;
                let applied = value.map_or(Ok(Intervals::default()), |v| Intervals::decode(&v));
                let applied = applied.map_err(|error| snapshot.damaged(error))?;
                report.applied[kind as usize] = applied.len();
                report.gaps[kind as usize] =
                    completeness::gap(&report.producer, kind, &applied, log_time_ms);
            }
            Ok(report)
        })
        .collect()
}

/// What became of everything, by [`Kind`].
///
/// # Errors
/// [`StoreError`] when the state cannot be read.
pub fn totals(snapshot: &ShardSnapshot<'_>) -> Result<[Totals; Kind::ALL.len()], StoreError> {
    let mut out = [Totals::default(); Kind::ALL.len()];
    for kind in Kind::ALL {
        let mut key = Vec::new();
        totals::key(&mut key, kind);
        if let Some(value) = snapshot.get(Family::Totals, &key)? {
            out[kind as usize] = Totals::decode(&value).map_err(|error| snapshot.damaged(error))?;
        }
    }
    Ok(out)
}

/// The records of messages that could not be applied, oldest first.
///
/// # Errors
/// [`StoreError`] when the state cannot be read.
pub fn bad_frames(snapshot: &ShardSnapshot<'_>) -> Result<Vec<BadFrame>, StoreError> {
    decode_all(snapshot, Family::BadFrames, |_, value| {
        BadFrame::decode(value)
    })
}

/// A conflict with the names of what it is about.
#[derive(Clone, Debug)]
pub struct NamedConflict {
    /// The event's kind.
    pub kind: Kind,
    /// Its ad; a conversion's advertiser.
    pub owner: String,
    /// Its id.
    pub id: String,
    /// The record.
    pub conflict: Conflict,
}

/// The records of events whose id was taken by other content, oldest first.
///
/// # Errors
/// [`StoreError`] when the state cannot be read.
pub fn conflicts(snapshot: &ShardSnapshot<'_>) -> Result<Vec<NamedConflict>, StoreError> {
    let rows = decode_all(snapshot, Family::Conflicts, |_, value| {
        Conflict::decode(value)
    })?;
    rows.into_iter()
        .map(|conflict| {
            let key = IdKey::decode(&conflict.id_key).map_err(|e| snapshot.damaged(e))?;
            Ok(NamedConflict {
                kind: key.kind,
                owner: snapshot.name(key.owner_space(), key.owner)?,
                id: key.text(),
                conflict,
            })
        })
        .collect()
}

/// How many conflicts and bad messages there ever were; of more than are kept, the oldest records are gone.
///
/// # Errors
/// [`StoreError`] when the state cannot be read.
pub fn incident_counts(snapshot: &ShardSnapshot<'_>) -> Result<incidents::Counts, StoreError> {
    let count = |key| -> Result<u64, StoreError> {
        let value = snapshot.get(Family::Meta, key)?;
        Ok(value
            .as_deref()
            .and_then(incidents::decode_key)
            .unwrap_or(0))
    };
    Ok(incidents::Counts {
        conflicts: count(incidents::CONFLICTS_KEY)?,
        bad_frames: count(incidents::BAD_FRAMES_KEY)?,
    })
}

fn decode_all<T>(
    snapshot: &ShardSnapshot<'_>,
    family: Family,
    decode: impl Fn(&[u8], &[u8]) -> Result<T, Damaged>,
) -> Result<Vec<T>, StoreError> {
    let mut out = Ok(Vec::new());
    snapshot.scan(family, &[], None, |key, value| {
        match (&mut out, decode(key, value)) {
            (Ok(rows), Ok(row)) => {
                rows.push(row);
                ControlFlow::Continue(())
            }
            (_, Err(error)) => {
                out = Err(snapshot.damaged(error));
                ControlFlow::Break(())
            }
            (Err(_), _) => ControlFlow::Break(()),
        }
    })?;
    out
}
