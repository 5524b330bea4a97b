//! A load of POSTed batches that costs its own side little: bodies are made once, and only ids and times are written
//! into them anew, so that what is measured on shared cores is the server.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use adtally_streams::names::CATALOG_PREFIX;
use anyhow::Context as _;
use async_nats::jetstream;
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use crate::simulate::rng::{Rng, Zipf};
use crate::simulate::wire::{Connection, request};

/// The one advertiser of the posted events, so that one question counts all of them.
pub const ADVERTISER: &str = "bench";
/// Its campaigns and their ads.
const CAMPAIGNS: usize = 64;
const ADS: usize = 512;
/// Events of a POST, where nothing else is asked for.
pub const BATCH: usize = 500;
/// One of so many is a click: ten impressions to a click.
const CLICK_EVERY: usize = 11;
/// Connections that post at once.
const CONNECTIONS: usize = 16;
/// Different bodies.
const BODIES: u64 = 8;
/// Characters of a UUID.
const UUID_TEXT: usize = 36;

/// The name of an ad.
pub fn ad_id(n: usize) -> String {
    format!("bench-ad-{n}")
}

/// Publishes the catalogue of the posted events.
pub async fn publish_catalogue(jetstream: &jetstream::Context) -> anyhow::Result<()> {
    let advertiser = json!({"advertiser_id": ADVERTISER, "name": "Bench", "currency_code": "USD", "time_zone": "America/New_York"});
    let campaigns = (0..CAMPAIGNS).map(|n| {
        let id = format!("bench-campaign-{n}");
        let pricing = json!({"model": "cpc", "price_micros": 250_000});
        let document = json!({"campaign_id": id, "advertiser_id": ADVERTISER, "name": id, "status": "active", "pricing": pricing, "daily_budget_micros": 0});
        (format!("{CATALOG_PREFIX}.campaign.{id}"), document)
    });
    let ads = (0..ADS).map(|n| {
        let campaign = format!("bench-campaign-{}", n % CAMPAIGNS);
        let document = json!({"ad_id": ad_id(n), "campaign_id": campaign, "landing_url": "https://shop.example/?click={click_id}", "status": "active", "creatives": ["a", "b", "c"]});
        (format!("{CATALOG_PREFIX}.ad.{}", ad_id(n)), document)
    });
    let advertiser = std::iter::once((
        format!("{CATALOG_PREFIX}.advertiser.{ADVERTISER}"),
        advertiser,
    ));
    publish_documents(jetstream, advertiser.chain(campaigns).chain(ads)).await
}

/// Publishes documents of the catalogue in their order.
pub async fn publish_documents(
    jetstream: &jetstream::Context,
    documents: impl IntoIterator<Item = (String, Value)>,
) -> anyhow::Result<()> {
    for (subject, document) in documents {
        let sent = jetstream
            .publish(subject, document.to_string().into())
            .await;
        sent.context("publishing the catalogue")?
            .await
            .context("publishing the catalogue")?;
    }
    Ok(())
}

/// How the events of a body stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// A JSON array.
    Array,
    /// NDJSON.
    Lines,
}

/// A request with the places where ids stand.
#[derive(Clone)]
struct Template {
    bytes: Vec<u8>,
    ids: Vec<usize>,
}

impl Template {
    fn new(seed: u64, batch: usize, form: Form) -> Self {
        let mut rng = Rng::new(seed);
        let popularity = Zipf::new(ADS);
        let hole = "0".repeat(UUID_TEXT);
        let events: Vec<Value> = (0..batch)
            .map(|n| {
                let ad = popularity.draw(&mut rng);
                let (kind, id) = match n % CLICK_EVERY {
                    0 => ("click", "click_id"),
                    _ => ("impression", "impression_id"),
                };
                json!({
                    "kind": kind,
                    id: hole,
                    "ad_id": ad_id(ad),
                    "user_id": format!("u{}", rng.below(1_000_000)),
                    "creative": rng.pick(&["a", "b", "c"]),
                    "geo": rng.pick(&["US-NY", "US-CA", "DE", "FR", "IN-KA", "BR"]),
                    "device": rng.pick(&["ios", "android", "desktop"]),
                    "user_agent": format!("Mozilla/5.0 (X11; Linux x86_64; rv:{0}.0) Gecko/20100101 Firefox/{0}.0", 100 + rng.below(41)),
                    "referrer": format!("https://news-{}.example/story.html", rng.below(200)),
                })
            })
            .collect();
        let (body, head) = match form {
            Form::Array => (
                Value::Array(events).to_string(),
                "Content-Type: application/json\r\n",
            ),
            Form::Lines => (
                events.iter().map(|event| format!("{event}\n")).collect(),
                "Content-Type: application/x-ndjson\r\n",
            ),
        };
        let bytes = request("POST", "/api/v1/events", "bench", head, body.as_bytes());
        let hole = hole.as_bytes();
        let ids = (0..bytes.len().saturating_sub(UUID_TEXT))
            .filter(|at| bytes[*at] == b'0' && &bytes[*at..*at + UUID_TEXT] == hole)
            .collect();
        Self { bytes, ids }
    }

