//! What is kept is bounded, is the block of the question's own snapshot, and is never missed when it is gone.
#![allow(clippy::unwrap_used)]

use std::time::Instant;

use adtally_projections::block::BlockKey;
use adtally_projections::block_sums::BlockSums;
use adtally_projections::block_writer::{Columns, write};
use adtally_projections::buckets::BucketKey;
use adtally_projections::cuboid::Cuboid;
use adtally_projections::partial::{Filters, ShardSums};
use adtally_projections::spans::{Place, Span};

use super::*;

const MIB: usize = 1 << 20;
/// How long something may take to become true.
const PATIENCE: Duration = Duration::from_secs(60);

/// A block as it is stored, and what its only metric adds up to.
#[derive(Clone)]
struct Stored {
    key: Vec<u8>,
    value: Vec<u8>,
    total: i64,
}

/// The block of a day's hours, of so many cells; what is counted depends on `version`.
fn stored(day: i32, cells: u32, version: u64) -> Stored {
    let place = Place { at: 0, offset_s: 0 };
    let key = BlockKey {
        campaign: 5,
        cuboid: Cuboid::RegionDevice,
        span: Span {
            grain: Grain::Hour,
            number: day,
        },
        first: place,
        part: 0,
    };
    // SplitMix64: nothing that could be compressed.
    let counted = |n: u32| {
        let z = (u64::from(n) + ((day as u64) << 32) + version).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        ((z ^ (z >> 27)) & 0xffff) as i64
    };
    let columns = Columns {
        buckets: vec![(place, cells)],
        dimensions: vec![
            (0..cells).map(|n| 7 + n / 6).collect(),
            (0..cells).map(|n| n % 6).collect(),
        ],
        metrics: vec![(0, (0..cells).map(counted).collect())],
    };
    let (mut k, mut v) = (Vec::new(), Vec::new());
    key.encode(&mut k);
    write(&key, &columns, &mut v);
    Stored {
        key: k,
        value: v,
        total: (0..cells).map(counted).sum(),
    }
}

/// What a block adds up to.
fn total(block: &impl ReadBlock) -> i64 {
    let mut sums = ShardSums::new(&[]);
    let mut place = |_| Some(BucketKey::TOTAL);
    BlockSums::default()
        .add(block, &Filters::default(), &mut place, &mut sums)
        .unwrap();
    let rows = sums.table().rows().unwrap();
    rows.map(|(_, _, sums)| sums[0]).sum()
}

/// Reads a block of a shard's snapshot as a question does: its total, and whether it was kept.
fn read(blocks: &ShardBlocks, stored: &Stored) -> (i64, bool) {
    match blocks.unpacked(Grain::Hour, &stored.key, &stored.value) {
        Some(found) => {
            let found = found.unwrap();
            (total(found.block()), found.was_kept)
        }
        None => {
            let block = Block::parse(Grain::Hour, &stored.key, &stored.value);
            (total(&block.unwrap()), false)
        }
    }
}

/// Reads a block for the first and the second time, from which on it is kept.
fn read_twice(blocks: &ShardBlocks, stored: &Stored) {
    for _ in 0..2 {
        assert_eq!(read(blocks, stored), (stored.total, false));
    }
}

async fn in_memory_only(bytes: usize) -> BlockCache {
    let room = Room {
        memory_bytes: bytes,
        printed_bytes: 0,
        disk_bytes: 0,
    };
    BlockCache::open(room, Path::new("/nowhere")).await.unwrap()
}

/// Runs what may wait for the disk, as questions are run.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.unwrap()
}

