//! How far an answer is complete, of shards whose producers come, go on and are drained, over the store itself: by each snapshot's
//! own rows, whoever looked before.

use std::collections::BTreeMap;

use adtally_projections::completeness::{self, Producer};
use adtally_streams::id::Epoch;
use proptest::prelude::*;

use super::watched::watched;
use super::*;
use crate::query::stored::StoredRows;
use crate::store::{Limits, Memory as Room, Shard as Open, ShardSnapshot};

/// What a producer has announced: until when, and whether it is drained.
type Said = BTreeMap<u64, (i64, bool)>;

/// The least that an open one says; where none is open, the greatest of all.
fn expected(said: &Said) -> Option<i64> {
    let open = said.values().filter(|(_, drained)| !drained);
    let open = open.map(|(through, _)| *through).min();
    open.or_else(|| said.values().map(|(through, _)| *through).max())
}

fn announce(shard: &Open, said: &Said, epochs: &[u64]) {
    let mut changes = Changes::default();
    for epoch in epochs {
        let (through_ms, drained) = said[epoch];
        let mut producer = Producer::new(&id("collector-1"), Epoch(*epoch), 50);
        let watermark = Watermark {
            through_ms,
            drained,
            ..Watermark::default()
        };
        producer.take(&watermark, 60);
        changes.put(
            Family::Completeness,
            |k| completeness::key(k, &producer.producer, producer.epoch),
            |v| producer.encode(v),
        );
    }
    shard.write(&changes).unwrap();
}

fn of(snapshot: ShardSnapshot<'_>) -> SnapshotSet<'_> {
    SnapshotSet {
        generation: "g".to_owned(),
        shards: vec![Shard {
            number: 0,
            rows: Box::new(StoredRows::plain(snapshot)),
        }],
        united: None,
    }
}

fn through(set: &SnapshotSet<'_>) -> Option<i64> {
    set.as_of().unwrap().complete_through_ms
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn a_snapshot_says_how_far_its_own_producers_are(
        drained_before in 0u64..60,
        steps in proptest::collection::vec(
            (proptest::collection::vec((60u64..70, 1i64..20, prop::bool::weighted(0.15)), 0..3), any::<bool>()),
            1..30,
        ),
    ) {
        let folder = tempfile::tempdir().unwrap();
        let room = Room::start(folder.path(), Limits::default()).unwrap();
        let shard = Open::open(0, "g", &folder.path().join("g"), &room).unwrap();
        let mut said: Said = (0..drained_before).map(|epoch| (epoch, (1_000, true))).collect();
        announce(&shard, &said, &said.keys().copied().collect::<Vec<_>>());
        let mut all = Vec::new();
        for (raised, is_asked) in steps {
            let mut epochs = Vec::new();
            for (epoch, by, drained) in raised {
                let known = said.entry(epoch).or_default();
                *known = (known.0 + by, known.1 || drained);
                epochs.push(epoch);
            }
            announce(&shard, &said, &epochs);
            let set = of(shard.snapshot().unwrap());
            if is_asked {
                prop_assert_eq!(through(&set), expected(&said));
            }
            all.push((set, expected(&said)));
        }
        // Whoever is asked late, and in whatever order.
        for (set, expected) in all.iter().rev().chain(&all) {
            prop_assert_eq!(through(set), *expected);
        }
    }
}

#[test]
fn an_open_producer_is_looked_up_among_many_that_are_drained() {
    let folder = tempfile::tempdir().unwrap();
    let room = Room::start(folder.path(), Limits::default()).unwrap();
    let shard = Open::open(0, "g", &folder.path().join("g"), &room).unwrap();
    let mut said: Said = (0..1_000).map(|epoch| (epoch, (5_000, true))).collect();
    said.insert(1_000, (70, false));
    announce(&shard, &said, &(0..=1_000).collect::<Vec<_>>());
    let known = |set: &SnapshotSet<'_>| {
        let open = set.shards[0].rows.open_producers()?;
        Some((open.keys.len(), open.rows))
    };
    let first = of(shard.snapshot().unwrap());
    assert_eq!((known(&first), through(&first)), (None, Some(70)));
    for through_ms in 71..75 {
        said.insert(1_000, (through_ms, false));
        announce(&shard, &said, &[1_000]);
        let set = of(shard.snapshot().unwrap());
        assert_eq!(
            (known(&set), through(&set)),
            (Some((1, 1_001)), Some(through_ms))
        );
    }
    assert_eq!(through(&first), Some(70));
    // The drained ones are not read.
    let set = watched(of(shard.snapshot().unwrap()), true, &[Family::Completeness]);
    assert_eq!(through(&set), Some(74));
    // It is drained, and another one begins: both are looked for anew.
    said.insert(1_000, (80, true));
    announce(&shard, &said, &[1_000]);
    let set = of(shard.snapshot().unwrap());
    assert_eq!((known(&set), through(&set)), (None, Some(5_000)));
    assert_eq!(
        (known(&set), through(&set)),
        (Some((0, 1_001)), Some(5_000))
    );
    said.insert(1_001, (90, false));
    announce(&shard, &said, &[1_001]);
    let set = of(shard.snapshot().unwrap());
    assert_eq!((known(&set), through(&set)), (None, Some(90)));
}
