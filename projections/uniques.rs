//! Uniques: who clicked and who was reached, by campaign and civil day, as sketches.
//!
//! Invariant: a row is the sketch of every visitor of its events that count, however they were batched: what is not
//! written is only what is known to be in it. Reached is who had an impression, a clicker who clicked, that the border
//! did not judge invalid; a sketch cannot forget, so a verdict that comes later leaves both as they are. An event
//! that names neither a user nor an address has no visitor.

use adtally_streams::event::Kind;
use adtally_streams::time::civil_day;
use adtally_streams::visitor::NOBODY;
use rustc_hash::FxHashMap;

use crate::applied::{Applied, Projection};
use crate::codec::{Damaged, Reader, put_i32, put_u32};
use crate::family::{Changes, Family, Op, Target};
use crate::sketch::{Coupon, Sketch, encode_set};
use crate::symbols::Symbol;

/// Sketches kept in memory, of at most 4 KiB each; past it they are forgotten between batches, and what comes is
/// written whether it is new or not.
pub const MAX_CACHED_SKETCHES: usize = 1_024;

/// Which visitors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum What {
    /// Those who had an impression that the border did not judge invalid.
    Reached = 0,
    /// Those who clicked, likewise.
    Clickers = 1,
}

impl What {
    /// Both.
    pub const ALL: [What; 2] = [What::Reached, What::Clickers];

    /// Its name in dumps.
    pub fn name(self) -> &'static str {
        match self {
            What::Reached => "reached",
            What::Clickers => "clickers",
        }
    }

    fn of(kind: Kind) -> Option<Self> {
        match kind {
            Kind::Impression => Some(What::Reached),
            Kind::Click => Some(What::Clickers),
            Kind::Conversion => None,
        }
    }
}

/// Key of a row in [`Family::Uniques`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UniquesKey {
    /// The campaign.
    pub campaign: Symbol,
    /// Which visitors.
    pub what: What,
    /// The civil day under the stamped offset, counted from 1970-01-01.
    pub day: i32,
}

impl UniquesKey {
    /// Appends the row's key.
    pub fn encode(&self, out: &mut Vec<u8>) {
        put_u32(out, self.campaign);
        out.push(self.what as u8);
        put_i32(out, self.day);
    }

    /// Reads a row's key.
    ///
    /// # Errors
    /// [`Damaged`] when it is none.
    pub fn decode(key: &[u8]) -> Result<Self, Damaged> {
        let mut r = Reader::new(key, "uniques");
        let campaign = r.u32()?;
        let what = r.u8()?;
        let key = Self {
            campaign,
            what: What::ALL
                .into_iter()
                .find(|w| *w as u8 == what)
                .ok_or(r.damaged())?,
            day: r.i32()?,
        };
        r.end()?;
        Ok(key)
    }
}

/// The half-open range of keys of a campaign's civil days [from, to).
pub fn range(campaign: Symbol, what: What, from: i32, to: i32) -> (Vec<u8>, Vec<u8>) {
    let key = |day| {
        let mut out = Vec::with_capacity(9);
        let key = UniquesKey {
            campaign,
            what,
            day,
        };
        key.encode(&mut out);
        out
    };
    (key(from), key(to))
}

/// A row that the batch may change.
#[derive(Debug)]
struct Row {
    key: UniquesKey,
    /// Whom this process has written to the row, and is about to.
    known: Sketch,
    /// Those of them that are not written yet.
    new: Vec<Coupon>,
}

/// The projection. Between batches it keeps what it has written, as a filter.
#[derive(Debug, Default)]
pub struct Uniques {
    places: FxHashMap<UniquesKey, u32>,
    rows: Vec<Row>,
    changed: Vec<u32>,
    /// Of each entry of the current frame's ad dictionary, the row of the day that was asked for last.
    last: Vec<Option<(i32, u32)>>,
}

impl Uniques {
    fn place(&mut self, key: UniquesKey) -> u32 {
        let rows = &mut self.rows;
        *self.places.entry(key).or_insert_with(|| {
            rows.push(Row {
                key,
                known: Sketch::default(),
                new: Vec::new(),
            });
            rows.len() as u32 - 1
        })
    }

    fn add(&mut self, place: u32, coupon: Coupon) {
        let row = &mut self.rows[place as usize];
        if row.known.insert(coupon) {
            if row.new.is_empty() {
                self.changed.push(place);
            }
            row.new.push(coupon);
        }
    }
}

impl Projection for Uniques {
    fn apply(&mut self, frame: &Applied<'_>) {
        let Some(what) = What::of(frame.kind()) else {
            return;
        };
        let f = frame.frame;
        self.last.clear();
        self.last.resize(frame.ads.len(), None);
        for at in frame.events {
            let at = *at as usize;
            if f.visitor[at] == NOBODY || f.verdict[at].is_some() {
                continue;
            }
            let entry = f.ad[at] as usize;
            let ad = &frame.ads[entry];
            let day = civil_day(f.event_time_ms[at], ad.utc_offset_s);
            let place = match self.last[entry] {
                Some((last, place)) if last == day => place,
                _ => {
                    let place = self.place(UniquesKey {
                        campaign: ad.campaign,
                        what,
                        day,
                    });
                    self.last[entry] = Some((day, place));
                    place
                }
            };
            self.add(place, Coupon::of(f.visitor[at]));
        }
    }

    fn finish(&mut self, out: &mut Changes) {
        let mut changed = std::mem::take(&mut self.changed);
        changed.sort_unstable_by_key(|place| self.rows[*place as usize].key);
        for place in changed.drain(..) {
            let row = &mut self.rows[place as usize];
            let new = &mut row.new;
            out.push_with(
                Target::Family(Family::Uniques),
                Op::Merge,
                |k| row.key.encode(k),
                |v| encode_set(new, v),
            );
            row.new.clear();
        }
        self.changed = changed;
        if self.rows.len() > MAX_CACHED_SKETCHES {
            self.rows.clear();
            self.places.clear();
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_key_returns_and_sorts(a: (u32, bool, i32), b: (u32, bool, i32)) {
            let of = |(campaign, clickers, day): (u32, bool, i32)| UniquesKey {
                campaign,
                what: What::ALL[usize::from(clickers)],
                day,
            };
            let bytes = |k: UniquesKey| { let mut out = Vec::new(); k.encode(&mut out); out };
            let (a, b) = (of(a), of(b));
            prop_assert_eq!(UniquesKey::decode(&bytes(a)), Ok(a));
            prop_assert_eq!(bytes(a).cmp(&bytes(b)), a.cmp(&b));
        }
    }
}
