//! What a comparison makes of a line held against its text, over states that give the same names other symbols.

#![allow(clippy::unwrap_used)]

use adtally_streams::event::Kind;
use proptest::prelude::*;

use super::*;
use crate::cell_list::{ListWriter, Place};
use crate::cells::{Grain, RowKey};
use crate::dump::visit;
use crate::family::{Changes, Op, Target};
use crate::line_hash::LineHasher;
use crate::memory::Memory;
use crate::metrics::{METRICS, encode_sums};
use crate::sections::{OpenSection, Section};
use crate::symbols::{self, FIRST};

/// Names of each space. The last symbol of a state has none of them.
const NAMES: [&str; 3] = ["a", "b", "other {"];
/// The place of the campaign whose rows have no markers, so that no question would read them.
const UNREAD: u32 = 1;
const UUID_TEXT: &str = "017f22e2-79b0-7cc3-98c4-dc0c0c07398f";

/// A row, with names by their places in [`NAMES`].
#[derive(Clone, Debug)]
enum Row {
    Cell(u32, Bucket, [u32; 3], u8, [i64; METRICS]),
    Id(Kind, u32, Vec<u8>, IdRecord),
    Spend(u32, i32, i64),
    Totals(Kind, i64),
}

fn few<T: Clone + std::fmt::Debug + 'static>(all: &[T]) -> impl Strategy<Value = T> + use<T> {
    proptest::sample::select(all.to_vec())
}

/// A place of a name, of the symbol without one (3), or one of the two fixed symbols.
fn name() -> impl Strategy<Value = u32> {
    0u32..6
}

fn rows() -> impl Strategy<Value = Vec<Row>> {
    let bucket = few(&[
        Bucket::Minute(1),
        Bucket::Minute(-1),
        Bucket::Day(1),
        Bucket::Hour {
            start_s: 3_600,
            offset_s: 0,
        },
        Bucket::Hour {
            start_s: 3_600,
            offset_s: -3_600,
        },
    ]);
    let counter = few(&[0, 0, 0, 1, -1, i64::MAX]);
    let cell = (
        name(),
        bucket,
        [name(), name(), name()],
        0u8..9,
        proptest::array::uniform10(counter),
    );
    let id = (few(&Kind::ALL), name(), id(), 0i64..2, 0u64..2, 0u64..2);
    let row = prop_oneof![
        4 => cell.prop_map(|(campaign, bucket, names, device, sums)| {
            Row::Cell(campaign, bucket, names, device, sums)
        }),
        4 => id.prop_map(|(kind, owner, id, log_time_ms, sequence, content_hash)| {
            let record = IdRecord { log_time_ms, sequence, content_hash };
            Row::Id(kind, owner, id, record)
        }),
        1 => (name(), 0i32..2, 0i64..2).prop_map(|(c, day, n)| Row::Spend(c, day, n)),
        1 => (few(&Kind::ALL), 0i64..2).prop_map(|(kind, n)| Row::Totals(kind, n)),
    ];
    proptest::collection::vec(row, 1..24)
}

/// Packed ids, one of them in both forms.
fn id() -> impl Strategy<Value = Vec<u8>> {
    let text = |text: &str| [&[ids::TEXT], text.as_bytes()].concat();
    let uuid = |bytes: [u8; 16]| [&[ids::UUID][..], &bytes].concat();
    few(&[
        text(UUID_TEXT),
        text(&UUID_TEXT.to_uppercase()),
        text("x"),
        text(""),
        text("not an id at all, though it can be read"),
        uuid(Id::new(UUID_TEXT).unwrap().to_uuid().unwrap()),
        uuid([7; 16]),
    ])
}

