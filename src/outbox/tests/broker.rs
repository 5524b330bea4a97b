//! A log in memory that does what brokers do on bad days, and what a reader makes of it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use adtally_streams::event::{Event, Kind};
use adtally_streams::frame::{EventMessage, decode_events};
use adtally_streams::id::Epoch;
use adtally_streams::watermark::Watermark;
use bytes::Bytes;
use futures_util::future::BoxFuture;

use crate::log::LogError;
use crate::log::publisher::{Broker, Outcome};

/// A stored message.
#[derive(Clone, Debug)]
pub struct Stored {
    pub subject: String,
    pub id: Option<String>,
    pub payload: Bytes,
}

/// One total order over all streams; the sequence is the place in it.
#[derive(Debug, Default)]
pub struct FakeBroker {
    messages: Mutex<Vec<Stored>>,
    /// By stream and id: ids are one name space a stream.
    ids: Mutex<HashMap<(String, String), u64>>,
    down: AtomicBool,
    full: AtomicBool,
    /// Of 256 publishes: how many are lost, and how many are stored without an acknowledgement.
    lost: AtomicU64,
    unacknowledged: AtomicU64,
    dice: AtomicU64,
}

/// What a reader finds: events by identity, how many came again, and what was announced where.
#[derive(Debug, Default)]
pub struct Read {
    /// (epoch, kind, shard, counter) to the event and the place in the order at which it first stood.
    pub once: BTreeMap<(Epoch, Kind, u16, u64), (Event, usize)>,
    pub again: usize,
    pub watermarks: Vec<(usize, Watermark)>,
    pub drained: BTreeSet<(Epoch, u16)>,
    /// By shard: openings in the order in which they were heard of, and how many had been when each ended.
    pub heard: BTreeMap<u16, Vec<Epoch>>,
    pub ended: Vec<(Epoch, u16, Vec<Epoch>)>,
}

impl Read {
    pub fn ids(&self) -> BTreeSet<String> {
        self.once
            .values()
            .map(|(event, _)| event.id.to_string())
            .collect()
    }

    /// Whatever was announced stood in the log before.
    pub fn check_announcements(&self) {
        for (place, watermark) in &self.watermarks {
            for (event, at) in self.once.values() {
                assert!(
                    event.arrival_ms > watermark.through_ms || at < place,
                    "{} arrived at {} and stands at {at}, but {} was announced at {place}",
                    event.id,
                    event.arrival_ms,
                    watermark.through_ms,
                );
            }
        }
    }
}

impl FakeBroker {
    pub fn set_down(&self, down: bool) {
        self.down.store(down, Ordering::SeqCst);
    }

    pub fn set_full(&self, full: bool) {
        self.full.store(full, Ordering::SeqCst);
    }

    /// Loses and half-loses that many of 256 publishes.
    pub fn set_bad(&self, lost: u64, unacknowledged: u64, seed: u64) {
        self.lost.store(lost, Ordering::SeqCst);
        self.unacknowledged.store(unacknowledged, Ordering::SeqCst);
        self.dice.store(seed | 1, Ordering::SeqCst);
    }

    /// Forgets every message id, as the window does after ten minutes.
    pub fn forget_ids(&self) {
        self.ids.lock().unwrap().clear();
    }

    pub fn plant(&self, subject: &str, id: &str, payload: &'static [u8]) {
        self.store(
            subject.to_owned(),
            Some(id.to_owned()),
            Bytes::from_static(payload),
        );
    }

    /// Damages the message whose id ends so; the id stays remembered.
    pub fn spoil(&self, id_end: &str) {
        let mut messages = self.messages.lock().unwrap();
        let ends = |m: &&mut Stored| m.id.as_ref().is_some_and(|id| id.ends_with(id_end));
        let message = messages.iter_mut().find(ends).unwrap();
        message.payload = Bytes::from_static(b"somebody else's");
    }

    pub fn messages(&self) -> Vec<Stored> {
        self.messages.lock().unwrap().clone()
    }

