//! The border: where every event becomes a stamped event on disk, or a refusal with its record.
//!
//! One function, [`Border::admit_batch`], serves every way in, so that what is judged here is the same on all of
//! them. Invariant: when it returns, every event of the batch is durable in the outbox, as an event or as a
//! quarantine record; when it fails, none of them is answered.

pub mod address;
pub mod agent;
pub mod facts;
pub mod generations;
pub mod geo;
pub mod headers;
pub mod keys;
pub mod keys_file;
pub mod limit;
pub mod prefetch;

use std::sync::Arc;

use adtally_streams::admit::admit;
use adtally_streams::catalogue::Catalogue;
use adtally_streams::event::{Body, Event, Kind};
use adtally_streams::names::shard_of;
use adtally_streams::parse::RawEvent;
use adtally_streams::refusal::{Reason, Refusal};

use crate::catalogue_feed::{CatalogueHandle, Freshness};
use crate::fail_points::{Point, pass};
use crate::http::problem::Problem;
use crate::outbox::{Arrival, Item, OutboxError, OutboxHandle};
use crate::quarantine::{Source, Way, count_accepted, count_refused};
use facts::{FactSource, Sender, days_needed};

/// The border of one way in: facts, catalogue, and the outbox that makes events durable.
#[derive(Clone)]
pub struct Border {
    facts: Arc<FactSource>,
    catalogue: CatalogueHandle,
    outbox: OutboxHandle,
    shards: u16,
}

/// One event as it came in.
#[derive(Clone, Debug)]
pub struct Incoming {
    /// What was read of it.
    pub raw: Result<RawEvent, Refusal>,
    /// What the connection tells of its sender.
    pub sender: Sender,
    /// What QUARANTINE keeps of it when it is refused.
    pub source: Source,
    /// When it arrived, in milliseconds of the Unix epoch, where it was not with the whole batch.
    pub arrival_ms: Option<i64>,
    /// Where the visitor is sent. A fact of the answer and no part of what the publisher said, so that the same
    /// click by another way is no conflict.
    pub landing_url: Option<Arc<str>>,
}

impl Incoming {
    /// When it arrived: with the batch, or later; in milliseconds of the Unix epoch.
    fn arrival_ms(&self, batch_ms: i64) -> i64 {
        self.arrival_ms.map_or(batch_ms, |ms| ms.max(batch_ms))
    }
}

/// A batch on its way in: registered with the outbox, and the catalogue as fresh as it can be.
pub struct Entry {
    arrival: Arrival,
    freshness: Freshness,
}

impl Entry {
    /// When the batch arrived, in milliseconds of the Unix epoch.
    pub fn arrival_ms(&self) -> i64 {
        self.arrival.ms()
    }

    /// Whether "not in the catalogue" may be said: the catalogue holds everything that was published before the
    /// batch arrived.
    pub fn is_current(&self) -> bool {
        self.freshness == Freshness::Current
    }
}

/// What became of one event.
pub type Outcome = Result<(), Refusal>;

/// One event as it was decided, and not yet kept.
#[derive(Debug)]
pub struct Decided {
    item: Item,
    outcome: Outcome,
}

impl Decided {
    /// An event that is refused, with the record of it.
    pub fn refused(refusal: Refusal, source: &Source, arrival_ms: i64) -> Self {
        Self {
            item: Item::Refused(source.record(refusal.clone(), arrival_ms)),
            outcome: Err(refusal),
        }
    }

    /// Whether it is refused because the catalogue does not hold its ad.
    pub fn is_unknown_ad(&self) -> bool {
        self.outcome
            .as_ref()
            .is_err_and(|refusal| refusal.reason == Reason::UnknownAd)
    }
}

/// Why nothing of a batch was taken; it may be sent again.
#[derive(Debug, thiserror::Error)]
pub enum Unavailable {
    /// There is no catalogue yet, neither on disk nor from the broker.
    #[error(
        "the catalogue has not been read yet: neither a copy on disk nor the broker has answered so far"
    )]
    Cold,
    /// An ad is not known, and the broker did not say whether it has been published meanwhile.
    #[error(
        "the broker does not answer, and an ad that is not known here may have been published; send it again"
    )]
    Stale,
    /// The outbox took nothing.
    #[error("events cannot be made durable now: {0}")]
    Outbox(#[from] OutboxError),
}

impl Unavailable {
    /// The answer of an HTTP way in: 503 with `Retry-After`.
    pub fn problem(&self) -> Problem {
        Problem::unavailable(self.to_string())
    }
}

impl Border {
    /// A border over its parts. `shards` are those of the running deployment.
    pub fn new(
        facts: Arc<FactSource>,
        catalogue: CatalogueHandle,
        outbox: OutboxHandle,
        shards: u16,
    ) -> Self {
        Self {
            facts,
            catalogue,
            outbox,
            shards,
        }
    }