/// The state of these rows, with symbols given in the order of the names or in the other one.
fn state(rows: &[Row], reversed: bool) -> Memory {
    let symbol = |name: u32| match (name, reversed) {
        (0..3, true) => FIRST + 2 - name,
        (0..4, _) => FIRST + name,
        _ => name - 4,
    };
    let mut changes = Changes::default();
    for space in Space::ALL {
        for (place, text) in (0..).zip(NAMES) {
            changes.put(
                Family::Symbols,
                |k| symbols::symbol_key(k, space, symbol(place)),
                |v| v.extend_from_slice(text.as_bytes()),
            );
        }
    }
    for row in rows {
        match row {
            Row::Cell(campaign, bucket, [ad, creative, region], device, sums) => {
                let key = RowKey {
                    campaign: symbol(*campaign),
                    bucket: *bucket,
                    ad: symbol(*ad),
                };
                let place = Place::new(symbol(*creative), symbol(*region), *device);
                let open = OpenSection {
                    campaign: key.campaign,
                    section: Section::of(*bucket),
                };
                if *campaign != UNREAD {
                    changes.put(Family::OpenSpans, |k| open.encode(k), |_| ());
                }
                changes.push_with(
                    Target::Family(bucket.grain().family()),
                    Op::Merge,
                    |k| key.encode(k),
                    |v| ListWriter::default().push(v, place, |v| encode_sums(sums, v)),
                );
            }
            Row::Id(kind, owner, id, record) => changes.push_with(
                Target::Ids(ids::log_day(record.log_time_ms)),
                Op::Put,
                |k| {
                    k.push(*kind as u8);
                    k.extend_from_slice(id);
                    k.extend_from_slice(&symbol(*owner).to_be_bytes());
                },
                |v| record.encode(v),
            ),
            Row::Spend(campaign, day, micros) => changes.add(
                Family::Spend,
                |k| spend::day_key(k, symbol(*campaign), *day),
                &[*micros],
            ),
            Row::Totals(kind, n) => {
                changes.add(Family::Totals, |k| crate::totals::key(k, *kind), &[*n]);
            }
        }
    }
    let mut state = Memory::default();
    state.write(&changes);
    state
}

/// Text, hash of what the line is about, and what it adds.
fn lines(state: &Memory) -> Vec<(String, u128, u128)> {
    let (mut all, mut hasher) = (Vec::new(), LineHasher::default());
    visit(state, &mut |line| {
        let hashed = hasher.of(&line);
        all.push((line.text(), hashed.about, hashed.adds));
    })
    .unwrap();
    all
}

proptest! {
    #[test]
    fn what_is_added_is_equal_exactly_when_texts_are(one in rows(), other in rows(), reversed: bool) {
        let mut all = lines(&state(&one, false));
        all.extend(lines(&state(&other, reversed)));
        all.extend(lines(&state(&one, true)));
        for (text, about, adds) in &all {
            for (other_text, other_about, other_adds) in &all {
                prop_assert_eq!(text == other_text, adds == other_adds, "{}\n{}", text, other_text);
                prop_assert_eq!(about == other_about, parts(text).0 == parts(other_text).0);
            }
        }
    }

    #[test]
    fn the_same_rows_add_the_same_under_other_symbols(rows in rows()) {
        let sorted = |reversed| {
            let mut all = lines(&state(&rows, reversed));
            all.sort_unstable();
            all
        };
        prop_assert_eq!(sorted(false), sorted(true));
    }
}

#[test]
fn every_grain_and_family_has_a_section_a_campaign_and_a_day() {
    let all = [
        Row::Cell(0, Bucket::Minute(1_440), [1, 2, 5], 0, [1; METRICS]),
        Row::Id(
            Kind::Click,
            1,
            [&[ids::TEXT][..], b"x"].concat(),
            IdRecord {
                log_time_ms: 2 * DAY_MS,
                sequence: 1,
                content_hash: 2,
            },
        ),
        Row::Spend(1, 3, 4),
    ];
    let mut told = Vec::new();
    visit(&state(&all, false), &mut |line| {
        let campaign = line.campaign().map(str::to_owned);
        told.push((line.section(), campaign, line.day(), line.text()));
    })
    .unwrap();
    told.sort_unstable();
    let campaign = |name: &str| Some(name.to_owned());
    assert_eq!(told.len(), 3);
    assert_eq!(
        (told[0].0, &told[0].1, told[0].2),
        (Grain::Minute.family().name(), &campaign("a"), Some(1))
    );
    assert!(
        told[0].3.starts_with(
            "cell a minute=1440 ad=b creative=\"other {\" region=other device=ios Metrics { impressions: 1,"
        ),
        "{}",
        told[0].3
    );
    assert_eq!(
        told[1],
        (
            "ids",
            None,
            Some(2),
            "id click b x log_time=172800000 sequence=1 hash=0000000000000002".to_owned()
        )
    );
    assert_eq!(
        (told[2].0, &told[2].1, told[2].2),
        ("spend", &campaign("b"), Some(3))
    );
}

#[test]
fn a_line_is_parted_before_its_value() {
    for (line, key) in [
        (
            "cell c day=1 ad=a creative=\"v {\" Metrics { a: 1 }",
            "cell c day=1 ad=a creative=\"v {\"",
        ),
        ("ledger 00ab click [(0, 7)]", "ledger 00ab click"),
        (
            "conflict [0, 1] click ad x Conflict { a: [] }",
            "conflict [0, 1] click ad x",
        ),
        (
            "id click ad x log_time=7 sequence=1 hash=0",
            "id click ad x",
        ),
        ("directory ad a under c", "directory ad a under c"),
    ] {
        assert_eq!(parts(line).0, key);
    }
}
