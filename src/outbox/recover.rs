//! Opening: a new epoch that is on disk before anything is said under it, and what earlier epochs left.
//!
//! An old epoch is never appended to, so a cloned disk, a restored backup and a crash harm nothing: what is sent
//! again carries the counters that it always had, and the ledger drops what it has seen.

use std::sync::{Arc, mpsc};

use adtally_streams::id::{Epoch, Id};
use adtally_streams::lane::Lane;
use adtally_streams::names::MAX_SHARDS;
use adtally_streams::row::recovered_lane;

use super::accept::Request;
use super::disk::{Disk, EpochRecord};
use super::epoch::EpochLanes;
use super::retain::{Retained, Segment};
use super::shared::{Parts, Shared, now_ms};
use super::{OutboxError, OutboxOptions};
use crate::fail_points::{Point, pass};
use crate::log::publisher::Broker;

/// An opened outbox before anything runs.
pub(super) struct Opened {
    pub shared: Arc<Shared>,
    pub requests: mpsc::Receiver<Request>,
    /// Earlier epochs that are to be shipped or announced as drained, oldest first.
    pub recovered: Vec<Arc<EpochLanes>>,
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
    let mut recovered = Vec::new();
    for record in disk.epochs()? {
        let (lanes, unsent) = lanes_of(&disk, &record, &mut retained)?;
        unsent_bytes += unsent;
        // A drained epoch has nothing unsent; one that is not owes the log its last word.
        if !record.drained {
            recovered.push(Arc::new(lanes));
        }
    }
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
    })
}

fn producer_id(name: &str) -> Result<Id, OutboxError> {
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
    })?;
    pass(Point::EpochRecorded);
    Ok(epoch)
}

/// The lanes of an earlier epoch as its runs and acknowledged positions say, and the bytes that are unsent.
fn lanes_of(
    disk: &Disk,
    record: &EpochRecord,
    retained: &mut Retained,
) -> Result<(EpochLanes, u64), OutboxError> {
    let names = EpochLanes::new(record.epoch, record.shards, |_| Lane::default());
    let mut lanes = Vec::with_capacity(names.count());
    let mut unsent = 0;
    for index in 0..names.count() {
        let key = names.key(index);
        let acked = disk.acked(record.epoch, key)?;
        let runs = disk.runs(record.epoch, key, acked)?;
        let lane = recovered_lane(acked, &runs).map_err(|missing| OutboxError::Damaged {
            dir: disk.dir().to_owned(),
            what: format!("{missing} of epoch {}, lane {key:?}", record.epoch),
        })?;
        unsent += runs.iter().map(|run| run.bytes).sum::<u64>();
        let acked = lane.acked();
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
        lanes.push(lane);
    }
    let mut lanes = lanes.into_iter();
    let filled = EpochLanes::new(record.epoch, record.shards, |_| {
        lanes.next().unwrap_or_default()
    });
    Ok((filled, unsent))
}
