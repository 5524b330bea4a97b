//! The ledger: which counters of which lane of which epoch were applied.
//!
//! Invariant: a counter is applied at most once, whenever and however cut it comes again; nothing is ever
//! forgotten. While all is well an epoch's lane is one interval, so the ledger stays small forever.

use adtally_streams::event::Kind;
use adtally_streams::id::Epoch;

use crate::codec::{Damaged, Reader, put_u64, put_varint};

/// Disjoint half-open intervals of counters, ascending, never touching.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Intervals(Vec<(u64, u64)>);

impl Intervals {
    /// The intervals.
    pub fn iter(&self) -> impl Iterator<Item = (u64, u64)> {
        self.0.iter().copied()
    }

    /// How many counters they hold.
    pub fn len(&self) -> u64 {
        self.0.iter().map(|(a, b)| b - a).sum()
    }

    /// Whether they hold none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether they hold a counter.
    pub fn contains(&self, counter: u64) -> bool {
        let at = self.0.partition_point(|(_, end)| *end <= counter);
        self.0.get(at).is_some_and(|(start, _)| *start <= counter)
    }

    /// What is missing of [from, to), ascending.
    pub fn missing(&self, from: u64, to: u64) -> Vec<(u64, u64)> {
        let mut out = Vec::new();
        let mut next = from;
        let at = self.0.partition_point(|(_, end)| *end <= from);
        for (start, end) in &self.0[at..] {
            if *start >= to {
                break;
            }
            if next < *start {
                out.push((next, *start));
            }
            next = next.max(*end);
        }
        if next < to {
            out.push((next, to));
        }
        out
    }

    /// Takes in [from, to).
    pub fn insert(&mut self, from: u64, to: u64) {
        if from >= to {
            return;
        }
        // The usual case: the lane goes on where it ended.
        if let Some((start, end)) = self.0.last_mut()
            && from >= *start
            && from <= *end
        {
            *end = to.max(*end);
            return;
        }
        let first = self.0.partition_point(|(_, end)| *end < from);
        let last = self.0.partition_point(|(start, _)| *start <= to);
        let merged = match self.0.get(first..last) {
            Some([]) | None => (from, to),
            Some(touched) => (from.min(touched[0].0), to.max(touched[touched.len() - 1].1)),
        };
        self.0.splice(first..last.max(first), [merged]);
    }

    /// Appends the row's value: for each interval its distance from the one before, and its length.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let mut last = 0;
        for (start, end) in &self.0 {
            put_varint(out, start - last);
            put_varint(out, end - start);
            last = *end;
        }
    }

    /// Reads the row's value.
    pub fn decode(value: &[u8]) -> Result<Self, Damaged> {
        let mut r = Reader::new(value, "ledger");
        let mut out = Vec::new();
        let mut last = 0u64;
        while !r.rest().is_empty() {
            let start = last.checked_add(r.varint()?).ok_or(r.damaged())?;
            let end = start.checked_add(r.varint()?).ok_or(r.damaged())?;
            if end == start || (start == last && !out.is_empty()) {
                return Err(r.damaged());
            }
            out.push((start, end));
            last = end;
        }
        Ok(Self(out))
    }
}

/// Row in [`crate::family::Family::Ledger`]: a lane of an epoch.
pub fn key(out: &mut Vec<u8>, epoch: Epoch, kind: Kind) {
    put_u64(out, epoch.0);
    out.push(kind as u8);
}

/// The parts of a key.
pub fn decode_key(key: &[u8]) -> Result<(Epoch, Kind), Damaged> {
    let mut r = Reader::new(key, "ledger");
    let epoch = Epoch(r.u64()?);
    let kind = Kind::from_number(r.u8()?).ok_or(r.damaged())?;
    r.end()?;
    Ok((epoch, kind))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn intervals_are_the_set(ranges in proptest::collection::vec((0u64..60, 0u64..12), 0..24)) {
            let mut set = BTreeSet::new();
            let mut intervals = Intervals::default();
            for (from, n) in ranges {
                let missing: Vec<u64> = (from..from + n).filter(|c| !set.contains(c)).collect();
                let told: Vec<u64> = intervals.missing(from, from + n).into_iter().flat_map(|(a, b)| a..b).collect();
                prop_assert_eq!(told, missing);
                intervals.insert(from, from + n);
                set.extend(from..from + n);
                prop_assert_eq!(intervals.iter().flat_map(|(a, b)| a..b).collect::<Vec<_>>(), set.iter().copied().collect::<Vec<_>>());
                let ends: Vec<_> = intervals.iter().collect();
                prop_assert!(ends.windows(2).all(|w| w[0].1 < w[1].0), "intervals touch: {:?}", ends);
                prop_assert!((0..80).all(|c| intervals.contains(c) == set.contains(&c)));
                let mut bytes = Vec::new();
                intervals.encode(&mut bytes);
                prop_assert_eq!(Intervals::decode(&bytes).unwrap(), intervals.clone());
            }
        }

        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            let _ = Intervals::decode(&bytes);
        }
    }
}
