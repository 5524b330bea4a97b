//! The first five questions by HTTP, from many clients, while events are folded: what a dashboard's users wait. The two
//! that are large are asked by clients that take gzip too, and for all metrics. Each stands beside a body of as many bytes that
//! is ready, which the same clients ask of the same server in the same way: what is between them is adtally's.
//!
//! The clients have a thread of their own, read an answer to its end, and do nothing with it: what a client makes of ten
//! megabytes, unpacking them included, is not what the server takes.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use axum::Router;
use axum::routing::get;
use bytes::Bytes;

use super::super::posting::{LOAD_THREADS, Posting};
use super::super::{Figure, ms, percentile};
use super::questions::{HOURS, MONTH, Question, YEAR, questions};
use crate::api_client::Api;
use crate::listen::Listener;
use crate::telemetry;

/// Clients that ask at once.
const CLIENTS: usize = 50;
/// Between two questions of one client, a dashboard's refresh.
const ASK_EVERY: Duration = Duration::from_secs(2);
/// How often a question was asked before it is measured: rows are kept from the second time on that they are printed.
const ASKED_BEFORE: usize = 2;
/// How long each is asked at least: the p99 of a hundred answers would be the slowest of them.
const ASK_FOR: Duration = Duration::from_secs(12);
/// Events a second meanwhile.
const EVENTS_PER_S: f64 = 10_000.0;

/// The questions with large answers.
const LARGE: [&str; 2] = [HOURS, YEAR];

/// Measures each of the five by itself for `time`, and no shorter than [`ASK_FOR`].
pub async fn run(
    api: &Api,
    address: SocketAddr,
    end_s: i64,
    time: Duration,
) -> anyhow::Result<Vec<Figure>> {
    let time = time.max(ASK_FOR);
    let load = Load::start(address)?;
    let mut figures = Vec::new();
    for (question, takes) in asked(end_s) {
        let all = question.all_metrics.then_some("all sixteen metrics");
        let what: Vec<&str> = [Some(question.name), all, takes]
            .into_iter()
            .flatten()
            .collect();
        let what = what.join(", ");
        telemetry::say(&format!(
            "{what} by HTTP, {CLIENTS} clients, {EVENTS_PER_S} events/s ..."
        ));
        for _ in 0..ASKED_BEFORE {
            api.get_end(&question.path(), takes).await?;
        }
        let answers = load.ask(api.base(), &question.path(), takes, time).await?;
        let ready = ready(answers.bytes).await?;
        let bodies = load.ask(&ready.url(), "/", None, time).await?;
        ready.close().await;
        figures.push(Figure {
            name: format!("queries: {what} by HTTP, {CLIENTS} clients"),
            value: format!(
                "{}, {} answers of {:.0} kB, while {:.0} events/s were answered",
                answers.told(),
                answers.waited.len(),
                answers.bytes as f64 / 1e3,
                answers.events_per_s
            ),
            yardstick: format!("a body of as many bytes that is ready {}", bodies.told()),
            ratio: Some(ms(answers.at(0.99)) / ms(bodies.at(0.99))),
        });
    }
    Ok(figures)
}

/// The questions, and what the clients say that they take.
fn asked(end_s: i64) -> Vec<(Question, Option<&'static str>)> {
    let all = questions(end_s);
    let five = all.iter().filter(|question| question.name != MONTH).take(5);
    let large = || all.iter().filter(|question| LARGE.contains(&question.name));
    let mut asked: Vec<_> = five.map(|question| (question.clone(), None)).collect();
    asked.extend(large().map(|question| (question.clone(), Some("gzip"))));
    for takes in [None, Some("gzip")] {
        asked.extend(large().map(|question| (question.with_all_metrics(), takes)));
    }
    asked
}

/// A server of the same kind with one body that is ready.
async fn ready(bytes: usize) -> anyhow::Result<Listener> {
    let body = Bytes::from(vec![b'x'; bytes]);
    let listener = Listener::bind(SocketAddr::from(([127, 0, 0, 1], 0)), 2 * CLIENTS).await?;
    listener.serve(Router::new().route("/", get(move || async { body })), None);
    Ok(listener)
}

/// What the clients got.
struct Asked {
    /// How long each question took, ascending.
    waited: Vec<Duration>,
    /// Bytes of an answer.
    bytes: usize,
    events_per_s: f64,
}

impl Asked {
    fn at(&self, share: f64) -> Duration {
        percentile(&self.waited, share)
    }

    fn told(&self) -> String {
        let (half, most) = (ms(self.at(0.5)), ms(self.at(0.99)));
        format!("p50 {half:.1} ms, p99 {most:.1} ms")
    }
}

/// Who asks, and who posts meanwhile.
struct Load {
    posting: Posting,
    events_to: SocketAddr,
    asking: Option<tokio::runtime::Runtime>,
}

impl Load {
    fn start(events_to: SocketAddr) -> anyhow::Result<Self> {
        let asking = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name(LOAD_THREADS)
            .enable_all()
            .build()?;
        Ok(Self {
            posting: Posting::start()?,
            events_to,
            asking: Some(asking),
        })
    }

    /// Asks as the clients do for `time`, while events are posted.
    async fn ask(
        &self,
        base: &str,
        path: &str,
        takes: Option<&'static str>,
        time: Duration,
    ) -> anyhow::Result<Asked> {
        let runtime = self.asking.as_ref().context("the clients' thread runs")?;
        let question = (path.to_owned(), takes);
        let asking = runtime.spawn(clients(Api::new(base, None)?, question, time));
        let posting = self.posting.post(self.events_to, Some(EVENTS_PER_S), time);
        let (posted, asked) = tokio::join!(posting, asking);
        let (posted, (mut waited, bytes)) = (posted?, asked??);
        waited.sort_unstable();
        Ok(Asked {
            waited,
            bytes,
            events_per_s: posted.events as f64 / posted.elapsed.as_secs_f64(),
        })
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        // A runtime may not be dropped where it would have to wait.
        if let Some(runtime) = self.asking.take() {
            runtime.shutdown_background();
        }
    }
}

/// How long each of the clients' questions took, and the bytes of an answer.
async fn clients(
    api: Api,
    (path, takes): (String, Option<&'static str>),
    time: Duration,
) -> anyhow::Result<(Vec<Duration>, usize)> {
    let began = Instant::now();
    let mut asking = tokio::task::JoinSet::new();
    for client in 0..CLIENTS {
        let (api, path) = (api.clone(), path.clone());
        asking.spawn(async move {
            // Not all at the same instant.
            tokio::time::sleep(ASK_EVERY * client as u32 / CLIENTS as u32).await;
            let (mut waited, mut bytes) = (Vec::new(), 0);
            while began.elapsed() < time {
                let asked = Instant::now();
                bytes = api.get_end(&path, takes).await?.bytes;
                waited.push(asked.elapsed());
                tokio::time::sleep(ASK_EVERY.saturating_sub(asked.elapsed())).await;
            }
            anyhow::Ok((waited, bytes))
        });
    }
    let (mut all, mut bytes) = (Vec::new(), 0);
    while let Some(asked) = asking.join_next().await {
        let (waited, size) = asked??;
        all.extend(waited);
        bytes = size;
    }
    Ok((all, bytes))
}
