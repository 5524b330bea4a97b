//! Answers with and without all that is kept in memory (united blocks, names, what is said of campaigns), over the store itself: while it is sealed, while late events come, of snapshots
//! from before, and of another generation of a shard.

use std::path::Path;

use adtally_projections::buckets::Granularity;
use adtally_projections::partial::Dimension;
use adtally_projections::ratios::Metric;
use adtally_projections::table::Row;
use proptest::prelude::*;

use super::watched::watched;
use super::*;
use crate::query::stored::StoredRows;
use crate::query::united::UnitedBlocks;
use crate::store::{Limits, Memory as Room, Shard as Open};

const REGIONS: [&str; 30] = [
    "US-AL", "US-AK", "US-AZ", "US-AR", "US-CA", "US-CO", "US-CT", "US-DE", "US-FL", "US-GA",
    "US-HI", "US-ID", "US-IL", "US-IN", "US-IA", "US-KS", "US-KY", "US-LA", "US-ME", "US-MD",
    "US-MA", "US-MI", "US-MN", "US-MS", "US-MO", "US-MT", "US-NE", "US-NV", "US-NH", "US-NJ",
];
const ADS: [&str; 6] = ["banner", "tower", "board", "spot", "film", "page"];
const FROM: &str = "2024-03-09T03:00:00Z";

/// So many events over three days, in which New York's clock goes forward: many cells of the one campaign, few of the other.
fn events(many: usize) -> Vec<Plain> {
    let event = |n: usize| Plain {
        kind: [Kind::Impression, Kind::Click][n % 2],
        region: REGIONS[n * 7 % 30],
        device: [Device::Ios, Device::Desktop, Device::Tv][n % 3],
        time_ms: ms(FROM) + (n as i64 * 7_919 % (3 * 1_440)) * 60_000,
        cost_micros: n as i64,
        verdict: n.is_multiple_of(11).then_some(EdgeReason::KnownBot),
        ..click(
            ["spring", "autumn"][usize::from(n.is_multiple_of(9))],
            ADS[n % 6],
            FROM,
        )
    };
    (0..many).map(event).collect()
}

/// A shard in RocksDB, with what of its stream is not folded.
struct Folding {
    open: Arc<Open>,
    fold: Fold,
    left: std::vec::IntoIter<Entry>,
}

impl Folding {
    fn begin(folder: &Path, number: u16, entries: Vec<Entry>) -> Self {
        let room = Room::start(folder, Limits::default()).unwrap();
        let name = format!("g-{number}");
        let open = Open::open(number, &name, &folder.join(&name), &room);
        let open = Arc::new(open.unwrap());
        let fold = open.open_fold(1).unwrap();
        Self {
            open,
            fold,
            left: entries.into_iter(),
        }
    }

    fn fold(&mut self, entries: usize) {
        for entry in self.left.by_ref().take(entries) {
            let folded = self.fold.fold(&[entry], |reads| self.open.read(reads));
            self.open.write(&folded.unwrap().changes).unwrap();
        }
    }

    /// Seals every section whose place in order leaves that remainder.
    fn seal(&mut self, of: usize, remainder: usize) {
        let mut open = Vec::new();
        let mut each = |key: &[u8], _: &[u8]| {
            open.push(OpenSection::decode(key).unwrap());
            ControlFlow::Continue(())
        };
        let snapshot = self.open.snapshot().unwrap();
        snapshot
            .scan(Family::OpenSpans, &[], None, &mut each)
            .unwrap();
        drop(snapshot);
        for section in open.into_iter().skip(remainder).step_by(of) {
            let mut changes = Changes::default();
            let snapshot = self.open.snapshot().unwrap();
            let (campaign, sections) = (section.campaign, [section.section]);
            let sealed = seal(
                &snapshot,
                campaign,
                &sections,
                &Horizon::default(),
                &mut changes,
            );
            drop(snapshot);
            self.open.write(&changes).unwrap();
            if sealed.unwrap().done == 1 {
                self.fold.forget_section(&section);
            }
        }
    }
}

