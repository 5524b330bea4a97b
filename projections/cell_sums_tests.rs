//! The projection into cells against a plain map.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::cells::{self, CellKey};
use crate::codec::Damaged;
use crate::dump::Source;
use crate::memory::Memory;
use crate::metrics::Metrics;
use crate::symbols::MAX_SYMBOLS;

#[derive(Clone, Debug)]
struct Event {
    owner: Owner,
    place: (u32, u32, u8),
    time_s: i64,
    cost_micros: i64,
    marks: [bool; 3],
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let symbol = prop_oneof![4 => 0u32..3, 1 => Just(MAX_SYMBOLS - 1)];
    let offset = prop_oneof![
        Just(0),
        Just(-18_000),
        Just(19_800),
        Just(-2_670),
        Just(37_800)
    ];
    let owner =
        (symbol.clone(), symbol.clone(), offset).prop_map(|(campaign, ad, offset_s)| Owner {
            campaign,
            ad,
            offset_s,
        });
    let time = prop_oneof![8 => -90_000i64..90_000, 1 => Just(-62_135_596_800), 1 => Just(253_402_300_799)];
    let event = (
        owner,
        (symbol.clone(), symbol, 0u8..7),
        time,
        0i64..5,
        any::<[bool; 3]>(),
    );
    let event = event.prop_map(|(owner, place, time_s, cost_micros, marks)| Event {
        owner,
        place,
        time_s,
        cost_micros,
        marks,
    });
    proptest::collection::vec(event, 0..60)
}

fn taken(sums: &mut CellSums, event: &Event) {
    let owner = sums.owners.iter().position(|o| *o == event.owner);
    let owner = owner.unwrap_or_else(|| {
        sums.owners.push(event.owner);
        sums.owners.len() - 1
    });
    let (creative, region, device) = event.place;
    let [is_click, is_invalid, is_late] = event.marks;
    sums.additions.push(Addition {
        owner: owner as u32,
        place: Place::new(creative, region, device),
        time_s: event.time_s,
        cost_micros: event.cost_micros,
        is_click,
        is_invalid,
        is_late,
    });
}

/// Cell by cell in a map, by the buckets' own definition.
fn plainly(events: &[Event]) -> BTreeMap<CellKey, Metrics> {
    let mut out: BTreeMap<CellKey, Metrics> = BTreeMap::new();
    for event in events {
        let Owner {
            campaign,
            ad,
            offset_s,
        } = event.owner;
        for grain in Grain::ALL {
            let key = CellKey {
                campaign,
                bucket: Bucket::of(grain, event.time_s, offset_s),
                ad,
                creative: event.place.0,
                region: event.place.1,
                device: event.place.2,
            };
            let sum = out.entry(key).or_default();
            let [click, invalid, late] = event.marks;
            match (click, invalid) {
                (false, false) => sum.impressions += 1,
                (false, true) => sum.invalid_impressions += 1,
                (true, _) => sum.gross_clicks += 1,
            }
            sum.general_invalid_clicks += i64::from(click && invalid);
            sum.gross_cost_micros += event.cost_micros;
            sum.cost_not_charged_micros += i64::from(invalid) * event.cost_micros;
            sum.late_events += i64::from(late);
        }
    }
    out
}

proptest! {
    #[test]
    fn cells_of_every_grain_are_the_sums_of_their_events(batches in proptest::collection::vec(events(), 1..4)) {
        let mut state = Memory::default();
        let mut sums = CellSums::default();
        for batch in &batches {
            batch.iter().for_each(|event| taken(&mut sums, event));
            let mut changes = Changes::default();
            sums.finish(&mut changes);
            state.write(&changes);
        }
        let mut have = BTreeMap::new();
        for grain in Grain::ALL {
            let Ok(()) = state.scan(grain.family(), &mut |key, value| {
                let each = cells::each(grain, key, value, |cell, sums| {
                    have.insert(*cell, Metrics::decode(sums)?);
                    Ok::<_, Damaged>(())
                });
                each.unwrap();
            });
        }
        prop_assert_eq!(have, plainly(&batches.concat()));
    }

    #[test]
    fn rows_are_written_in_the_order_of_keys(mut batch in events()) {
        // Of one offset, as nearly all are: rows of one campaign and several offsets may be written in another.
        batch.iter_mut().for_each(|event| event.owner.offset_s = 0);
        let mut sums = CellSums::default();
        batch.iter().for_each(|event| taken(&mut sums, event));
        let mut changes = Changes::default();
        sums.finish(&mut changes);
        let of_cells = |target| Grain::ALL.iter().any(|g| Target::Family(g.family()) == target);
        let rows = changes.iter().filter(|change| of_cells(change.target));
        let rows: Vec<_> = rows.map(|change| (change.target, change.key)).collect();
        prop_assert!(rows.is_sorted());
    }
}
