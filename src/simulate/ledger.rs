//! What was sent and acknowledged, counted by the sender: the other side of every comparison.
//!
//! The ledger knows the catalogue sample and the traffic, and nothing that the deployment answers but its
//! acknowledgements. An event counts here at the first acknowledgement of any of its sends.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use adtally_streams::event::Kind;
use serde::Serialize;

use super::sample::{Pricing, Sample};
use super::traffic::Event;

/// Counts of one ad or campaign; the names are those of the API.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Valid impressions.
    pub impressions: i64,
    /// Impressions that the border judged.
    pub invalid_impressions: i64,
    /// Valid clicks.
    pub clicks: i64,
    /// Clicks that the border judged.
    pub invalid_clicks: i64,
    /// Cost of the valid ones.
    pub cost_micros: i64,
    /// Impressions and clicks that arrived more than five minutes after their time.
    pub late_events: i64,
}

impl Counts {
    /// The metrics' names in the API, with their values.
    pub fn named(&self) -> [(&'static str, i64); 6] {
        [
            ("impressions", self.impressions),
            ("invalid_impressions", self.invalid_impressions),
            ("clicks", self.clicks),
            ("invalid_clicks", self.invalid_clicks),
            ("cost_micros", self.cost_micros),
            ("late_events", self.late_events),
        ]
    }

    /// Adds `other`.
    pub fn add(&mut self, other: &Counts) {
        self.impressions += other.impressions;
        self.invalid_impressions += other.invalid_impressions;
        self.clicks += other.clicks;
        self.invalid_clicks += other.invalid_clicks;
        self.cost_micros += other.cost_micros;
        self.late_events += other.late_events;
    }
}

/// Numbers of sends, by kind or in all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Sends {
    /// Sound events handed to a sender, second sends of one id included.
    pub sent: u64,
    /// Sends that were acknowledged.
    pub acknowledged: u64,
    /// Distinct events among them.
    pub distinct: u64,
}

/// What became of the broken events, and of the sends that went wrong.
#[derive(Debug, Default)]
struct Others {
    broken_sent: AtomicU64,
    broken_refused: AtomicU64,
    broken_published: AtomicU64,
    broken_quarantined: AtomicU64,
    broken_accepted: AtomicU64,
    retries: AtomicU64,
    given_up: AtomicU64,
    /// Sound events that were refused for good.
    wrongly_refused: AtomicU64,
}

/// The sums that go into the report.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    /// By kind.
    pub kinds: BTreeMap<&'static str, Sends>,
    /// Broken events sent.
    pub broken_sent: u64,
    /// Broken events that were refused with an answer saying so. Over NATS the refusal is a record in QUARANTINE.
    pub broken_refused: u64,
    /// Broken events that were taken: a defect.
    pub broken_accepted: u64,
    /// Sound events that were refused for good: a defect.
    pub wrongly_refused: u64,
    /// Sends repeated because no acknowledgement came.
    pub retries: u64,
    /// Events that were never acknowledged: they may be counted or not.
    pub given_up: u64,
}

/// The ledger of one run, shared by its senders.
#[derive(Debug)]
pub struct Ledger {
    by_ad: Mutex<Vec<Counts>>,
    kinds: [[AtomicU64; 3]; Kind::ALL.len()],
    others: Others,
    last_acknowledged_ms: AtomicU64,
}

impl Ledger {
    /// An empty one for the ads of `sample`.
    pub fn new(sample: &Sample) -> Self {
        Self {
            by_ad: Mutex::new(vec![Counts::default(); sample.ads.len()]),
            kinds: Default::default(),
            others: Others::default(),
            last_acknowledged_ms: AtomicU64::new(0),
        }
    }

