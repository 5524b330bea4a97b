//! Unpacked blocks of sealed cells, kept in memory and, where that is configured, on disk.
//!
//! Invariant: what comes from here is what the block in the question's own snapshot would be unpacked to. A block is
//! kept under its shard, generation and key, and under a hash of all its stored bytes, which the question reads from
//! its snapshot each time. So a block that was sealed again is another one, whatever was sealed, crashed or restored
//! meanwhile, and nothing is ever taken back; a block that is damaged is another one too: it is not found here, is
//! read, and is the error that it always was. An error of the cache is a miss.

mod disk;
mod identity;
mod seen;
mod told;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use adtally_projections::block::{Block, BlockError};
use adtally_projections::cells::Grain;
use adtally_projections::read_block::ReadBlock;
use adtally_projections::unpacked::Unpacked;
use foyer::{HybridCache, HybridCacheBuilder, HybridCacheEntry};

use self::disk::Disk;
pub use self::identity::Identity;
pub use self::seen::Seen;
pub use self::told::Told;
use super::united::UnitedBlocks;

/// Stored bytes below which a block is not looked for: unpacking so little takes no longer.
pub const MIN_STORED_BYTES: usize = 1_024;
/// The part of the memory that blocks of several shards together have.
const UNITED_SHARE: usize = 4;
/// No block takes more than this part of the memory.
const MAX_SHARE: usize = 8;
/// How long a stop waits for what is on its way to the disk.
const CLOSES_WITHIN: Duration = Duration::from_secs(5);

/// How much is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// Bytes of memory; past them the least used are dropped.
    pub memory_bytes: usize,
    /// Bytes of these that printed rows have.
    pub printed_bytes: usize,
    /// Bytes on disk; 0 for none.
    pub disk_bytes: usize,
}

impl Room {
    /// Bytes of memory of blocks of several shards together.
    fn united_bytes(&self) -> usize {
        self.memory_bytes / UNITED_SHARE
    }

    /// Bytes of memory that are left for each shard's own.
    fn blocks_bytes(&self) -> usize {
        self.memory_bytes
            .saturating_sub(self.united_bytes() + self.printed_bytes)
    }
}

/// An unpacked block as foyer keeps it.
#[derive(Debug)]
pub struct Kept(Unpacked);

/// A block that is held while it is read, whether the cache keeps it any longer or not.
pub struct Found {
    entry: HybridCacheEntry<Identity, Kept>,
    /// Whether it was there already.
    pub was_kept: bool,
}

impl Found {
    /// The block.
    pub fn block(&self) -> &impl ReadBlock {
        &self.entry.value().0
    }
}

/// The cache of one process, shared by all that answer.
#[derive(Clone)]
pub struct BlockCache {
    kept: HybridCache<Identity, Kept>,
    disk: Option<Arc<Disk>>,
    united: UnitedBlocks,
    seen: Arc<Seen>,
    figures: Arc<Figures>,
}

/// What `/metrics` says of it.
struct Figures {
    from_memory: metrics::Counter,
    from_disk: metrics::Counter,
    misses: metrics::Counter,
    bytes: metrics::Gauge,
}

impl Figures {
    fn begin(room: Room, has_disk: bool) -> Self {
        let on_disk = if has_disk { room.disk_bytes } else { 0 };
        metrics::gauge!("adtally_block_cache_capacity_bytes", "tier" => "memory")
            .set(room.blocks_bytes() as f64);
        metrics::gauge!("adtally_block_cache_capacity_bytes", "tier" => "disk").set(on_disk as f64);
        let figures = Self {
            from_memory: metrics::counter!("adtally_block_cache_hits_total", "tier" => "memory"),
            from_disk: metrics::counter!("adtally_block_cache_hits_total", "tier" => "disk"),
            misses: metrics::counter!("adtally_block_cache_misses_total"),
            bytes: metrics::gauge!("adtally_block_cache_bytes"),
        };
        for counter in [&figures.from_memory, &figures.from_disk, &figures.misses] {
            counter.increment(0);
        }
        figures.bytes.set(0.0);
        figures
    }
}

impl BlockCache {
    /// Opens it; none where no memory is given to it. A folder that cannot be used is told, and memory goes on alone.
    pub async fn open(room: Room, folder: &Path) -> Option<Self> {
        if room.memory_bytes == 0 {
            return None;
        }
        let memory_bytes = room.blocks_bytes();
        let on_disk = match room.disk_bytes {
            0 => None,
            bytes => on_disk(memory_bytes, bytes, folder).await,
        };
        let (kept, disk) = match on_disk {
            Some(kept) => (kept, Some(Arc::new(Disk::here()))),
            None => match in_memory(memory_bytes).storage().build().await {
                Ok(kept) => (kept, None),
                Err(error) => {
                    told::failed("open", &error.to_string());
                    return None;
                }
            },
        };
        let figures = Arc::new(Figures::begin(room, disk.is_some()));
        Some(Self {
            kept,
            disk,
            united: UnitedBlocks::new(room.united_bytes()),
            seen: Arc::new(Seen::new()),
            figures,
        })
    }

