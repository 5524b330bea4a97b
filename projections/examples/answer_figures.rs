//! What an answer takes once its blocks are unpacked, part by part, and its rows as JSON, on one core:
//! `cargo run -p adtally-projections --example answer_figures`.
//!
//! A campaign of 50 ads, 3 creatives each, 60 regions and 4 devices over eight shards, each with its own numbers for
//! names: a year of days, 30 days of hours, and a day of minutes.

#![allow(clippy::print_stdout, clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use adtally_projections::block::{Block, BlockKey, MAX_CELLS};
use adtally_projections::block_sums::BlockSums;
use adtally_projections::block_writer::{Columns, write};
use adtally_projections::buckets::{BucketKey, Granularity, Slot};
use adtally_projections::cells::{Bucket, Grain};
use adtally_projections::cuboid::Cuboid;
use adtally_projections::merged::Merged;
use adtally_projections::partial::{Dimension, Filters, Names, ShardSums, device_name};
use adtally_projections::printed::{Format, Printer};
use adtally_projections::ratios::{Chosen, Metric};
use adtally_projections::spans::{Place, Span};
use adtally_projections::stretches::Stretches;
use adtally_projections::table::Table;
use adtally_projections::unpacked::Unpacked;

const SHARDS: u64 = 8;
const ADS: u64 = 50;
const REGIONS: u64 = 60;
const DEVICES: u64 = 4;
const FIRST_DAY: i64 = 20_000;
const FIELDS: [usize; 4] = [0, 2, 5, 9];
/// What is printed beside all metrics.
const THREE: [Metric; 3] = [Metric::Impressions, Metric::Clicks, Metric::CostMicros];
/// Rows that are printed at a time.
const PIECE: usize = 512;

/// SplitMix64.
fn random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The symbols of a cell in a shard that numbered the regions in an order of its own.
fn symbols(cuboid: Cuboid, shard: u64, place: u64) -> [u32; 4] {
    let region = (2 + (place % REGIONS * (7 + 2 * shard)) % 61) as u32;
    let (device, rest) = (
        (place / REGIONS % DEVICES) as u32,
        place / REGIONS / DEVICES,
    );
    match cuboid {
        Cuboid::Region => [region, 0, 0, 0],
        Cuboid::Device => [device, 0, 0, 0],
        Cuboid::RegionDevice => [region, device, 0, 0],
        Cuboid::Total => [0; 4],
        _ => [(2 + rest / 3) as u32, (2 + rest % 3) as u32, region, device],
    }
}

/// The blocks of a shard: buckets by span, each with events at random.
fn blocks(cuboid: Cuboid, shard: u64, buckets: &[Bucket], events: u64) -> Vec<Unpacked> {
    let mut seed = shard + 1;
    let combinations = REGIONS * DEVICES * 3 * (ADS / SHARDS);
    let mut cells: BTreeMap<(Span, Place, [u32; 4]), [i64; 10]> = BTreeMap::new();
    for bucket in buckets {
        let span = Span::of(*bucket);
        for _ in 0..events {
            let r = random(&mut seed);
            let cell = cells
                .entry((
                    span,
                    span.place(*bucket),
                    symbols(cuboid, shard, (r >> 8) % combinations),
                ))
                .or_default();
            match r % 11 {
                0 => (cell[2], cell[5]) = (cell[2] + 1, cell[5] + 250_000),
                _ => cell[0] += 1,
            }
            cell[9] += 1;
        }
    }
    let cells: Vec<_> = cells.into_iter().collect();
    let mut out = Vec::new();
    let spans = cells.chunk_by(|a, b| a.0.0 == b.0.0);
    for of_span in spans.flat_map(|cells| cells.chunks(MAX_CELLS)) {
        let n = cuboid.dimensions().len();
        let columns = Columns {
            buckets: of_span
                .chunk_by(|a, b| a.0.1 == b.0.1)
                .map(|same| (same[0].0.1, same.len() as u32))
                .collect(),
            dimensions: (0..n)
                .map(|d| of_span.iter().map(|c| c.0.2[d]).collect())
                .collect(),
            metrics: FIELDS
                .map(|f| (f, of_span.iter().map(|c| c.1[f]).collect()))
                .to_vec(),
        };
        let key = BlockKey {
            campaign: 2,
            cuboid,
            span: of_span[0].0.0,
            first: columns.buckets[0].0,
            part: 0,
        };
        let (mut k, mut v) = (Vec::new(), Vec::new());
        key.encode(&mut k);
        write(&key, &columns, &mut v);
        out.push(Unpacked::of(&Block::parse(key.span.grain, &k, &v).unwrap()).unwrap());
    }
    out
}

