//! One generation of one shard: a RocksDB, read and written as a fold wants it.
//!
//! Invariant: one writer, the shard's projector; [`Shard::write`] is all of a batch or nothing of it. It is not
//! synced: what a crash loses is a whole tail of batches, positions included, and is folded again. A generation that is
//! being built is written without a write-ahead log, since a crash leaves nothing of it that is used.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use adtally_projections::codec::Damaged;
use adtally_projections::family::{Changes, Family, Op, Reads, Target, Values};
use adtally_projections::fold::Fold;
use adtally_projections::ids::{self, IdRecord};
use adtally_projections::spans::{Margins, Retention};
use rocksdb::checkpoint::Checkpoint;
use rocksdb::{
    BoundColumnFamily, ColumnFamilyDescriptor, DBWithThreadMode, FlushOptions, MultiThreaded,
};
use rocksdb::{Options, WaitForCompactOptions, WriteBatch, WriteOptions};

use super::campaigns::Campaigns;
use super::id_days::{Greatest, IdDays, greatest_ids};
use super::names::Names;
use super::open_producers::OpenProducers;
use super::versions::Versions;
use super::{Memory, ShardSnapshot, StoreError};
use crate::fail_points::{Point, pass};

/// Ids that are looked up in one call: so few that what RocksDB notes of each stays in a processor's cache.
const IDS_AT_ONCE: usize = 512;

/// Bytes that a change takes in a batch of RocksDB besides its key and value, about: its sort, family and lengths.
const CHANGE_BYTES: usize = 8;

pub(super) type Db = DBWithThreadMode<MultiThreaded>;

/// An open generation of a shard.
pub struct Shard {
    number: u16,
    generation: String,
    path: PathBuf,
    memory: Memory,
    /// Log days that have a family of ids.
    days: Mutex<IdDays>,
    /// Held while a family is made or dropped, and while a checkpoint is made: see [`Shard::link_to`].
    families: Mutex<()>,
    /// Whether what is written goes to the write-ahead log first.
    is_logged: AtomicBool,
    names: Names,
    campaigns: Campaigns,
    producers: OpenProducers,
    versions: Versions,
    db: Db,
}

impl std::fmt::Debug for Shard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shard")
            .field("number", &self.number)
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

impl Shard {
    /// Opens a generation's folder, made when it is missing.
    ///
    /// # Errors
    /// [`StoreError`] when RocksDB cannot open it, as when another process has it open.
    pub fn open(
        number: u16,
        generation: &str,
        path: &Path,
        memory: &Memory,
    ) -> Result<Self, StoreError> {
        Self::open_as(number, generation, path, memory, false)
    }

    /// Opens a closed state only to read it: nothing in its folder is changed.
    ///
    /// # Errors
    /// [`StoreError`] when RocksDB cannot open it.
    pub fn open_read_only(
        number: u16,
        generation: &str,
        path: &Path,
        memory: &Memory,
    ) -> Result<Self, StoreError> {
        Self::open_as(number, generation, path, memory, true)
    }

    fn open_as(
        number: u16,
        generation: &str,
        path: &Path,
        memory: &Memory,
        read_only: bool,
    ) -> Result<Self, StoreError> {
        let options = memory.database();
        let mut names: BTreeSet<String> = Family::ALL.iter().map(|f| f.name().to_owned()).collect();
        if read_only {
            // None can be made.
            names.clear();
        }
        if read_only || path.join("CURRENT").exists() {
            names.extend(Db::list_cf(&options, path).map_err(rocks(path, "list its families"))?);
        }
        let families = names
            .iter()
            .map(|name| ColumnFamilyDescriptor::new(name, memory.family(name)));
        let db = if read_only {
            Db::open_cf_descriptors_read_only(&options, path, families, false)
        } else {
            Db::open_cf_descriptors(&options, path, families)
        };
        let db = db.map_err(rocks(path, "open it"))?;
        let mut days = IdDays::default();
        for name in &names {
            if let Some(day) = ids::day_of_family(name) {
                let greatest = greatest_ids(&db, name).map_err(rocks(path, "look for ids"))?;
                days.insert(day, greatest);
            }
        }
        Ok(Self {
            number,
            generation: generation.to_owned(),
            path: path.to_path_buf(),
            memory: memory.clone(),
            days: Mutex::new(days),
            families: Mutex::new(()),
            is_logged: AtomicBool::new(true),
            names: Names::default(),
            campaigns: Campaigns::default(),
            producers: OpenProducers::default(),
            versions: Versions::begin(),
            db,
        })
    }