#[tokio::test]
async fn a_block_is_unpacked_once_and_is_that_of_its_shard_and_generation() {
    let cache = in_memory_only(8 * MIB).await;
    let blocks = ShardBlocks::new(&cache, 3, "g-1");
    let block = stored(20_000, 3_000, 0);
    read_twice(&blocks, &block);
    assert_eq!(read(&blocks, &block), (block.total, true));
    for other in [
        ShardBlocks::new(&cache, 4, "g-1"),
        ShardBlocks::new(&cache, 3, "g-2"),
    ] {
        assert_eq!(read(&other, &block), (block.total, false));
    }
    assert_eq!(read(&blocks, &block), (block.total, true));
    // So little is unpacked as fast as it is found.
    let small = stored(20_001, 20, 0);
    assert!(small.value.len() < MIN_STORED_BYTES);
    assert!(
        blocks
            .unpacked(Grain::Hour, &small.key, &small.value)
            .is_none()
    );
}

#[tokio::test]
async fn a_block_that_was_sealed_again_is_another_one() {
    let cache = in_memory_only(8 * MIB).await;
    let blocks = ShardBlocks::new(&cache, 0, "g-1");
    let (before, after) = (stored(20_000, 3_000, 0), stored(20_000, 3_000, 1));
    assert_eq!(
        (&before.key, before.value.len()),
        (&after.key, after.value.len())
    );
    assert_ne!(before.total, after.total);
    read_twice(&blocks, &before);
    read_twice(&blocks, &after);
    // A question that holds an older snapshot reads what that has.
    assert_eq!(read(&blocks, &before), (before.total, true));
    assert_eq!(read(&blocks, &after), (after.total, true));
}

#[tokio::test]
async fn a_damaged_block_is_an_error_though_its_sound_self_is_kept_and_is_not_kept_itself() {
    let cache = in_memory_only(8 * MIB).await;
    let blocks = ShardBlocks::new(&cache, 0, "g-1");
    let sound = stored(20_000, 3_000, 0);
    read_twice(&blocks, &sound);
    let entries = cache.kept.memory().entries();
    for at in [0, sound.value.len() / 2, sound.value.len() - 1] {
        let mut damaged = sound.clone();
        damaged.value[at] ^= 4;
        let look = || {
            let found = blocks.unpacked(Grain::Hour, &damaged.key, &damaged.value);
            found.map(|found| found.map(|_| ()))
        };
        // The first time it is left to whoever reads it.
        assert_eq!(look(), None);
        for _ in 0..2 {
            let error = BlockError("its checksum does not hold");
            assert_eq!(look(), Some(Err(error)));
        }
    }
    assert_eq!(cache.kept.memory().entries(), entries);
    assert_eq!(read(&blocks, &sound), (sound.total, true));
}

#[tokio::test]
async fn it_never_takes_more_than_its_room_and_keeps_no_block_that_is_too_large_for_it() {
    let room = MIB;
    let cache = in_memory_only(room).await;
    let blocks = ShardBlocks::new(&cache, 0, "g-1");
    let mut most = 0;
    for day in 0..200 {
        let block = stored(day, 2_000 + day as u32 * 10, 0);
        read_twice(&blocks, &block);
        most = most.max(cache.kept.memory().usage());
    }
    assert!(most <= room, "{most} bytes");
    assert!(most > room / 2, "{most} bytes");
    let usage = cache.kept.memory().usage();
    let large = stored(900, 60_000, 0);
    for _ in 0..2 {
        assert_eq!(read(&blocks, &large), (large.total, false));
    }
    assert_eq!(cache.kept.memory().usage(), usage);
}

#[tokio::test]
async fn without_memory_there_is_none() {
    let room = Room {
        memory_bytes: 0,
        printed_bytes: 0,
        disk_bytes: 0,
    };
    assert!(
        BlockCache::open(room, Path::new("/nowhere"))
            .await
            .is_none()
    );
}

/// Memory for two blocks of three thousand cells, or so, and disk for all of them.
const DISK: Room = Room {
    memory_bytes: 512 << 10,
    printed_bytes: 0,
    disk_bytes: 128 * MIB,
};

fn many() -> Vec<Stored> {
    (0..100).map(|day| stored(day, 3_000, 0)).collect()
}

