//! Verdicts on clicks: how many are invalid for which reason, and which ones.
//!
//! Invariant: an invalid click stands once in the list and once in the sums, under its campaign and its own time.
//! What the border judged counts as revision 0 of the rule of that name. Impressions are no part of it.

use adtally_streams::event::{EdgeReason, Kind};
use rustc_hash::FxHashMap;

use crate::applied::{Applied, Projection};
use crate::codec::{Damaged, Reader, put_i64, put_signed, put_u32, put_varint};
use crate::family::{Changes, Family};
use crate::ids;
use crate::metrics::add_sums;
use crate::symbols::Symbol;

/// The two classes of invalid traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Class {
    /// General invalid traffic: found by lists and simple rules.
    General = 0,
    /// Sophisticated invalid traffic.
    Sophisticated = 1,
}

impl Class {
    /// The contract's name.
    pub fn name(self) -> &'static str {
        match self {
            Class::General => "general",
            Class::Sophisticated => "sophisticated",
        }
    }

    fn from_number(n: u8) -> Option<Class> {
        [Class::General, Class::Sophisticated]
            .into_iter()
            .find(|c| *c as u8 == n)
    }
}

/// The class of what the border judges.
pub fn class_of(_: EdgeReason) -> Class {
    Class::General
}

/// Key of a sum in [`Family::FraudSums`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FraudSumKey {
    /// The campaign.
    pub campaign: Symbol,
    /// UTC minute of the clicks, counted from the Unix epoch.
    pub minute: i64,
    /// The reason's number.
    pub reason: EdgeReason,
    /// Revision of the rule.
    pub revision: u32,
}

/// A sum of invalid clicks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FraudSum {
    /// How many.
    pub invalid_clicks: i64,
    /// Their cost, which is not charged, in micros.
    pub cost_micros: i64,
}

impl FraudSumKey {
    /// Appends the row's key.
    pub fn encode(&self, out: &mut Vec<u8>) {
        put_u32(out, self.campaign);
        put_i64(out, self.minute);
        out.push(self.reason as u8);
        put_u32(out, self.revision);
    }

    /// Reads a row's key.
    pub fn decode(key: &[u8]) -> Result<Self, Damaged> {
        let mut r = Reader::new(key, "fraud sum");
        let (campaign, minute) = (r.u32()?, r.i64()?);
        let reason = EdgeReason::from_number(r.u8()?).ok_or(r.damaged())?;
        let key = Self {
            campaign,
            minute,
            reason,
            revision: r.u32()?,
        };
        r.end()?;
        Ok(key)
    }
}

impl FraudSum {
    /// Reads a row's value.
    pub fn decode(value: &[u8]) -> Result<Self, Damaged> {
        let mut f = [0; 2];
        add_sums(&mut f, value)?;
        Ok(Self {
            invalid_clicks: f[0],
            cost_micros: f[1],
        })
    }
}

/// The half-open range of keys in [`Family::FraudSums`] of a campaign's UTC minutes [from, to).
pub fn sums_range(campaign: Symbol, from: i64, to: i64) -> (Vec<u8>, Vec<u8>) {
    time_range(campaign, from, to)
}

/// The half-open range of keys in [`Family::FraudClicks`] of a campaign's times [from, to) in Unix milliseconds.
pub fn clicks_range(campaign: Symbol, from_ms: i64, to_ms: i64) -> (Vec<u8>, Vec<u8>) {
    time_range(campaign, from_ms, to_ms)
}

fn time_range(campaign: Symbol, from: i64, to: i64) -> (Vec<u8>, Vec<u8>) {
    let key = |at| {
        let mut out = Vec::with_capacity(12);
        put_u32(&mut out, campaign);
        put_i64(&mut out, at);
        out
    };
    (key(from), key(to))
}

