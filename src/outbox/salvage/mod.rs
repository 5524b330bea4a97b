//! Salvage: what can still be read of an outbox that will not open, and a new outbox of it.
//!
//! Everything is read from copies, so that the original stays what it is for whoever knows more. What cannot be read
//! is named, lane by lane and counter by counter; the new outbox knows of those counters that they are lost, passes
//! over them, and by announcing what follows it has them named in the log too.

mod copy;
mod read;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use adtally_streams::event::Kind;
use adtally_streams::id::{Epoch, Id};
use rocksdb::WriteBatch;
use serde::Serialize;

use super::OutboxError;
use super::disk::{Disk, EpochRecord, LaneKey, LostRun};
use super::shared::now_ms;
use read::Found;

/// Bytes of runs that are written at once.
const BATCH_BYTES: usize = 8 << 20;
/// Copies of the original that may exist at once: as it stands, and its parts.
const COPIES: u64 = 2;

/// Why an outbox cannot be salvaged.
#[derive(Debug, thiserror::Error)]
pub enum SalvageError {
    /// The folder is none.
    #[error("{0} is no outbox: it holds no file of RocksDB")]
    NoOutbox(PathBuf),
    /// The new folder is not empty.
    #[error("{0} is there already: name a folder that is not, for the new outbox")]
    Exists(PathBuf),
    /// There is no room for the copies.
    #[error(
        "the copies of {dir} need {needed} bytes and {free} are free beside it: make room, or copy the folder to another disk and salvage it there"
    )]
    NoRoom {
        /// The outbox.
        dir: PathBuf,
        /// Bytes needed.
        needed: u64,
        /// Bytes free.
        free: u64,
    },
    /// Nothing says how many shards an epoch had.
    #[error(
        "nothing that can be read of {0} says how many shards there are: salvage it in its data folder, or put that folder's file shards-count beside it"
    )]
    Shards(PathBuf),
    /// A file.
    #[error("{path}: {source}")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The new outbox, or the copy.
    #[error(transparent)]
    Outbox(#[from] OutboxError),
}

/// What is salvaged.
#[derive(Clone, Debug)]
pub struct SalvageOptions {
    /// The outbox.
    pub outbox: PathBuf,
    /// Folder of the new one; none: only looked at.
    pub to: Option<PathBuf>,
    /// Shards of the deployment, where somebody else knows.
    pub shards: Option<u16>,
    /// First part of a producer's id, should the outbox's own be unreadable.
    pub producer_name: String,
}

/// What was found, and what became of it.
#[derive(Clone, Debug, Serialize)]
pub struct Salvaged {
    /// The outbox.
    pub outbox: PathBuf,
    /// Nothing is wrong with it: a start opens it.
    pub whole: bool,
    /// The producer; a new one, when the old name is unreadable.
    pub producer: String,
    /// It is a new one: the old one's epochs will be waited for until they are retired.
    pub producer_is_new: bool,
    /// Events, and records of refused ones, that can be read and that the broker may lack.
    pub unsent: u64,
    /// Events that can be read and that the broker has acknowledged.
    pub sent: u64,
    /// By epoch, oldest first.
    pub epochs: Vec<SalvagedEpoch>,
    /// What is wrong.
    pub problems: Vec<String>,
    /// What was written last may be unreadable, and then nothing here says how much that was: the log does, as far as
    /// it was announced.
    pub tail_unknown: bool,
    /// The new outbox.
    pub to: Option<PathBuf>,
    /// Where the damaged one lies since the new one took its place.
    pub set_aside: Option<PathBuf>,
}

/// What was found of an epoch.
#[derive(Clone, Debug, Serialize)]
pub struct SalvagedEpoch {
    /// The epoch.
    pub epoch: String,
    /// The log has been told that it is over: nothing of it is unsent.
    pub drained: bool,
    /// Its lanes that hold or lack something.
    pub lanes: Vec<SalvagedLane>,
}

/// What was found of a lane.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SalvagedLane {
    /// Its shard; none for refused events.
    pub shard: Option<u16>,
    /// Its kind; `refused` for refused events.
    pub kind: String,
    /// Counters below it were acknowledged.
    pub acknowledged: u64,
    /// What can be read, first and last counter.
    pub readable: Vec<(u64, u64)>,
    /// What cannot be read and was not known to be acknowledged, first and last counter. What the log has of it is
    /// not lost.
    pub lost: Vec<(u64, u64)>,
}

impl Salvaged {
    /// How many counters are lost, unless the log has them.
    pub fn lost(&self) -> u64 {
        let lanes = self.epochs.iter().flat_map(|e| &e.lanes);
        let lost = lanes.flat_map(|lane| &lane.lost);
        lost.map(|(first, last)| last - first + 1).sum()
    }
}

