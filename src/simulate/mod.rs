//! `adtally simulate`: believable traffic against any deployment, and an exact count of it.
//!
//! What must come out is known from the generator's own ledger and the contract, never from the deployment: the
//! API is asked last, and only to be compared.

pub mod compare;
pub mod encode;
pub mod ledger;
pub mod over_http;
pub mod over_nats;
pub mod plan;
pub mod report;
pub mod rng;
pub mod sample;
pub mod traffic;
pub mod wire;

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use async_nats::HeaderMap;
use serde_json::Value;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use self::ledger::Ledger;
use self::over_nats::Broker;
use self::plan::{Plan, Queue};
use self::report::Report;
use self::sample::Sample;
use self::traffic::Traffic;
use crate::api_client::Api;

/// How long one event is sent again before it counts as never acknowledged.
pub const PATIENCE: Duration = Duration::from_secs(120);
/// How long the counts may take to be visible after the last acknowledgement.
pub const VISIBLE_WITHIN: Duration = Duration::from_secs(60);
/// The most senders at once.
pub const MAX_SENDERS: usize = 1_024;

/// The way that events take.
#[derive(Clone, Debug)]
pub enum Way {
    /// The collector's paths and POST.
    Http,
    /// INTAKE.
    Nats(Broker),
    /// Both at once: whichever sender is free takes the next event.
    Both(Broker),
}

impl Way {
    /// Its name in options and reports.
    pub fn name(&self) -> &'static str {
        match self {
            Way::Http => "http",
            Way::Nats(_) => "nats",
            Way::Both(_) => "http and nats",
        }
    }

    fn broker(&self) -> Option<&Broker> {
        match self {
            Way::Http => None,
            Way::Nats(broker) | Way::Both(broker) => Some(broker),
        }
    }
}

/// One run against one deployment.
#[derive(Debug)]
pub struct Run {
    /// Where the answers come from, and over HTTP where the events go.
    pub api: Api,
    /// The way of the events.
    pub way: Way,
    /// The seed of the traffic.
    pub seed: u64,
    /// Senders at once.
    pub senders: usize,
    /// Before every id of this run's catalogue.
    pub tag: String,
    /// The catalogue.
    pub sample: Arc<Sample>,
    /// The count.
    pub ledger: Arc<Ledger>,
    traffic: Traffic,
    /// Last sequence of QUARANTINE before the first event; 0 over HTTP, where refusals are answered.
    quarantine_before: u64,
    /// How long sending has taken so far.
    sending: Duration,
    made: u64,
}

/// A tag that no other run has: the start in base 36, and two letters of the seed.
pub fn unique_tag(seed: u64, now_ms: i64) -> String {
    let mut digits = Vec::new();
    let mut n = now_ms.max(0) as u64 * 1_296 + rng::Rng::new(seed).below(1_296);
    while n > 0 {
        digits.push(char::from_digit((n % 36) as u32, 36).unwrap_or('0'));
        n /= 36;
    }
    format!("sim{}-", digits.iter().rev().collect::<String>())
}

impl Run {
    /// A run of `seed`, whose catalogue ids start with `tag`.
    pub fn new(api: Api, way: Way, seed: u64, tag: String, senders: usize) -> Self {
        let sample = Arc::new(Sample::new(&tag));
        let ledger = Arc::new(Ledger::new(&sample));
        let traffic = Traffic::new(seed, &sample);
        let senders = senders.clamp(1, MAX_SENDERS);
        Self {
            api,
            way,
            seed,
            senders,
            tag,
            sample,
            ledger,
            traffic,
            quarantine_before: 0,
            sending: Duration::ZERO,
            made: 0,
        }
    }

    /// Applies the sample catalogue, so that every event of the traffic finds its ad.
    pub async fn prepare(&mut self) -> anyhow::Result<()> {
        let catalogue = self.sample.catalogue();
        for (list, kind, id) in DOCUMENTS {
            for document in catalogue
                .get(list)
                .and_then(Value::as_array)
                .into_iter()
                .flatten()
            {
                let name = document.get(id).and_then(Value::as_str).unwrap_or_default();
                match self.way.broker() {
                    None => {
                        self.api
                            .put(&format!("/api/v1/catalog/{list}/{name}"), document)
                            .await?;
                    }
                    Some(broker) => {
                        let subject =
                            format!("{}.{kind}.{name}", adtally_streams::names::CATALOG_PREFIX);
                        let (headers, payload) = (HeaderMap::new(), document.to_string().into());
                        let published = broker.publish(&subject, headers, payload).await;
                        published.with_context(|| format!("publishing {subject}"))?;
                    }
                }
            }
        }
        if let Some(broker) = self.way.broker() {
            self.quarantine_before = over_nats::quarantine_position(&broker.jetstream).await?;
        }
        Ok(())
    }