fn open(shards: &[Folding]) -> Vec<Arc<Open>> {
    shards.iter().map(|shard| Arc::clone(&shard.open)).collect()
}

fn snapshots<'a>(open: &'a [Arc<Open>], united: &UnitedBlocks) -> SnapshotSet<'a> {
    let shard = |of: &'a Arc<Open>| Shard {
        number: of.number(),
        rows: Box::new(StoredRows::plain(of.snapshot().unwrap())),
    };
    SnapshotSet {
        generation: "g".to_owned(),
        shards: open.iter().map(shard).collect(),
        united: Some(united.clone()),
    }
}

fn questions() -> Vec<Question> {
    use Dimension::{AdId, CampaignId, Device as Class, Region};
    let of = |granularity, group_by: &[Dimension]| Question {
        granularity: Some(granularity),
        group_by: group_by.to_vec(),
        ..question(
            named("campaign_id", &["spring", "autumn"]),
            span("2024-03-08T00:00", "2024-03-12T00:00"),
        )
    };
    vec![
        of(Granularity::Day, &[Region, Class]),
        of(Granularity::Hour, &[Class, Region]),
        of(Granularity::Minute, &[]),
        Question {
            fill: true,
            regions: ["US-CA".to_owned(), "US-NJ".to_owned(), "FR".to_owned()].into(),
            metrics: [Metric::Ctr, Metric::CostMicros].into_iter().collect(),
            ..of(Granularity::Hour, &[CampaignId])
        },
        Question {
            devices: [Device::Ios].into(),
            span: span("2024-03-09T05:30", "2024-03-11T17:11"),
            ..of(Granularity::Total, &[Region, CampaignId])
        },
        Question {
            time_zone: Some(chrono_tz::Asia::Kolkata),
            ..of(Granularity::Day, &[Class])
        },
        of(Granularity::Day, &[AdId, Region]),
    ]
}

fn printed(answer: &Answer) -> Vec<String> {
    let table = &answer.table;
    let row = |row: Row| {
        let group: Vec<_> = table.group(&row).collect();
        format!("{} {group:?} {}", row.slot, row.metrics)
    };
    let rows = table.rows().map(row);
    let as_of = format!("{:?}", answer.as_of);
    rows.chain([table.totals.to_string(), as_of]).collect()
}

/// Asks everything with what is kept, twice so that it is, and without: how many united blocks were read.
fn compared(set: SnapshotSet<'_>) -> u64 {
    let catalogue = catalogue();
    let mut united = 0;
    let both = [(); 2].map(|()| {
        questions()
            .iter()
            .map(|q| {
                let answer = ask(q, &set, &catalogue).unwrap();
                let read = answer.read.united;
                united += read.day + read.hour + read.minute;
                printed(&answer)
            })
            .collect::<Vec<_>>()
    });
    let set = watched(set, false, &[]);
    let without = questions();
    let without: Vec<_> = without
        .iter()
        .map(|q| printed(&ask(q, &set, &catalogue).unwrap()))
        .collect();
    for with in both {
        assert_eq!(with, without);
    }
    united
}

fn begun(folder: &Path, events: &[Plain]) -> Vec<Folding> {
    let entries = |number| entries(events, &catalogue(), 0, number);
    (0..SHARDS)
        .map(|number| Folding::begin(&folder.join(number.to_string()), number, entries(number)))
        .collect()
}