    /// The shard's number.
    pub fn number(&self) -> u16 {
        self.number
    }

    /// The generation's name.
    pub fn generation(&self) -> &str {
        &self.generation
    }

    /// The generation's folder.
    #[cfg(test)]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes of blocks in memory and of writes that are not in files, of all shards that were opened with this one.
    pub fn memory(&self) -> (usize, usize) {
        self.memory.usage()
    }

    /// When blocks of its spans changed last.
    pub(super) fn versions(&self) -> &Versions {
        &self.versions
    }

    /// What was read of its producers.
    pub(super) fn producers(&self) -> &OpenProducers {
        &self.producers
    }

    /// What was read of its campaigns.
    pub(super) fn campaigns(&self) -> &Campaigns {
        &self.campaigns
    }

    /// The names that were read of it.
    pub(super) fn names(&self) -> &Names {
        &self.names
    }

    /// How long it keeps cells.
    pub fn retention(&self) -> Retention {
        self.memory.retention()
    }

    /// How long after its end a span is sealed.
    pub fn margins(&self) -> Margins {
        self.memory.margins()
    }

    pub(super) fn db(&self) -> &Db {
        &self.db
    }

    pub(super) fn rocks(&self, action: &'static str) -> impl Fn(rocksdb::Error) -> StoreError {
        rocks(&self.path, action)
    }

    /// The error of a row that cannot be read.
    pub fn damaged(&self, source: Damaged) -> StoreError {
        StoreError::Damaged {
            path: self.path.clone(),
            source,
        }
    }

