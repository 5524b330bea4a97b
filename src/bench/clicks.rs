//! Clicks over HTTP as fast as they are answered: durable redirects a second, and how long each took.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::percentile;
use crate::simulate::wire::{Connection, request};

/// What was reached.
#[derive(Clone, Debug)]
pub struct Reached {
    /// Answers of 302 a second.
    pub per_s: f64,
    /// Median and 99th percentile of the time to the answer.
    pub p50: Duration,
    /// Likewise.
    pub p99: Duration,
    /// Other answers and broken connections.
    pub failed: u64,
}

/// Sends clicks on `ad` over `connections` for `time`; at `rate` a second in all, where one is given.
pub async fn run(
    address: SocketAddr,
    ad: &str,
    connections: usize,
    rate: Option<f64>,
    time: Duration,
) -> anyhow::Result<Reached> {
    let ended = Arc::new(AtomicBool::new(false));
    let number = Arc::new(AtomicU64::new(0));
    let began = Instant::now();
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..connections {
        clients.spawn(client(
            address,
            ad.to_string(),
            rate,
            began,
            number.clone(),
            ended.clone(),
        ));
    }
    tokio::time::sleep(time).await;
    ended.store(true, Ordering::Relaxed);
    let (mut times, mut failed) = (Vec::new(), 0);
    for (own, bad) in clients.join_all().await {
        times.extend(own);
        failed += bad;
    }
    let elapsed = began.elapsed().as_secs_f64();
    anyhow::ensure!(!times.is_empty(), "no click was answered with 302");
    times.sort_unstable();
    let (p50, p99) = (percentile(&times, 0.5), percentile(&times, 0.99));
    Ok(Reached {
        per_s: times.len() as f64 / elapsed,
        p50,
        p99,
        failed,
    })
}

async fn client(
    address: SocketAddr,
    ad: String,
    rate: Option<f64>,
    began: Instant,
    number: Arc<AtomicU64>,
    ended: Arc<AtomicBool>,
) -> (Vec<Duration>, u64) {
    let (mut times, mut failed) = (Vec::new(), 0);
    let mut open: Option<Connection> = None;
    while !ended.load(Ordering::Relaxed) {
        let n = number.fetch_add(1, Ordering::Relaxed);
        if let Some(rate) = rate {
            tokio::time::sleep_until((began + Duration::from_secs_f64(n as f64 / rate)).into())
                .await;
        }
        // Another visitor's address for every click, as a proxy would tell it.
        let extra = format!(
            "User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0\r\nX-Forwarded-For: 198.18.{}.{}\r\n",
            (n >> 8) & 255,
            n & 255
        );
        let bytes = request(
            "GET",
            &format!("/click?ad_id={ad}&user_id=u{n}"),
            "bench",
            &extra,
            b"",
        );
        let connection = match open.take() {
            Some(connection) => Ok(connection),
            None => Connection::open(address, None).await,
        };
        let sent = Instant::now();
        let answer = match connection {
            Ok(mut connection) => {
                let answer = connection.exchange(&bytes).await;
                open = answer
                    .as_ref()
                    .is_ok_and(|a| !a.closes)
                    .then_some(connection);
                answer
            }
            Err(error) => Err(error),
        };
        match answer {
            Ok(answer) if answer.status == 302 => times.push(sent.elapsed()),
            _ => failed += 1,
        }
    }
    (times, failed)
}