    /// Begins a batch of so many events that arrives now.
    pub async fn enter(&self, events: usize) -> Result<Entry, Unavailable> {
        self.begin(self.outbox.arrive(), events).await
    }

    /// Begins a batch of so many events, the first of which arrived at `first_ms`, in milliseconds of the Unix epoch.
    pub async fn enter_at(&self, first_ms: i64, events: usize) -> Result<Entry, Unavailable> {
        self.begin(self.outbox.arrive_at(first_ms), events).await
    }

    async fn begin(&self, arrival: Arrival, events: usize) -> Result<Entry, Unavailable> {
        let freshness = self.catalogue.barrier_for(events).await;
        if freshness == Freshness::Cold {
            return Err(Unavailable::Cold);
        }
        Ok(Entry { arrival, freshness })
    }

    /// The catalogue as it is now.
    pub fn catalogue(&self) -> &CatalogueHandle {
        &self.catalogue
    }

    /// Where facts come from.
    pub fn facts(&self) -> &FactSource {
        &self.facts
    }

    /// Admits a batch and makes it durable. One outcome for each event, in their order.
    pub async fn admit_batch(
        &self,
        entry: Entry,
        way: Way,
        batch: Vec<Incoming>,
    ) -> Result<Vec<Outcome>, Unavailable> {
        let decided = self.decide_batch(&entry, batch).await;
        if !entry.is_current() && decided.iter().any(Decided::is_unknown_ad) {
            return Err(Unavailable::Stale);
        }
        self.keep(entry, way, decided).await
    }

    /// Decides over a batch, and keeps nothing yet. While the entry is not current, "unknown ad" is no verdict:
    /// the caller must not keep such an event ([`Decided::is_unknown_ad`]).
    pub async fn decide_batch(&self, entry: &Entry, batch: Vec<Incoming>) -> Vec<Decided> {
        let batch_ms = entry.arrival_ms();
        let with_raw = batch.iter().filter_map(|incoming| {
            let raw = incoming.raw.as_ref().ok()?;
            Some((raw, &incoming.sender, incoming.arrival_ms(batch_ms)))
        });
        self.facts
            .keys()
            .ensure(&days_needed(with_raw), batch_ms)
            .await;
        self.decide(batch, batch_ms)
    }

    /// Makes what was decided durable, with one fsync. One outcome for each, in their order.
    pub async fn keep(
        &self,
        entry: Entry,
        way: Way,
        decided: Vec<Decided>,
    ) -> Result<Vec<Outcome>, Unavailable> {
        let kinds = kinds_of(&decided);
        let mut outcomes = Vec::with_capacity(decided.len());
        let items = decided.into_iter().map(|Decided { item, outcome }| {
            outcomes.push(outcome);
            item
        });
        self.outbox.accept(items).await?;
        if way != Way::Nats {
            pass(Point::CollectorAnswering);
        }
        drop(entry);
        count_accepted(way, kinds);
        let refused = outcomes.iter().filter_map(|outcome| outcome.as_ref().err());
        count_refused(way, refused.map(|refusal| refusal.reason));
        Ok(outcomes)
    }

    /// Decides over a batch under one reading of the catalogue.
    fn decide(&self, batch: Vec<Incoming>, batch_ms: i64) -> Vec<Decided> {
        let catalogue = self.catalogue.read();
        let decided = batch.into_iter().map(|incoming| {
            let arrival_ms = incoming.arrival_ms(batch_ms);
            let Incoming {
                raw,
                sender,
                source,
                landing_url,
                ..
            } = incoming;
            match self.decide_one(raw, &sender, landing_url, arrival_ms, &catalogue) {
                Ok(item) => Decided {
                    item,
                    outcome: Ok(()),
                },
                Err(refusal) => Decided::refused(refusal, &source, arrival_ms),
            }
        });
        decided.collect()
    }

    fn decide_one(
        &self,
        raw: Result<RawEvent, Refusal>,
        sender: &Sender,
        landing_url: Option<Arc<str>>,
        arrival_ms: i64,
        catalogue: &Catalogue,
    ) -> Result<Item, Refusal> {
        let raw = raw?;
        let facts = self.facts.of(&raw, sender, arrival_ms);
        let admitted = admit(raw, &facts, catalogue)?;
        let mut event = admitted.event;
        if let (Body::Click(_, detail), Some(url)) = (&mut event.body, landing_url) {
            detail.landing_url = Some(url);
        }
        let shard = shard_of(event.key(), event.id.as_str(), admitted.spread, self.shards);
        Ok(Item::Event { shard, event })
    }
}

fn kinds_of(decided: &[Decided]) -> [u64; Kind::ALL.len()] {
    let mut kinds = [0; Kind::ALL.len()];
    for decided in decided {
        if let Item::Event { event, .. } = &decided.item {
            kinds[Event::kind(event) as usize] += 1;
        }
    }
    kinds
}

#[cfg(test)]
mod live_tests;