/// Looks at an outbox that nobody has open, and copies what can be read to a new one. Blocks.
///
/// # Errors
/// [`SalvageError`]; the original is as it was.
pub fn salvage(options: &SalvageOptions) -> Result<Salvaged, SalvageError> {
    let outbox = &options.outbox;
    let files = copy::files_of(outbox).map_err(io_at(outbox))?;
    if files.is_empty() {
        return Err(SalvageError::NoOutbox(outbox.clone()));
    }
    if let Some(to) = options.to.as_ref().filter(|to| to.exists()) {
        return Err(SalvageError::Exists(to.clone()));
    }
    room_for_copies(outbox, &files)?;
    let work = beside(outbox, "salvage-work");
    remove(&work).map_err(io_at(&work))?;
    let done = in_folder(options, &work);
    remove(&work).map_err(io_at(&work))?;
    done
}

fn io_at(path: &Path) -> impl FnOnce(io::Error) -> SalvageError + use<> {
    let path = path.to_owned();
    move |source| SalvageError::Io { path, source }
}

/// A folder beside the outbox, whose name begins as the outbox's.
fn beside(outbox: &Path, what: &str) -> PathBuf {
    let mut name = outbox.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{what}"));
    outbox.with_file_name(name)
}

fn remove(dir: &Path) -> io::Result<()> {
    match std::fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

// The fields are narrower on some systems.
#[allow(clippy::useless_conversion)]
fn room_for_copies(outbox: &Path, files: &[PathBuf]) -> Result<(), SalvageError> {
    let sizes = files.iter().filter_map(|f| f.metadata().ok());
    let needed = (COPIES + 1) * sizes.map(|m| m.len()).sum::<u64>();
    let Ok(stat) = nix::sys::statvfs::statvfs(outbox) else {
        return Ok(());
    };
    let free = u64::from(stat.blocks_available()).saturating_mul(u64::from(stat.fragment_size()));
    if free < needed {
        return Err(SalvageError::NoRoom {
            dir: outbox.to_owned(),
            needed,
            free,
        });
    }
    Ok(())
}

fn in_folder(options: &SalvageOptions, work: &Path) -> Result<Salvaged, SalvageError> {
    let mut making = match &options.to {
        Some(to) => Some(Making::begin(beside(to, "being-made"))?),
        None => None,
    };
    let mut found = Found::default();
    let mut sink = |key: &[u8], value: &[u8]| match &mut making {
        Some(making) => making.run(key, value),
        None => Ok(()),
    };
    let mut whole = found.read_strictly(work, &options.outbox, &mut sink)?;
    if !whole {
        found.read_parts(work, &options.outbox, &mut sink)?;
    }
    let plan = plan(&found, options)?;
    let has_holes = plan.values().any(|epoch| {
        let declared = found.epochs.get(&epoch.record.epoch).map(|r| &r.lost);
        declared.map_or(&[][..], |lost| lost) != &epoch.record.lost[..]
    });
    if has_holes {
        whole = false;
        found
            .problems
            .push("counters are missing between its runs".to_owned());
    }
    let mut salvaged = report(options, &found, &plan, whole)?;
    match (making, &options.to) {
        (Some(making), Some(to)) if !whole => {
            making.finish(&salvaged.producer, &plan, to)?;
            salvaged.to = Some(to.clone());
        }
        (Some(making), _) => making.give_up()?,
        (None, _) => {}
    }
    Ok(salvaged)
}

/// An epoch as the new outbox has it.
struct Plan {
    record: EpochRecord,
    lanes: BTreeMap<LaneKey, LanePlan>,
}

struct LanePlan {
    acked: u64,
    /// Half-open.
    readable: Vec<(u64, u64)>,
    lost: Vec<(u64, u64)>,
}

fn plan(
    found: &Found,
    options: &SalvageOptions,
) -> Result<BTreeMap<(i64, Epoch), Plan>, SalvageError> {
    let known = found.epochs.values().map(|r| r.shards).max();
    let mut plans = BTreeMap::new();
    let mut epochs: Vec<Epoch> = found.epochs.keys().copied().collect();
    epochs.extend(found.runs.keys().map(|(epoch, _)| *epoch));
    epochs.sort();
    epochs.dedup();
    for epoch in epochs {
        let mut record = match found.epochs.get(&epoch) {
            Some(record) => record.clone(),
            None => EpochRecord {
                epoch,
                shards: known
                    .or(options.shards)
                    .ok_or_else(|| SalvageError::Shards(options.outbox.clone()))?,
                opened_ms: now_ms(),
                drained: false,
                lost: Vec::new(),
            },
        };
        let mut lanes = BTreeMap::new();
        let keys = found.runs.keys().chain(found.acked.keys());
        for (_, lane) in keys.filter(|(e, _)| *e == epoch) {
            let plan = lane_plan(found, &record, *lane);
            lanes.insert(*lane, plan);
        }
        record.lost = lanes
            .iter()
            .flat_map(|(lane, plan)| plan.lost.iter().map(|(a, b)| LostRun::of(*lane, *a, *b)))
            .collect();
        plans.insert((record.opened_ms, epoch), Plan { record, lanes });
    }
    Ok(plans)
}

fn lane_plan(found: &Found, record: &EpochRecord, lane: LaneKey) -> LanePlan {
    let none = BTreeMap::new();
    let key = (record.epoch, lane);
    let runs = found.runs.get(&key).unwrap_or(&none);
    let mut readable: Vec<(u64, u64)> = Vec::new();
    for (first, count) in runs {
        match readable.last_mut() {
            Some((_, end)) if *end >= *first => *end = (*end).max(first + count),
            _ => readable.push((*first, first + count)),
        }
    }
    let head = readable.last().map_or(0, |(_, end)| *end);
    let mut acked = found.acked.get(&key).copied().unwrap_or(0);
    if record.drained {
        acked = acked.max(head);
    }
    let mut lost = Vec::new();
    let mut next = acked;
    for (first, end) in readable.iter().filter(|(_, end)| *end > acked) {
        if next < *first {
            lost.push((next, *first));
        }
        next = *end;
    }
    LanePlan {
        acked,
        readable,
        lost,
    }
}

fn report(
    options: &SalvageOptions,
    found: &Found,
    plan: &BTreeMap<(i64, Epoch), Plan>,
    whole: bool,
) -> Result<Salvaged, SalvageError> {
    let known = found.producer.as_deref().and_then(|p| Id::new(p).ok());
    let fresh = super::recover::producer_id(&options.producer_name)?;
    let inclusive = |stretches: &[(u64, u64)]| stretches.iter().map(|(a, b)| (*a, b - 1)).collect();
    let (mut unsent, mut sent) = (0, 0);
    let mut epochs = Vec::new();
    for epoch in plan.values() {
        let mut lanes = Vec::new();
        for (lane, plan) in &epoch.lanes {
            for (first, end) in &plan.readable {
                unsent += end.saturating_sub((*first).max(plan.acked));
                sent += (*end).min(plan.acked).saturating_sub(*first);
            }
            if plan.readable.is_empty() && plan.lost.is_empty() {
                continue;
            }
            lanes.push(SalvagedLane {
                shard: lane.shard(),
                kind: lane.kind().map_or("refused", Kind::name).to_owned(),
                acknowledged: plan.acked,
                readable: inclusive(&plan.readable),
                lost: inclusive(&plan.lost),
            });
        }
        epochs.push(SalvagedEpoch {
            epoch: epoch.record.epoch.to_string(),
            drained: epoch.record.drained,
            lanes,
        });
    }
    Ok(Salvaged {
        outbox: options.outbox.clone(),
        whole,
        producer: known.as_ref().unwrap_or(&fresh).to_string(),
        producer_is_new: known.is_none(),
        unsent,
        sent,
        epochs,
        problems: found.problems.clone(),
        tail_unknown: found.tail_unknown,
        to: None,
        set_aside: None,
    })
}

/// A new outbox, made beside its place and moved there once it is whole and on disk.
struct Making {
    dir: PathBuf,
    disk: Disk,
    batch: WriteBatch,
    bytes: usize,
}

impl Making {
    fn begin(dir: PathBuf) -> Result<Self, SalvageError> {
        remove(&dir).map_err(io_at(&dir))?;
        Ok(Self {
            disk: Disk::open(&dir)?,
            dir,
            batch: WriteBatch::default(),
            bytes: 0,
        })
    }

    fn run(&mut self, key: &[u8], value: &[u8]) -> Result<(), SalvageError> {
        self.disk.put_raw_run(&mut self.batch, key, value);
        self.bytes += key.len() + value.len();
        if self.bytes >= BATCH_BYTES {
            self.disk.write(std::mem::take(&mut self.batch), false)?;
            self.bytes = 0;
        }
        Ok(())
    }

    fn finish(
        mut self,
        producer: &str,
        plan: &BTreeMap<(i64, Epoch), Plan>,
        to: &Path,
    ) -> Result<(), SalvageError> {
        let producer = Id::new(producer).map_err(|e| OutboxError::Options(e.to_string()))?;
        self.disk.producer(&producer)?;
        for epoch in plan.values() {
            for (lane, plan) in &epoch.lanes {
                self.disk
                    .put_acked(&mut self.batch, epoch.record.epoch, *lane, plan.acked);
            }
        }
        self.disk.write(self.batch, true)?;
        for epoch in plan.values() {
            self.disk.put_epoch(&epoch.record)?;
        }
        self.disk.close();
        drop(self.disk);
        std::fs::rename(&self.dir, to).map_err(io_at(to))?;
        let parent = to.parent().filter(|p| !p.as_os_str().is_empty());
        let parent = parent.unwrap_or(Path::new("."));
        std::fs::File::open(parent)
            .and_then(|dir| dir.sync_all())
            .map_err(io_at(parent))
    }

    fn give_up(self) -> Result<(), SalvageError> {
        self.disk.close();
        drop(self.disk);
        remove(&self.dir).map_err(io_at(&self.dir))
    }
}
