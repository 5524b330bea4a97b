//! Reading what is left, by three ways that fail on different damage, so that their union is what there is.
//!
//! As it stands, with damaged stretches of the write-ahead log left out: fails when MANIFEST or CURRENT are damaged.
//! Its tables alone, by RocksDB's repair, which sets a damaged table aside as a whole. Its write-ahead log alone,
//! replayed by a fresh database. A row that has been deleted meanwhile may come back by the last two; it was
//! acknowledged, and the ledger has counted it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use adtally_streams::event_row::Rows;
use adtally_streams::id::Epoch;
use adtally_streams::row::{Run, refused_parts};
use rocksdb::{DB, DBRecoveryMode};

use super::super::disk::{self, ACKED, Disk, EpochRecord, LaneKey, PRODUCER_KEY, RUNS};
use super::{SalvageError, copy, io_at};

/// Longer than any key of an outbox.
const KEY_BYTES: usize = 20;
/// Added to the numbers of write-ahead logs, so that a fresh database takes them for its newest.
const WAL_NUMBERS_FROM: u64 = 100_000;
/// Problems that are told of one source; more are counted.
const MAX_PROBLEMS: usize = 20;

/// Takes every run once: its key and value.
pub(super) type Sink<'s> = &'s mut dyn FnMut(&[u8], &[u8]) -> Result<(), SalvageError>;

/// What was found.
#[derive(Default)]
pub(super) struct Found {
    pub producer: Option<String>,
    pub epochs: BTreeMap<Epoch, EpochRecord>,
    pub acked: BTreeMap<(Epoch, LaneKey), u64>,
    /// By lane: first counter and count of every run.
    pub runs: BTreeMap<(Epoch, LaneKey), BTreeMap<u64, u64>>,
    pub problems: Vec<String>,
    /// Part of the newest rows may be unreadable: a lane's last readable counter need not be its last.
    pub tail_unknown: bool,
}

impl Found {
    /// Reads all of the folder strictly, as a start would: whether that went well.
    pub fn read_strictly(
        &mut self,
        work: &Path,
        original: &Path,
        sink: Sink<'_>,
    ) -> Result<bool, SalvageError> {
        let dir = work.join("as-it-stands");
        let files = copy::files_of(original).map_err(io_at(original))?;
        self.note_torn(copy::copy(&files, &dir, copy::same).map_err(io_at(&dir))?);
        let mode = DBRecoveryMode::TolerateCorruptedTailRecords;
        match Disk::open_copy(&dir, mode, &disk::FAMILIES) {
            Ok(db) => self.read("as it stands", &db, sink)?,
            Err(error) => self.problems.push(format!("it does not open: {error}")),
        }
        Ok(self.problems.is_empty())
    }

    /// Reads the folder's parts by themselves, and takes in what each has.
    pub fn read_parts(
        &mut self,
        work: &Path,
        original: &Path,
        sink: Sink<'_>,
    ) -> Result<(), SalvageError> {
        let mode = DBRecoveryMode::SkipAnyCorruptedRecord;
        if let Ok(db) = Disk::open_copy(&work.join("as-it-stands"), mode, &disk::FAMILIES) {
            self.read("without damaged records of its log", &db, sink)?;
        }
        let files = copy::files_of(original).map_err(io_at(original))?;
        self.read_tables(&work.join("tables"), &files, sink)?;
        self.read_wal(&work.join("wal"), &files, sink)
    }

    fn read_tables(
        &mut self,
        dir: &Path,
        files: &[PathBuf],
        sink: Sink<'_>,
    ) -> Result<(), SalvageError> {
        let tables: Vec<_> = files.iter().filter(|f| copy::is(f, "sst")).collect();
        if tables.is_empty() {
            return Ok(());
        }
        copy::copy(tables, dir, copy::same).map_err(io_at(dir))?;
        let options = disk::db_options(DBRecoveryMode::SkipAnyCorruptedRecord);
        if let Err(error) = DB::repair(&options, dir) {
            self.problems
                .push(format!("its tables cannot be put together: {error}"));
            return Ok(());
        }
        for lost in copy::files_of(&dir.join("lost")).unwrap_or_default() {
            self.tail_unknown = true;
            let name = copy::same(&lost);
            self.problems.push(format!(
                "table {} is damaged; what else can be read of it is read as it stands",
                name.display()
            ));
        }
        let there = DB::list_cf(&options, dir).unwrap_or_default();
        let families: Vec<_> = disk::FAMILIES
            .into_iter()
            .filter(|f| there.iter().any(|t| t == f))
            .collect();
        match Disk::open_copy(dir, DBRecoveryMode::SkipAnyCorruptedRecord, &families) {
            Ok(db) => self.read("its tables", &db, sink),
            Err(error) => {
                self.problems
                    .push(format!("its tables do not open: {error}"));
                Ok(())
            }
        }
    }

