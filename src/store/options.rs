//! How RocksDB is set up: one memory budget for all shards, and what each family of rows needs.
//!
//! Invariant: blocks and unflushed writes of all shards together stay within [`Limits`], whatever their number.

use std::path::Path;
use std::time::{Duration, Instant};

use adtally_projections::family::{Family, Merge};
use adtally_projections::ids;
use adtally_projections::spans::{Margins, Retention};
use rocksdb::{
    BlockBasedOptions, Cache, DBCompactionStyle, DBCompressionType, Env, LogLevel, MergeOperands,
    Options, UniversalCompactOptions, WriteBufferManager,
};

use super::StoreError;

/// What all shards together may use, and how long each keeps its cells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of blocks kept in memory, filters and indexes included; past it the least used are dropped. Blocks also
    /// take what writes leave of theirs.
    pub block_cache_bytes: usize,
    /// Bytes of writes that are not yet in files; near it the largest are flushed. While flushes wait for a processor,
    /// writes are more, and blocks make room for them, up to a quarter more: then who writes waits for the flushes.
    pub write_buffer_bytes: usize,
    /// How long cells are kept, by log time.
    pub retention: Retention,
    /// How long after its end a span is sealed.
    pub margins: Margins,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            block_cache_bytes: 128 << 20,
            write_buffer_bytes: 256 << 20,
            retention: Retention::default(),
            margins: Margins::default(),
        }
    }
}

/// What a look into a closed state takes, as for its position.
pub const GLANCE: Limits = Limits {
    block_cache_bytes: 8 << 20,
    write_buffer_bytes: 8 << 20,
    retention: Retention::ALL,
    margins: Margins::USUAL,
};

/// Bytes of a shard's write-ahead log; past it what it holds is flushed. Bounds the time of opening after a crash.
const MAX_WAL_BYTES: u64 = 128 << 20;
/// RocksDB threads that flush, of all shards.
const FLUSH_THREADS: i32 = 1;
/// How long a batch waits for flushes at most, and how often it looks.
const FLUSHED_WITHIN: Duration = Duration::from_secs(1);
const FLUSH_PAUSE: Duration = Duration::from_millis(1);
/// RocksDB threads that compact, of all shards.
const COMPACTION_THREADS: i32 = 2;
/// Files that a shard keeps open; more are opened and closed as needed.
const MAX_OPEN_FILES: i32 = 512;
/// RocksDB's own log files that a shard keeps, and their size.
const LOG_FILES: usize = 2;
/// Rows of a file that follow each other, and so many deletions among them that the file is compacted soon.
const DELETED_WINDOW: usize = 16_384;
const DELETED_OF_WINDOW: usize = 8_192;
const LOG_FILE_BYTES: usize = 1 << 20;
/// A state that is closed is flushed by whoever wants it on disk, see `Shard::close`, and has its write-ahead log
/// otherwise; what was written without one is wanted by nobody. The option has no setter in the crate.
const NO_LAST_FLUSH: &str = "avoid_flush_during_shutdown=true";
/// Bits of filter for each key of the id index: about one in a hundred absent ids is looked for on disk.
const ID_FILTER_BITS: f64 = 10.0;

/// Sorted runs of a day's ids that are merged into one; each is a filter to be asked.
const ID_RUNS: i32 = 8;

/// The memory and threads that all shards share.
#[derive(Clone)]
pub struct Memory {
    cache: Cache,
    writes: WriteBufferManager,
    /// What databases have that no setter sets.
    database: Options,
    /// Bytes of unflushed writes from which on a writer waits.
    most_unflushed: usize,
    env: Env,
    retention: Retention,
    margins: Margins,
}

impl std::fmt::Debug for Memory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Memory").finish_non_exhaustive()
    }
}

impl Memory {
    /// Memory within limits.
    ///
    /// # Errors
    /// When RocksDB has no environment here.
    pub fn new(limits: Limits) -> Result<Self, rocksdb::Error> {
        let mut env = Env::new()?;
        let database = Options::default().get_options_from_string(NO_LAST_FLUSH)?;
        env.set_high_priority_background_threads(FLUSH_THREADS);
        env.set_low_priority_background_threads(COMPACTION_THREADS);
        // Writes are charged to the cache, so that both together are what is bounded.
        let both = limits.block_cache_bytes + limits.write_buffer_bytes;
        let cache = Cache::new_lru_cache(both);
        let writes = WriteBufferManager::new_write_buffer_manager_with_cache(
            limits.write_buffer_bytes,
            false,
            cache.clone(),
        );
        Ok(Self {
            cache,
            writes,
            most_unflushed: limits.write_buffer_bytes / 4 * 5,
            database,
            env,
            retention: limits.retention,
            margins: limits.margins,
        })
    }

