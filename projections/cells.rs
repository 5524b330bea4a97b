//! Cells: the counters of one campaign, bucket and combination of dimensions.
//!
//! Invariant: an event stands in exactly one cell of each grain, decided by its own stamp. Key:
//! campaign, bucket, ad, creative, region, device, so that a question about a campaign and a time is one range.

use adtally_streams::event::Kind;
use rustc_hash::FxHashMap;

use crate::applied::{Applied, Projection};
use crate::codec::{Damaged, Reader, put_i32, put_i64, put_u32};
use crate::family::{Changes, Family};
use crate::metrics::Metrics;
use crate::symbols::Symbol;

/// The length of a bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Grain {
    /// UTC minutes.
    Minute,
    /// Hours of the advertiser's clock.
    Hour,
    /// Days of the advertiser's calendar.
    Day,
}

impl Grain {
    /// Every grain, finest first.
    pub const ALL: [Grain; 3] = [Grain::Minute, Grain::Hour, Grain::Day];

    /// The family that holds the grain's cells.
    pub fn family(self) -> Family {
        match self {
            Grain::Minute => Family::CellsMinute,
            Grain::Hour => Family::CellsHour,
            Grain::Day => Family::CellsDay,
        }
    }
}

/// A bucket of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Bucket {
    /// A UTC minute, counted from the Unix epoch.
    Minute(i64),
    /// A civil hour.
    Hour {
        /// The instant at which the hour's label began under its offset, in seconds of the Unix epoch.
        start_s: i64,
        /// Seconds east of UTC.
        offset_s: i32,
    },
    /// A civil day, counted from 1970-01-01.
    Day(i32),
}

impl Bucket {
    /// The bucket of an instant (Unix seconds) under an offset.
    pub fn of(grain: Grain, time_s: i64, offset_s: i32) -> Self {
        let local = time_s + i64::from(offset_s);
        match grain {
            Grain::Minute => Bucket::Minute(time_s.div_euclid(60)),
            Grain::Hour => Bucket::Hour {
                start_s: local.div_euclid(3_600) * 3_600 - i64::from(offset_s),
                offset_s,
            },
            Grain::Day => Bucket::Day(local.div_euclid(86_400) as i32),
        }
    }

    /// The bucket's grain.
    pub fn grain(self) -> Grain {
        match self {
            Bucket::Minute(_) => Grain::Minute,
            Bucket::Hour { .. } => Grain::Hour,
            Bucket::Day(_) => Grain::Day,
        }
    }
}

/// Where a cell stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CellKey {
    /// The campaign.
    pub campaign: Symbol,
    /// The bucket.
    pub bucket: Bucket,
    /// The ad.
    pub ad: Symbol,
    /// The creative variant.
    pub creative: Symbol,
    /// The region.
    pub region: Symbol,
    /// Number of the device class.
    pub device: u8,
}

impl CellKey {
    /// Appends the row's key in the family of its grain.
    pub fn encode(&self, out: &mut Vec<u8>) {
        put_u32(out, self.campaign);
        match self.bucket {
            Bucket::Minute(minute) => put_i64(out, minute),
            Bucket::Hour { start_s, offset_s } => {
                put_i64(out, start_s);
                put_i32(out, offset_s);
            }
            Bucket::Day(day) => put_i32(out, day),
        }
        put_u32(out, self.ad);
        put_u32(out, self.creative);
        put_u32(out, self.region);
        out.push(self.device);
    }

    /// Reads a row's key.
    pub fn decode(grain: Grain, key: &[u8]) -> Result<Self, Damaged> {
        let mut r = Reader::new(key, "cell");
        let campaign = r.u32()?;
        let bucket = match grain {
            Grain::Minute => Bucket::Minute(r.i64()?),
            Grain::Hour => Bucket::Hour {
                start_s: r.i64()?,
                offset_s: r.i32()?,
            },
            Grain::Day => Bucket::Day(r.i32()?),
        };
        let key = Self {
            campaign,
            bucket,
            ad: r.u32()?,
            creative: r.u32()?,
            region: r.u32()?,
            device: r.u8()?,
        };
        r.end()?;
        Ok(key)
    }
}

/// The half-open range of keys of a campaign's cells in [from, to): minute numbers, an hour's `start_s`, or day
/// numbers, after the grain.
pub fn range(grain: Grain, campaign: Symbol, from: i64, to: i64) -> (Vec<u8>, Vec<u8>) {
    let key = |at: i64| {
        let mut out = Vec::with_capacity(12);
        put_u32(&mut out, campaign);
        match grain {
            Grain::Day => put_i32(
                &mut out,
                at.clamp(i64::from(i32::MIN), i64::from(i32::MAX)) as i32,
            ),
            Grain::Minute | Grain::Hour => put_i64(&mut out, at),
        }
        out
    };
    (key(from), key(to))
}