fn bucket_key(bucket: Bucket) -> BucketKey {
    let at = match bucket {
        Bucket::Minute(minute) => minute * 60_000,
        Bucket::Hour { start_s, .. } => start_s * 1_000,
        Bucket::Day(day) => i64::from(day),
    };
    BucketKey { at, offset_s: 0 }
}

fn buckets(grain: Grain, many: i64) -> Vec<Bucket> {
    let of = |n: i64| match grain {
        Grain::Minute => Bucket::Minute(FIRST_DAY * 1_440 + n),
        Grain::Hour => Bucket::Hour {
            start_s: FIRST_DAY * 86_400 + n * 3_600,
            offset_s: 0,
        },
        Grain::Day => Bucket::Day((FIRST_DAY + n) as i32),
    };
    (0..many).map(of).collect()
}

struct Asked {
    name: &'static str,
    grain: Grain,
    buckets: i64,
    cuboid: Cuboid,
    group_by: &'static [Dimension],
    /// Events of a bucket and shard.
    events: u64,
    device: Option<u32>,
}

fn main() {
    use Dimension::{AdId, Device, Region};
    let all = [
        Asked {
            name: "24 h by hour by device",
            grain: Grain::Hour,
            buckets: 24,
            cuboid: Cuboid::Device,
            group_by: &[Device],
            events: 500,
            device: None,
        },
        Asked {
            name: "30 d by hour by region",
            grain: Grain::Hour,
            buckets: 720,
            cuboid: Cuboid::Region,
            group_by: &[Region],
            events: 500,
            device: None,
        },
        Asked {
            name: "30 d by hour by region of both",
            grain: Grain::Hour,
            buckets: 720,
            cuboid: Cuboid::RegionDevice,
            group_by: &[Region],
            events: 500,
            device: None,
        },
        Asked {
            name: "1 y by day by region and device",
            grain: Grain::Day,
            buckets: 365,
            cuboid: Cuboid::RegionDevice,
            group_by: &[Region, Device],
            events: 4_500,
            device: None,
        },
        Asked {
            name: "1 d by minute",
            grain: Grain::Minute,
            buckets: 1_440,
            cuboid: Cuboid::Total,
            group_by: &[],
            events: 300,
            device: None,
        },
        Asked {
            name: "1 d by minute of devices",
            grain: Grain::Minute,
            buckets: 1_440,
            cuboid: Cuboid::Device,
            group_by: &[],
            events: 300,
            device: None,
        },
        Asked {
            name: "30 d by day by ad and region, one device",
            grain: Grain::Day,
            buckets: 30,
            cuboid: Cuboid::Full,
            group_by: &[AdId, Region],
            events: 12_000,
            device: Some(1),
        },
        Asked {
            name: "30 d by hour by ad and region, one device",
            grain: Grain::Hour,
            buckets: 720,
            cuboid: Cuboid::Full,
            group_by: &[AdId, Region],
            events: 500,
            device: Some(1),
        },
    ];
    let only = std::env::args().nth(1).unwrap_or_default();
    for asked in all.iter().filter(|asked| asked.name.contains(&only)) {
        ask(asked);
    }
}

