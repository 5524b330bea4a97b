//! How frames and fsyncs grow with the rate: events by POST at a fixed pace, and what the outbox says of itself.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::outbox::OutboxStatus;
use crate::simulate::wire::{Connection, request};

/// Connections that post at once.
const CONNECTIONS: usize = 8;
/// Events of one POST at high rates; at low ones as many as come in a tenth of a second over all connections.
const BATCH_MAX: usize = 250;

/// What was measured at one rate.
#[derive(Clone, Debug)]
pub struct Reached {
    /// Events a second that were asked for.
    pub asked_per_s: f64,
    /// Events a second that were answered.
    pub per_s: f64,
    /// Syncs of the outbox and of the broker (one a frame) for each event.
    pub fsyncs_per_event: f64,
    /// Events of a frame, on average.
    pub events_per_frame: f64,
    /// Bytes of a frame for each event.
    pub bytes_per_event: f64,
}

/// Posts impressions of `ads` at `rate` for `time`; `status` reads the collector's outbox.
pub async fn run(
    address: SocketAddr,
    ads: &[String],
    rate: f64,
    time: Duration,
    status: impl Fn() -> OutboxStatus,
) -> anyhow::Result<Reached> {
    let before = status();
    let batch = ((rate / CONNECTIONS as f64 / 10.0) as usize).clamp(1, BATCH_MAX);
    let began = Instant::now();
    let mut posting = tokio::task::JoinSet::new();
    for connection in 0..CONNECTIONS {
        let own_rate = rate / CONNECTIONS as f64 / batch as f64;
        posting.spawn(post(
            address,
            ads.to_vec(),
            connection as u64,
            batch,
            own_rate,
            time,
        ));
    }
    for posted in posting.join_all().await {
        posted?;
    }
    let elapsed = began.elapsed().as_secs_f64();
    let after = status();
    let events = (after.accepted_events - before.accepted_events).max(1) as f64;
    let frames = (after.frames - before.frames).max(1) as f64;
    let framed = (after.framed_events - before.framed_events).max(1) as f64;
    Ok(Reached {
        asked_per_s: rate,
        per_s: events / elapsed,
        fsyncs_per_event: ((after.fsyncs - before.fsyncs) as f64 + frames) / events,
        events_per_frame: framed / frames,
        bytes_per_event: (after.framed_bytes - before.framed_bytes) as f64 / framed,
    })
}

async fn post(
    address: SocketAddr,
    ads: Vec<String>,
    lane: u64,
    batch: usize,
    posts_per_s: f64,
    time: Duration,
) -> anyhow::Result<()> {
    let mut connection = Connection::open(address, None).await?;
    let mut rng = crate::simulate::rng::Rng::new(lane);
    let began = Instant::now();
    for n in 0u64.. {
        let due = Duration::from_secs_f64(n as f64 / posts_per_s);
        if due >= time || began.elapsed() >= time {
            break;
        }
        tokio::time::sleep_until((began + due).into()).await;
        let events: Vec<Value> = (0..batch).map(|_| impression(&mut rng, &ads)).collect();
        let body = Value::Array(events).to_string();
        let head = "Content-Type: application/json\r\n";
        let answer = connection
            .exchange(&request(
                "POST",
                "/api/v1/events",
                "bench",
                head,
                body.as_bytes(),
            ))
            .await?;
        anyhow::ensure!(
            answer.status == 202,
            "a POST was answered {}",
            answer.status
        );
    }
    Ok(())
}

fn impression(rng: &mut crate::simulate::rng::Rng, ads: &[String]) -> Value {
    let now = chrono::Utc::now().timestamp_millis().max(0) as u64;
    let id = uuid::Builder::from_unix_timestamp_millis(now, &rng.ten_bytes()).into_uuid();
    json!({
        "kind": "impression",
        "impression_id": id.to_string(),
        "ad_id": ads[rng.index(ads.len())],
        "user_id": format!("u{}", rng.below(100_000)),
        "creative": "a",
        "geo": "US-NY",
        "device": "desktop",
        "user_agent": "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0",
        "referrer": "https://news.example/",
    })
}
