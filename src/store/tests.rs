//! The store against a map: the same fold on RocksDB and in memory must come to the same dump.

#![allow(clippy::unwrap_used)]

use std::ops::ControlFlow;
use std::path::Path;

use adtally_projections::dump::dump;
use adtally_projections::family::{Changes, Family, Op, Reads, Target};
use adtally_projections::fold::{Entry, Fold};
use adtally_projections::ids::{self, IdRecord};
use adtally_projections::memory::Memory as Map;
use adtally_projections::spend::{self, Spend};
use adtally_streams::event::{
    Body, ClickDetail, Device, EdgeReason, Event, Flags, Kind, Placement,
};
use adtally_streams::frame::{Header, encode};
use adtally_streams::id::{Epoch, Id};
use adtally_streams::watermark::Watermark;
use proptest::prelude::*;

use super::{Building, Limits, Memory, Shard, Shards, checkpoints, in_use, new_name, shard_folder};

const DAY_MS: i64 = 86_400_000;

fn click(n: u64) -> Event {
    let id = |text: String| Id::new(&text).unwrap();
    let placement = Placement {
        ad_id: id(format!("ad-{}", n % 5)),
        campaign_id: id(format!("campaign-{}", n % 2)),
        creative: format!("v{}", n % 3).into(),
        region: "DE".into(),
        device: Device::ALL[n as usize % 7],
        cost_micros: 1_000 + n as i64,
        verdict: n.is_multiple_of(4).then_some(EdgeReason::KnownBot),
    };
    Event {
        id: id(format!("click-{}", n % 90)),
        event_time_ms: 1_700_000_000_000 + n as i64 * 40_000,
        arrival_ms: 1_700_000_000_000 + n as i64 * 40_001,
        advertiser_id: n.is_multiple_of(2).then(|| id("advertiser".to_owned())),
        currency: None,
        utc_offset_s: 19_800,
        catalogue_revision: 0,
        content_hash: n % 90 + n / 120,
        flags: Flags::default(),
        address_hash: None,
        user_id: None,
        user_agent: None,
        referrer: None,
        body: Body::Click(placement, ClickDetail::default()),
    }
}

/// Frames of seven clicks of which some come again, over twelve log days, with a message that cannot be read.
fn entries() -> Vec<Entry> {
    let mut out = Vec::new();
    for n in 0u64..40 {
        let first = if n % 9 == 8 { (n - 3) * 7 } else { n * 7 };
        let events: Vec<Event> = (first..first + 7).map(click).collect();
        let header = Header {
            kind: Kind::Click,
            producer: Id::new("collector-1").unwrap(),
            epoch: Epoch(1),
            first,
            count: 7,
            watermark: Watermark {
                through_ms: n as i64,
                acked: [0, first, 0],
                ..Watermark::default()
            },
        };
        let mut payload = encode(&header, &events);
        if n == 20 {
            payload[30] ^= 1;
        }
        let at = 1_700_000_000_000 + n as i64 * DAY_MS * 12 / 40;
        out.push(Entry::decode(n + 1, at, "events.0.click", &payload));
    }
    out
}

fn open(path: &Path) -> Shard {
    Shard::open(0, "g-test", path, &Memory::new(Limits::default()).unwrap()).unwrap()
}

