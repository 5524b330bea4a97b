//! Cells: the counters of one campaign, bucket and combination of dimensions.
//!
//! Invariant: an event stands in exactly one cell of each grain, decided by its own stamp. Key:
//! campaign, bucket, ad, creative, region, device, so that a question about a campaign and a time is one range.

use adtally_streams::event::Kind;
use rustc_hash::FxHashMap;

use crate::applied::{Applied, Placed, Projection};
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

/// A UTC minute's cell with what also decides its hour and day.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Fine {
    minute: i64,
    campaign: Symbol,
    ad: Symbol,
    creative: Symbol,
    region: Symbol,
    offset_s: i32,
    device: u8,
    /// Second of the minute, where the offset is no whole minute and the hour changes within one; else 0.
    second: u8,
}

/// The projection of impressions and clicks into cells of all grains.
///
/// Events are summed per minute first: hours and days are summed from those sums, once a batch.
#[derive(Debug, Default)]
pub struct Cells {
    sums: FxHashMap<Fine, Metrics>,
}

fn count(m: &mut Metrics, kind: Kind, event: &Placed) {
    m.gross_cost_micros = m.gross_cost_micros.saturating_add(event.cost_micros);
    m.late_events += i64::from(event.late);
    if event.verdict.is_some() {
        m.cost_not_charged_micros = m.cost_not_charged_micros.saturating_add(event.cost_micros);
    }
    match (kind, event.verdict) {
        (Kind::Impression, None) => m.impressions += 1,
        (Kind::Impression, Some(_)) => m.invalid_impressions += 1,
        (_, verdict) => {
            m.gross_clicks += 1;
            m.general_invalid_clicks += i64::from(verdict.is_some());
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
            let offset_s = event.ad.utc_offset_s;
            let fine = Fine {
                minute: event.time_s.div_euclid(60),
                campaign: event.ad.campaign,
                ad: event.ad.ad,
                creative: event.creative,
                region: event.region,
                offset_s,
                device: event.device,
                second: if offset_s % 60 == 0 {
                    0
                } else {
                    event.time_s.rem_euclid(60) as u8
                },
            };
            count(self.sums.entry(fine).or_default(), kind, &event);
        }
    }

    fn finish(&mut self, out: &mut Changes) {
        let mut minutes = Vec::with_capacity(self.sums.len());
        let mut hours: FxHashMap<CellKey, Metrics> = FxHashMap::default();
        let mut days: FxHashMap<CellKey, Metrics> = FxHashMap::default();
        for (fine, metrics) in self.sums.drain() {
            let time_s = fine.minute * 60 + i64::from(fine.second);
            let key = |grain| CellKey {
                campaign: fine.campaign,
                bucket: Bucket::of(grain, time_s, fine.offset_s),
                ad: fine.ad,
                creative: fine.creative,
                region: fine.region,
                device: fine.device,
            };
            minutes.push((key(Grain::Minute), metrics));
            hours.entry(key(Grain::Hour)).or_default().add(&metrics);
            days.entry(key(Grain::Day)).or_default().add(&metrics);
        }
        write(Grain::Minute, minutes, out);
        write(Grain::Hour, hours.into_iter().collect(), out);
        write(Grain::Day, days.into_iter().collect(), out);
    }
}

/// Sorted before writing: RocksDB takes sorted batches several times faster.
fn write(grain: Grain, mut cells: Vec<(CellKey, Metrics)>, out: &mut Changes) {
    cells.sort_unstable_by_key(|(key, _)| *key);
    for (key, metrics) in cells {
        out.add(grain.family(), |k| key.encode(k), &metrics.fields());
    }
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
