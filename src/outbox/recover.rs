//! Opening: a new epoch that is on disk before anything is said under it, and what earlier epochs left.
//!
//! An old epoch is never appended to, so a cloned disk, a restored backup and a crash harm nothing: what is sent
//! again carries the counters that it always had, and the ledger drops what it has seen.

use std::sync::{Arc, mpsc};

use adtally_streams::id::{Epoch, Id};
use adtally_streams::lane::Lane;
use adtally_streams::names::MAX_SHARDS;
use adtally_streams::recovery::{epoch_parts, recovered_parts};

use super::accept::Request;
use super::disk::{Disk, EpochRecord};
use super::epoch::EpochLanes;
use super::retain::{Retained, Segment};
use super::shared::{Parts, Shared, now_ms};
use super::{OutboxError, OutboxOptions};
use crate::fail_points::{Point, pass};
use crate::log::publisher::Broker;

/// Drained epochs of which the log is reminded, the newest ones; of older ones it may have forgotten what it lost.
const MAX_SETTLED: usize = 64;

/// An opened outbox before anything runs.
pub(super) struct Opened {
    pub shared: Arc<Shared>,
    pub requests: mpsc::Receiver<Request>,
    /// Earlier epochs that are to be shipped or announced as drained, oldest first.
    pub recovered: Vec<Arc<EpochLanes>>,
    /// Earlier epochs that are drained and of which something is kept, newest first.
    pub settled: Vec<Arc<EpochLanes>>,
}

pub(super) fn open(options: OutboxOptions, broker: Arc<dyn Broker>) -> Result<Opened, OutboxError> {
    if options.shards == 0 || options.shards > MAX_SHARDS {
        return Err(OutboxError::Options(format!(
            "{} shards; there are 1 to {MAX_SHARDS}",
            options.shards
        )));
    }
    let fresh = producer_id(&options.producer_name)?;
    std::fs::create_dir_all(&options.dir).map_err(|e| {
        OutboxError::Options(format!(
            "the folder {} cannot be made: {e}",
            options.dir.display()
        ))
    })?;
    let disk = Disk::open(&options.dir)?;
    let producer = disk.producer(&fresh)?;
    let mut retained = Retained::default();
    let mut unsent_bytes = 0;
    let (mut recovered, mut settled) = (Vec::new(), Vec::new());
    for record in disk.epochs()? {
        let lanes = lanes_of(&disk, &record, &mut retained)?;
        if record.drained {
            // It has nothing unsent, whatever the positions say that were written last.
            let head = |lane: usize| lanes[lane].last().map_or(0, Lane::head);
            let ended = |lane| Lane::starting_at(head(lane));
            settled.push(Arc::new(EpochLanes::new(
                record.epoch,
                record.shards,
                ended,
            )));
            continue;
        }
        // One that is not drained owes the log its last word.
        let parts = parts_of(&record, &lanes);
        unsent_bytes += parts.iter().map(EpochLanes::waiting_bytes).sum::<u64>();
        recovered.extend(parts.into_iter().map(Arc::new));
    }
    settled.reverse();
    settled.truncate(MAX_SETTLED);
    let epoch = new_epoch(&disk, options.shards)?;
    tracing::info!(dir = %options.dir.display(), %producer, %epoch, earlier = recovered.len(), "the outbox is open");
    let (shared, requests) = Shared::new(Parts {
        disk,
        broker,
        producer,
        owner: options.owner,
        limits: options.limits,
        current: EpochLanes::new(epoch, options.shards, |_| Lane::default()),
        recovering: recovered.clone(),
        unsent_bytes,
        retained,
    });
    Ok(Opened {
        shared,
        requests,
        recovered,
        settled,
    })
}

pub(super) fn producer_id(name: &str) -> Result<Id, OutboxError> {
    let text = format!("{name}-{:08x}", rand::random::<u32>());
    Id::new(&text)
        .map_err(|e| OutboxError::Options(format!("the producer name {name:?} makes no id: {e}")))
}

fn new_epoch(disk: &Disk, shards: u16) -> Result<Epoch, OutboxError> {
    let epoch = Epoch(rand::random());
    pass(Point::EpochChosen);
    disk.put_epoch(&EpochRecord {
        epoch,
        shards,
        opened_ms: now_ms(),
        drained: false,
        lost: Vec::new(),
    })?;
    pass(Point::EpochRecorded);
    Ok(epoch)
}

/// The lanes of an earlier epoch, each in its parts, as its runs and acknowledged positions say.
fn lanes_of(
    disk: &Disk,
    record: &EpochRecord,
    retained: &mut Retained,
) -> Result<Vec<Vec<Lane>>, OutboxError> {
    let names = EpochLanes::new(record.epoch, record.shards, |_| Lane::default());
    let mut lanes = Vec::with_capacity(names.count());
    for index in 0..names.count() {
        let key = names.key(index);
        let acked = disk.acked(record.epoch, key)?;
        let runs = disk.runs(record.epoch, key, acked)?;
        let parts = recovered_parts(acked, &runs, &record.lost_of(key)).map_err(|missing| {
            OutboxError::Damaged {
                dir: disk.dir().to_owned(),
                what: format!("{missing} of epoch {}, {key}", record.epoch),
            }
        })?;
        let acked = parts.first().map_or(0, Lane::acked);
        if acked > 0 {
            let bytes = disk.bytes_before(record.epoch, key, acked);
            retained.keep(Segment {
                epoch: record.epoch,
                lane: key,
                end: acked,
                bytes,
                at_ms: record.opened_ms,
            });
        }
        lanes.push(parts);
    }
    Ok(lanes)
}

fn parts_of(record: &EpochRecord, lanes: &[Vec<Lane>]) -> Vec<EpochLanes> {
    let parts = epoch_parts(lanes);
    let last = parts.len().saturating_sub(1);
    let part = |(n, lanes): (usize, Vec<Lane>)| {
        let mut lanes = lanes.into_iter();
        let part = EpochLanes::new(record.epoch, record.shards, |_| {
            lanes.next().unwrap_or_default()
        });
        match n == last {
            true => part,
            false => part.before_another(),
        }
    };
    parts.into_iter().enumerate().map(part).collect()
}
