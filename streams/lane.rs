//! A lane: one producer's events of one kind for one shard, in the order of their counters.
//!
//! Pure state: which counters exist, which are in frames under way, which the broker has acknowledged, and the
//! arrival time up to which everything has been. What is announced from here is a promise that completeness rests
//! on, so every approximation errs towards announcing less.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use crate::id::Epoch;
use crate::names::FRAME_MAX_EVENTS;

/// Frames of one lane that may be under way at once, when they are full. While they are small one is: what waits
/// for its acknowledgement is what makes the next one larger.
pub const FRAMES_IN_FLIGHT: usize = 4;
/// A lane's next frame that is not full is cut no sooner than that after the one before: a frame costs its shipper,
/// the broker and every reader the same work whether it holds one event or fifty, and counts may be a second old.
/// The first frame after a rest is cut at once.
pub const LEAST_INTERVAL: Duration = Duration::from_millis(100);
/// What an event may add to its frame beyond the bytes of its row: identifiers and hashes that the row holds in
/// another form, dictionary entries, and the compressor's worst case.
pub const EVENT_OVERHEAD_BYTES: usize = 128;
/// What a frame may add beyond its events: header, watermark, column names and checksum.
pub const FRAME_OVERHEAD_BYTES: usize = 2_048;
/// Arrivals closer than this, in milliseconds, share an entry of the arrival index.
pub const ARRIVAL_MERGE_MS: i64 = 100;
/// Entries of a lane's arrival index; past it, entries are merged over twice the time.
pub const ARRIVAL_INDEX_MAX: usize = 4_096;

/// The broker's dedup id of a refused event's record: `<epoch>-quarantine-<n>-<n>`.
pub fn quarantine_message_id(epoch: Epoch, n: u64) -> String {
    format!("{epoch}-quarantine-{n}-{n}")
}

/// How much of what waits goes into one frame: rows are counted at their stored bytes and
/// [`EVENT_OVERHEAD_BYTES`], so that the encoded frame is certainly below the limit.
#[derive(Clone, Debug)]
pub struct FrameBudget {
    events_left: usize,
    bytes_left: usize,
    empty: bool,
}

impl FrameBudget {
    /// A budget of [`FRAME_MAX_EVENTS`] events and `max_bytes` encoded bytes.
    pub fn new(max_bytes: usize) -> Self {
        Self {
            events_left: FRAME_MAX_EVENTS,
            bytes_left: max_bytes.saturating_sub(FRAME_OVERHEAD_BYTES),
            empty: true,
        }
    }

    /// Whether a row of that many bytes still fits; it is counted when it does. The first row always fits: texts
    /// are cut at the border, so one event alone cannot exceed a frame.
    pub fn admits(&mut self, row_bytes: usize) -> bool {
        let cost = row_bytes + EVENT_OVERHEAD_BYTES;
        if self.events_left == 0 || (cost > self.bytes_left && !self.empty) {
            return false;
        }
        self.empty = false;
        self.events_left -= 1;
        self.bytes_left = self.bytes_left.saturating_sub(cost);
        true
    }
}

/// The oldest arrival among a lane's unacknowledged events, in bounded memory.
///
/// Entries rise in both fields: an older arrival that comes later swallows the entries before it, since it outlives
/// them. Merged entries keep the older arrival and the later counter, so the answer is never too young.
#[derive(Clone, Debug)]
pub struct ArrivalIndex {
    /// (first counter past the entry, oldest arrival in it).
    entries: VecDeque<(u64, i64)>,
    grain_ms: i64,
}

impl Default for ArrivalIndex {
    fn default() -> Self {
        Self {
            entries: VecDeque::new(),
            grain_ms: ARRIVAL_MERGE_MS,
        }
    }
}

impl ArrivalIndex {
    /// Events up to the counter before `end`, past those pushed before, of which the oldest arrived at `oldest_ms`.
    pub fn push(&mut self, end: u64, oldest_ms: i64) {
        while self
            .entries
            .back()
            .is_some_and(|(_, oldest)| *oldest >= oldest_ms)
        {
            self.entries.pop_back();
        }
        match self.entries.back_mut() {
            Some((last, oldest)) if oldest_ms.saturating_sub(*oldest) < self.grain_ms => {
                *last = end
            }
            _ => self.entries.push_back((end, oldest_ms)),
        }
        if self.entries.len() > ARRIVAL_INDEX_MAX {
            self.coarsen();
        }
    }

