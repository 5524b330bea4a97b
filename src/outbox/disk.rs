//! What an outbox keeps on disk: runs of rows, the epochs that wrote them, and how far each lane is acknowledged.
//!
//! Acknowledged positions are written without a sync: what a crash forgets of them is sent again,
//! under the same counters.

use std::path::{Path, PathBuf};

use adtally_streams::id::{Epoch, Id};
use adtally_streams::row::{Run, RunInfo};
use rocksdb::{
    BlockBasedOptions, ColumnFamily, ColumnFamilyDescriptor, DB, DBCompressionType, DBRecoveryMode,
    LogLevel, Options, ReadOptions, WriteBatch, WriteOptions,
};

use super::OutboxError;
pub(super) use super::disk_names::{EpochRecord, LaneKey, LostRun, parse_lane_key, parse_run_key};
use super::disk_names::{epoch_range, first_of, lane_key, run_key};

/// Bytes of rows in memory before they are flushed to a table.
const WRITE_BUFFER_BYTES: usize = 32 << 20;
/// Tables of the newest level that are merged into the next one together. Each of them is looked into when a lane is
/// read, which is what keeps their number down.
const MERGE_FROM_TABLES: i32 = 12;
/// Bytes of the level that they are merged into before there is another one: more than is kept of what was sent.
const MERGED_LEVEL_BYTES: u64 = 2 << 30;
/// Bytes of one table of that level. A merge writes anew what lies where a lane goes on, which is a table a lane; and
/// what is evicted gives back its room a table at a time. All that is kept of what was sent makes some sixty.
const MERGED_TABLE_BYTES: u64 = 4 << 20;
/// Bytes of write-ahead log that recovery may have to read.
const WAL_MAX_BYTES: u64 = 256 << 20;

pub(super) const RUNS: &str = "runs";
pub(super) const ACKED: &str = "acked";
pub(super) const EPOCHS: &str = "epochs";
/// In the order in which a new database numbers them.
pub(super) const FAMILIES: [&str; 3] = [RUNS, ACKED, EPOCHS];
/// Longer than an epoch, which is what the other keys of its family are.
pub(super) const PRODUCER_KEY: &[u8] = b"producer-id";

/// The RocksDB of an outbox. Its calls block.
#[derive(Debug)]
pub(super) struct Disk {
    db: DB,
    dir: PathBuf,
}

pub(super) fn db_options(mode: DBRecoveryMode) -> Options {
    let mut options = Options::default();
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    options.set_wal_recovery_mode(mode);
    options.set_max_total_wal_size(WAL_MAX_BYTES);
    options.set_max_background_jobs(2);
    options.set_max_open_files(256);
    options.set_keep_log_file_num(2);
    options.set_log_level(LogLevel::Warn);
    options
}

fn family(name: &str, write_buffer: usize) -> ColumnFamilyDescriptor {
    let mut table = BlockBasedOptions::default();
    table.set_block_size(64 << 10);
    table.set_format_version(5);
    let mut options = Options::default();
    options.set_block_based_table_factory(&table);
    options.set_compression_type(DBCompressionType::Lz4);
    options.set_write_buffer_size(write_buffer);
    // A run is written once, read once and deleted with its neighbours. Merging tables early would write everything
    // several times over, on the disk and the cores that the log needs.
    options.set_level_zero_file_num_compaction_trigger(MERGE_FROM_TABLES);
    options.set_level_zero_slowdown_writes_trigger(3 * MERGE_FROM_TABLES);
    options.set_level_zero_stop_writes_trigger(5 * MERGE_FROM_TABLES);
    options.set_max_bytes_for_level_base(MERGED_LEVEL_BYTES);
    options.set_target_file_size_base(MERGED_TABLE_BYTES);
    ColumnFamilyDescriptor::new(name, options)
}

impl Disk {
    /// Opens or makes the database in that folder.
    pub fn open(dir: &Path) -> Result<Self, OutboxError> {
        let families = [
            family(RUNS, WRITE_BUFFER_BYTES),
            family(ACKED, 1 << 20),
            family(EPOCHS, 1 << 20),
        ];
        // A torn tail is what a kill leaves and was never answered; anything else that is damaged must be seen.
        let options = db_options(DBRecoveryMode::TolerateCorruptedTailRecords);
        let db = DB::open_cf_descriptors(&options, dir, families).map_err(|source| {
            OutboxError::Disk {
                dir: dir.to_owned(),
                source,
            }
        })?;
        Ok(Self {
            db,
            dir: dir.to_owned(),
        })
    }