/// Reads all of them, which must be right; answers how many were kept.
async fn read_all(cache: &BlockCache, all: &[Stored]) -> usize {
    let (blocks, all) = (ShardBlocks::new(cache, 0, "g-1"), all.to_vec());
    blocking(move || {
        let each = all.iter().map(|block| {
            let (total, was_kept) = read(&blocks, block);
            assert_eq!(total, block.total);
            usize::from(was_kept)
        });
        each.sum()
    })
    .await
}

/// Reads all of them until all were kept.
async fn read_until_kept(cache: &BlockCache, all: &[Stored]) {
    let began = Instant::now();
    while read_all(cache, all).await < all.len() {
        assert!(began.elapsed() < PATIENCE);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Changes a byte of every `every`-th that is not zero in the files of a folder.
fn damage(folder: &Path, every: usize) -> usize {
    let mut changed = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let mut bytes = std::fs::read(&path).unwrap();
        let filled = bytes.iter_mut().filter(|byte| **byte != 0);
        for byte in filled.step_by(every) {
            *byte ^= 0x20;
            changed += 1;
        }
        // In place: the cache has the file open.
        let mut file = std::fs::File::options().write(true).open(&path).unwrap();
        std::io::Write::write_all(&mut file, &bytes).unwrap();
    }
    changed
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_disk_has_what_memory_has_no_room_for_and_still_has_it_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cache");
    let all = many();
    let cache = BlockCache::open(DISK, &path).await.unwrap();
    assert_eq!(read_all(&cache, &all).await, 0);
    read_until_kept(&cache, &all).await;
    assert!(cache.kept.memory().usage() <= DISK.memory_bytes);
    cache.close().await;
    drop(cache);
    let cache = BlockCache::open(DISK, &path).await.unwrap();
    assert!(read_all(&cache, &all).await > all.len() / 2);
    // Another generation has nothing there.
    let other = ShardBlocks::new(&cache, 0, "g-2");
    let first = all[0].clone();
    assert!(!blocking(move || read(&other, &first)).await.1);
    cache.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damaged_files_and_a_folder_that_is_gone_are_misses() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cache");
    let all = many();
    let cache = BlockCache::open(DISK, &path).await.unwrap();
    read_until_kept(&cache, &all).await;
    // A block of three thousand cells takes more than twelve thousand bytes: each is hit.
    assert!(damage(&path, 1_000) > 1_000);
    assert!(read_all(&cache, &all).await < all.len() / 2);
    read_until_kept(&cache, &all).await;
    std::fs::remove_dir_all(&path).unwrap();
    read_all(&cache, &all).await;
    cache.close().await;
    drop(cache);
    let cache = BlockCache::open(DISK, &path).await.unwrap();
    assert_eq!(read_all(&cache, &all).await, 0);
    read_until_kept(&cache, &all).await;
    cache.close().await;
    drop(cache);
    // What was damaged while nobody had it open.
    damage(&path, 501);
    let cache = BlockCache::open(DISK, &path).await.unwrap();
    read_until_kept(&cache, &all).await;
    cache.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_that_cannot_be_read_are_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cache");
    let all = many();
    let cache = BlockCache::open(DISK, &path).await.unwrap();
    read_until_kept(&cache, &all).await;
    for entry in std::fs::read_dir(&path).unwrap() {
        let path = entry.unwrap().path();
        let file = std::fs::File::options().write(true).open(path).unwrap();
        file.set_len(0).unwrap();
    }
    for _ in 0..3 {
        assert!(read_all(&cache, &all).await < all.len());
    }
    cache.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_folder_that_cannot_be_used_leaves_memory_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cache");
    std::fs::write(&path, "no folder").unwrap();
    let cache = BlockCache::open(DISK, &path).await.unwrap();
    assert!(cache.disk.is_none());
    let block = stored(20_000, 3_000, 0);
    let blocks = ShardBlocks::new(&cache, 0, "g-1");
    read_twice(&blocks, &block);
    assert_eq!(read(&blocks, &block), (block.total, true));
    cache.close().await;
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "no folder");
}