#[test]
fn rocksdb_and_a_map_come_to_the_same_state_through_restarts() {
    let folder = tempfile::tempdir().unwrap();
    let entries = entries();
    let mut map = Map::default();
    let mut fold = Fold::open(&map.read(&Fold::open_reads()), 77).unwrap();
    for entry in &entries {
        let folded = fold
            .fold(std::slice::from_ref(entry), |reads| {
                Ok::<_, ()>(map.read(reads))
            })
            .unwrap();
        map.write(&folded.changes);
    }
    for (round, part) in entries.chunks(11).enumerate() {
        let shard = open(folder.path());
        let mut fold = shard.open_fold(77).unwrap();
        for batch in part.chunks(4) {
            let folded = fold.fold(batch, |reads| shard.read(reads)).unwrap();
            shard.write(&folded.changes).unwrap();
            shard.drop_expired_ids(fold.position().log_time_ms).unwrap();
        }
        // Once closed as it should be, once as after a crash of the process.
        if round % 2 == 0 {
            shard.close().unwrap();
        }
    }
    let shard = open(folder.path());
    assert_eq!(
        dump(&shard.snapshot().unwrap()).unwrap(),
        dump(&map).unwrap()
    );
    assert_eq!(shard.snapshot().unwrap().position().unwrap().sequence, 40);
    // Twelve log days, of which those past seven days and one more are gone.
    assert!(shard.id_days().len() < 12, "{:?}", shard.id_days());
}

/// The files of an open state as they are, which is what a kill leaves.
fn killed(shard: &Shard) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    for file in std::fs::read_dir(shard.path()).unwrap() {
        let file = file.unwrap();
        // One that RocksDB removes meanwhile is not needed.
        let _ = std::fs::copy(file.path(), copy.path().join(file.file_name()));
    }
    copy
}

#[test]
fn what_was_built_without_a_log_is_whole_from_its_switch_on_whatever_is_killed() {
    let data = tempfile::tempdir().unwrap();
    let memory = Memory::new(Limits::default()).unwrap();
    let (name, entries) = (new_name(), entries());
    let building = Building::begin(data.path(), 0, &name, None, &memory).unwrap();
    let shard = building.shard();
    let mut map = Map::default();
    let mut fold = shard.open_fold(77).unwrap();
    let mut fold_on = |part: &[Entry]| {
        for batch in part.chunks(4) {
            let folded = fold.fold(batch, |reads| shard.read(reads)).unwrap();
            shard.write(&folded.changes).unwrap();
            map.write(&folded.changes);
        }
        dump(&map).unwrap()
    };
    let of_crash = || dump(&open(killed(shard).path()).snapshot().unwrap()).unwrap();
    let half = fold_on(&entries[..20]);
    // Nothing names it, so that what a kill leaves of it is nothing to anybody.
    assert_eq!(in_use(data.path(), 0).unwrap(), None);
    assert_ne!(of_crash(), half);
    building.switch().unwrap();
    assert_eq!(in_use(data.path(), 0).unwrap(), Some(name));
    assert_eq!(of_crash(), half);
    // Whoever folds on in it is logged.
    assert_eq!(fold_on(&entries[20..]), of_crash());
}

#[test]
fn a_discarded_generation_leaves_nothing() {
    let data = tempfile::tempdir().unwrap();
    let memory = Memory::new(Limits::default()).unwrap();
    let building = Building::begin(data.path(), 0, &new_name(), None, &memory).unwrap();
    let shard = building.shard();
    let mut fold = shard.open_fold(77).unwrap();
    let folded = fold.fold(&entries(), |reads| shard.read(reads)).unwrap();
    shard.write(&folded.changes).unwrap();
    building.discard();
    let left = std::fs::read_dir(shard_folder(data.path(), 0)).unwrap();
    assert_eq!(left.count(), 0);
}

#[test]
fn ids_are_found_among_others_in_any_order_and_after_restarts() {
    let folder = tempfile::tempdir().unwrap();
    // Ids of two kinds and in both forms, in no order, over three log days.
    let key = |n: u32| -> Vec<u8> {
        let n = n.wrapping_mul(2_654_435_761);
        let mut key = vec![(n % 2) as u8 + 1, (n / 2 % 2) as u8];
        key.extend_from_slice(&(n / 4).to_be_bytes());
        key
    };
    let record = |n: u32| IdRecord {
        log_time_ms: i64::from(n / 40) * DAY_MS,
        sequence: u64::from(n),
        content_hash: 0,
    };
    let mut shard = open(folder.path());
    for n in 0..120 {
        let mut changes = Changes::default();
        changes.push_with(
            Target::Ids((n / 40) as i32),
            Op::Put,
            |k| k.extend_from_slice(&key(n)),
            |v| record(n).encode(v),
        );
        shard.write(&changes).unwrap();
        let mut reads = Reads::default();
        for n in 0..130 {
            reads.ids.push(&key(n));
        }
        reads.order_ids();
        let found = shard.read(&reads).unwrap().ids;
        for (place, found) in reads.ids_order.iter().zip(found) {
            assert_eq!(
                found,
                (*place <= n).then(|| record(*place)),
                "{place} of {n}"
            );
        }
        if n % 25 == 24 {
            shard.close().unwrap();
            drop(shard);
            shard = open(folder.path());
        }
    }
}