    /// A fresh database has the same families under the same numbers, and so understands the log.
    fn read_wal(
        &mut self,
        dir: &Path,
        files: &[PathBuf],
        sink: Sink<'_>,
    ) -> Result<(), SalvageError> {
        let logs: Vec<_> = files.iter().filter(|f| copy::is(f, "log")).collect();
        if logs.is_empty() {
            return Ok(());
        }
        Disk::open(dir)?.close();
        copy::copy(logs, dir, |log| {
            let number = log.file_stem().and_then(|s| s.to_str());
            let number: u64 = number.and_then(|n| n.parse().ok()).unwrap_or_default();
            format!("{:06}.log", WAL_NUMBERS_FROM + number).into()
        })
        .map_err(io_at(dir))?;
        let strict = DBRecoveryMode::TolerateCorruptedTailRecords;
        if let Err(error) = Disk::open_copy(dir, strict, &disk::FAMILIES) {
            self.tail_unknown = true;
            self.problems
                .push(format!("its write-ahead log is damaged: {error}"));
        }
        match Disk::open_copy(dir, DBRecoveryMode::SkipAnyCorruptedRecord, &disk::FAMILIES) {
            Ok(db) => self.read("its write-ahead log", &db, sink),
            Err(error) => {
                self.problems
                    .push(format!("its write-ahead log cannot be replayed: {error}"));
                Ok(())
            }
        }
    }

    fn note_torn(&mut self, torn: Vec<PathBuf>) {
        for file in torn {
            self.problems.push(format!(
                "the disk refuses to read parts of {}",
                file.display()
            ));
        }
    }

    /// Takes in everything that a database gives.
    fn read(&mut self, source: &str, db: &DB, sink: Sink<'_>) -> Result<(), SalvageError> {
        let mut problems = Vec::new();
        for name in disk::FAMILIES {
            let mut failed = None;
            scan(db, name, &mut problems, |key, value| {
                let taken = match name {
                    RUNS => self.take_run(key, value, sink),
                    ACKED => self.take_acked(key, value),
                    _ => self.take_epoch(key, value),
                };
                match taken {
                    Ok(Some(problem)) => self.problems.push(format!("{source}: {problem}")),
                    Ok(None) => {}
                    Err(error) => failed = Some(error),
                }
                failed.is_none()
            });
            if let Some(error) = failed {
                return Err(error);
            }
        }
        let more = problems.len().saturating_sub(MAX_PROBLEMS);
        problems.truncate(MAX_PROBLEMS);
        self.problems
            .extend(problems.into_iter().map(|p| format!("{source}: {p}")));
        if more > 0 {
            self.problems
                .push(format!("{source}: and {more} more of the same"));
        }
        Ok(())
    }

    fn take_run(
        &mut self,
        key: &[u8],
        value: &[u8],
        sink: Sink<'_>,
    ) -> Result<Option<String>, SalvageError> {
        let Some((epoch, lane, first)) = disk::parse_run_key(key) else {
            return Ok(Some("a run under a key that is none".to_owned()));
        };
        let Some(count) = whole_run(lane, value) else {
            return Ok(Some(format!(
                "the run at {first} of epoch {epoch}, {lane}, is not one"
            )));
        };
        let lane = self.runs.entry((epoch, lane)).or_default();
        if lane.insert(first, count).is_none() {
            sink(key, value)?;
        }
        Ok(None)
    }

    fn take_acked(&mut self, key: &[u8], value: &[u8]) -> Result<Option<String>, SalvageError> {
        let parsed = disk::parse_lane_key(key).zip(value.try_into().ok());
        let Some((lane, acked)) = parsed else {
            return Ok(Some("a position that is none".to_owned()));
        };
        let known = self.acked.entry(lane).or_default();
        *known = u64::from_be_bytes(acked).max(*known);
        Ok(None)
    }

    fn take_epoch(&mut self, key: &[u8], value: &[u8]) -> Result<Option<String>, SalvageError> {
        if key == PRODUCER_KEY {
            self.producer = String::from_utf8(value.to_vec())
                .ok()
                .or(self.producer.take());
            return Ok(None);
        }
        let Ok(record) = serde_json::from_slice::<EpochRecord>(value) else {
            return Ok(Some("an epoch's record that is none".to_owned()));
        };
        let known = self.epochs.entry(record.epoch).or_insert(record.clone());
        if record.drained {
            *known = record;
        }
        Ok(None)
    }
}

/// How many rows a run has, when every one of them can be read.
fn whole_run(lane: LaneKey, value: &[u8]) -> Option<u64> {
    let mut run = Run::parse(value)?;
    let mut events = Rows::default();
    for _ in 0..run.count {
        let row = run.next_row()?;
        if lane == LaneKey::QUARANTINE {
            refused_parts(row)?;
        } else {
            events.push(row).ok()?;
        }
    }
    events.events().ok()?;
    Some(run.count)
}