fn ask(asked: &Asked) {
    let buckets = buckets(asked.grain, asked.buckets);
    let shards: Vec<Vec<Unpacked>> = (0..SHARDS)
        .map(|shard| blocks(asked.cuboid, shard, &buckets, asked.events))
        .collect();
    let slots: Vec<Slot> = buckets
        .iter()
        .map(|bucket| {
            let key = bucket_key(*bucket);
            Slot {
                key,
                time_ms: key.at,
                offset_s: 0,
            }
        })
        .collect();
    let filters = Filters {
        device: asked.device.map(|d| [d].into_iter().collect()),
        ..Filters::default()
    };
    let runs = std::env::args().nth(2).map_or(30, |n| n.parse().unwrap());
    let mut took = vec![[Duration::ZERO; 4]; runs];
    let (mut cells, mut answer) = (0, None);
    for took in &mut took {
        cells = 0;
        let began = Instant::now();
        let mut summed = Vec::new();
        for (n, blocks) in (0..).zip(&shards) {
            let mut sums = ShardSums::new(asked.group_by);
            let mut reader = BlockSums::default();
            for block in blocks {
                let mut place = |bucket| Some(bucket_key(bucket));
                cells += reader.add(block, &filters, &mut place, &mut sums).unwrap();
            }
            let names: Names = sums
                .symbols()
                .into_iter()
                .map(|(dimension, used)| {
                    let name = |symbol: u32| -> Arc<str> {
                        match dimension {
                            Dimension::Device => device_name(symbol).into(),
                            Dimension::Region => {
                                let place = (0..REGIONS)
                                    .find(|place| symbols(Cuboid::Region, n, *place)[0] == symbol);
                                format!("R{:02}", place.unwrap() * 37 % 61).into()
                            }
                            _ => format!("ad-{n}-{symbol}").into(),
                        }
                    };
                    used.into_iter()
                        .map(|symbol| (symbol, name(symbol)))
                        .collect()
                })
                .collect();
            summed.push((sums, names));
        }
        took[0] = began.elapsed();
        let mut merged = Merged::new(asked.group_by);
        for (sums, names) in summed {
            merged.add(sums, &names).unwrap();
        }
        took[1] = began.elapsed() - took[0];
        let finish = merged.in_order(&slots, false).unwrap();
        took[2] = began.elapsed() - took[0] - took[1];
        let part = finish.part(0..finish.len()).unwrap();
        let table = finish.table([part]).unwrap();
        took[3] = began.elapsed() - took[0] - took[1] - took[2];
        answer = Some(table);
    }
    took.sort_by_key(|took| took.iter().sum::<Duration>());
    let [sum, merge, order, part] = took[took.len() / 2].map(|t| t.as_secs_f64() * 1e3);
    let table = answer.unwrap();
    let (three, three_ms) = print(&table, THREE.into_iter().collect(), runs);
    let (all, all_ms) = print(&table, Chosen::ALL, runs);
    let key_ms = find_keys(&table, asked.grain, runs);
    println!(
        "{}: {cells} cells, {} rows in {:.2} ms: {sum:.2} to sum, {merge:.2} to merge, {order:.2} to put in order, {part:.2} to add up; \
         three metrics are {three:.2} MB, printed in {three_ms:.2} ms, all sixteen {all:.2} MB in {all_ms:.2} ms; \
         the keys of the three's stretches take {key_ms:.2} ms",
        asked.name,
        table.len(),
        sum + merge + order + part
    );
}

/// Finds what the texts of three metrics are known by; the median of milliseconds, 0 for what is small.
fn find_keys(table: &Table, grain: Grain, runs: usize) -> f64 {
    let granularity = match grain {
        Grain::Minute => Granularity::Minute,
        Grain::Hour => Granularity::Hour,
        Grain::Day => Granularity::Day,
    };
    let form = (Format::Json, chrono_tz::UTC, THREE.into_iter().collect());
    let mut took = Vec::new();
    for _ in 0..runs {
        let began = Instant::now();
        let Some(stretches) = Stretches::of(table, granularity, form) else {
            return 0.0;
        };
        let mut at = 0;
        while let Some(stretch) = stretches.at(table, at) {
            at = std::hint::black_box(stretch).rows.end;
        }
        took.push(began.elapsed());
    }
    took.sort_unstable();
    took[took.len() / 2].as_secs_f64() * 1e3
}

/// Prints a table piece by piece; megabytes, and the median of milliseconds.
fn print(table: &Table, metrics: Chosen, runs: usize) -> (f64, f64) {
    let mut took = Vec::new();
    let mut bytes = 0;
    for _ in 0..runs {
        let began = Instant::now();
        let mut printer = Printer::new(Format::Json, chrono_tz::UTC, metrics, table.groups());
        bytes = 0;
        for from in (0..table.len()).step_by(PIECE) {
            let mut out = Vec::with_capacity(PIECE * 480);
            let rows = table.some_rows(from..table.len().min(from + PIECE));
            rows.for_each(|row| printer.row(table, &row, &mut out));
            bytes += std::hint::black_box(&out).len();
        }
        took.push(began.elapsed());
    }
    took.sort_unstable();
    (bytes as f64 / 1e6, took[took.len() / 2].as_secs_f64() * 1e3)
}
