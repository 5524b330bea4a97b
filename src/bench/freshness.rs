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

/// Probes at once, each with an ad of its own on which nothing else clicks.
pub const PROBERS: usize = 8;
/// Between two probes of one prober.
const PROBE_EVERY: Duration = Duration::from_millis(20);
/// Between two questions of one probe: what a figure may be too large by.
const ASK_EVERY: Duration = Duration::from_millis(5);
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
    /// The longest.
    pub most: Duration,
    /// Median of one query.
    pub query_p50: Duration,
}

/// Probes `ads`, each by a prober of its own, for `time`: in ten seconds a thousand probes and more, so that a 99th
/// percentile means something. Nothing else may click on them.
pub async fn run(
    api: &Api,
    address: SocketAddr,
    ads: &[String],
    time: Duration,
) -> anyhow::Result<Reached> {
    let began = Instant::now();
    let mut probing = tokio::task::JoinSet::new();
    for (number, ad) in ads.iter().enumerate() {
        let (api, ad) = (api.clone(), ad.clone());
        probing.spawn(async move {
            let mut prober = Prober::open(api, address, ad, number).await?;
            while began.elapsed() < time {
                prober.probe().await?;
                tokio::time::sleep(PROBE_EVERY).await;
            }
            anyhow::Ok((prober.seen, prober.queries))
        });
    }
    let (mut seen, mut queries) = (Vec::new(), Vec::new());
    while let Some(probed) = probing.join_next().await {
        let (own, asked) = probed??;
        seen.extend(own);
        queries.extend(asked);
    }
    seen.sort_unstable();
    queries.sort_unstable();
    Ok(Reached {
        probes: seen.len(),
        p50: percentile(&seen, 0.5),
        p99: percentile(&seen, 0.99),
        most: seen.last().copied().unwrap_or_default(),
        query_p50: percentile(&queries, 0.5),
    })
}

/// Clicks on one ad and asks until the click is counted.
struct Prober {
    api: Api,
    connection: Connection,
    ad: String,
    number: usize,
    /// From each click's answer to the query that counted it.
    seen: Vec<Duration>,
    /// How long each query took.
    queries: Vec<Duration>,
}

impl Prober {
    async fn open(
        api: Api,
        address: SocketAddr,
        ad: String,
        number: usize,
    ) -> anyhow::Result<Self> {
        Ok(Self {
            api,
            connection: Connection::open(address, None).await?,
            ad,
            number,
            seen: Vec::new(),
            queries: Vec::new(),
        })
    }

    async fn probe(&mut self) -> anyhow::Result<()> {
        let n = self.seen.len() as i64 + 1;
        let visitor = format!(
            "{BROWSER}X-Forwarded-For: 198.19.{}.{}\r\n",
            ((self.number as i64) << 4) | ((n >> 8) & 15),
            n & 255
        );
        let path = format!("/click?ad_id={}", self.ad);
        let click = request("GET", &path, "bench", &visitor, b"");
        let answer = self.connection.exchange(&click).await?;
        anyhow::ensure!(
            answer.status == 302,
            "a probe was answered {}",
            answer.status
        );
        let answered = Instant::now();
        loop {
            let asked = Instant::now();
            let counted = clicks_of(&self.api, &self.ad).await?;
            self.queries.push(asked.elapsed());
            if counted >= n {
                break;
            }
            anyhow::ensure!(
                answered.elapsed() < PATIENCE,
                "a click was not counted within {} s",
                PATIENCE.as_secs()
            );
            tokio::time::sleep(ASK_EVERY).await;
        }
        self.seen.push(answered.elapsed());
        Ok(())
    }
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