/// Hands every row of a family that can be read to `each`, until that says false.
fn scan(
    db: &DB,
    family: &str,
    problems: &mut Vec<String>,
    mut each: impl FnMut(&[u8], &[u8]) -> bool,
) {
    let Some(handle) = db.cf_handle(family) else {
        return;
    };
    let mut rows = db.raw_iterator_cf(handle);
    rows.seek_to_first();
    let mut last = [0; KEY_BYTES];
    loop {
        while let Some((key, value)) = rows.item() {
            if !each(key, value) {
                return;
            }
            last = padded(key);
            rows.next();
        }
        let Err(error) = rows.status() else {
            return;
        };
        problems.push(format!("family {family}: {error}"));
        // A fresh iterator for each question: one that has met the damage goes on failing where the next block begins.
        if !past(&last, |target| {
            rows = db.raw_iterator_cf(handle);
            rows.seek(target);
            rows.status().is_ok()
        }) {
            return;
        }
    }
}

fn padded(key: &[u8]) -> [u8; KEY_BYTES] {
    let mut padded = [0; KEY_BYTES];
    let length = key.len().min(KEY_BYTES);
    padded[..length].copy_from_slice(&key[..length]);
    padded
}

/// Finds about the first key after `last` from which on `readable` says yes, and asks it of that one last. A damaged
/// block hides a stretch of keys: twice as far each time until past it, then halves back to its end.
fn past(last: &[u8; KEY_BYTES], mut readable: impl FnMut(&[u8]) -> bool) -> bool {
    let mut low = *last;
    let mut high = None;
    for bit in 0..KEY_BYTES * 8 {
        let Some(target) = plus_power(last, bit) else {
            break;
        };
        if readable(&target) {
            high = Some(target);
            break;
        }
        low = target;
    }
    // No power fits between a stretch that begins with the first key and large keys, so the last key there can be is
    // asked as well.
    let mut high = high.unwrap_or([0xff; KEY_BYTES]);
    if !readable(&high) {
        return false;
    }
    loop {
        let middle = halfway(&low, &high);
        if middle == low {
            break;
        }
        if readable(&middle) {
            high = middle;
        } else {
            low = middle;
        }
    }
    readable(&high)
}

/// `key + 2^bit` as one large number; none past the last key.
fn plus_power(key: &[u8; KEY_BYTES], bit: usize) -> Option<[u8; KEY_BYTES]> {
    let mut sum = *key;
    let mut carry = 1u16 << (bit % 8);
    for byte in sum[..KEY_BYTES - bit / 8].iter_mut().rev() {
        let total = u16::from(*byte) + carry;
        *byte = total as u8;
        carry = total >> 8;
    }
    (carry == 0).then_some(sum)
}

/// The middle of two keys as large numbers.
fn halfway(low: &[u8; KEY_BYTES], high: &[u8; KEY_BYTES]) -> [u8; KEY_BYTES] {
    let mut sum = [0u8; KEY_BYTES + 1];
    let mut carry = 0;
    for at in (0..KEY_BYTES).rev() {
        let total = u16::from(low[at]) + u16::from(high[at]) + carry;
        sum[at + 1] = total as u8;
        carry = total >> 8;
    }
    sum[0] = carry as u8;
    let mut middle = [0; KEY_BYTES];
    for at in 0..KEY_BYTES {
        middle[at] = (sum[at] << 7) | (sum[at + 1] >> 1);
    }
    middle
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(n: u128) -> [u8; KEY_BYTES] {
        let mut key = [0; KEY_BYTES];
        key[KEY_BYTES - 16..].copy_from_slice(&n.to_be_bytes());
        key
    }

    #[test]
    fn keys_are_large_numbers() {
        assert_eq!(plus_power(&number(255), 0), Some(number(256)));
        assert_eq!(plus_power(&number(3), 70), Some(number((1 << 70) + 3)));
        assert_eq!(plus_power(&[0xff; KEY_BYTES], 0), None);
        assert_eq!(plus_power(&[0xff; KEY_BYTES], 159), None);
        assert_eq!(halfway(&number(10), &number(21)), number(15));
        assert_eq!(
            halfway(&[0xff; KEY_BYTES], &[0xff; KEY_BYTES]),
            [0xff; KEY_BYTES]
        );
    }

    #[test]
    fn the_end_of_a_damaged_stretch_is_found_to_the_key() {
        for (last, end) in [(7, 8), (7, 9), (7, 1_000_003), (1 << 90, (1 << 100) + 5)] {
            let mut landed = [0; KEY_BYTES];
            let found = past(&number(last), |target| {
                landed.copy_from_slice(target);
                *target >= number(end)[..]
            });
            assert!(found);
            assert_eq!(landed, number(end), "{last} to {end}");
        }
        assert!(!past(&number(7), |_| false), "nothing can be read any more");
        // The first block is damaged and the keys are large: no power of two lies beyond them.
        let end = [0xf1; KEY_BYTES];
        assert!(past(&[0; KEY_BYTES], |target| *target >= end[..]));
    }
}