    /// How long the shards keep cells.
    pub fn retention(&self) -> Retention {
        self.retention
    }

    /// How long after its end a span is sealed.
    pub fn margins(&self) -> Margins {
        self.margins
    }

    /// The same, for the state in that folder.
    ///
    /// # Errors
    /// [`StoreError`] when RocksDB has no environment here.
    pub fn start(data_dir: &Path, limits: Limits) -> Result<Self, StoreError> {
        Self::new(limits).map_err(|source| StoreError::Rocks {
            path: data_dir.to_path_buf(),
            action: "start",
            source,
        })
    }

    /// Bytes of blocks in memory, and of writes that are not in files.
    pub fn usage(&self) -> (usize, usize) {
        let writes = self.writes.get_usage();
        (self.cache.get_usage().saturating_sub(writes), writes)
    }

    /// Waits until flushes have caught up, or for [`FLUSHED_WITHIN`]: a thread that flushes has one share of a
    /// processor among all that fold, and what they write would pile up in memory. RocksDB's own stall would wait for
    /// ever where a shard at rest holds the memory, since only who writes has something flushed.
    pub(super) fn wait_for_flushes(&self) {
        if self.writes.get_usage() <= self.most_unflushed {
            return;
        }
        let began = Instant::now();
        while self.writes.get_usage() > self.most_unflushed && began.elapsed() < FLUSHED_WITHIN {
            std::thread::sleep(FLUSH_PAUSE);
        }
        metrics::counter!("adtally_flush_waits_total").increment(1);
    }

    /// Options of a shard's database.
    pub(super) fn database(&self) -> Options {
        let mut o = self.database.clone();
        o.create_if_missing(true);
        o.create_missing_column_families(true);
        o.set_env(&self.env);
        o.set_write_buffer_manager(&self.writes);
        o.set_max_background_jobs(FLUSH_THREADS + COMPACTION_THREADS);
        o.set_max_total_wal_size(MAX_WAL_BYTES);
        o.set_max_open_files(MAX_OPEN_FILES);
        o.set_keep_log_file_num(LOG_FILES);
        o.set_max_log_file_size(LOG_FILE_BYTES);
        o.set_log_level(LogLevel::Warn);
        o.set_skip_stats_update_on_db_open(true);
        o
    }

    /// Options of a family of that name.
    pub(super) fn family(&self, name: &str) -> Options {
        match Family::ALL.into_iter().find(|family| family.name() == name) {
            Some(family) => self.rows(family),
            None if ids::day_of_family(name).is_some() => self.ids(),
            // RocksDB's own default family, which holds nothing.
            None => self.small(),
        }
    }

    fn table(&self) -> BlockBasedOptions {
        let mut t = BlockBasedOptions::default();
        t.set_block_cache(&self.cache);
        t.set_cache_index_and_filter_blocks(true);
        t.set_pin_l0_filter_and_index_blocks_in_cache(true);
        t.set_format_version(6);
        t
    }

    fn rows(&self, family: Family) -> Options {
        let mut o = match family {
            Family::CellsMinute
            | Family::CellsHour
            | Family::CellsDay
            | Family::FraudClicks
            | Family::Uniques
            // Large blocks are compressed already; many small ones side by side are headers that are all alike.
            | Family::BlocksMinute
            | Family::BlocksHour
            | Family::BlocksDay => self.large(),
            _ => self.small(),
        };
        match family.merge() {
            Some(Merge::Sums) => o.set_merge_operator_associative(c"adtally-sums", merge_sums),
            Some(Merge::Cells) => o.set_merge_operator_associative(c"adtally-cells", merge_cells),
            Some(Merge::Sketches) => {
                o.set_merge_operator_associative(c"adtally-sketches", merge_sketches);
            }
            None => {}
        }
        o
    }

    /// Rows that are few, or found by their whole key.
    fn small(&self) -> Options {
        let mut o = Options::default();
        clear_deleted(&mut o);
        let mut t = self.table();
        t.set_bloom_filter(10.0, false);
        o.set_block_based_table_factory(&t);
        o.set_write_buffer_size(8 << 20);
        o.set_arena_block_size(64 << 10);
        o.set_compression_type(DBCompressionType::Lz4);
        o
    }

