//! Spend: what a campaign's events cost, by civil day of its advertiser and in all.
//!
//! Invariant: it is the sum of the campaign's cells over their dimensions, and is made from the cells of days; it
//! exists so that budgets and pacing read one row. A campaign none of whose events cost anything has none. Gross is never decremented: an invalid event adds to what is not charged.

use crate::codec::{Damaged, Reader, put_i32, put_u32};
use crate::family::{Changes, Family};
use crate::metrics::add_sums;
use crate::symbols::Symbol;

const TOTAL: u8 = 0;
const BY_DAY: u8 = 1;

/// Money of a campaign, in micros of its advertiser's currency.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spend {
    /// Cost of all impressions and clicks as if all were valid.
    pub gross_micros: i64,
    /// The part that is not charged.
    pub not_charged_micros: i64,
}

impl Spend {
    /// What is charged.
    pub fn cost_micros(&self) -> i64 {
        self.gross_micros.saturating_sub(self.not_charged_micros)
    }

    /// Reads a row's value.
    pub fn decode(value: &[u8]) -> Result<Self, Damaged> {
        let mut f = [0; 2];
        add_sums(&mut f, value)?;
        Ok(Self {
            gross_micros: f[0],
            not_charged_micros: f[1],
        })
    }
}

/// Row in [`Family::Spend`]: all that a campaign ever cost.
pub fn total_key(out: &mut Vec<u8>, campaign: Symbol) {
    out.push(TOTAL);
    put_u32(out, campaign);
}

/// Row: what it cost on a civil day (days from 1970-01-01 under the stamped offset).
pub fn day_key(out: &mut Vec<u8>, campaign: Symbol, day: i32) {
    out.push(BY_DAY);
    put_u32(out, campaign);
    put_i32(out, day);
}

/// A row's campaign, and its day unless it is the total.
pub fn decode_key(key: &[u8]) -> Result<(Symbol, Option<i32>), Damaged> {
    let mut r = Reader::new(key, "spend");
    let by_day = match r.u8()? {
        TOTAL => false,
        BY_DAY => true,
        _ => return Err(r.damaged()),
    };
    let campaign = r.u32()?;
    let day = if by_day { Some(r.i32()?) } else { None };
    r.end()?;
    Ok((campaign, day))
}

/// Adds to a campaign's rows what its events of those days cost, gross and not charged. Days ascend.
pub(crate) fn add(out: &mut Changes, campaign: Symbol, days: &[(i32, [i64; 2])]) {
    let total = days.iter().fold([0i64; 2], |t, (_, s)| {
        [t[0].saturating_add(s[0]), t[1].saturating_add(s[1])]
    });
    out.add(Family::Spend, |k| total_key(k, campaign), &total);
    for (day, sums) in days {
        out.add(Family::Spend, |k| day_key(k, campaign, *day), sums);
    }
}
