//! Recorded conversions: how many an advertiser sent, and their value, by civil day and currency.
//!
//! Invariant: every conversion that counts stands here once, credited or not. Which click a conversion belongs to
//! is attribution's to say, so the cells have none of it.

use adtally_streams::event::Kind;
use adtally_streams::money::Currency;
use rustc_hash::FxHashMap;

use crate::applied::{Applied, Projection};
use crate::codec::{Damaged, Reader, put_i32, put_u32};
use crate::family::{Changes, Family};
use crate::metrics::add_sums;
use crate::symbols::Symbol;

/// Key of a row in [`Family::Conversions`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConversionKey {
    /// The advertiser.
    pub advertiser: Symbol,
    /// The day on the advertiser's calendar, counted from 1970-01-01.
    pub day: i32,
    /// The currency that the conversion names, or the advertiser's.
    pub currency: Option<Currency>,
}

/// A sum of conversions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ConversionSum {
    /// How many.
    pub conversions: i64,
    /// Their value, in micros of the key's currency.
    pub value_micros: i64,
}

impl ConversionKey {
    /// Appends the row's key.
    pub fn encode(&self, out: &mut Vec<u8>) {
        put_u32(out, self.advertiser);
        put_i32(out, self.day);
        if let Some(currency) = self.currency {
            out.extend_from_slice(currency.as_str().as_bytes());
        }
    }

    /// Reads a row's key.
    pub fn decode(key: &[u8]) -> Result<Self, Damaged> {
        let mut r = Reader::new(key, "conversion");
        let (advertiser, day) = (r.u32()?, r.i32()?);
        let currency = match std::str::from_utf8(r.rest()).map_err(|_| r.damaged())? {
            "" => None,
            code => Some(Currency::new(code).map_err(|_| r.damaged())?),
        };
        Ok(Self {
            advertiser,
            day,
            currency,
        })
    }
}

impl ConversionSum {
    /// Reads a row's value.
    pub fn decode(value: &[u8]) -> Result<Self, Damaged> {
        let mut f = [0; 2];
        add_sums(&mut f, value)?;
        Ok(Self {
            conversions: f[0],
            value_micros: f[1],
        })
    }
}

/// The half-open range of keys of an advertiser's civil days [from, to).
pub fn range(advertiser: Symbol, from: i32, to: i32) -> (Vec<u8>, Vec<u8>) {
    let key = |day| {
        let mut out = Vec::with_capacity(8);
        put_u32(&mut out, advertiser);
        put_i32(&mut out, day);
        out
    };
    (key(from), key(to))
}

/// The projection of conversions.
#[derive(Debug, Default)]
pub struct Conversions {
    sums: FxHashMap<ConversionKey, [i64; 2]>,
}

impl Projection for Conversions {
    fn apply(&mut self, frame: &Applied<'_>) {
        if frame.kind() != Kind::Conversion {
            return;
        }
        for event in frame.placed() {
            let day = (event.time_s + i64::from(event.ad.utc_offset_s)).div_euclid(86_400) as i32;
            let key = ConversionKey {
                advertiser: event.ad.advertiser,
                day,
                currency: event.ad.currency,
            };
            let sums = self.sums.entry(key).or_default();
            sums[0] += 1;
            sums[1] = sums[1].saturating_add(event.cost_micros);
        }
    }

    fn finish(&mut self, out: &mut Changes) {
        let mut sums: Vec<_> = self.sums.drain().collect();
        sums.sort_unstable();
        for (key, sum) in sums {
            out.add(Family::Conversions, |k| key.encode(k), &sum);
        }
    }
}