/// Everything of a cell but its time, and the offset that decides its civil buckets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Combination {
    campaign: Symbol,
    ad: Symbol,
    creative: Symbol,
    region: Symbol,
    device: u8,
    offset_s: i32,
}

/// What an event adds to its cell.
#[derive(Clone, Copy, Debug)]
struct Addition {
    combination: u32,
    time_s: i64,
    cost_micros: i64,
    is_click: bool,
    is_invalid: bool,
    is_late: bool,
}

/// The projection of impressions and clicks into cells of all grains.
///
/// A batch's additions are sorted into the order of the minutes' keys and summed in one pass; hours are summed from
/// minutes and days from hours likewise. Sorting small numbers is several times faster than a hash map of cells,
/// which would not fit a processor's cache, and RocksDB wants its rows in order anyway.
#[derive(Debug, Default)]
pub struct Cells {
    known: FxHashMap<Combination, u32>,
    combinations: Vec<Combination>,
    additions: Vec<Addition>,
}

impl Addition {
    fn metrics(&self) -> Metrics {
        let one = |yes: bool| i64::from(yes);
        Metrics {
            impressions: one(!self.is_click && !self.is_invalid),
            invalid_impressions: one(!self.is_click && self.is_invalid),
            gross_clicks: one(self.is_click),
            general_invalid_clicks: one(self.is_click && self.is_invalid),
            gross_cost_micros: self.cost_micros,
            cost_not_charged_micros: if self.is_invalid { self.cost_micros } else { 0 },
            late_events: one(self.is_late),
            ..Metrics::default()
        }
    }
}

impl Projection for Cells {
    fn apply(&mut self, frame: &Applied<'_>) {
        let kind = frame.kind();
        if kind == Kind::Conversion {
            return;
        }
        for event in frame.placed() {
            let combination = Combination {
                campaign: event.ad.campaign,
                ad: event.ad.ad,
                creative: event.creative,
                region: event.region,
                device: event.device,
                offset_s: event.ad.utc_offset_s,
            };
            let combinations = &mut self.combinations;
            let combination = *self.known.entry(combination).or_insert_with(|| {
                combinations.push(combination);
                combinations.len() as u32 - 1
            });
            self.additions.push(Addition {
                combination,
                time_s: event.time_s,
                cost_micros: event.cost_micros,
                is_click: kind == Kind::Click,
                is_invalid: event.verdict.is_some(),
                is_late: event.late,
            });
        }
    }

    fn finish(&mut self, out: &mut Changes) {
        let ranks = Ranks::of(&self.combinations);
        let minutes = {
            let row = |(at, a): (usize, &Addition)| {
                (ranks.key(Grain::Minute, a.combination, a.time_s), at as u32)
            };
            let rows = self.additions.iter().enumerate().map(row).collect();
            summed(rows, |at| {
                let a = &self.additions[at];
                (a.combination, a.time_s, a.metrics())
            })
        };
        ranks.write(Grain::Minute, &minutes, out);
        let hours = ranks.coarser(Grain::Hour, &minutes);
        ranks.write(Grain::Hour, &hours, out);
        let days = ranks.coarser(Grain::Day, &hours);
        ranks.write(Grain::Day, &days, out);
        self.additions.clear();
        self.combinations.clear();
        self.known.clear();
    }
}

/// A cell's combination, an instant in it, and its sums.
type Cell = (u32, i64, Metrics);

/// The combinations of a batch with their ranks, by which cells sort as their keys do.
struct Ranks<'a> {
    combinations: &'a [Combination],
    ranks: Vec<Rank>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Rank {
    campaign: u32,
    combination: u32,
}

impl<'a> Ranks<'a> {
    fn of(combinations: &'a [Combination]) -> Self {
        let mut order: Vec<u32> = (0..combinations.len() as u32).collect();
        order.sort_unstable_by_key(|at| combinations[*at as usize]);
        let mut ranks = vec![Rank::default(); combinations.len()];
        let mut rank = Rank::default();
        let mut last: Option<Symbol> = None;
        for at in order {
            let campaign = combinations[at as usize].campaign;
            rank.campaign += u32::from(last.is_some_and(|last| last != campaign));
            last = Some(campaign);
            ranks[at as usize] = rank;
            rank.combination += 1;
        }
        Self {
            combinations,
            ranks,
        }
    }

