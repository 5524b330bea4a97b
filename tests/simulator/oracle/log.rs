//! What a shard's log must come to, by what its writers meant: each event once, the first one, within seven days.

use std::collections::{BTreeMap, BTreeSet};

use adtally_projections::totals::Totals;
use adtally_streams::event::Kind;
use adtally_streams::id::Epoch;
use rustc_hash::{FxHashMap, FxHashSet};

use super::judge::{Counted, Fate};
use super::lines::lines;
use super::{CopyId, Oracle};
use crate::broker::{Message, Truth};

/// How long an id is remembered, by the broker's clock.
const WEEK_MS: i64 = 7 * 24 * 60 * 60 * 1_000;

/// What a shard must hold after a log.
#[derive(Debug, Default)]
pub struct Expected {
    /// The lines of its dump that count something.
    pub lines: BTreeSet<String>,
    /// What became of everything, by kind.
    pub totals: [Totals; Kind::ALL.len()],
    /// Messages that cannot be read.
    pub bad_frames: u64,
    /// Copies that a message holds which can be read.
    pub readable: FxHashSet<CopyId>,
    /// Counters that were stored and that no readable message holds, by epoch and kind.
    pub lost: BTreeMap<(Epoch, Kind), BTreeSet<u64>>,
    /// Copies under those counters.
    pub lost_copies: FxHashSet<CopyId>,
    /// How often each identity counts.
    pub counted: FxHashMap<String, u32>,
}

/// Who told what of an id first.
struct First<'a> {
    at_ms: i64,
    content: &'a str,
}

/// Reads a log by what its writers meant.
pub struct Told<'a> {
    oracle: &'a Oracle,
    applied: FxHashSet<(Epoch, Kind, u64)>,
    ids: FxHashMap<&'a str, First<'a>>,
    events: Vec<&'a Counted>,
    out: Expected,
}

impl<'a> Told<'a> {
    /// What a shard must hold after those messages.
    pub fn expected(oracle: &'a Oracle, log: &[Message]) -> Expected {
        let mut told = Self {
            oracle,
            applied: FxHashSet::default(),
            ids: FxHashMap::default(),
            events: Vec::new(),
            out: Expected::default(),
        };
        let mut log_time_ms = i64::MIN;
        for message in log {
            log_time_ms = log_time_ms.max(message.broker_ms);
            told.read(message, log_time_ms);
        }
        let Told {
            applied,
            events,
            mut out,
            ..
        } = told;
        for ((epoch, kind), lost) in &mut out.lost {
            lost.retain(|counter| !applied.contains(&(*epoch, *kind, *counter)));
        }
        out.lost.retain(|_, lost| !lost.is_empty());
        out.lines = lines(events.into_iter());
        out
    }

    fn read(&mut self, message: &Message, log_time_ms: i64) {
        self.out.bad_frames += u64::from(message.is_flipped);
        let Truth::Frame {
            epoch,
            kind,
            first,
            copies,
        } = &message.truth
        else {
            return;
        };
        if message.is_flipped {
            let lost = self.out.lost.entry((*epoch, *kind)).or_default();
            lost.extend(*first..*first + copies.len() as u64);
            self.out.lost_copies.extend(copies.iter().copied());
            return;
        }
        self.out.totals[*kind as usize].frames += 1;
        self.out.readable.extend(copies.iter().copied());
        for (copy, counter) in copies.iter().zip(*first..) {
            self.event(*kind, (*epoch, *kind, counter), *copy, log_time_ms);
        }
    }

    fn event(&mut self, kind: Kind, counter: (Epoch, Kind, u64), copy: CopyId, log_time_ms: i64) {
        let totals = &mut self.out.totals[kind as usize];
        totals.events += 1;
        if !self.applied.insert(counter) {
            totals.duplicates_ledger += 1;
            return;
        }
        let Fate::Counts(event) = &self.oracle.copies[copy as usize].fate else {
            return;
        };
        if event.is_indexed {
            match self.ids.get(event.identity.as_str()) {
                Some(first) if log_time_ms - first.at_ms <= WEEK_MS => {
                    match first.content == event.content {
                        true => totals.duplicates_id += 1,
                        false => totals.conflicts += 1,
                    }
                    return;
                }
                _ => {
                    let first = First {
                        at_ms: log_time_ms,
                        content: &event.content,
                    };
                    self.ids.insert(&event.identity, first);
                }
            }
        }
        totals.applied += 1;
        totals.judged_invalid += i64::from(event.invalid.is_some());
        *self.out.counted.entry(event.identity.clone()).or_default() += 1;
        self.events.push(event);
    }
}
