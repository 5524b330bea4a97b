//! The counters of a cell, and the one way in which sums are stored and merged.
//!
//! Invariant: merging is associative and commutative up to saturation, and knows nothing of what it adds, so that
//! RocksDB may merge operands in any grouping and a newer writer may add fields. A stored sum is a varint mask of
//! the fields that are not zero and a signed varint for each of them.

use std::fmt;

use crate::codec::{Damaged, Reader, put_signed, put_varint};

/// The most fields that a stored sum may have.
pub const MAX_FIELDS: usize = 64;

/// Appends a stored sum of `fields`, at most [`MAX_FIELDS`].
pub fn encode_sums(fields: &[i64], out: &mut Vec<u8>) {
    let mask = fields
        .iter()
        .enumerate()
        .fold(0u64, |m, (i, n)| m | (u64::from(*n != 0) << i));
    put_varint(out, mask);
    fields
        .iter()
        .filter(|n| **n != 0)
        .for_each(|n| put_signed(out, *n));
}

/// Adds a stored sum to `fields`, saturating; fields that `fields` has no room for are passed over. Answers the mask of
/// those that it has.
///
/// # Errors
/// [`Damaged`] when the bytes are not a stored sum; `fields` may then hold a part of it.
pub fn add_sums(fields: &mut [i64], bytes: &[u8]) -> Result<u64, Damaged> {
    let mut r = Reader::new(bytes, "sum");
    let all = r.varint()?;
    let mut mask = all;
    while mask != 0 {
        let i = mask.trailing_zeros() as usize;
        let n = r.signed()?;
        if let Some(field) = fields.get_mut(i) {
            *field = field.saturating_add(n);
        }
        mask &= mask - 1;
    }
    r.end().map(|()| all)
}

/// The same of the wanted fields only.
///
/// # Errors
/// As of [`add_sums`].
pub fn add_wanted_sums(
    fields: &mut [i64; METRICS],
    wanted: Fields,
    bytes: &[u8],
) -> Result<(), Damaged> {
    let mut r = Reader::new(bytes, "sum");
    let mut mask = r.varint()?;
    while mask != 0 {
        let i = mask.trailing_zeros() as usize;
        let n = r.signed()?;
        if wanted.has(i) {
            fields[i] = fields[i].saturating_add(n);
        }
        mask &= mask - 1;
    }
    r.end()
}

/// The merge of RocksDB's operands: the stored sum of all of them; none when one is damaged, which RocksDB then
/// reports as corruption instead of counting something else.
pub fn merge_sums<'a>(
    existing: Option<&'a [u8]>,
    operands: impl Iterator<Item = &'a [u8]>,
) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(24);
    encode_merged(existing.into_iter().chain(operands), &mut out).ok()?;
    Some(out)
}

/// Appends the stored sum of stored sums.
///
/// # Errors
/// [`Damaged`] when one of them is none.
pub(crate) fn encode_merged<'a>(
    parts: impl Iterator<Item = &'a [u8]>,
    out: &mut Vec<u8>,
) -> Result<(), Damaged> {
    let (mut fields, mut used) = ([0i64; MAX_FIELDS], 0);
    for part in parts {
        used |= add_sums(&mut fields, part)?;
    }
    // Nearly all of the fields are never in use.
    encode_sums(&fields[..(u64::BITS - used.leading_zeros()) as usize], out);
    Ok(())
}

/// Appends a stored sum of all fields, of which the last ones are mostly not in use.
pub(crate) fn encode_used(fields: &[i64; MAX_FIELDS], out: &mut Vec<u8>) {
    let used = fields.iter().rposition(|n| *n != 0).map_or(0, |i| i + 1);
    encode_sums(&fields[..used], out);
}

/// How many counters a cell has.
pub const METRICS: usize = 10;

/// Which of the counters somebody wants, by their places in [`Metrics::fields`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fields(u64);

impl Fields {
    /// Every counter.
    pub const ALL: Fields = Fields((1 << METRICS) - 1);