    /// Fills the holes with UUIDv7s of now.
    fn fill(&mut self, now_ms: u64, rng: &mut Rng) {
        for at in &self.ids {
            let uuid = uuid::Builder::from_unix_timestamp_millis(now_ms, &rng.ten_bytes());
            let hole = &mut self.bytes[*at..*at + UUID_TEXT];
            uuid.into_uuid().hyphenated().encode_lower(hole);
        }
    }
}

/// What has been answered.
#[derive(Clone, Copy, Debug)]
pub struct Answered {
    /// Events.
    pub events: u64,
    /// From the first request to the last answer.
    pub elapsed: Duration,
}

/// The load's own side: a runtime of one thread, so that its processor time is told apart.
pub struct Posting {
    runtime: Option<Runtime>,
}

/// Names of the load's threads.
pub const LOAD_THREADS: &str = "bench-load";

impl Posting {
    /// Starts the thread.
    pub fn start() -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name(LOAD_THREADS)
            .enable_all()
            .build()?;
        Ok(Self {
            runtime: Some(runtime),
        })
    }

    /// Posts until `time` is over; at `rate` events a second in all, where one is given, else as fast as answered.
    pub async fn post(
        &self,
        address: SocketAddr,
        rate: Option<f64>,
        time: Duration,
    ) -> anyhow::Result<Answered> {
        self.post_batches(address, (BATCH, Form::Array), rate, time)
            .await
    }

    /// The same with batches of another size or form.
    pub async fn post_batches(
        &self,
        address: SocketAddr,
        (batch, form): (usize, Form),
        rate: Option<f64>,
        time: Duration,
    ) -> anyhow::Result<Answered> {
        let runtime = self.runtime.as_ref().context("the load's thread runs")?;
        let (began, posts) = (Instant::now(), Arc::new(AtomicU64::new(0)));
        let mut posting = tokio::task::JoinSet::new();
        for connection in 0..CONNECTIONS as u64 {
            let posts = Arc::clone(&posts);
            let pace = rate.map(|rate| Duration::from_secs_f64(batch as f64 / rate));
            let template = Template::new(connection % BODIES, batch, form);
            let client = client(address, (connection, template), posts, began, pace, time);
            posting.spawn_on(client, runtime.handle());
        }
        let mut events = 0;
        while let Some(posted) = posting.join_next().await {
            events += posted??;
        }
        Ok(Answered {
            events,
            elapsed: began.elapsed(),
        })
    }
}

impl Drop for Posting {
    fn drop(&mut self) {
        // A runtime may not be dropped where it would have to wait.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// One connection's posts; `pace` is the time between two posts of all connections.
async fn client(
    address: SocketAddr,
    (number, mut template): (u64, Template),
    posts: Arc<AtomicU64>,
    began: Instant,
    pace: Option<Duration>,
    time: Duration,
) -> anyhow::Result<u64> {
    let mut connection = Connection::open(address, None).await?;
    let batch = template.ids.len();
    let now_ns = chrono::Utc::now().timestamp_nanos_opt().unwrap_or_default();
    let mut rng = Rng::new(now_ns as u64 ^ (number << 56));
    let mut events = 0;
    while began.elapsed() < time {
        let n = posts.fetch_add(1, Ordering::Relaxed);
        if let Some(pace) = pace {
            let due = pace * n as u32;
            if due >= time {
                break;
            }
            tokio::time::sleep_until((began + due).into()).await;
        }
        let now_ms = chrono::Utc::now().timestamp_millis().max(0) as u64;
        template.fill(now_ms, &mut rng);
        let answer = connection.exchange(&template.bytes).await?;
        let said = String::from_utf8_lossy(&answer.body);
        anyhow::ensure!(
            answer.status == 202 && said.starts_with(&format!("{{\"accepted\":{batch},")),
            "a POST was answered {}: {}",
            answer.status,
            said.chars().take(300).collect::<String>()
        );
        events += batch as u64;
    }
    Ok(events)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_event_of_a_body_gets_an_id_of_its_own() {
        let mut template = Template::new(1, BATCH, Form::Array);
        assert_eq!(template.ids.len(), BATCH);
        template.fill(1_772_323_200_000, &mut Rng::new(1));
        let ids: std::collections::HashSet<&[u8]> = template
            .ids
            .iter()
            .map(|at| &template.bytes[*at..*at + UUID_TEXT])
            .collect();
        assert_eq!(ids.len(), BATCH);
    }
}