    /// Rows that are many, and read by range.
    fn large(&self) -> Options {
        let mut o = Options::default();
        clear_deleted(&mut o);
        let mut t = self.table();
        t.set_block_size(16 << 10);
        o.set_block_based_table_factory(&t);
        o.set_write_buffer_size(32 << 20);
        o.set_arena_block_size(256 << 10);
        o.set_compression_type(DBCompressionType::Lz4);
        o.set_bottommost_compression_type(DBCompressionType::Zstd);
        o
    }

    /// Random keys that are mostly absent when they are looked for. Ids do not compress.
    fn ids(&self) -> Options {
        let mut o = Options::default();
        let mut t = self.table();
        // Blooms where files are young and short-lived, ribbons below: a third less memory for the same answer.
        t.set_hybrid_ribbon_filter(ID_FILTER_BITS, 1);
        t.set_optimize_filters_for_memory(true);
        o.set_block_based_table_factory(&t);
        o.set_write_buffer_size(32 << 20);
        o.set_arena_block_size(256 << 10);
        o.set_memtable_whole_key_filtering(true);
        o.set_memtable_prefix_bloom_ratio(0.05);
        o.set_compression_type(DBCompressionType::None);
        // By levels, an id would be written again with every few files, and it is never changed, seldom read, and
        // dropped with its day.
        o.set_compaction_style(DBCompactionStyle::Universal);
        let mut runs = UniversalCompactOptions::default();
        runs.set_min_merge_width(ID_RUNS);
        o.set_universal_compaction_options(&runs);
        o.set_level_zero_file_num_compaction_trigger(ID_RUNS);
        o
    }
}

/// Has files with many deletions compacted soon: every row of cells and its marker is deleted when it is sealed, and
/// would otherwise take up room, and the time of scans, until so much more is written.
fn clear_deleted(o: &mut Options) {
    o.add_compact_on_deletion_collector_factory(DELETED_WINDOW, DELETED_OF_WINDOW, 0.3);
}

fn merge_sums(_: &[u8], existing: Option<&[u8]>, operands: &MergeOperands) -> Option<Vec<u8>> {
    Merge::Sums.apply(existing, operands.iter())
}

fn merge_cells(_: &[u8], existing: Option<&[u8]>, operands: &MergeOperands) -> Option<Vec<u8>> {
    Merge::Cells.apply(existing, operands.iter())
}

fn merge_sketches(_: &[u8], existing: Option<&[u8]>, operands: &MergeOperands) -> Option<Vec<u8>> {
    Merge::Sketches.apply(existing, operands.iter())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use adtally_projections::family::Changes;

    use super::*;
    use crate::store::Shard;

    /// One change of that many bytes.
    fn of(bytes: usize) -> Changes {
        let mut changes = Changes::default();
        changes.put(
            Family::Directory,
            |k| k.extend_from_slice(&bytes.to_be_bytes()),
            |v| v.extend(std::iter::repeat_n(7, bytes)),
        );
        changes
    }

    /// Nobody wants what was written without a log and is closed, so closing writes no tables of it.
    #[test]
    fn a_state_without_a_log_that_is_only_closed_is_not_flushed() {
        let dir = tempfile::tempdir().unwrap();
        let memory = Memory::new(Limits::default()).unwrap();
        let shard = Shard::open(0, "g", dir.path(), &memory).unwrap();
        shard.write_unlogged();
        shard.write(&of(1 << 20)).unwrap();
        drop(shard);
        let files = std::fs::read_dir(dir.path()).unwrap();
        let names: Vec<_> = files.map(|file| file.unwrap().file_name()).collect();
        let is_table = |name: &std::ffi::OsString| name.to_string_lossy().ends_with(".sst");
        assert!(
            !names.is_empty() && !names.iter().any(is_table),
            "{names:?}"
        );
    }

    /// What a shard at rest has not flushed nobody flushes: another one waits for it, and not for ever.
    #[test]
    fn a_writer_waits_for_flushes_and_not_for_ever() {
        let dir = tempfile::tempdir().unwrap();
        let limits = Limits {
            write_buffer_bytes: 4 << 20,
            ..Limits::default()
        };
        let memory = Memory::new(limits).unwrap();
        let open = |n: u16| Shard::open(n, "g", &dir.path().join(n.to_string()), &memory).unwrap();
        let (resting, writing) = (open(0), open(1));
        resting.write(&of(6 << 20)).unwrap();
        assert!(memory.usage().1 > memory.most_unflushed);
        let began = Instant::now();
        writing.write(&of(1)).unwrap();
        assert!(began.elapsed() >= FLUSHED_WITHIN);
        resting.flush().unwrap();
        let began = Instant::now();
        writing.write(&of(2)).unwrap();
        assert!(began.elapsed() < FLUSHED_WITHIN);
    }
}