#[test]
fn the_latest_log_day_that_has_an_id_answers() {
    let folder = tempfile::tempdir().unwrap();
    let shard = open(folder.path());
    let record = |day: i32| IdRecord {
        log_time_ms: i64::from(day) * DAY_MS,
        sequence: 1,
        content_hash: 0,
    };
    let mut changes = Changes::default();
    for day in [20_000, 20_003] {
        let value = |v: &mut Vec<u8>| record(day).encode(v);
        changes.push_with(
            Target::Ids(day),
            Op::Put,
            |k| k.extend_from_slice(b"both"),
            value,
        );
    }
    changes.push_with(
        Target::Ids(20_000),
        Op::Put,
        |k| k.extend_from_slice(b"early"),
        |v| record(20_000).encode(v),
    );
    shard.write(&changes).unwrap();
    let mut reads = Reads::default();
    for key in [&b"neither"[..], b"both", b"early"] {
        reads.ids.push(key);
    }
    reads.order_ids();
    assert_eq!(
        shard.read(&reads).unwrap().ids,
        [Some(record(20_003)), Some(record(20_000)), None]
    );
    assert_eq!(shard.drop_expired_ids(20_009 * DAY_MS).unwrap(), 0);
    assert_eq!(shard.drop_expired_ids(20_009 * DAY_MS + 1).unwrap(), 1);
    assert_eq!(
        shard.read(&reads).unwrap().ids,
        [Some(record(20_003)), None, None]
    );
    assert_eq!(shard.id_days(), [20_003]);
    assert_eq!(ids::day_family(20_003), "ids_20241007");
}

#[test]
fn a_snapshot_does_not_move_and_shards_reopen_their_generation() {
    let folder = tempfile::tempdir().unwrap();
    let add = |shard: &Shard, micros: i64| {
        let mut changes = Changes::default();
        changes.add(Family::Spend, |k| spend::total_key(k, 7), &[micros]);
        shard.write(&changes).unwrap();
    };
    let generation = {
        let shards = Shards::open(folder.path(), 3, Limits::default()).unwrap();
        let set = shards.set();
        let shard = set.iter().nth(2).unwrap();
        add(shard, 5);
        let before = shard.snapshot().unwrap();
        add(shard, 7);
        let mut key = Vec::new();
        spend::total_key(&mut key, 7);
        let gross = |value: Option<Vec<u8>>| Spend::decode(&value.unwrap()).unwrap().gross_micros;
        assert_eq!(gross(before.get(Family::Spend, &key).unwrap()), 5);
        assert_eq!(
            gross(shard.snapshot().unwrap().get(Family::Spend, &key).unwrap()),
            12
        );
        let mut seen = 0;
        let count = |_: &[u8], _: &[u8]| {
            seen += 1;
            ControlFlow::Continue(())
        };
        before
            .scan(Family::Spend, &key[..1], Some(&[1]), count)
            .unwrap();
        assert_eq!(seen, 1);
        shards.close().unwrap();
        shards.set().generation()
    };
    let again = Shards::open(folder.path(), 3, Limits::default()).unwrap();
    assert_eq!(again.set().generation(), generation);
    assert!(!generation.contains(','), "{generation}");
}

