//! Texts of rows of large answers, kept for the next answer that has the same rows: a dashboard asks about a year every few
//! seconds, and nearly all of the year is as it was.
//!
//! Invariant: a text is found by a 128-bit hash of all that it is made of ([`adtally_projections::stretches`]), so what is found is
//! what would be printed. Nothing is ever taken back: what has changed since is looked for under another key, and what nobody
//! looks for any more is dropped for what is. A text is kept from the second time on that it is looked for, in whatever coding.

use std::sync::Arc;

use bytes::Bytes;
use foyer::{Cache, CacheBuilder};

use super::block_cache::Seen;

/// The part of `query.block_cache` that is for them, in a process that answers over HTTP.
const SHARE: usize = 4;
/// No answer takes more than this part of the room: one that did would put out its own beginning before it is asked for again.
const MAX_SHARE: usize = 2;
/// Bytes of memory that a text takes besides its own.
const BESIDES: usize = 176;

/// How what is kept is coded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Coding {
    /// The text itself.
    Identity,
    /// A part of a gzip member.
    Gzip,
}

/// What a text is known by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    /// The hash of all that it is made of.
    pub rows: u128,
    /// Whether it is the first of its answer, before which no comma stands.
    pub is_first: bool,
    /// How it is coded.
    pub coding: Coding,
}

/// The texts of one process. Clones share them.
#[derive(Clone)]
pub struct PrintedRows {
    bytes_an_answer: usize,
    kept: Cache<Key, Bytes>,
    seen: Arc<Seen>,
    hits: metrics::Counter,
    misses: metrics::Counter,
    bytes: metrics::Gauge,
}

impl PrintedRows {
    /// How much of the memory of all caches is for them.
    pub fn share(memory_bytes: usize) -> usize {
        memory_bytes / SHARE
    }

    /// Room for so many bytes of them; past it, the least used are dropped. None where there is no room.
    pub fn new(bytes: usize) -> Option<Self> {
        let hits = metrics::counter!("adtally_printed_rows_hits_total");
        let misses = metrics::counter!("adtally_printed_rows_misses_total");
        hits.increment(0);
        misses.increment(0);
        let bytes_in_use = metrics::gauge!("adtally_printed_rows_bytes");
        bytes_in_use.set(0.0);
        (bytes > 0).then(|| Self {
            bytes_an_answer: bytes / MAX_SHARE,
            // One shard of it, so that the limit is that of all together.
            kept: CacheBuilder::new(bytes)
                .with_shards(1)
                .with_weighter(|_: &Key, text: &Bytes| text.len() + BESIDES)
                .build(),
            seen: Arc::new(Seen::new()),
            hits,
            misses,
            bytes: bytes_in_use,
        })
    }

    /// What one answer may have of it.
    pub fn of_an_answer(&self) -> OfAnAnswer {
        OfAnAnswer {
            all: self.clone(),
            left: self.bytes_an_answer,
        }
    }

    /// Bytes that are in use.
    pub fn usage(&self) -> usize {
        self.kept.usage()
    }
}

/// The kept texts as one answer uses them.
pub struct OfAnAnswer {
    all: PrintedRows,
    /// Bytes that it may still find or keep.
    left: usize,
}

impl OfAnAnswer {
    /// Whether it may find or keep any more.
    pub fn has_room(&self) -> bool {
        self.left > 0
    }

    /// The text of that key, where it is kept.
    pub fn find(&mut self, key: Key) -> Option<Bytes> {
        let found = self.all.kept.get(&key);
        match &found {
            Some(_) => self.all.hits.increment(1),
            None => self.all.misses.increment(1),
        }
        let text = found.map(|entry| entry.value().clone())?;
        self.take(text.len());
        Some(text)
    }

    /// Keeps the text of a key that was not found, if it was looked for before; answers it as it is to be sent.
    pub fn keep(&mut self, key: Key, mut text: Vec<u8>) -> Bytes {
        if text.len() + BESIDES > self.left || !self.all.seen.again(key.rows) {
            return Bytes::from(text);
        }
        // What is counted is what it takes.
        text.shrink_to_fit();
        let text = Bytes::from(text);
        self.take(text.len());
        self.all.kept.insert(key, text.clone());
        self.all.bytes.set(self.all.usage() as f64);
        text
    }

    fn take(&mut self, bytes: usize) {
        self.left = self.left.saturating_sub(bytes + BESIDES);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(rows: u128) -> Key {
        Key {
            rows,
            is_first: false,
            coding: Coding::Identity,
        }
    }

    fn text(n: u8, len: usize) -> Vec<u8> {
        let mut text = Vec::with_capacity(2 * len);
        text.resize(len, n);
        text
    }

    #[test]
    fn a_text_is_kept_from_the_second_time_on() {
        let printed = PrintedRows::new(1 << 20).expect("there is room");
        for asked in 0..4 {
            let mut of = printed.of_an_answer();
            let found = of.find(key(7));
            assert_eq!(found.is_some(), asked >= 2, "{asked}");
            let sent = found.unwrap_or_else(|| of.keep(key(7), text(1, 1_000)));
            assert_eq!(sent, text(1, 1_000));
            assert_eq!(of.find(key(8)), None);
        }
        assert_eq!(printed.usage(), 1_000 + BESIDES);
    }

    #[test]
    fn a_text_is_not_taken_for_one_that_begins_an_answer_or_is_packed() {
        let printed = PrintedRows::new(1 << 20).expect("there is room");
        let mut of = printed.of_an_answer();
        (0..2).for_each(|_| drop(of.keep(key(7), text(1, 1_000))));
        let first = Key {
            is_first: true,
            ..key(7)
        };
        let packed = Key {
            coding: Coding::Gzip,
            ..key(7)
        };
        assert!(of.find(key(7)).is_some());
        assert_eq!((of.find(first), of.find(packed)), (None, None));
    }

    #[test]
    fn no_answer_takes_more_than_its_share_and_all_together_no_more_than_there_is() {
        const ROOM: usize = 1 << 20;
        const LEN: usize = 64 << 10;
        let printed = PrintedRows::new(ROOM).expect("there is room");
        let ask = |from: u128, many: u128| {
            let mut of = printed.of_an_answer();
            let mut hits = 0;
            for n in from..from + many {
                let key = key((n << 64) | n);
                match of.has_room().then(|| of.find(key)).flatten() {
                    Some(_) => hits += 1,
                    None => drop(of.keep(key, text(n as u8, LEN))),
                }
                assert!(printed.usage() <= ROOM);
            }
            hits
        };
        // Twice the room: its beginning is found again, however often it is asked for.
        for asked in 0..5 {
            let hits = ask(1, 32);
            assert_eq!(hits, if asked < 2 { 0 } else { 7 }, "{asked}");
        }
        assert!(printed.usage() <= ROOM / MAX_SHARE);
        for other in 1..20 {
            for _ in 0..3 {
                ask(other * 100, 6);
            }
        }
        assert!(printed.usage() > ROOM / 2);
        assert!(PrintedRows::new(0).is_none());
    }

    #[test]
    fn what_is_dropped_while_it_is_sent_stays_whole() {
        let printed = PrintedRows::new(256 << 10).expect("there is room");
        let mut of = printed.of_an_answer();
        drop(of.keep(key(1), text(1, 50_000)));
        let sent = of.keep(key(1), text(1, 50_000));
        for n in 2..40 {
            let mut of = printed.of_an_answer();
            (0..2).for_each(|_| drop(of.keep(key(n), text(2, 50_000))));
        }
        assert_eq!(printed.of_an_answer().find(key(1)), None);
        assert_eq!(sent, text(1, 50_000));
    }
}