/// An invalid click, as its row in [`Family::FraudClicks`] has it. The key (campaign, time, ad, id) sorts by
/// time, so it is also the cursor of a page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FraudClick {
    /// The campaign.
    pub campaign: Symbol,
    /// When the click happened, Unix milliseconds.
    pub event_time_ms: i64,
    /// The ad.
    pub ad: Symbol,
    /// The click's id.
    pub click_id: String,
    /// Why.
    pub reason: EdgeReason,
    /// Revision of the rule.
    pub revision: u32,
    /// Its class.
    pub class: Class,
    /// Its cost, which is not charged, in micros.
    pub cost_micros: i64,
    /// The creative it is counted under.
    pub creative: Symbol,
    /// Its region.
    pub region: Symbol,
    /// Number of its device class.
    pub device: u8,
}

impl FraudClick {
    /// The campaign and the time, in Unix milliseconds, of a row's key.
    pub fn place(key: &[u8]) -> Result<(Symbol, i64), Damaged> {
        let mut k = Reader::new(key, "fraud click");
        Ok((k.u32()?, k.i64()?))
    }

    /// Reads a row.
    pub fn decode(key: &[u8], value: &[u8]) -> Result<Self, Damaged> {
        let mut k = Reader::new(key, "fraud click");
        let (campaign, event_time_ms, ad) = (k.u32()?, k.i64()?, k.u32()?);
        let click_id = ids::unpack(k.rest()).ok_or(k.damaged())?;
        let mut v = Reader::new(value, "fraud click");
        let click = Self {
            campaign,
            event_time_ms,
            ad,
            click_id,
            reason: EdgeReason::from_number(v.u8()?).ok_or(v.damaged())?,
            revision: v.varint32()?,
            class: Class::from_number(v.u8()?).ok_or(v.damaged())?,
            cost_micros: v.signed()?,
            creative: v.varint32()?,
            region: v.varint32()?,
            device: v.u8()?,
        };
        v.end()?;
        Ok(click)
    }
}

/// The projection of clicks that the border judged invalid.
#[derive(Debug, Default)]
pub struct Verdicts {
    sums: FxHashMap<FraudSumKey, [i64; 2]>,
    clicks: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Projection for Verdicts {
    fn apply(&mut self, frame: &Applied<'_>) {
        if frame.kind() != Kind::Click {
            return;
        }
        for event in frame.placed() {
            let Some(reason) = event.verdict else {
                continue;
            };
            let minute = event.time_s.div_euclid(60);
            let sum = FraudSumKey {
                campaign: event.ad.campaign,
                minute,
                reason,
                revision: 0,
            };
            let sums = self.sums.entry(sum).or_default();
            sums[0] += 1;
            sums[1] = sums[1].saturating_add(event.cost_micros);
            let mut key = Vec::with_capacity(40);
            put_u32(&mut key, event.ad.campaign);
            put_i64(&mut key, frame.frame.event_time_ms[event.at]);
            put_u32(&mut key, event.ad.ad);
            ids::pack(&mut key, &frame.frame.id[event.at]);
            let mut value = Vec::with_capacity(16);
            value.push(reason as u8);
            put_varint(&mut value, 0);
            value.push(class_of(reason) as u8);
            put_signed(&mut value, event.cost_micros);
            put_varint(&mut value, u64::from(event.creative));
            put_varint(&mut value, u64::from(event.region));
            value.push(event.device);
            self.clicks.push((key, value));
        }
    }

    fn finish(&mut self, out: &mut Changes) {
        let mut sums: Vec<_> = self.sums.drain().collect();
        sums.sort_unstable();
        for (key, sum) in sums {
            out.add(Family::FraudSums, |k| key.encode(k), &sum);
        }
        // Stable, so that of two rows of one key the later one stands, as it would in two batches.
        self.clicks.sort_by(|a, b| a.0.cmp(&b.0));
        for (key, value) in self.clicks.drain(..) {
            out.put(
                Family::FraudClicks,
                |k| k.extend_from_slice(&key),
                |v| v.extend_from_slice(&value),
            );
        }
    }
}