#[test]
fn a_current_file_that_names_nothing_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    drop(Shards::open(folder.path(), 1, Limits::default()).unwrap());
    let current = folder.path().join("shards/0/CURRENT");
    std::fs::write(&current, "g-../../elsewhere\n").unwrap();
    let error = Shards::open(folder.path(), 1, Limits::default()).unwrap_err();
    assert!(error.to_string().contains("names no generation"), "{error}");
}

#[test]
fn a_checkpoint_is_the_state_and_stays_as_it_is_while_the_state_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let parent = folder.path().join("checkpoints");
    let shard = open(&folder.path().join("state"));
    let mut fold = shard.open_fold(77).unwrap();
    assert_eq!(checkpoints::make(&shard, &parent, 1).unwrap(), None);
    assert_eq!(std::fs::read_dir(&parent).unwrap().count(), 0);
    let mut made = Vec::new();
    for batch in entries().chunks(5) {
        let folded = fold.fold(batch, |reads| shard.read(reads)).unwrap();
        shard.write(&folded.changes).unwrap();
        // Days go, and new ones come, between one checkpoint and the next.
        shard.drop_expired_ids(fold.position().log_time_ms).unwrap();
        let checkpoint = checkpoints::make(&shard, &parent, 1).unwrap().unwrap();
        assert_eq!(checkpoint.record.position(), fold.position());
        made.push((checkpoint, dump(&shard.snapshot().unwrap()).unwrap()));
    }
    let memory = Memory::new(Limits::default()).unwrap();
    for (checkpoint, then) in &made {
        let copy = Shard::open_read_only(0, "g-copy", &checkpoint.state(), &memory).unwrap();
        assert_eq!(&dump(&copy.snapshot().unwrap()).unwrap(), then);
    }
    // What is begun with it changes nothing of it.
    let fork = folder.path().join("fork");
    checkpoints::fork(&made[0].0.state(), &fork).unwrap();
    let forked = Shard::open(0, "g-fork", &fork, &memory).unwrap();
    let mut changes = Changes::default();
    changes.add(Family::Spend, |k| spend::total_key(k, 7), &[5]);
    forked.write(&changes).unwrap();
    forked.settle().unwrap();
    assert_ne!(dump(&forked.snapshot().unwrap()).unwrap(), made[0].1);
    let copy = Shard::open_read_only(0, "g-copy", &made[0].0.state(), &memory).unwrap();
    assert_eq!(dump(&copy.snapshot().unwrap()).unwrap(), made[0].1);
}