    /// The counters of those places, each below [`METRICS`].
    pub const fn of(places: &[usize]) -> Self {
        let (mut mask, mut at) = (0, 0);
        while at < places.len() {
            assert!(places[at] < METRICS);
            mask |= 1 << places[at];
            at += 1;
        }
        Self(mask)
    }

    /// These and those.
    pub fn and(self, others: Fields) -> Self {
        Self(self.0 | others.0)
    }

    /// Whether a counter is wanted.
    pub fn has(self, place: usize) -> bool {
        place < METRICS && self.0 & (1 << place) != 0
    }

    /// The places, ascending.
    pub fn places(self) -> impl Iterator<Item = usize> {
        (0..METRICS).filter(move |place| self.has(*place))
    }
}

/// The counters of a cell. Money is in micros of the advertiser's currency.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Metrics {
    /// Impressions that the border did not judge invalid.
    pub impressions: i64,
    /// Impressions that it did; no part of `impressions`.
    pub invalid_impressions: i64,
    /// Clicks of every kind, valid or not. Never decremented: a later verdict adds to an invalid counter.
    pub gross_clicks: i64,
    /// Clicks invalid under a rule of the class general.
    pub general_invalid_clicks: i64,
    /// Clicks invalid under a rule of the class sophisticated.
    pub sophisticated_invalid_clicks: i64,
    /// Cost of all impressions and clicks as if all were valid.
    pub gross_cost_micros: i64,
    /// The part of it that is not charged, because the event is invalid.
    pub cost_not_charged_micros: i64,
    /// Conversions credited to the cell's clicks.
    pub conversions: i64,
    /// Their value.
    pub conversions_value_micros: i64,
    /// Impressions and clicks that arrived more than [`adtally_streams::names::LATE_AFTER_MS`] after their time.
    pub late_events: i64,
}

/// The names of the counters, in the order in which they are stored.
const NAMES: [&str; METRICS] = [
    "impressions",
    "invalid_impressions",
    "gross_clicks",
    "general_invalid_clicks",
    "sophisticated_invalid_clicks",
    "gross_cost_micros",
    "cost_not_charged_micros",
    "conversions",
    "conversions_value_micros",
    "late_events",
];

/// Only the counters that are not zero: nearly all lines of a dump are cells, and nearly all counters of a cell are
/// zero.
impl fmt::Display for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Metrics {")?;
        let counters = NAMES.into_iter().zip(self.fields());
        let mut separator = " ";
        for (name, counter) in counters.filter(|(_, counter)| *counter != 0) {
            write!(f, "{separator}{name}: {counter}")?;
            separator = ", ";
        }
        f.write_str(" }")
    }
}

impl Metrics {
    /// The counters in the order in which they are stored. Appended to, never reordered.
    pub fn fields(&self) -> [i64; METRICS] {
        [
            self.impressions,
            self.invalid_impressions,
            self.gross_clicks,
            self.general_invalid_clicks,
            self.sophisticated_invalid_clicks,
            self.gross_cost_micros,
            self.cost_not_charged_micros,
            self.conversions,
            self.conversions_value_micros,
            self.late_events,
        ]
    }

    /// The counters from the order in which they are stored.
    #[inline]
    pub fn from_fields(f: [i64; METRICS]) -> Self {
        Self {
            impressions: f[0],
            invalid_impressions: f[1],
            gross_clicks: f[2],
            general_invalid_clicks: f[3],
            sophisticated_invalid_clicks: f[4],
            gross_cost_micros: f[5],
            cost_not_charged_micros: f[6],
            conversions: f[7],
            conversions_value_micros: f[8],
            late_events: f[9],
        }
    }

    /// The counters of a cell's stored value.
    pub fn decode(value: &[u8]) -> Result<Self, Damaged> {
        let mut fields = [0; METRICS];
        add_sums(&mut fields, value)?;
        Ok(Self::from_fields(fields))
    }

