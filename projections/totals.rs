//! Totals: what became of everything that the shard's log held.
//!
//! Invariant: events = applied + duplicates by ledger + duplicates by id + conflicts + refused, by kind. Nothing
//! is dropped without a count here.

use adtally_streams::event::Kind;

use crate::codec::Damaged;
use crate::family::{Changes, Family};
use crate::metrics::add_sums;

const FIELDS: usize = 8;

/// Counters of one kind of event in one shard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Frames that were read, whatever became of their events.
    pub frames: i64,
    /// Events in them.
    pub events: i64,
    /// Events that count.
    pub applied: i64,
    /// Events whose counters were applied before: a frame sent again.
    pub duplicates_ledger: i64,
    /// Events whose id was there with the same content: one event by two ways.
    pub duplicates_id: i64,
    /// Events whose id was there with other content.
    pub conflicts: i64,
    /// Events that a frame should not have held; each frame of them has a record, see [`crate::incidents`].
    pub refused: i64,
    /// Of the applied ones, those that the border judged invalid.
    pub judged_invalid: i64,
}

impl Totals {
    fn fields(&self) -> [i64; FIELDS] {
        [
            self.frames,
            self.events,
            self.applied,
            self.duplicates_ledger,
            self.duplicates_id,
            self.conflicts,
            self.refused,
            self.judged_invalid,
        ]
    }

    /// Reads a row's value.
    pub fn decode(value: &[u8]) -> Result<Self, Damaged> {
        let mut f = [0; FIELDS];
        add_sums(&mut f, value)?;
        let [
            frames,
            events,
            applied,
            duplicates_ledger,
            duplicates_id,
            conflicts,
            refused,
            judged_invalid,
        ] = f;
        Ok(Self {
            frames,
            events,
            applied,
            duplicates_ledger,
            duplicates_id,
            conflicts,
            refused,
            judged_invalid,
        })
    }

    /// Adds other counters.
    pub fn add(&mut self, other: &Totals) {
        let (mut f, other) = (self.fields(), other.fields());
        f.iter_mut()
            .zip(other)
            .for_each(|(a, b)| *a = a.saturating_add(b));
        let [
            frames,
            events,
            applied,
            duplicates_ledger,
            duplicates_id,
            conflicts,
            refused,
            judged_invalid,
        ] = f;
        *self = Self {
            frames,
            events,
            applied,
            duplicates_ledger,
            duplicates_id,
            conflicts,
            refused,
            judged_invalid,
        };
    }
}

/// Row in [`Family::Totals`]: the sums of a kind.
pub fn key(out: &mut Vec<u8>, kind: Kind) {
    out.push(kind as u8);
}

/// The kind of a row's key.
pub fn decode_key(key: &[u8]) -> Option<Kind> {
    match key {
        [n] => Kind::from_number(*n),
        _ => None,
    }
}

/// Writes what a batch counted, by [`Kind`].
pub fn write(out: &mut Changes, by_kind: &[Totals; Kind::ALL.len()]) {
    for kind in Kind::ALL {
        let totals = by_kind[kind as usize];
        if totals != Totals::default() {
            out.add(Family::Totals, |k| key(k, kind), &totals.fields());
        }
    }
}