    /// Notes that `event` is about to be sent, for the first time or the second, but not again after a failure.
    pub fn sending(&self, event: &Event) {
        if event.fault.is_some() {
            self.others.broken_sent.fetch_add(1, Ordering::Relaxed);
        } else {
            self.kinds[event.kind as usize][0].fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Notes that a send must be repeated.
    pub fn retrying(&self) {
        self.others.retries.fetch_add(1, Ordering::Relaxed);
    }

    /// Notes that `event` was never acknowledged.
    pub fn gave_up(&self, _event: &Event) {
        self.others.given_up.fetch_add(1, Ordering::Relaxed);
    }

    /// Notes that `event` was refused for good.
    pub fn refused(&self, event: &Event) {
        let counter = if event.fault.is_some() {
            &self.others.broken_refused
        } else {
            &self.others.wrongly_refused
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// Notes that a send of `event` was acknowledged at `now_ms`.
    pub fn acknowledged(&self, event: &Event, sample: &Sample, now_ms: i64) {
        self.last_acknowledged_ms
            .fetch_max(now_ms.max(0) as u64, Ordering::Relaxed);
        if event.fault.is_some() {
            self.others.broken_accepted.fetch_add(1, Ordering::Relaxed);
            return;
        }
        self.kinds[event.kind as usize][1].fetch_add(1, Ordering::Relaxed);
        if !event.count_once() {
            return;
        }
        self.kinds[event.kind as usize][2].fetch_add(1, Ordering::Relaxed);
        let counts = expected(event, sample);
        let mut by_ad = self
            .by_ad
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        by_ad[event.ad].add(&counts);
    }

    /// Notes that the broker has a broken event, of which the refusal comes later and elsewhere.
    pub fn broken_published(&self, now_ms: i64) {
        self.last_acknowledged_ms
            .fetch_max(now_ms.max(0) as u64, Ordering::Relaxed);
        self.others.broken_published.fetch_add(1, Ordering::Relaxed);
    }

    /// Broken events of which the broker took delivery.
    pub fn total_broken_published(&self) -> u64 {
        self.others.broken_published.load(Ordering::Relaxed)
    }

    /// Notes that `n` refusals of this run are in QUARANTINE by now.
    pub fn quarantined(&self, n: u64) {
        self.others.broken_quarantined.store(n, Ordering::Relaxed);
    }

    /// When the last acknowledgement came, Unix milliseconds.
    pub fn last_acknowledged_ms(&self) -> i64 {
        self.last_acknowledged_ms.load(Ordering::Relaxed) as i64
    }

    /// Events acknowledged so far, of all kinds.
    pub fn total_acknowledged(&self) -> u64 {
        self.kinds
            .iter()
            .map(|k| k[1].load(Ordering::Relaxed))
            .sum()
    }

    /// What every ad must show, by its index in the sample.
    pub fn expected_by_ad(&self) -> Vec<Counts> {
        self.by_ad
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .clone()
    }

    /// The sums.
    pub fn summary(&self) -> Summary {
        let load = |a: &AtomicU64| a.load(Ordering::Relaxed);
        let kinds = Kind::ALL
            .into_iter()
            .map(|k| {
                let [sent, acknowledged, distinct] = &self.kinds[k as usize];
                (
                    k.name(),
                    Sends {
                        sent: load(sent),
                        acknowledged: load(acknowledged),
                        distinct: load(distinct),
                    },
                )
            })
            .collect();
        Summary {
            kinds,
            broken_sent: load(&self.others.broken_sent),
            broken_refused: load(&self.others.broken_refused)
                + load(&self.others.broken_quarantined),
            broken_accepted: load(&self.others.broken_accepted),
            wrongly_refused: load(&self.others.wrongly_refused),
            retries: load(&self.others.retries),
            given_up: load(&self.others.given_up),
        }
    }
}

/// What the contract says one sound event adds to its ad.
fn expected(event: &Event, sample: &Sample) -> Counts {
    let mut counts = Counts::default();
    if event.kind == Kind::Conversion {
        return counts;
    }
    let campaign = sample.campaign_of(event.ad);
    let valid = !event.bot && !campaign.paused;
    let (click_price, impression_price) = match campaign.pricing {
        Pricing::PerClick(price) => (price, 0),
        Pricing::PerThousand(price) => (0, price / 1_000),
    };
    match (event.kind, valid) {
        (Kind::Impression, true) => {
            counts.impressions = 1;
            counts.cost_micros = impression_price;
        }
        (Kind::Impression, false) => counts.invalid_impressions = 1,
        (_, true) => {
            counts.clicks = 1;
            counts.cost_micros = click_price;
        }
        (_, false) => counts.invalid_clicks = 1,
    }
    counts.late_events = i64::from(event.ts_ms.is_some());
    counts
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::traffic::Traffic;
    use super::*;

    #[test]
    fn two_acknowledgements_of_one_id_count_once_and_a_paused_campaign_costs_nothing() {
        let sample = Arc::new(Sample::new(""));
        let ledger = Ledger::new(&sample);
        let mut event = Traffic::new(1, &sample).next(0);
        event.fault = None;
        event.bot = false;
        event.kind = Kind::Click;
        event.ad = 0; // Of `ny-search`, 0.35 a click.
        ledger.acknowledged(&event, &sample, 5);
        ledger.acknowledged(&event.clone(), &sample, 6);
        let counts = ledger.expected_by_ad()[0];
        assert_eq!((counts.clicks, counts.cost_micros), (1, 350_000));
        let clicks = ledger.summary().kinds["click"];
        assert_eq!((clicks.acknowledged, clicks.distinct), (2, 1));
        let paused = Event {
            ad: 59,
            counted: Arc::default(),
            ..event
        };
        ledger.acknowledged(&paused, &sample, 7);
        let counts = ledger.expected_by_ad()[59];
        assert_eq!(
            (counts.clicks, counts.invalid_clicks, counts.cost_micros),
            (0, 1, 0)
        );
        assert_eq!(ledger.last_acknowledged_ms(), 7);
    }
}
