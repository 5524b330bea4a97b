//! Checkpoints: copies of a shard's state at a position, whose tables are hard links to those of the state.
//!
//! Invariant: a checkpoint is whole once its file [`RECORD`] stands in its folder, which is written and synced last;
//! a folder without one is what an interrupted making or removing has left, and is removed. A checkpoint is never
//! opened for writing: a generation begins with links to its tables, and tables are never changed in place.
//!
//! RocksDB makes it while the fold goes on. It flushes first: unflushed rows would be copied as a write-ahead log of up
//! to 128 MiB into each checkpoint, and a flushed table is one that the state has as well. What is written in the
//! course of it is in the checkpoint or not, a whole batch at a time, so the position is read from what came of it.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use adtally_projections::position::{Position, STATE_FORMAT};
use serde::{Deserialize, Serialize};

use super::{Memory, Shard, StoreError, generations, options};
use crate::fail_points::{Point, pass, pass_or_fail};

/// The folder of a shard's checkpoints.
const FOLDER: &str = "checkpoints";
/// How the name of each begins.
const PREFIX: &str = "c-";
/// The file that says what a checkpoint is of, and that it is whole.
const RECORD: &str = "position.json";
/// The folder of RocksDB's files in it.
const STATE: &str = "state";
/// How much of the disk must be free for one to be made: a flush of every unflushed row, and the copies of what cannot
/// be linked. A flush that finds no room would stop the fold.
const MIN_FREE_BYTES: u64 = 512 << 20;

/// What a checkpoint is of, as its file says it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Sequence of the last message that is in it.
    pub sequence: u64,
    /// Its log time, Unix milliseconds.
    pub log_time_ms: i64,
    /// Creation of the stream, in nanoseconds of the Unix epoch.
    pub stream_created_ns: i64,
    /// Checksum of that message.
    pub crc: u32,
    /// The generation that it was made of.
    pub generation: String,
    /// How its rows are written, [`STATE_FORMAT`].
    pub state_format: u8,
    /// When it was made, by this machine's clock, Unix milliseconds.
    pub made_ms: i64,
}

impl Record {
    /// The position of a state, as a record of it.
    pub fn of(position: Position, generation: &str, made_ms: i64) -> Self {
        Self {
            sequence: position.sequence,
            log_time_ms: position.log_time_ms,
            stream_created_ns: position.stream_created_ns,
            crc: position.crc,
            generation: generation.to_owned(),
            state_format: STATE_FORMAT,
            made_ms,
        }
    }

    /// The position that it speaks of.
    pub fn position(&self) -> Position {
        Position {
            sequence: self.sequence,
            stream_created_ns: self.stream_created_ns,
            crc: self.crc,
            log_time_ms: self.log_time_ms,
        }
    }
}

/// A whole checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// Its folder.
    pub folder: PathBuf,
    /// What it is of.
    pub record: Record,
}

impl Checkpoint {
    /// The folder of its RocksDB.
    pub fn state(&self) -> PathBuf {
        self.folder.join(STATE)
    }
}

/// The folder of a shard's checkpoints.
pub fn folder_of(data_dir: &Path, shard: u16) -> PathBuf {
    generations::shard_folder(data_dir, shard).join(FOLDER)
}

/// Makes one of an open state in a new folder below `parent`; none while the state is before its first message. The
/// state may be written meanwhile.
///
/// # Errors
/// [`StoreError`] when it cannot be made, as when the disk has not enough room; nothing of it is left then.
pub fn make(shard: &Shard, parent: &Path, made_ms: i64) -> Result<Option<Checkpoint>, StoreError> {
    let folder = parent.join(format!("{PREFIX}{}", uuid::Uuid::now_v7()));
    let made = make_in(shard, parent, &folder, made_ms);
    if !matches!(made, Ok(Some(_))) && folder.exists() {
        // What stays behind has no record, and is removed at the next start.
        if let Err(error) = fs::remove_dir_all(&folder) {
            tracing::warn!(folder = %folder.display(), %error, "a half-made checkpoint stays behind");
        }
    }
    made
}