    /// Sends traffic by `plan` until it is done or `stop` is asked, and waits for every acknowledgement.
    pub async fn send(&mut self, plan: Plan, stop: &CancellationToken) -> anyhow::Result<()> {
        let began = Instant::now();
        let (tx, queue) = plan::queue();
        // A broker that takes nothing of ours ends the run.
        let stop = stop.child_token();
        let (mut senders, by_nats) = self.start_senders(&queue, &stop).await?;
        let direct = match self.way {
            Way::Http | Way::Both(_) => Some(over_http::direct as plan::Direct),
            Way::Nats(_) => None,
        };
        let bar = report::progress(plan);
        let watched = self.ledger.clone();
        let before = watched.total_acknowledged();
        let ticker = bar.clone();
        let drawing = tokio::spawn(async move {
            loop {
                ticker.set_position(watched.total_acknowledged() - before);
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        });
        self.made += plan::produce(&mut self.traffic, plan, direct, &tx, &stop).await;
        drop(tx);
        while let Some(done) = senders.join_next().await {
            done.context("a sender ended early")?;
        }
        self.sending += began.elapsed();
        drawing.abort();
        bar.finish_and_clear();
        if let Some(error) =
            by_nats.and_then(|target| Arc::into_inner(target)?.refused.into_inner())
        {
            return Err(error).context("sending events over NATS");
        }
        if let Some(Broker { jetstream, .. }) = self.way.broker() {
            let expected = self.ledger.total_broken_published();
            let found = over_nats::count_quarantined(
                jetstream,
                self.quarantine_before,
                &self.tag,
                expected,
            )
            .await?;
            self.ledger.quarantined(found);
        }
        Ok(())
    }

    /// Starts the senders; answers besides what those by NATS share, where there are any.
    async fn start_senders(
        &self,
        queue: &Queue,
        stop: &CancellationToken,
    ) -> anyhow::Result<(JoinSet<()>, Option<Arc<over_nats::Target>>)> {
        let mut senders = JoinSet::new();
        let (by_http, by_nats) = match self.way {
            Way::Http => (self.senders, 0),
            Way::Nats(_) => (0, self.senders),
            Way::Both(_) => (self.senders.div_ceil(2), self.senders / 2),
        };
        if by_http > 0 {
            let (address, host) = resolve(self.api.base()).await?;
            let key = self.api.key().map(str::to_string);
            let (sample, ledger) = (self.sample.clone(), self.ledger.clone());
            let target = Arc::new(over_http::Target::new(
                address, host, key, sample, ledger, PATIENCE,
            ));
            for _ in 0..by_http {
                senders.spawn(over_http::sender(target.clone(), queue.clone()));
            }
        }
        let target = self.way.broker().map(|broker| {
            Arc::new(over_nats::Target {
                broker: broker.clone(),
                refused: OnceLock::new(),
                stop: stop.clone(),
                tag: self.tag.clone(),
                sample: self.sample.clone(),
                ledger: self.ledger.clone(),
                patience: PATIENCE,
            })
        });
        for target in std::iter::repeat_n(&target, by_nats).flatten() {
            senders.spawn(over_nats::sender(target.clone(), queue.clone()));
        }
        Ok((senders, target))
    }

    /// Compares ledger and API.
    pub async fn report(&self) -> anyhow::Result<Report> {
        let comparison =
            compare::compare(&self.api, &self.sample, &self.ledger, VISIBLE_WITHIN).await?;
        Ok(Report::new(self, self.made, self.sending, comparison))
    }
}

/// The catalogue's lists in the order in which they must be applied: list, type in subjects, id field.
pub const DOCUMENTS: [(&str, &str, &str); 3] = [
    ("advertisers", "advertiser", "advertiser_id"),
    ("campaigns", "campaign", "campaign_id"),
    ("ads", "ad", "ad_id"),
];

/// The socket address and Host header of an http URL.
pub async fn resolve(base: &str) -> anyhow::Result<(SocketAddr, String)> {
    let url = url::Url::parse(base).with_context(|| format!("`{base}` is not a URL"))?;
    let host = url
        .host_str()
        .with_context(|| format!("`{base}` names no host"))?;
    let port = url.port_or_known_default().unwrap_or(80);
    let name = host.trim_start_matches('[').trim_end_matches(']');
    let address = tokio::net::lookup_host((name, port))
        .await
        .with_context(|| format!("looking up the host of {base}"))?
        .next()
        .with_context(|| format!("the host of {base} has no address"))?;
    Ok((address, format!("{host}:{port}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_of_different_starts_differ_and_leave_room_for_ids() {
        let (a, b) = (
            unique_tag(1, 1_760_000_000_000),
            unique_tag(1, 1_760_000_000_001),
        );
        assert_ne!(a, b);
        assert!(
            a.len() <= 16 && a.chars().all(|c| c.is_ascii_alphanumeric() || c == '-'),
            "{a}"
        );
    }
}
