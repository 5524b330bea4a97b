//! The broker: streams that store messages under sequences, and the work queue INTAKE.
//!
//! What it has acknowledged it keeps, whatever is killed: it is three servers that sync before they answer. What it
//! does not keep is its memory of message ids, and its clock. Beside each message stands the truth of what its
//! writer meant, which only the oracle reads.

use std::collections::BTreeMap;
use std::rc::Rc;

use adtally_streams::event::Kind;
use adtally_streams::id::Epoch;
use rustc_hash::FxHashMap;

use crate::clients::SpecId;
use crate::oracle::CopyId;

/// How long the broker remembers a message id.
const WINDOW_MS: i64 = 600_000;
/// After how long INTAKE gives an unacknowledged message to somebody else.
const ACK_WAIT_MS: i64 = 30_000;

/// What a message's writer meant.
#[derive(Clone, Debug)]
pub enum Truth {
    /// Events of a lane under counters from `first` on.
    Frame {
        /// Of which epoch.
        epoch: Epoch,
        /// Of which kind.
        kind: Kind,
        /// Counter of the first event.
        first: u64,
        /// The events.
        copies: Rc<[CopyId]>,
    },
    /// How far a producer is, and whether nothing more comes from the epoch.
    Announcement {
        /// Of which epoch.
        epoch: Epoch,
        /// Nothing more comes.
        drained: bool,
    },
    /// The record of a refused event.
    Refused(CopyId),
}

/// A stored message.
#[derive(Clone, Debug)]
pub struct Message {
    /// Its sequence.
    pub sequence: u64,
    /// The broker's timestamp, Unix milliseconds.
    pub broker_ms: i64,
    /// Its subject.
    pub subject: Rc<str>,
    /// Its payload, as it is on the broker's disk.
    pub payload: Rc<[u8]>,
    /// What its writer meant.
    pub truth: Truth,
    /// A byte of it has flipped.
    pub is_flipped: bool,
}

/// What the broker answers to a publish, when its answer arrives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Stored now, or earlier under the same id.
    Stored {
        /// Where.
        sequence: u64,
        /// Earlier.
        duplicate: bool,
    },
    /// The stream has no room.
    Full,
    /// The stream has no leader.
    NoResponders,
}

/// What goes wrong with one publish at the broker.
#[derive(Clone, Copy, Debug, Default)]
pub struct Mishap {
    /// Sequences that are passed over.
    pub skip: u64,
    /// Which byte of the payload flips on the disk.
    pub flip: Option<u64>,
}

/// A leader, or none for a while, and its clock.
#[derive(Clone, Debug, Default)]
pub struct Leader {
    /// Nobody leads until then.
    pub away_until_ms: i64,
    /// The leader's clock, less the true time.
    pub clock_ms: i64,
}

impl Leader {
    fn is_away(&self, now_ms: i64) -> bool {
        now_ms < self.away_until_ms
    }
}

#[derive(Clone, Debug, Default)]
struct Ids(FxHashMap<String, (u64, i64)>);

impl Ids {
    fn known(&self, id: &str, now_ms: i64) -> Option<u64> {
        let (sequence, at_ms) = self.0.get(id)?;
        (now_ms - at_ms < WINDOW_MS).then_some(*sequence)
    }
}

/// A stream that keeps everything.
#[derive(Clone, Debug, Default)]
pub struct Stream {
    /// What it holds, by sequence.
    pub messages: Vec<Message>,
    /// Its leader.
    pub leader: Leader,
    /// It takes no more until then.
    pub full_until_ms: i64,
    ids: Ids,
    last: u64,
}

impl Stream {
    /// Stores a message, unless its id is known.
    pub fn publish(
        &mut self,
        now_ms: i64,
        id: Option<&str>,
        subject: &Rc<str>,
        payload: &Rc<[u8]>,
        truth: &Truth,
        mishap: Mishap,
    ) -> Answer {
        if self.leader.is_away(now_ms) {
            return Answer::NoResponders;
        }
        if let Some(sequence) = id.and_then(|id| self.ids.known(id, now_ms)) {
            return Answer::Stored {
                sequence,
                duplicate: true,
            };
        }
        if now_ms < self.full_until_ms {
            return Answer::Full;
        }
        self.last += 1 + mishap.skip;
        let mut payload = Rc::clone(payload);
        if let Some(flip) = mishap.flip {
            let mut bytes = payload.to_vec();
            let at = flip as usize % bytes.len();
            bytes[at] ^= 1 << (flip % 8);
            payload = bytes.into();
        }
        self.messages.push(Message {
            sequence: self.last,
            broker_ms: now_ms + self.leader.clock_ms,
            subject: Rc::clone(subject),
            payload,
            truth: truth.clone(),
            is_flipped: mishap.flip.is_some(),
        });
        if let Some(id) = id {
            self.ids.0.insert(id.to_owned(), (self.last, now_ms));
        }
        Answer::Stored {
            sequence: self.last,
            duplicate: false,
        }
    }

