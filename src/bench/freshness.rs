//! Freshness: from the answer to a click until a query counts it, while other clicks come at a steady rate.
//!
//! The yardstick is the query itself: a click cannot be seen sooner than an answer takes.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use serde_json::Value;

use super::percentile;
use crate::api_client::Api;
use crate::simulate::wire::{Connection, request};

/// Between two probes.
const PROBE_EVERY: Duration = Duration::from_millis(50);
/// How long one probe may stay uncounted before the figure is given up.
const PATIENCE: Duration = Duration::from_secs(10);
/// The probes' browser: one that no list of crawlers holds.
const BROWSER: &str =
    "User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0\r\n";

/// What was measured.
#[derive(Clone, Debug)]
pub struct Reached {
    /// How many probes.
    pub probes: usize,
    /// Median from the click's answer to the first query that counts it.
    pub p50: Duration,
    /// 99th percentile.
    pub p99: Duration,
    /// Median of one query.
    pub query_p50: Duration,
}

/// Probes `ad`, on which nothing else clicks, for `time`.
pub async fn run(
    api: &Api,
    address: SocketAddr,
    ad: &str,
    time: Duration,
) -> anyhow::Result<Reached> {
    let began = Instant::now();
    let mut connection = Connection::open(address, None).await?;
    let (mut seen, mut queries) = (Vec::new(), Vec::new());
    while began.elapsed() < time {
        let n = seen.len() as i64 + 1;
        let visitor = format!(
            "{BROWSER}X-Forwarded-For: 198.19.{}.{}\r\n",
            (n >> 8) & 255,
            n & 255
        );
        let click = request("GET", &format!("/click?ad_id={ad}"), "bench", &visitor, b"");
        let answer = connection.exchange(&click).await?;
        anyhow::ensure!(
            answer.status == 302,
            "a probe was answered {}",
            answer.status
        );
        let answered = Instant::now();
        loop {
            let asked = Instant::now();
            let counted = clicks_of(api, ad).await?;
            queries.push(asked.elapsed());
            if counted >= n {
                break;
            }
            anyhow::ensure!(
                answered.elapsed() < PATIENCE,
                "a click was not counted within {} s",
                PATIENCE.as_secs()
            );
        }
        seen.push(answered.elapsed());
        tokio::time::sleep(PROBE_EVERY).await;
    }
    seen.sort_unstable();
    queries.sort_unstable();
    Ok(Reached {
        probes: seen.len(),
        p50: percentile(&seen, 0.5),
        p99: percentile(&seen, 0.99),
        query_p50: percentile(&queries, 0.5),
    })
}

async fn clicks_of(api: &Api, ad: &str) -> anyhow::Result<i64> {
    let at = |ms: i64| {
        DateTime::from_timestamp_millis(ms)
            .unwrap_or_default()
            .to_rfc3339()
    };
    let now = Utc::now().timestamp_millis();
    let (start, end) = (at(now - 3_600_000), at(now + 3_600_000));
    let query = [
        ("ad_id", ad),
        ("start", start.as_str()),
        ("end", end.as_str()),
        ("granularity", "total"),
    ];
    let answer = api.get("/api/v1/analytics", &query).await?;
    Ok(answer
        .pointer("/totals/gross_clicks")
        .and_then(Value::as_i64)
        .unwrap_or_default())
}