fn make_in(
    shard: &Shard,
    parent: &Path,
    folder: &Path,
    made_ms: i64,
) -> Result<Option<Checkpoint>, StoreError> {
    fs::create_dir_all(parent).map_err(StoreError::io(parent))?;
    room_in(parent)?;
    fs::create_dir(folder).map_err(StoreError::io(folder))?;
    let state = folder.join(STATE);
    shard.link_to(&state)?;
    pass_or_fail(Point::CheckpointLinked).map_err(|e| StoreError::io(folder)(e.into()))?;
    let Some(position) = position_in(shard.number(), shard.generation(), &state)? else {
        return Ok(None);
    };
    let record = Record::of(position, shard.generation(), made_ms);
    write_record(folder, &record).map_err(StoreError::io(folder))?;
    sync(parent).map_err(StoreError::io(parent))?;
    pass(Point::CheckpointMade);
    Ok(Some(Checkpoint {
        folder: folder.to_path_buf(),
        record,
    }))
}

/// The position of a closed state, which is only read.
///
/// # Errors
/// [`StoreError`] when it cannot be opened or read.
pub fn position_in(
    number: u16,
    generation: &str,
    state: &Path,
) -> Result<Option<Position>, StoreError> {
    let memory = Memory::start(state, options::GLANCE)?;
    let shard = Shard::open_read_only(number, generation, state, &memory)?;
    Ok(shard.snapshot()?.position())
}

fn room_in(folder: &Path) -> Result<(), StoreError> {
    let free = free_bytes(folder);
    if free.is_some_and(|free| free < MIN_FREE_BYTES) {
        return Err(StoreError::io(folder)(io::Error::new(
            io::ErrorKind::StorageFull,
            format!(
                "{} MiB are free on its disk, and {} MiB are kept for the fold: make room",
                free.unwrap_or_default() >> 20,
                MIN_FREE_BYTES >> 20
            ),
        )));
    }
    Ok(())
}

/// Bytes that are free where a folder lies; none where the system does not say.
pub fn free_bytes(folder: &Path) -> Option<u64> {
    let stat = nix::sys::statvfs::statvfs(folder).ok()?;
    Some(stat.blocks_available() as u64 * stat.fragment_size() as u64)
}

fn write_record(folder: &Path, record: &Record) -> io::Result<()> {
    let (new, whole) = (folder.join("position.new"), folder.join(RECORD));
    let mut file = File::create(&new)?;
    serde_json::to_writer(&mut file, record)?;
    file.write_all(b"\n")?;
    file.sync_all()?;
    fs::rename(&new, &whole)?;
    sync(folder)
}