    /// Place of the first message past that sequence.
    pub fn after(&self, sequence: u64) -> usize {
        self.messages.partition_point(|m| m.sequence <= sequence)
    }

    /// The message at a sequence; none while nobody leads, and none where there is none.
    pub fn at(&self, now_ms: i64, sequence: u64) -> Option<&Message> {
        if self.leader.is_away(now_ms) {
            return None;
        }
        let message = self.messages.get(self.after(sequence.checked_sub(1)?))?;
        (message.sequence == sequence).then_some(message)
    }
}

/// An event as somebody published it to INTAKE.
#[derive(Clone, Debug)]
pub struct Item {
    /// Its sequence in INTAKE.
    pub sequence: u64,
    /// When the broker took it, by its leader's clock.
    pub published_ms: i64,
    /// What it says.
    pub spec: SpecId,
    given_out_until_ms: i64,
}

/// The work queue INTAKE.
#[derive(Clone, Debug, Default)]
pub struct Queue {
    /// Its leader.
    pub leader: Leader,
    waiting: BTreeMap<u64, Item>,
    ids: Ids,
    last: u64,
}

impl Queue {
    /// Takes an event in; its sequence, unless nobody leads.
    pub fn publish(&mut self, now_ms: i64, id: &str, spec: SpecId) -> Option<u64> {
        if self.leader.is_away(now_ms) {
            return None;
        }
        if let Some(sequence) = self.ids.known(id, now_ms) {
            return Some(sequence);
        }
        self.last += 1;
        self.ids.0.insert(id.to_owned(), (self.last, now_ms));
        self.waiting.insert(
            self.last,
            Item {
                sequence: self.last,
                published_ms: now_ms + self.leader.clock_ms,
                spec,
                given_out_until_ms: i64::MIN,
            },
        );
        Some(self.last)
    }

    /// Gives out up to `n` events that nobody else has.
    pub fn pull(&mut self, now_ms: i64, n: usize) -> Vec<Item> {
        if self.leader.is_away(now_ms) {
            return Vec::new();
        }
        let free = self
            .waiting
            .values_mut()
            .filter(|item| item.given_out_until_ms <= now_ms)
            .take(n);
        free.map(|item| {
            item.given_out_until_ms = now_ms + ACK_WAIT_MS;
            item.clone()
        })
        .collect()
    }

    /// An event is in an outbox; false while nobody leads, and then it is given out again.
    pub fn acknowledge(&mut self, now_ms: i64, sequence: u64) -> bool {
        let is_led = !self.leader.is_away(now_ms);
        if is_led {
            self.waiting.remove(&sequence);
        }
        is_led
    }

    /// How many wait, when the first of them was published, and the broker's clock; none while nobody leads.
    pub fn state(&self, now_ms: i64) -> Option<(u64, Option<i64>, i64)> {
        let first = self.waiting.values().next().map(|item| item.published_ms);
        (!self.leader.is_away(now_ms)).then_some((
            self.waiting.len() as u64,
            first,
            now_ms + self.leader.clock_ms,
        ))
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}

/// All streams.
#[derive(Clone, Debug)]
pub struct Broker {
    /// EVENTS by shard, and last QUARANTINE.
    pub streams: Vec<Stream>,
    /// INTAKE.
    pub intake: Queue,
    /// Nobody answers until then.
    pub down_until_ms: i64,
}

impl Broker {
    /// A broker with so many shards.
    pub fn new(shards: u16) -> Self {
        Self {
            streams: vec![Stream::default(); usize::from(shards) + 1],
            intake: Queue::default(),
            down_until_ms: i64::MIN,
        }
    }

    /// The number of the stream of refused events.
    pub fn quarantine(&self) -> usize {
        self.streams.len() - 1
    }

    /// It is killed: what it stored is there again at `until_ms`, what it remembered of ids is not.
    pub fn kill(&mut self, until_ms: i64) {
        self.down_until_ms = until_ms;
        self.streams.iter_mut().for_each(|s| s.ids.0.clear());
        self.intake.ids.0.clear();
    }
}