    /// A family's handle, looked up once a batch or scan.
    pub(super) fn family(&self, name: &str) -> Result<Arc<BoundColumnFamily<'_>>, StoreError> {
        let missing = Damaged { what: "family" };
        let handle = self.db.cf_handle(name);
        handle.ok_or_else(|| self.damaged(missing))
    }

    /// The fold that goes on where this state is; a new state begins at the start of a stream created then.
    ///
    /// # Errors
    /// [`StoreError`] when the state cannot be read.
    pub fn open_fold(&self, stream_created_ns: i64) -> Result<Fold, StoreError> {
        let values = self.read(&Fold::open_reads())?;
        Fold::open(&values, stream_created_ns).map_err(|source| self.damaged(source))
    }

    /// Answers a fold's reads.
    ///
    /// # Errors
    /// [`StoreError`] when RocksDB cannot read.
    pub fn read(&self, reads: &Reads) -> Result<Values, StoreError> {
        let mut values = Values::default();
        for (family, keys) in &reads.rows {
            let handle = self.family(family.name())?;
            let found = self.db.batched_multi_get_cf(&handle, keys.iter(), false);
            let rows = found
                .into_iter()
                .map(|row| row.map(|row| row.map(|value| value.to_vec())));
            values.rows.push((
                *family,
                rows.collect::<Result<_, _>>()
                    .map_err(self.rocks("read rows"))?,
            ));
        }
        values.ids = self.read_ids(reads)?;
        Ok(values)
    }

    /// Looks every id up in every log day that may have it, later days first, until it is found.
    fn read_ids(&self, reads: &Reads) -> Result<Vec<Option<IdRecord>>, StoreError> {
        let mut out = vec![None; reads.ids_order.len()];
        let mut left: Vec<u32> = (0..out.len() as u32).collect();
        if left.is_empty() {
            return Ok(out);
        }
        let key = |at: &u32| reads.ids.get(reads.ids_order[*at as usize] as usize);
        // They are few and small, and others may look which days there are meanwhile.
        let days = self.days().clone();
        for (day, greatest) in days.iter().rev() {
            let asked: Vec<u32> = left
                .iter()
                .copied()
                .filter(|at| greatest.may_hold(key(at)))
                .collect();
            if asked.is_empty() {
                continue;
            }
            let handle = self.family(&ids::day_family(*day))?;
            for asked in asked.chunks(IDS_AT_ONCE) {
                // They are in order already, and RocksDB need not sort them for each day.
                let found = self
                    .db
                    .batched_multi_get_cf(&handle, asked.iter().map(key), true);
                for (place, row) in asked.iter().zip(found) {
                    if let Some(value) = row.map_err(self.rocks("look ids up"))? {
                        let record = IdRecord::decode(&value);
                        out[*place as usize] = Some(record.map_err(|e| self.damaged(e))?);
                    }
                }
            }
            left.retain(|place| out[*place as usize].is_none());
        }
        Ok(out)
    }

    /// Writes a fold's changes, all of them or none.
    ///
    /// # Errors
    /// [`StoreError`] when RocksDB cannot write; what is on disk is then a state of some earlier position.
    pub fn write(&self, changes: &Changes) -> Result<(), StoreError> {
        if changes.is_empty() {
            return Ok(());
        }
        self.memory.wait_for_flushes();
        for day in changes.id_days() {
            self.ensure_day(day)?;
        }
        let mut handles: Vec<(Target, Arc<BoundColumnFamily<'_>>)> = Vec::new();
        let bytes = changes.bytes() + changes.len() * CHANGE_BYTES;
        let mut batch = WriteBatch::with_capacity_bytes(bytes);
        let mut days = self.days();
        let mut at = 0;
        for change in changes.iter() {
            if let Target::Ids(day) = change.target {
                days.entry(day).or_default().take(change.key);
            }
            let is_its = |(target, _): &(Target, _)| *target == change.target;
            // Mostly that of the change before.
            if !handles.get(at).is_some_and(is_its) {
                at = match handles.iter().position(is_its) {
                    Some(at) => at,
                    None => {
                        handles.push((change.target, self.family(&target_name(change.target))?));
                        handles.len() - 1
                    }
                };
            }
            let handle = &handles[at].1;
            match change.op {
                Op::Put => batch.put_cf(handle, change.key, change.value),
                Op::Merge => batch.merge_cf(handle, change.key, change.value),
                Op::Delete => batch.delete_cf(handle, change.key),
            }
        }
        drop(days);
        let mut options = WriteOptions::default();
        options.disable_wal(!self.is_logged.load(Ordering::Relaxed));
        options.set_memtable_insert_hint_per_batch(true);
        let places = self.versions.writing(changes, &self.producers);
        let written = self.db.write_opt(batch, &options);
        written.map_err(self.rocks("write a batch"))?;
        let sequence = || self.db.latest_sequence_number();
        self.versions.written(&places, sequence);
        Ok(())
    }

    fn days(&self) -> std::sync::MutexGuard<'_, IdDays> {
        self.days.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ensure_day(&self, day: i32) -> Result<(), StoreError> {
        if self.days().contains_key(&day) {
            return Ok(());
        }
        let _families = self.families();
        let mut days = self.days();
        let name = ids::day_family(day);
        let options: Options = self.memory.family(&name);
        self.db
            .create_cf(&name, &options)
            .map_err(self.rocks("make a family of ids"))?;
        days.insert(day, Greatest::default());
        pass(Point::FoldDayMade);
        Ok(())
    }

    fn families(&self) -> std::sync::MutexGuard<'_, ()> {
        self.families.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a copy of the state in a folder that is not there yet, with links to its tables, while others write.
    ///
    /// What is written in the course of it comes along by the write-ahead log, of which RocksDB passes over, without
    /// a word, what is in a family that was made since the copy's list of families was. So no family is made
    /// meanwhile; whoever makes one takes `families` first.
    ///
    /// # Errors
    /// [`StoreError`] when RocksDB cannot.
    pub(super) fn link_to(&self, folder: &Path) -> Result<(), StoreError> {
        // Most of it without the lock.
        self.flush()?;
        let _families = self.families();
        Checkpoint::new(&self.db)
            .and_then(|checkpoint| checkpoint.create_checkpoint(folder))
            .map_err(self.rocks("make a checkpoint"))
    }

    /// Log days that have a family of ids, earliest first.
    pub fn id_days(&self) -> Vec<i32> {
        self.days().keys().copied().collect()
    }

    /// Drops the families of ids that are past the horizon by a day at that log time; answers how many.
    ///
    /// # Errors
    /// [`StoreError`] when RocksDB cannot drop one.
    pub fn drop_expired_ids(&self, log_time_ms: i64) -> Result<usize, StoreError> {
        let may_drop = |day: &i32| ids::may_drop(*day, log_time_ms);
        let expired: Vec<i32> = self.days().keys().copied().filter(may_drop).collect();
        if expired.is_empty() {
            return Ok(0);
        }
        let _families = self.families();
        let mut days = self.days();
        for day in &expired {
            self.db
                .drop_cf(&ids::day_family(*day))
                .map_err(self.rocks("drop a family of ids"))?;
            days.remove(day);
        }
        Ok(expired.len())
    }

    /// Bytes of the files of those families whose name passes.
    ///
    /// # Errors
    /// [`StoreError`] when RocksDB does not say.
    pub fn file_bytes(&self, passes: impl Fn(&str) -> bool) -> Result<u64, StoreError> {
        let files = self.db.live_files().map_err(self.rocks("list its files"))?;
        let of_families = files.iter().filter(|file| passes(&file.column_family_name));
        Ok(of_families.map(|file| file.size as u64).sum())
    }

    /// One instant of the state.
    ///
    /// # Errors
    /// [`StoreError`] when the position cannot be read.
    pub fn snapshot(&self) -> Result<ShardSnapshot<'_>, StoreError> {
        ShardSnapshot::of(self)
    }

    /// From now on a crash may lose some families of a batch and not others: for a generation of which a crash leaves
    /// nothing that is used.
    pub(super) fn write_unlogged(&self) {
        self.is_logged.store(false, Ordering::Relaxed);
    }

    /// Puts all that was written into synced files; what is written from then on is logged. By its one writer.
    pub(super) fn make_whole(&self) -> Result<(), StoreError> {
        self.is_logged.store(true, Ordering::Relaxed);
        self.flush()
    }

    /// Flushes what is in memory and waits until nothing is left to be compacted.
    ///
    /// # Errors
    /// [`StoreError`] when RocksDB cannot flush or compact.
    pub fn settle(&self) -> Result<(), StoreError> {
        self.flush()?;
        self.db
            .wait_for_compact(&WaitForCompactOptions::default())
            .map_err(self.rocks("compact"))
    }

    /// Flushes what is in memory and ends RocksDB's work on this generation.
    ///
    /// # Errors
    /// [`StoreError`] when RocksDB cannot flush; the write-ahead log then still has everything.
    pub fn close(&self) -> Result<(), StoreError> {
        let flushed = self.flush();
        pass(Point::FoldFlushed);
        self.db.cancel_all_background_work(true);
        flushed
    }

    /// Puts all that was written into synced files.
    ///
    /// # Errors
    /// [`StoreError`] when RocksDB cannot.
    pub fn flush(&self) -> Result<(), StoreError> {
        let names = Family::ALL.iter().map(|family| family.name().to_owned());
        let names: Vec<String> = names
            .chain(self.id_days().into_iter().map(ids::day_family))
            .collect();
        let handles: Vec<_> = names
            .iter()
            .filter_map(|name| self.db.cf_handle(name))
            .collect();
        self.db
            .flush_cfs_opt(
                &handles.iter().collect::<Vec<_>>(),
                &FlushOptions::default(),
            )
            .map_err(self.rocks("flush"))
    }
}

fn target_name(target: Target) -> String {
    match target {
        Target::Family(family) => family.name().to_owned(),
        Target::Ids(day) => ids::day_family(day),
    }
}

fn rocks(path: &Path, action: &'static str) -> impl Fn(rocksdb::Error) -> StoreError {
    let path = path.to_path_buf();
    move |source| StoreError::Rocks {
        path: path.clone(),
        action,
        source,
    }
}