    /// Adds other counters, saturating.
    pub fn add(&mut self, other: &Metrics) {
        let (mut sum, other) = (self.fields(), other.fields());
        sum.iter_mut()
            .zip(other)
            .for_each(|(a, b)| *a = a.saturating_add(b));
        *self = Self::from_fields(sum);
    }

    /// Clicks invalid under any rule.
    #[inline]
    pub fn invalid_clicks(&self) -> i64 {
        self.general_invalid_clicks
            .saturating_add(self.sophisticated_invalid_clicks)
    }

    /// Valid, billed clicks.
    #[inline]
    pub fn clicks(&self) -> i64 {
        self.gross_clicks.saturating_sub(self.invalid_clicks())
    }

    /// What is charged.
    #[inline]
    pub fn cost_micros(&self) -> i64 {
        self.gross_cost_micros
            .saturating_sub(self.cost_not_charged_micros)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn stored(fields: &[i64]) -> Vec<u8> {
        let mut out = Vec::new();
        encode_sums(fields, &mut out);
        out
    }

    #[test]
    fn every_counter_is_printed_unless_it_is_zero() {
        let numbered = Metrics::from_fields(std::array::from_fn(|i| i as i64 + 1));
        assert_eq!(numbered.to_string(), format!("{numbered:?}"));
        let few = Metrics {
            gross_clicks: -3,
            late_events: 1,
            ..Metrics::default()
        };
        assert_eq!(
            few.to_string(),
            "Metrics { gross_clicks: -3, late_events: 1 }"
        );
        assert_eq!(Metrics::default().to_string(), "Metrics { }");
    }

    #[test]
    fn a_stored_sum_names_its_fields() {
        assert_eq!(stored(&[1, 0, -1]), [0b101, 2, 1]);
        assert_eq!(
            merge_sums(
                None,
                [stored(&[5]), stored(&[-5])].iter().map(Vec::as_slice)
            ),
            Some(vec![0])
        );
        assert_eq!(merge_sums(None, [&[1u8][..]].into_iter()), None);
    }

    proptest! {
        #[test]
        fn merging_in_any_grouping_gives_the_plain_sum(
            all in proptest::collection::vec(proptest::array::uniform10(-1_000_000_000_000i64..1_000_000_000_000), 1..12),
            cut in 0usize..12,
        ) {
            let mut want = [0i64; METRICS];
            all.iter().for_each(|f| want.iter_mut().zip(f).for_each(|(a, b)| *a += b));
            let operands: Vec<Vec<u8>> = all.iter().map(|f| stored(f)).collect();
            let (left, right) = operands.split_at(cut.min(operands.len()));
            let partial = merge_sums(None, left.iter().map(Vec::as_slice)).unwrap();
            let merged = merge_sums(Some(&partial), right.iter().map(Vec::as_slice)).unwrap();
            prop_assert_eq!(Metrics::decode(&merged).unwrap().fields(), want);
        }

        #[test]
        fn wanted_fields_are_added_and_no_others(
            all in proptest::collection::vec(proptest::array::uniform10(any::<i64>()), 0..5),
            wanted in proptest::collection::vec(0..METRICS, 0..METRICS),
        ) {
            let (mut whole, mut some) = ([0; METRICS], [0; METRICS]);
            for fields in &all {
                add_sums(&mut whole, &stored(fields)).unwrap();
                add_wanted_sums(&mut some, Fields::of(&wanted), &stored(fields)).unwrap();
            }
            for place in 0..METRICS {
                let want = if wanted.contains(&place) { whole[place] } else { 0 };
                prop_assert_eq!(some[place], want);
            }
            prop_assert!(Fields::of(&wanted).places().all(|place| wanted.contains(&place)));
        }

        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            let _ = Metrics::decode(&bytes);
            let _ = add_wanted_sums(&mut [0; METRICS], Fields::of(&[1]), &bytes);
        }
    }
}
