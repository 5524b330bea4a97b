//! Sealing in the model's worlds: any sections of any spans, at any time, in any order and in pieces.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

use super::world::{Random, Wild, World};
use super::{plainly, wildly};
use crate::block::Block;
use crate::block_cells::{Symbols, each_cell};
use crate::cells::{Bucket, Grain};
use crate::cuboid::Cuboid;
use crate::dump::{Source, dump};
use crate::family::{Changes, Family, Target};
use crate::fold::Fold;
use crate::memory::Memory;
use crate::metrics::MAX_FIELDS;
use crate::seal::{Rows, seal};
use crate::sections::{OpenSection, Section};
use crate::spans::{DELETED_KEY, Horizon, Retention, Span};
use crate::sweep::sweep;
use crate::symbols::Symbol;

/// The open sections of every campaign's span that has some.
pub fn open_spans(state: &Memory) -> BTreeMap<(Symbol, Span), Vec<Section>> {
    let mut out: BTreeMap<(Symbol, Span), Vec<Section>> = BTreeMap::new();
    let mut row = |key: &[u8], _: &[u8]| {
        let open = OpenSection::decode(key).unwrap();
        let of_span = out.entry((open.campaign, open.section.span())).or_default();
        of_span.push(open.section);
    };
    let Ok(()) = state.scan(Family::OpenSpans, &mut row);
    out
}

/// Seals some of the open sections of some of the spans, and deletes what is past the horizon, or not yet.
pub fn at_random(state: &mut Memory, fold: &mut Fold, random: &mut Random) {
    let deleted = state.get(Target::Family(Family::Meta), DELETED_KEY);
    let deleted = deleted.map_or(Horizon::default(), |v| Horizon::decode(v).unwrap());
    let log_time_ms = fold.position().log_time_ms;
    let horizon = state.retention().horizon(log_time_ms).and(&deleted);
    for ((campaign, _), mut sections) in open_spans(state) {
        if random.percent(50) {
            continue;
        }
        if random.percent(60) {
            sections.retain(|_| random.percent(50));
        }
        let mut changes = Changes::default();
        let sealed = seal(state, campaign, &sections, &horizon, &mut changes).unwrap();
        // One time in ten it is lost before it is written.
        if random.percent(90) {
            state.write(&changes);
            for section in sections.into_iter().take(sealed.done) {
                fold.forget_section(&OpenSection { campaign, section });
            }
        }
    }
    for grain in Grain::ALL {
        if random.percent(30) {
            let mut from = Some(Vec::new());
            while let Some(key) = from {
                let mut changes = Changes::default();
                from = sweep(state, grain, &key, &horizon, 2, &mut changes).unwrap();
                state.write(&changes);
            }
        }
    }
}

type Sums = BTreeMap<(u32, Bucket, Symbols), [i64; MAX_FIELDS]>;

/// The sealed cells of a cuboid.
fn sealed(state: &Memory, grain: Grain, cuboid: Cuboid) -> Sums {
    let mut out = Sums::new();
    let Ok(()) = state.range(grain.blocks(), &[], &[0xff; 32], &mut |key, value| {
        let block = Block::parse(grain, key, value).unwrap();
        if block.key.cuboid == cuboid {
            each_cell(&block, |place, symbols, fields| {
                let bucket = block.key.span.bucket(place).unwrap();
                let cell = (block.key.campaign, bucket, symbols);
                assert!(
                    out.insert(cell, *fields).is_none(),
                    "a cell stands in one block: {cell:?}"
                );
            })
            .unwrap();
        }
        ControlFlow::Continue(())
    });
    out
}

/// Every cuboid's cells are the sums of the full ones, and a span has these or few.
pub fn assert_cuboids_agree(state: &Memory) {
    for grain in Grain::ALL {
        let full = sealed(state, grain, Cuboid::Full);
        let spans = |cells: &Sums| -> BTreeSet<(u32, Span)> {
            cells
                .keys()
                .map(|(campaign, bucket, _)| (*campaign, Span::of(*bucket)))
                .collect()
        };
        let few = spans(&sealed(state, grain, Cuboid::Few));
        assert!(few.is_disjoint(&spans(&full)));
        let parts = Cuboid::SEPARATE.into_iter().filter(|c| *c != Cuboid::Full);
        for cuboid in parts {
            let mut want = Sums::new();
            for ((campaign, bucket, [ad, creative, region, device]), fields) in &full {
                let kept = match cuboid {
                    Cuboid::Full | Cuboid::Few => unreachable!("a part of it"),
                    Cuboid::RegionDevice => [*region, *device, 0, 0],
                    Cuboid::AdCreative => [*ad, *creative, 0, 0],
                    Cuboid::Region => [*region, 0, 0, 0],
                    Cuboid::Device => [*device, 0, 0, 0],
                    Cuboid::Total => [0; 4],
                };
                let sum = want
                    .entry((*campaign, *bucket, kept))
                    .or_insert([0; MAX_FIELDS]);
                sum.iter_mut().zip(fields).for_each(|(a, b)| *a += b);
            }
            assert_eq!(sealed(state, grain, cuboid), want);
        }
    }
}

/// Worlds under a retention of hours, a day and a month: what is shown does not depend on what was deleted.
#[test]
fn the_horizon_is_that_of_the_log_time_and_not_of_the_deletion() {
    let hour_ms = 3_600_000;
    let retention = Retention {
        keep_ms: [
            Some(2 * hour_ms),
            Some(30 * hour_ms),
            Some(20 * 24 * hour_ms),
        ],
    };
    let (mut hidden, mut deleted, mut blocks) = (0, 0, 0);
    for seed in 5_000..5_040 {
        let mut world = World::run(
            seed,
            Wild {
                conflicts_and_days: true,
                ..Wild::default()
            },
        );
        let plain = plainly(&world.log, retention);
        let other = wildly(&world.log, retention, &mut world.random);
        assert_eq!(dump(&plain).unwrap(), dump(&other).unwrap(), "seed {seed}");
        let kept = plainly(&world.log, Retention::ALL);
        hidden += dump(&kept).unwrap().len() - dump(&plain).unwrap().len();
        let row = other.get(Target::Family(Family::Meta), DELETED_KEY);
        deleted += usize::from(row.is_some());
        blocks += sealed(&other, Grain::Minute, Cuboid::Full).len();
    }
    assert!(
        hidden > 100 && deleted > 10 && blocks > 100,
        "{hidden} {deleted} {blocks}"
    );
}

#[test]
fn worlds_are_sealed_at_all_in_part_and_in_every_way() {
    let (mut found, mut in_part) = (BTreeSet::new(), BTreeSet::new());
    for seed in 1..20 {
        let mut world = World::run(seed, Wild::default());
        let state = wildly(&world.log, Retention::ALL, &mut world.random);
        let open = open_spans(&state);
        for (grain, cuboid) in Grain::ALL
            .into_iter()
            .flat_map(|grain| [Cuboid::Full, Cuboid::Few].map(|cuboid| (grain, cuboid)))
        {
            for (campaign, bucket, _) in sealed(&state, grain, cuboid).into_keys() {
                found.insert((grain, cuboid));
                if open.contains_key(&(campaign, Span::of(bucket))) {
                    in_part.insert(grain);
                }
            }
        }
    }
    assert_eq!(
        (found.len(), in_part.len()),
        (6, 3),
        "{found:?} {in_part:?}"
    );
}