    /// What is kept of blocks of several shards together.
    pub fn united(&self) -> &UnitedBlocks {
        &self.united
    }

    /// The block under that identity, where it is kept. Blocks: not for asynchronous threads.
    fn get(&self, identity: &Identity) -> Option<HybridCacheEntry<Identity, Kept>> {
        let figures = &self.figures;
        let (found, hits) = match self.kept.memory().get(identity) {
            Some(entry) => (Some(entry), &figures.from_memory),
            None => {
                let disk = self.disk.as_ref();
                let found = disk.and_then(|disk| disk.get(&self.kept, identity));
                (found, &figures.from_disk)
            }
        };
        // A hash has named it; what it is about is held against the key all the same.
        let found = found.filter(|entry| identity.is_of(entry.value().0.key()));
        match &found {
            Some(_) => hits.increment(1),
            None => figures.misses.increment(1),
        }
        found
    }

    fn keep(&self, identity: Identity, block: Unpacked) -> HybridCacheEntry<Identity, Kept> {
        let entry = self.kept.insert(identity, Kept(block));
        let usage = self.kept.memory().usage();
        self.figures.bytes.set(usage as f64);
        entry
    }

    /// Ends it, once nobody asks any more. What is in memory goes to the disk, if that does not take long.
    pub async fn close(&self) {
        match tokio::time::timeout(CLOSES_WITHIN, self.kept.close()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => told::failed("close", &error.to_string()),
            Err(late) => told::failed("close", &late.to_string()),
        }
    }
}

/// The cache with a disk part; none where the folder cannot be used.
async fn on_disk(
    memory: usize,
    bytes: usize,
    folder: &Path,
) -> Option<HybridCache<Identity, Kept>> {
    // Whatever happens in there is no reason not to answer.
    let opening = disk::open(in_memory(memory), bytes, folder.to_path_buf());
    let why = match tokio::spawn(opening).await {
        Ok(Ok(kept)) => return Some(kept),
        Ok(Err(error)) => error.to_string(),
        Err(panic) => panic.to_string(),
    };
    told::failed("open", &format!("{}: {why}", folder.display()));
    None
}

fn in_memory(
    bytes: usize,
) -> foyer::HybridCacheBuilderPhaseMemory<Identity, Kept, foyer::DefaultHasher> {
    let weigh = |identity: &Identity, block: &Kept| identity.bytes() + block.0.bytes();
    HybridCacheBuilder::new()
        .with_name("blocks")
        .memory(bytes)
        // One, so that the limit is that of all together; a block takes longer to sum than the lock is held.
        .with_shards(1)
        .with_weighter(weigh)
        .with_filter(move |identity: &Identity, block: &Kept| {
            weigh(identity, block) <= bytes / MAX_SHARE
        })
}

/// The blocks of one shard's snapshot.
#[derive(Clone)]
pub struct ShardBlocks {
    cache: BlockCache,
    shard: u16,
    generation: Arc<str>,
}

impl ShardBlocks {
    /// Those of a generation of a shard.
    pub fn new(cache: &BlockCache, shard: u16, generation: &str) -> Self {
        Self {
            cache: cache.clone(),
            shard,
            generation: generation.into(),
        }
    }

    /// A stored block, unpacked now or before; none where it is too small to be kept, or looked for for the first
    /// time: then whoever reads it unpacks what it needs.
    ///
    /// # Errors
    /// [`BlockError`] when it is damaged.
    pub fn unpacked(
        &self,
        grain: Grain,
        key: &[u8],
        value: &[u8],
    ) -> Option<Result<Found, BlockError>> {
        if value.len() < MIN_STORED_BYTES {
            return None;
        }
        let identity = Identity::of(self.shard, &self.generation, grain, key, value)?;
        if let Some(entry) = self.cache.get(&identity) {
            let was_kept = true;
            return Some(Ok(Found { entry, was_kept }));
        }
        if !self.cache.seen.again(identity.content()) {
            return None;
        }
        let unpacked = Block::parse(grain, key, value).and_then(|block| Unpacked::of(&block));
        Some(unpacked.map(|block| Found {
            entry: self.cache.keep(identity, block),
            was_kept: false,
        }))
    }
}

#[cfg(test)]
mod tests;