    /// Opens a database that is there, without changing it: what its write-ahead log holds is read into memory.
    pub fn open_read_only(dir: &Path) -> Result<Self, OutboxError> {
        let mode = DBRecoveryMode::TolerateCorruptedTailRecords;
        let db = Self::open_copy(dir, mode, &FAMILIES).map_err(|source| OutboxError::Disk {
            dir: dir.to_owned(),
            source,
        })?;
        Ok(Self {
            db,
            dir: dir.to_owned(),
        })
    }

    /// The bare database, read-only, with those of its families.
    pub fn open_copy(
        dir: &Path,
        mode: DBRecoveryMode,
        families: &[&str],
    ) -> Result<DB, rocksdb::Error> {
        let mut options = db_options(mode);
        options.create_if_missing(false);
        let families = families.iter().map(|name| family(name, WRITE_BUFFER_BYTES));
        DB::open_cf_descriptors_read_only(&options, dir, families, false)
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    fn family(&self, name: &str) -> &ColumnFamily {
        self.db
            .cf_handle(name)
            .expect("the families are made when the database is opened")
    }

    fn failed(&self, source: rocksdb::Error) -> OutboxError {
        OutboxError::Disk {
            dir: self.dir.clone(),
            source,
        }
    }

    fn damaged(&self, what: impl Into<String>) -> OutboxError {
        OutboxError::Damaged {
            dir: self.dir.clone(),
            what: what.into(),
        }
    }

    /// The producer's id that is kept here, where there is one.
    pub fn known_producer(&self) -> Result<Option<Id>, OutboxError> {
        let kept = self
            .db
            .get_cf(self.family(EPOCHS), PRODUCER_KEY)
            .map_err(|e| self.failed(e))?;
        let Some(text) = kept.as_deref().and_then(|t| std::str::from_utf8(t).ok()) else {
            return Ok(None);
        };
        Id::new(text)
            .map(Some)
            .map_err(|e| self.damaged(format!("the producer id {text:?}: {e}")))
    }

    /// The producer's id: the one kept here, else `fresh`, which is then kept.
    pub fn producer(&self, fresh: &Id) -> Result<Id, OutboxError> {
        if let Some(known) = self.known_producer()? {
            return Ok(known);
        }
        let mut batch = WriteBatch::default();
        batch.put_cf(self.family(EPOCHS), PRODUCER_KEY, fresh.as_str());
        self.write(batch, true)?;
        Ok(fresh.clone())
    }

    /// Every epoch that has not been forgotten, oldest first.
    pub fn epochs(&self) -> Result<Vec<EpochRecord>, OutboxError> {
        let mut found = Vec::new();
        for item in self
            .db
            .full_iterator_cf(self.family(EPOCHS), rocksdb::IteratorMode::Start)
        {
            let (key, value) = item.map_err(|e| self.failed(e))?;
            if key.len() != 8 {
                continue;
            }
            let record: EpochRecord = serde_json::from_slice(&value)
                .map_err(|e| self.damaged(format!("an epoch record: {e}")))?;
            found.push(record);
        }
        found.sort_by_key(|r| (r.opened_ms, r.epoch));
        Ok(found)
    }

    /// Writes an epoch's record, synced: an epoch is on disk before anything is said under it.
    pub fn put_epoch(&self, record: &EpochRecord) -> Result<(), OutboxError> {
        let value = serde_json::to_vec(record)
            .map_err(|e| self.damaged(format!("an epoch record: {e}")))?;
        let mut batch = WriteBatch::default();
        batch.put_cf(self.family(EPOCHS), record.epoch.0.to_be_bytes(), value);
        self.write(batch, true)
    }

    /// Forgets a drained epoch that holds no runs any more.
    pub fn forget_epoch(&self, epoch: Epoch) -> Result<(), OutboxError> {
        let mut batch = WriteBatch::default();
        batch.delete_cf(self.family(EPOCHS), epoch.0.to_be_bytes());
        let (from, to) = epoch_range(epoch);
        batch.delete_range_cf(self.family(ACKED), from, to);
        self.write(batch, false)
    }

    /// Whether any run of that epoch is kept.
    pub fn has_runs(&self, epoch: Epoch) -> Result<bool, OutboxError> {
        let mut iterator = self.db.raw_iterator_cf(self.family(RUNS));
        iterator.seek(epoch.0.to_be_bytes());
        iterator.status().map_err(|e| self.failed(e))?;
        Ok(iterator
            .key()
            .is_some_and(|key| key.starts_with(&epoch.0.to_be_bytes())))
    }

    pub fn put_run(
        &self,
        batch: &mut WriteBatch,
        epoch: Epoch,
        lane: LaneKey,
        first: u64,
        value: &[u8],
    ) {
        batch.put_cf(self.family(RUNS), run_key(epoch, lane, first), value);
    }

    /// A run as another outbox has stored it.
    pub fn put_raw_run(&self, batch: &mut WriteBatch, key: &[u8], value: &[u8]) {
        batch.put_cf(self.family(RUNS), key, value);
    }

    pub fn put_acked(&self, batch: &mut WriteBatch, epoch: Epoch, lane: LaneKey, acked: u64) {
        batch.put_cf(
            self.family(ACKED),
            lane_key(epoch, lane),
            acked.to_be_bytes(),
        );
    }

    /// Every counter of the lane below this one was acknowledged when it was last written.
    pub fn acked(&self, epoch: Epoch, lane: LaneKey) -> Result<u64, OutboxError> {
        let value = self
            .db
            .get_cf(self.family(ACKED), lane_key(epoch, lane))
            .map_err(|e| self.failed(e))?;
        match value {
            None => Ok(0),
            Some(bytes) => {
                let bytes: [u8; 8] = bytes
                    .as_slice()
                    .try_into()
                    .map_err(|_| self.damaged("a position"))?;
                Ok(u64::from_be_bytes(bytes))
            }
        }
    }

    pub fn write(&self, batch: WriteBatch, sync: bool) -> Result<(), OutboxError> {
        let mut options = WriteOptions::default();
        options.set_sync(sync);
        self.db
            .write_opt(batch, &options)
            .map_err(|e| self.failed(e))
    }

    /// Syncs the write-ahead log: what was written without a sync is durable afterwards.
    pub fn sync(&self) -> Result<(), OutboxError> {
        self.db.flush_wal(true).map_err(|e| self.failed(e))
    }

    /// Walks the runs of a lane from the one that holds `from`, until `each` says false.
    fn walk(
        &self,
        epoch: Epoch,
        lane: LaneKey,
        from: u64,
        mut each: impl FnMut(u64, Run<'_>) -> Result<bool, OutboxError>,
    ) -> Result<(), OutboxError> {
        let mut options = ReadOptions::default();
        // Without bounds the tables are also read where the next lane begins.
        options.set_iterate_lower_bound(lane_key(epoch, lane));
        options.set_iterate_upper_bound(run_key(epoch, lane, u64::MAX));
        let mut iterator = self.db.raw_iterator_cf_opt(self.family(RUNS), options);
        let first_key = run_key(epoch, lane, from);
        iterator.seek(first_key);
        if iterator.key() != Some(&first_key) {
            // It lies within a run that begins before it, or that run is gone.
            iterator.seek_for_prev(first_key);
            if !iterator.valid() {
                iterator.seek(first_key);
            }
        }
        while let Some((key, value)) = iterator.item() {
            let first = first_of(key).ok_or_else(|| self.damaged("a key of another length"))?;
            let run = Run::parse(value)
                .ok_or_else(|| self.damaged(format!("a run at {first} that is not one")))?;
            if first + run.count > from && !each(first, run)? {
                return Ok(());
            }
            iterator.next();
        }
        iterator.status().map_err(|e| self.failed(e))
    }

    /// Hands the rows of a lane from counter `from` up to but without `until` to `each`, until it says false.
    pub fn rows(
        &self,
        epoch: Epoch,
        lane: LaneKey,
        from: u64,
        until: u64,
        mut each: impl FnMut(&[u8]) -> Result<bool, OutboxError>,
    ) -> Result<(), OutboxError> {
        let mut at = from;
        self.walk(epoch, lane, from, |first, mut run| {
            if first > at {
                return Err(self.damaged(format!(
                    "no run with counter {at} of epoch {epoch}, lane {lane:?}"
                )));
            }
            for counter in first..first + run.count {
                let row = run
                    .next_row()
                    .ok_or_else(|| self.damaged(format!("a run at {first} that ends early")))?;
                if counter < at {
                    continue;
                }
                if at >= until || !each(row)? {
                    return Ok(false);
                }
                at += 1;
            }
            Ok(at < until)
        })
    }

    /// The runs of a lane from counter `from` on; the first one without what lies before.
    pub fn runs(
        &self,
        epoch: Epoch,
        lane: LaneKey,
        from: u64,
    ) -> Result<Vec<RunInfo>, OutboxError> {
        let mut found = Vec::new();
        self.walk(epoch, lane, from, |first, run| {
            let info = run.info(first, from);
            found.push(
                info.ok_or_else(|| self.damaged(format!("a run at {first} that ends early")))?,
            );
            Ok(true)
        })?;
        Ok(found)
    }

    /// Which counters of the lane from `from` up to but without `until` are kept: half-open, ascending, not touching.
    pub fn kept(
        &self,
        epoch: Epoch,
        lane: LaneKey,
        from: u64,
        until: u64,
    ) -> Result<Vec<(u64, u64)>, OutboxError> {
        let mut found: Vec<(u64, u64)> = Vec::new();
        self.walk(epoch, lane, from, |first, run| {
            let (start, end) = (first.max(from), (first + run.count).min(until));
            if start < end {
                match found.last_mut() {
                    Some((_, last)) if *last == start => *last = end,
                    _ => found.push((start, end)),
                }
            }
            Ok(end < until)
        })?;
        Ok(found)
    }

    /// Bytes of the lane's runs below `before`, roughly.
    pub fn bytes_before(&self, epoch: Epoch, lane: LaneKey, before: u64) -> u64 {
        let (from, to) = (run_key(epoch, lane, 0), run_key(epoch, lane, before));
        self.db
            .get_approximate_sizes_cf(self.family(RUNS), &[rocksdb::Range::new(&from, &to)])
            .iter()
            .sum()
    }

    /// Deletes the lane's runs that lie wholly below `before`, and only those.
    pub fn evict(&self, epoch: Epoch, lane: LaneKey, before: u64) -> Result<(), OutboxError> {
        let mut end = before;
        self.walk(epoch, lane, before.saturating_sub(1), |first, run| {
            if first < before && first + run.count > before {
                end = first;
            }
            Ok(false)
        })?;
        if end == 0 {
            return Ok(());
        }
        let (from, to) = (run_key(epoch, lane, 0), run_key(epoch, lane, end));
        let mut batch = WriteBatch::default();
        batch.delete_range_cf(self.family(RUNS), from, to);
        // In one batch: a lane of which no run is left knows its counters by its position only, and the one on disk
        // may be older. Without it the lane's end would be announced below what it was.
        if self.acked(epoch, lane)? < before {
            self.put_acked(&mut batch, epoch, lane, before);
        }
        self.write(batch, false)?;
        // Whole tables below the end go at once, both ends included; what shares a table goes with its compaction.
        let last = run_key(epoch, lane, end.saturating_sub(1));
        self.db
            .delete_file_in_range_cf(self.family(RUNS), from, last)
            .map_err(|e| self.failed(e))
    }

    /// Bytes free on the folder's file system, as far as it says.
    // The fields are narrower on some systems.
    #[allow(clippy::useless_conversion)]
    pub fn free_bytes(&self) -> Option<u64> {
        let stat = nix::sys::statvfs::statvfs(&self.dir).ok()?;
        Some(u64::from(stat.blocks_available()).saturating_mul(u64::from(stat.fragment_size())))
    }

    /// Flushes what is in memory and ends the work in the background.
    pub fn close(&self) {
        for name in [RUNS, ACKED, EPOCHS] {
            if let Err(error) = self.db.flush_cf(self.family(name)) {
                tracing::warn!(dir = %self.dir.display(), %error, "the outbox was not flushed; its write-ahead log holds the rest");
            }
        }
        self.db.cancel_all_background_work(true);
    }
}