#[test]
fn a_half_made_checkpoint_is_none_and_is_removed() {
    let folder = tempfile::tempdir().unwrap();
    let shards = Shards::open(folder.path(), 1, Limits::default()).unwrap();
    let set = shards.set();
    let shard = set.iter().next().unwrap();
    let mut fold = shard.open_fold(77).unwrap();
    let folded = fold
        .fold(&entries()[..4], |reads| shard.read(reads))
        .unwrap();
    shard.write(&folded.changes).unwrap();
    let parent = checkpoints::folder_of(folder.path(), 0);
    let whole = checkpoints::make(shard, &parent, 1).unwrap().unwrap();
    let half = checkpoints::make(shard, &parent, 2).unwrap().unwrap();
    std::fs::remove_file(half.folder.join("position.json")).unwrap();
    assert_eq!(
        checkpoints::list(folder.path(), 0).unwrap(),
        std::slice::from_ref(&whole)
    );
    assert_eq!(
        checkpoints::remove_half_made(folder.path(), 0).unwrap(),
        [half.folder]
    );
    checkpoints::remove(&whole).unwrap();
    assert_eq!(checkpoints::list(folder.path(), 0).unwrap(), []);
    // Where there can be none, the state is as it was.
    std::fs::remove_dir_all(&parent).unwrap();
    std::fs::write(&parent, "in the way").unwrap();
    assert!(checkpoints::make(shard, &parent, 3).is_err());
    shard.write(&folded.changes).unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn what_goes_on_from_any_checkpoint_is_what_went_on_without(
        cuts in proptest::collection::vec((1usize..9, any::<bool>()), 1..12),
        seed in any::<u64>(),
    ) {
        let folder = tempfile::tempdir().unwrap();
        // The order of messages is the log's; which of them there are is drawn.
        let mut entries: Vec<Entry> = entries()
            .into_iter()
            .filter(|entry| (seed.rotate_left(entry.sequence as u32) & 7) != 0)
            .collect();
        for (sequence, entry) in (1..).zip(&mut entries) {
            entry.sequence = sequence;
        }
        let shard = open(&folder.path().join("state"));
        let mut made = Vec::new();
        let mut fold = shard.open_fold(77).unwrap();
        let mut at = 0;
        for (length, checkpoint) in cuts.iter().cycle() {
            let end = entries.len().min(at + length);
            let folded = fold.fold(&entries[at..end], |reads| shard.read(reads)).unwrap();
            shard.write(&folded.changes).unwrap();
            shard.drop_expired_ids(fold.position().log_time_ms).unwrap();
            if *checkpoint && made.len() < 3 {
                made.extend(checkpoints::make(&shard, &folder.path().join("c"), 1).unwrap());
            }
            at = end;
            if at == entries.len() {
                break;
            }
        }
        let want = dump(&shard.snapshot().unwrap()).unwrap();
        let memory = Memory::new(Limits::default()).unwrap();
        for (n, checkpoint) in made.iter().enumerate() {
            let path = folder.path().join(format!("fork-{n}"));
            checkpoints::fork(&checkpoint.state(), &path).unwrap();
            let fork = Shard::open(0, "g-fork", &path, &memory).unwrap();
            let mut fold = fork.open_fold(77).unwrap();
            for entry in &entries[checkpoint.record.sequence as usize..] {
                let batch = std::slice::from_ref(entry);
                let folded = fold.fold(batch, |reads| fork.read(reads)).unwrap();
                fork.write(&folded.changes).unwrap();
            }
            prop_assert_eq!(&dump(&fork.snapshot().unwrap()).unwrap(), &want);
        }
    }
}

/// Blocks and unflushed writes are one budget: what was read fills it, and gives way to what is written.
#[test]
fn blocks_and_writes_together_stay_within_the_limits() {
    let dir = tempfile::tempdir().unwrap();
    let limits = Limits {
        block_cache_bytes: 4 << 20,
        write_buffer_bytes: 12 << 20,
        ..Limits::default()
    };
    let memory = Memory::new(limits).unwrap();
    let shard = Shard::open(0, "g", dir.path(), &memory).unwrap();
    // Values that do not compress, so that blocks take what the values take.
    let mut word = 0x9e37_79b9_7f4a_7c15u64;
    let mut write = |from: u32, rows: u32| {
        let mut changes = Changes::default();
        for n in from..from + rows {
            let value: Vec<u8> = std::iter::repeat_with(|| {
                word ^= word << 13;
                word ^= word >> 7;
                word ^= word << 17;
                word as u8
            })
            .take(1_024)
            .collect();
            changes.put(
                Family::Directory,
                |k| k.extend_from_slice(&n.to_be_bytes()),
                |v| v.extend_from_slice(&value),
            );
        }
        shard.write(&changes).unwrap();
    };
    write(0, 32 << 10);
    shard.flush().unwrap();
    let mut rows = 0;
    let snapshot = shard.snapshot().unwrap();
    snapshot
        .scan(Family::Directory, &[], None, |_, _| {
            rows += 1;
            ControlFlow::Continue(())
        })
        .unwrap();
    drop(snapshot);
    assert_eq!(rows, 32 << 10);
    let (blocks, _) = shard.memory();
    assert!((10 << 20..=16 << 20).contains(&blocks), "{blocks}");
    write(1 << 20, 6 << 10);
    let (blocks, writes) = shard.memory();
    assert!(writes >= 6 << 20, "{writes}");
    assert!(blocks + writes <= 16 << 20, "{blocks} + {writes}");
}