    /// Every counter below `acked` is acknowledged.
    pub fn acknowledged(&mut self, acked: u64) {
        while self.entries.front().is_some_and(|(end, _)| *end <= acked) {
            self.entries.pop_front();
        }
        if self.entries.is_empty() {
            self.grain_ms = ARRIVAL_MERGE_MS;
        }
    }

    /// No unacknowledged event arrived before this; none when all are acknowledged.
    pub fn oldest_ms(&self) -> Option<i64> {
        self.entries.front().map(|(_, oldest)| *oldest)
    }

    fn coarsen(&mut self) {
        while self.entries.len() > ARRIVAL_INDEX_MAX / 2 {
            self.grain_ms = self.grain_ms.saturating_mul(2);
            let mut kept: VecDeque<(u64, i64)> = VecDeque::with_capacity(ARRIVAL_INDEX_MAX);
            for (end, oldest) in self.entries.drain(..) {
                match kept.back_mut() {
                    Some((last, first)) if oldest.saturating_sub(*first) < self.grain_ms => {
                        *last = end
                    }
                    _ => kept.push_back((end, oldest)),
                }
            }
            self.entries = kept;
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Flight {
    first: u64,
    end: u64,
    landed: bool,
}

/// One lane of one epoch: `acked <= next <= head`.
#[derive(Clone, Debug, Default)]
pub struct Lane {
    head: u64,
    next: u64,
    acked: u64,
    waiting_bytes: u64,
    flights: VecDeque<Flight>,
    arrivals: ArrivalIndex,
}

impl Lane {
    /// A lane whose counters below `acked` have been acknowledged and that holds nothing else yet.
    pub fn starting_at(acked: u64) -> Self {
        Self {
            head: acked,
            next: acked,
            acked,
            ..Self::default()
        }
    }

    /// Takes `count` more events with rows of `row_bytes` in all, of which the oldest arrived at `oldest_ms`. They
    /// are on disk.
    pub fn accepted(&mut self, count: u64, row_bytes: u64, oldest_ms: i64) {
        if count == 0 {
            return;
        }
        self.head += count;
        self.waiting_bytes += row_bytes;
        self.arrivals.push(self.head, oldest_ms);
    }

    /// Whether a frame may be cut now: something waits, and either nothing is under way, or a full frame's worth
    /// waits and fewer than [`FRAMES_IN_FLIGHT`] are.
    pub fn may_cut(&self, max_bytes: usize) -> bool {
        let waiting = self.waiting();
        if waiting == 0 || self.flights.len() >= FRAMES_IN_FLIGHT {
            return false;
        }
        self.flights.is_empty() || self.fills_a_frame(max_bytes)
    }

    fn fills_a_frame(&self, max_bytes: usize) -> bool {
        let waiting = self.waiting();
        let estimate = self.waiting_bytes + waiting * EVENT_OVERHEAD_BYTES as u64;
        waiting >= FRAME_MAX_EVENTS as u64 || estimate >= max_bytes as u64
    }

    /// How long until the next frame is to be cut, the last one having been cut `since_last` ago; none before something
    /// lands or comes.
    pub fn cut_in(&self, max_bytes: usize, since_last: Option<Duration>) -> Option<Duration> {
        if !self.may_cut(max_bytes) {
            return None;
        }
        let since = since_last
            .filter(|_| !self.fills_a_frame(max_bytes))
            .unwrap_or(LEAST_INTERVAL);
        Some(LEAST_INTERVAL.saturating_sub(since))
    }

    /// Takes the next `count` events, with rows of `row_bytes`, into a frame; returns its first counter. More than
    /// waits is cut to what waits.
    pub fn cut(&mut self, count: u64, row_bytes: u64) -> u64 {
        let first = self.next;
        self.next = first.saturating_add(count).min(self.head);
        self.waiting_bytes = if self.next == self.head {
            0
        } else {
            self.waiting_bytes.saturating_sub(row_bytes)
        };
        if self.next > first {
            self.flights.push_back(Flight {
                first,
                end: self.next,
                landed: false,
            });
        }
        first
    }

    /// The broker has stored the frame that begins at `first`; returns the first counter that it may still lack.
    /// Frames may land in any order; one that is not under way changes nothing.
    pub fn landed(&mut self, first: u64) -> u64 {
        if let Some(flight) = self.flights.iter_mut().find(|f| f.first == first) {
            flight.landed = true;
        }
        while let Some(flight) = self.flights.front().copied().filter(|f| f.landed) {
            self.acked = flight.end;
            self.flights.pop_front();
        }
        self.arrivals.acknowledged(self.acked);
        self.acked
    }

    /// The counter of the next event to come.
    pub fn head(&self) -> u64 {
        self.head
    }

    /// The counter of the next event to be cut into a frame.
    pub fn next(&self) -> u64 {
        self.next
    }

    /// Every counter below this one is acknowledged.
    pub fn acked(&self) -> u64 {
        self.acked
    }

    /// Events that no frame under way holds.
    pub fn waiting(&self) -> u64 {
        self.head - self.next
    }

    /// Bytes of the rows of those events, give or take what shares a run with others.
    pub fn waiting_bytes(&self) -> usize {
        usize::try_from(self.waiting_bytes).unwrap_or(usize::MAX)
    }

    /// Events that the broker has not acknowledged, whether under way or not.
    pub fn unacked(&self) -> u64 {
        self.head - self.acked
    }

    /// No unacknowledged event arrived before this, in Unix milliseconds; none when there is none.
    pub fn oldest_ms(&self) -> Option<i64> {
        self.arrivals.oldest_ms()
    }
}

/// Arrivals between the border and the disk, and what may still arrive with an old time.
#[derive(Clone, Debug, Default)]
pub struct InFlight {
    arrivals: BTreeMap<i64, u32>,
    /// No event arrives before this any more, except by [`InFlight::arrive_at`].
    floor_ms: i64,
    limit_ms: Option<i64>,
    /// The latest horizon that was given out: nothing arrives before it any more, by any way.
    horizon_ms: i64,
}

impl InFlight {
    /// An event arrives when the clock says `now_ms`; returns its arrival time, which is later than whatever has
    /// been announced, even when the clock has stepped back.
    pub fn arrive(&mut self, now_ms: i64) -> i64 {
        self.arrive_at(now_ms.max(self.floor_ms))
    }

    /// An event arrives that somebody else has given its arrival time; returns the one that counts, which is later
    /// than whatever has been announced. Whoever does this sets [`InFlight::limit`] so that the two are the same,
    /// except where that other clock has stepped back.
    pub fn arrive_at(&mut self, at_ms: i64) -> i64 {
        let at = at_ms.max(self.horizon_ms);
        *self.arrivals.entry(at).or_insert(0) += 1;
        at
    }

    /// One event of that arrival time is in its lane, or will never be.
    pub fn leave(&mut self, at_ms: i64) {
        if let Some(count) = self.arrivals.get_mut(&at_ms) {
            *count -= 1;
            if *count == 0 {
                self.arrivals.remove(&at_ms);
            }
        }
    }

    /// Events that arrived at `limit_ms` or later may still come by [`InFlight::arrive_at`]; none: no such events.
    pub fn limit(&mut self, limit_ms: Option<i64>) {
        self.limit_ms = limit_ms;
    }

    /// No event that is not in its lane yet arrived, or will arrive, before the returned time. Call this before
    /// looking at the lanes: an event leaves here only once its lane holds it.
    pub fn horizon(&mut self, now_ms: i64) -> i64 {
        self.floor_ms = self.floor_ms.max(now_ms);
        let waiting = self.arrivals.keys().next().copied();
        let horizon = [waiting, self.limit_ms]
            .into_iter()
            .flatten()
            .fold(self.floor_ms, i64::min);
        self.horizon_ms = self.horizon_ms.max(horizon);
        horizon
    }
}

/// The arrival time up to which every event is acknowledged, given that none outside the lanes is before
/// `horizon_ms` and that the lanes' oldest unacknowledged one is `oldest_unacked_ms`. Never negative.
pub fn through_ms(horizon_ms: i64, oldest_unacked_ms: Option<i64>) -> i64 {
    horizon_ms
        .min(oldest_unacked_ms.unwrap_or(i64::MAX))
        .saturating_sub(1)
        .max(0)
}

#[cfg(test)]
#[path = "lane_tests.rs"]
mod tests;