pub(super) fn sync(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// A shard's whole checkpoints, the newest position last. One whose record cannot be read is passed over with a
/// warning.
///
/// # Errors
/// [`StoreError`] when the folder cannot be read.
pub fn list(data_dir: &Path, shard: u16) -> Result<Vec<Checkpoint>, StoreError> {
    let mut list = Vec::new();
    for folder in folders(&folder_of(data_dir, shard))? {
        match read_record(&folder) {
            Ok(Some(record)) => list.push(Checkpoint { folder, record }),
            Ok(None) => {}
            Err(error) => {
                tracing::warn!(folder = %folder.display(), %error, "a checkpoint that cannot be read is passed over");
            }
        }
    }
    list.sort_by_key(|c| (c.record.sequence, c.record.made_ms));
    Ok(list)
}

fn read_record(folder: &Path) -> io::Result<Option<Record>> {
    match fs::read(folder.join(RECORD)) {
        Ok(text) => Ok(Some(serde_json::from_slice(&text)?)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn folders(parent: &Path) -> Result<Vec<PathBuf>, StoreError> {
    let names = generations::names(parent)?;
    let checkpoints = names.iter().filter(|name| name.starts_with(PREFIX));
    Ok(checkpoints.map(|name| parent.join(name)).collect())
}

/// Removes what interrupted makings and removals of a shard have left behind; answers what. Nobody may be making one.
///
/// # Errors
/// [`StoreError`] when the folder cannot be read, or something in it cannot be removed.
pub fn remove_half_made(data_dir: &Path, shard: u16) -> Result<Vec<PathBuf>, StoreError> {
    let mut removed = Vec::new();
    for folder in folders(&folder_of(data_dir, shard))? {
        if !folder.join(RECORD).exists() {
            fs::remove_dir_all(&folder).map_err(StoreError::io(&folder))?;
            removed.push(folder);
        }
    }
    Ok(removed)
}

/// Removes one, its record first: what is removed by half must not pass for whole.
///
/// # Errors
/// [`StoreError`] when it cannot be removed.
pub fn remove(checkpoint: &Checkpoint) -> Result<(), StoreError> {
    let folder = &checkpoint.folder;
    let remove = || {
        fs::remove_file(folder.join(RECORD))?;
        sync(folder)?;
        fs::remove_dir_all(folder)
    };
    remove().map_err(StoreError::io(folder))
}

/// How many checkpoints are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// The newest so many.
    pub newest: usize,
    /// And the newest one of each of the latest so many days that have one, by UTC days of log time.
    pub days: usize,
}

const DAY_MS: i64 = 86_400_000;

impl Retention {
    /// The places of those that are not kept, in a list whose newest is last.
    pub fn superfluous(&self, log_times_ms: &[i64]) -> Vec<usize> {
        let mut days: Vec<i64> = Vec::new();
        let mut out = Vec::new();
        for (age, (place, log_time_ms)) in log_times_ms.iter().enumerate().rev().enumerate() {
            let day = log_time_ms.div_euclid(DAY_MS);
            let of_its_day = !days.contains(&day) && days.len() < self.days;
            if of_its_day {
                days.push(day);
            }
            if age >= self.newest && !of_its_day {
                out.push(place);
            }
        }
        out
    }
}

/// Makes `to` a state of its own that begins as the closed one in `from`: tables are linked, or copied where the
/// folders are on different disks, and everything else is copied, since RocksDB goes on writing there.
///
/// # Errors
/// [`StoreError`] when something cannot be read or written.
pub fn fork(from: &Path, to: &Path) -> Result<(), StoreError> {
    fs::create_dir_all(to).map_err(StoreError::io(to))?;
    for name in generations::names(from)? {
        let (source, target) = (from.join(&name), to.join(&name));
        if !is_state_file(&name) {
            continue;
        }
        let linked = name.ends_with(".sst") && fs::hard_link(&source, &target).is_ok();
        if !linked {
            let copy = || {
                fs::copy(&source, &target)?;
                File::open(&target)?.sync_all()
            };
            copy().map_err(StoreError::io(&target))?;
        }
    }
    sync(to).map_err(StoreError::io(to))
}

/// Whether a file of RocksDB's folder is a part of the state, and not its lock or its log for people.
pub fn is_state_file(name: &str) -> bool {
    name != "LOCK" && name != "LOG" && !name.starts_with("LOG.old")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const HOUR_MS: i64 = 3_600_000;

    #[test]
    fn the_newest_and_one_a_day_are_kept() {
        let keep = Retention { newest: 3, days: 2 };
        // Eight-hourly over three days and a bit: places 0, 1, 2 are of day 0, 3, 4, 5 of day 1, and so on.
        let times: Vec<i64> = (0..10).map(|n| n * 8 * HOUR_MS).collect();
        // 9 (day 3), 8 and 7 (day 2) are the newest; of the two latest days, 3 and 2, they are the newest too.
        assert_eq!(keep.superfluous(&times), [6, 5, 4, 3, 2, 1, 0]);
        let keep = Retention { newest: 1, days: 3 };
        assert_eq!(keep.superfluous(&times), [7, 6, 4, 3, 2, 1, 0]);
        let keep = Retention { newest: 0, days: 0 };
        assert_eq!(keep.superfluous(&times).len(), times.len());
        let keep = Retention {
            newest: 24,
            days: 7,
        };
        assert_eq!(keep.superfluous(&times), Vec::<usize>::new());
        // A month of hourly ones, thinned as they are made: a day's newest, and a week's.
        let mut kept: Vec<i64> = Vec::new();
        for hour in 0..30 * 24 {
            kept.push(hour * HOUR_MS);
            for place in keep.superfluous(&kept) {
                kept.remove(place);
            }
        }
        let days: Vec<i64> = kept.iter().map(|t| t / HOUR_MS).collect();
        // The last full day's hours, and the last hour of each of the six days before.
        let mut want: Vec<i64> = (24..30).map(|day| day * 24 - 1).collect();
        want.extend(29 * 24..30 * 24);
        want.dedup();
        assert_eq!(days, want);
    }
}