    /// A number for every sum of a grain, in the order of keys: 24 bits of the campaign's rank, 52 of the bucket,
    /// 20 that tell buckets of equal beginning apart, 32 of the combination's rank. Cells that differ only in their
    /// offset stay apart, since their hours do. The fold sees to it that times are within years 0001 to 9999 and
    /// offsets within a day, and a batch has fewer campaigns than 24 bits count.
    fn key(&self, grain: Grain, combination: u32, time_s: i64) -> u128 {
        let rank = self.ranks[combination as usize];
        let offset_s = self.combinations[combination as usize].offset_s;
        let (bucket, apart) = match Bucket::of(grain, time_s, offset_s) {
            // Under an offset of no whole minutes, hours begin within a minute.
            Bucket::Minute(minute) if offset_s % 60 != 0 => (minute, time_s.rem_euclid(60)),
            Bucket::Minute(minute) => (minute, 0),
            Bucket::Hour { start_s, offset_s } => (start_s, i64::from(offset_s) + (1 << 19)),
            Bucket::Day(day) => (i64::from(day), 0),
        };
        let bucket = bucket + (1 << 51);
        (u128::from(rank.campaign) << 104)
            | ((bucket as u128) << 52)
            | ((apart as u128) << 32)
            | u128::from(rank.combination)
    }

    fn coarser(&self, grain: Grain, cells: &[Cell]) -> Vec<Cell> {
        let row = |(at, cell): (usize, &Cell)| (self.key(grain, cell.0, cell.1), at as u32);
        summed(cells.iter().enumerate().map(row).collect(), |at| cells[at])
    }

    fn write(&self, grain: Grain, cells: &[Cell], out: &mut Changes) {
        for (combination, time_s, metrics) in cells {
            let c = &self.combinations[*combination as usize];
            let key = CellKey {
                campaign: c.campaign,
                bucket: Bucket::of(grain, *time_s, c.offset_s),
                ad: c.ad,
                creative: c.creative,
                region: c.region,
                device: c.device,
            };
            out.add(grain.family(), |k| key.encode(k), &metrics.fields());
        }
    }
}

/// Sums what has equal keys, in the order of keys.
fn summed(mut rows: Vec<(u128, u32)>, cell: impl Fn(usize) -> Cell) -> Vec<Cell> {
    rows.sort_unstable();
    let mut out: Vec<Cell> = Vec::with_capacity(rows.len());
    let mut last = None;
    for (key, at) in rows {
        let this = cell(at as usize);
        match out.last_mut() {
            Some(sum) if last == Some(key) => sum.2.add(&this.2),
            _ => out.push(this),
        }
        last = Some(key);
    }
    out
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn hours_and_days_follow_the_offset() {
        // 2024-03-10 06:59:59 UTC is 01:59:59 in New York (-5 h); one second later the clock shows 03:00 (-4 h).
        let hour = |t, o| Bucket::of(Grain::Hour, t, o);
        assert_eq!(
            hour(1_710_053_999, -18_000),
            Bucket::Hour {
                start_s: 1_710_050_400,
                offset_s: -18_000
            }
        );
        assert_eq!(
            hour(1_710_054_000, -14_400),
            Bucket::Hour {
                start_s: 1_710_054_000,
                offset_s: -14_400
            }
        );
        // Kolkata is +5:30: 18:29:59 UTC is still 23:59:59 of the day, 18:30 UTC is the next one.
        assert_eq!(Bucket::of(Grain::Day, 66_599, 19_800), Bucket::Day(0));
        assert_eq!(Bucket::of(Grain::Day, 66_600, 19_800), Bucket::Day(1));
        assert_eq!(Bucket::of(Grain::Day, -1, 0), Bucket::Day(-1));
        assert_eq!(Bucket::of(Grain::Minute, -1, 0), Bucket::Minute(-1));
    }

    fn key() -> impl Strategy<Value = CellKey> {
        (
            any::<u32>(),
            any::<i64>(),
            any::<i32>(),
            any::<[u32; 3]>(),
            any::<u8>(),
            0..3,
        )
            .prop_map(|(campaign, n, o, [ad, creative, region], device, grain)| {
                let bucket = match grain {
                    0 => Bucket::Minute(n),
                    1 => Bucket::Hour {
                        start_s: n,
                        offset_s: o,
                    },
                    _ => Bucket::Day(o),
                };
                CellKey {
                    campaign,
                    bucket,
                    ad,
                    creative,
                    region,
                    device,
                }
            })
    }

    proptest! {
        #[test]
        fn a_key_returns_and_sorts(a in key(), b in key()) {
            let bytes = |k: &CellKey| { let mut out = Vec::new(); k.encode(&mut out); out };
            prop_assert_eq!(CellKey::decode(a.bucket.grain(), &bytes(&a)), Ok(a));
            if a.bucket.grain() == b.bucket.grain() {
                prop_assert_eq!(bytes(&a).cmp(&bytes(&b)), a.cmp(&b));
            }
        }
    }
}