    fn store(&self, subject: String, id: Option<String>, payload: Bytes) -> Outcome {
        let mut ids = self.ids.lock().unwrap();
        let mut messages = self.messages.lock().unwrap();
        let stream = subject.rsplit_once('.').unwrap().0.to_owned();
        let key = id.clone().map(|id| (stream, id));
        if let Some(sequence) = key.as_ref().and_then(|key| ids.get(key)) {
            return Outcome::Stored {
                stream: "S".to_owned(),
                sequence: *sequence,
                duplicate: true,
            };
        }
        let sequence = messages.len() as u64 + 1;
        if let Some(key) = key {
            ids.insert(key, sequence);
        }
        messages.push(Stored {
            subject,
            id,
            payload,
        });
        Outcome::Stored {
            stream: "S".to_owned(),
            sequence,
            duplicate: false,
        }
    }

    fn roll(&self) -> u64 {
        // xorshift64, so that a seed gives the same run as far as the scheduler lets it.
        let step = |x: u64| {
            let x = x ^ (x << 13);
            let x = x ^ (x >> 7);
            Some(x ^ (x << 17))
        };
        self.dice
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, step)
            .unwrap()
            >> 20
            & 0xff
    }

    /// Reads the whole log as a fold would, by identity.
    pub fn read(&self) -> Read {
        let mut read = Read::default();
        for (place, message) in self.messages().into_iter().enumerate() {
            let mut tokens = message.subject.split('.');
            if tokens.next() != Some("events") {
                continue;
            }
            let shard: u16 = tokens.next().unwrap().parse().unwrap();
            match decode_events(&message.payload) {
                Ok(EventMessage::Announcement {
                    epoch, watermark, ..
                }) => {
                    let heard = read.heard.entry(shard).or_default();
                    if watermark.drained {
                        read.ended.push((epoch, shard, heard.clone()));
                    } else if !heard.contains(&epoch) {
                        heard.push(epoch);
                    }
                    if watermark.drained {
                        read.drained.insert((epoch, shard));
                    }
                    read.watermarks.push((place, watermark));
                }
                Ok(EventMessage::Frame(frame)) => {
                    read.watermarks.push((place, frame.header.watermark));
                    for (n, event) in frame.events.into_iter().enumerate() {
                        let key = (
                            frame.header.epoch,
                            frame.header.kind,
                            shard,
                            frame.header.first + n as u64,
                        );
                        match read.once.get(&key) {
                            Some((first, _)) => {
                                assert_eq!(*first, event, "a counter never names another event");
                                read.again += 1;
                            }
                            None => {
                                read.once.insert(key, (event, place));
                            }
                        }
                    }
                }
                Err(error) => assert_eq!(&message.payload[..], b"somebody else's", "{error}"),
            }
        }
        read
    }
}

impl Broker for FakeBroker {
    fn publish(
        &self,
        subject: String,
        id: Option<String>,
        payload: Bytes,
    ) -> BoxFuture<'_, Outcome> {
        Box::pin(async move {
            tokio::time::sleep(Duration::from_micros(300)).await;
            if self.down.load(Ordering::SeqCst) {
                return Outcome::Unknown("down".to_owned());
            }
            if self.full.load(Ordering::SeqCst) {
                return Outcome::Full("maximum bytes exceeded".to_owned());
            }
            let roll = if self.dice.load(Ordering::SeqCst) == 0 {
                255
            } else {
                self.roll()
            };
            let (lost, half) = (
                self.lost.load(Ordering::SeqCst),
                self.unacknowledged.load(Ordering::SeqCst),
            );
            if roll < lost {
                return Outcome::Unknown("lost".to_owned());
            }
            let outcome = self.store(subject, id, payload);
            if roll < lost + half {
                Outcome::Unknown("no acknowledgement".to_owned())
            } else {
                outcome
            }
        })
    }

    fn stored(&self, _: String, sequence: u64) -> BoxFuture<'_, Result<Option<Bytes>, LogError>> {
        let message = self
            .messages
            .lock()
            .unwrap()
            .get(sequence as usize - 1)
            .map(|m| m.payload.clone());
        Box::pin(async move { Ok(message) })
    }

    fn connected(&self) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            while self.down.load(Ordering::SeqCst) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
    }

    fn max_payload(&self) -> usize {
        1 << 20
    }
}