#[test]
fn united_blocks_are_found_and_never_for_what_was_sealed_since() {
    let folder = tempfile::tempdir().unwrap();
    let mut shards = begun(folder.path(), &events(3_000));
    let united = UnitedBlocks::new(16 << 20);
    assert_eq!(compared(snapshots(&open(&shards), &united)), 0);
    for shard in &mut shards {
        shard.fold(12);
        shard.seal(1, 0);
    }
    let read = compared(snapshots(&open(&shards), &united));
    assert!(read > 50, "{read}");
    // All that they are made of is found the next time, and nothing of it is read again.
    let opened = open(&shards);
    let before = snapshots(&opened, &united);
    let answer = ask(&questions()[0], &before, &catalogue()).unwrap();
    let plan = answer.explain();
    assert!(plan.blocks_united.day > 0 && plan.blocks_cached == plan.blocks_read);
    assert_eq!(plan.rows_read.day, 0);
    // What was so in a snapshot stays so in it, whatever is sealed meanwhile.
    for shard in &mut shards {
        shard.fold(100);
        shard.seal(1, 0);
    }
    let after = snapshots(&opened, &united);
    let again = ask(&questions()[0], &before, &catalogue()).unwrap();
    assert_eq!(printed(&again), printed(&answer));
    let totals = |set| {
        ask(&questions()[0], set, &catalogue())
            .unwrap()
            .table
            .totals
    };
    assert_ne!(totals(&after), totals(&before));
    compared(after);
    compared(before);
    // Another generation of a shard has other numbers for names.
    let mut again = entries(&events(3_000), &catalogue(), 0, 1);
    again.reverse();
    for (sequence, entry) in (1..).zip(&mut again) {
        entry.sequence = sequence;
    }
    let folder = folder.path().join("again");
    let mut other = Folding::begin(&folder, 1, again);
    other.fold(100);
    other.seal(1, 0);
    shards[1] = other;
    assert!(compared(snapshots(&open(&shards), &united)) > 50);
    // What has no room is made again each time.
    let tiny = UnitedBlocks::new(1 << 10);
    compared(snapshots(&open(&shards), &tiny));
    assert!(tiny.usage() <= 1 << 10);
}

#[test]
fn what_is_said_of_a_campaign_is_what_its_own_snapshot_says() {
    let folder = tempfile::tempdir().unwrap();
    let mut shards = begun(folder.path(), &events(3_000));
    let united = UnitedBlocks::new(16 << 20);
    let opened = open(&shards);
    let question = &questions()[2];
    let clicks = |set: &SnapshotSet<'_>| {
        let answer = ask(question, set, &catalogue()).unwrap();
        answer.table.totals.gross_clicks
    };
    let known = |set: &SnapshotSet<'_>| -> Vec<bool> {
        let of = |shard: &Shard<'_>| Some(shard.rows.known_campaign(&id("spring"))?.is_some());
        set.shards.iter().filter_map(of).collect()
    };
    let first = snapshots(&opened, &united);
    assert_eq!(known(&first), [true; 0]);
    assert_eq!(clicks(&first), 0);
    assert_eq!(known(&first), [false; 3], "that it was never counted, too");
    for shard in &mut shards {
        shard.fold(6);
    }
    let second = snapshots(&opened, &united);
    assert_eq!(known(&second), [true; 0], "it has been counted since");
    let counted = clicks(&second);
    assert!(counted > 0);
    assert_eq!(known(&second), [true; 3]);
    assert_eq!((known(&first), clicks(&first)), (vec![], 0));
    for shard in &mut shards {
        shard.fold(100);
    }
    let third = snapshots(&opened, &united);
    assert_eq!(known(&third), [true; 3], "of campaigns nothing is new");
    assert!(clicks(&third) > counted);
    // Both campaigns are known: the directory is not scanned.
    let fourth = watched(snapshots(&opened, &united), true, &[Family::Directory]);
    assert_eq!(clicks(&fourth), clicks(&third));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn with_all_that_is_kept_every_answer_is_as_without(
        steps in proptest::collection::vec((0usize..3, 0usize..4, 1usize..4, 0usize..3), 1..10),
        many in 200usize..1_500,
    ) {
        let folder = tempfile::tempdir().unwrap();
        let mut shards = begun(folder.path(), &events(many));
        let united = UnitedBlocks::new(4 << 20);
        compared(snapshots(&open(&shards), &united));
        for (shard, what, of, remainder) in steps {
            match what {
                0 => shards[shard].fold(of),
                1 => shards[shard].seal(of, remainder),
                2 => shards.iter_mut().for_each(|shard| { shard.fold(2); shard.seal(1, 0) }),
                _ => {}
            }
            compared(snapshots(&open(&shards), &united));
        }
    }
}
