//! Cells: the counters of one campaign, bucket and combination of dimensions.
//!
//! Invariant: an event stands in exactly one cell of each grain, decided by its own stamp. A row holds the cells of
//! one campaign, bucket and ad, which are its key, so that a question about a campaign and a time is one range; its
//! value lists them by creative, region and device, see [`crate::cell_list`]. A row a cell would be ten times as
//! many rows, and rows are what RocksDB takes its time for.

use crate::cell_list::{CellList, Place};
use crate::codec::{Damaged, Reader, put_i32, put_i64, put_u32};
use crate::family::Family;
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

    /// The family that holds the grain's sealed cells.
    pub fn blocks(self) -> Family {
        match self {
            Grain::Minute => Family::BlocksMinute,
            Grain::Hour => Family::BlocksHour,
            Grain::Day => Family::BlocksDay,
        }
    }

    /// The grain's name.
    pub fn name(self) -> &'static str {
        match self {
            Grain::Minute => "minute",
            Grain::Hour => "hour",
            Grain::Day => "day",
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

/// What is in the key of a row of cells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RowKey {
    /// The campaign.
    pub campaign: Symbol,
    /// The bucket.
    pub bucket: Bucket,
    /// The ad.
    pub ad: Symbol,
}

impl RowKey {
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
    }

    /// Reads a row's key.
    ///
    /// # Errors
    /// [`Damaged`] when it is none of that grain.
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
        let ad = r.u32()?;
        r.end()?;
        Ok(Self {
            campaign,
            bucket,
            ad,
        })
    }

    /// The row's cell of a place.
    pub fn cell(&self, place: Place) -> CellKey {
        CellKey {
            campaign: self.campaign,
            bucket: self.bucket,
            ad: self.ad,
            creative: place.creative(),
            region: place.region(),
            device: place.device(),
        }
    }
}

/// Visits the cells of a stored row with their stored sums ([`crate::metrics::add_sums`]), in order.
///
/// # Errors
/// [`Damaged`] when the row cannot be read, or whatever `cell` answers.
pub fn each<E: From<Damaged>>(
    grain: Grain,
    key: &[u8],
    value: &[u8],
    mut cell: impl FnMut(&CellKey, &[u8]) -> Result<(), E>,
) -> Result<(), E> {
    let row = RowKey::decode(grain, key)?;
    for listed in CellList::of(value) {
        let (place, sums) = listed?;
        cell(&row.cell(place), sums)?;
    }
    Ok(())
}

/// The half-open range of keys of a campaign's rows in [from, to): minute numbers, an hour's `start_s`, or day
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

    fn row() -> impl Strategy<Value = RowKey> {
        (any::<u32>(), any::<i64>(), any::<i32>(), any::<u32>(), 0..3).prop_map(
            |(campaign, n, o, ad, grain)| {
                let bucket = match grain {
                    0 => Bucket::Minute(n),
                    1 => Bucket::Hour {
                        start_s: n,
                        offset_s: o,
                    },
                    _ => Bucket::Day(o),
                };
                RowKey {
                    campaign,
                    bucket,
                    ad,
                }
            },
        )
    }

    proptest! {
        #[test]
        fn a_key_returns_and_sorts(a in row(), b in row()) {
            let bytes = |k: &RowKey| { let mut out = Vec::new(); k.encode(&mut out); out };
            prop_assert_eq!(RowKey::decode(a.bucket.grain(), &bytes(&a)), Ok(a));
            if a.bucket.grain() == b.bucket.grain() {
                prop_assert_eq!(bytes(&a).cmp(&bytes(&b)), a.cmp(&b));
            }
        }
    }
}
