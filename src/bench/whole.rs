//! End to end: posted, durable, on the log, folded and visible in a query, in one process with everything on; beside
//! each of its stages alone, in the same run, on the same machine.
//!
//! Alone are: the collector, whose broker takes nothing (streams without room), so that it only answers; shipping,
//! of what that left in the outbox, once the streams have room; and folding, of what that put on the log, by a
//! process that starts with nothing. The whole is then asked the same: as many events as are answered in the same
//! time, until the query says what was sent.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use adtally_streams::names::events_stream;
use anyhow::Context as _;
use async_nats::jetstream;
use serde_json::Value;

use super::Figure;
use super::posting::{self, Posting};
use super::usage::{Usage, by_thread};
use crate::api_client::Api;
use crate::config::{Config, Role};
use crate::log::connect::{NatsOptions, connect};
use crate::log::embedded::NatsServer;
use crate::log::streams::{Limits, ensure};
use crate::runner::Runner;
use crate::simulate::resolve;
use crate::telemetry;

/// Shards of the measured deployment.
const SHARDS: u16 = 8;
/// A stream of this size takes no frame of a batch.
const NO_ROOM_BYTES: u64 = 4_096;
/// Room for everything.
const ROOM_BYTES: i64 = 16 << 30;
/// The part of what is counted before the clock of shipping or folding starts, as one in so many.
const WARM_UP: u64 = 8;
/// How often it is looked whether all is there.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// How long everything may take to be shipped or visible.
const PATIENCE: Duration = Duration::from_secs(120);
/// The part of the reached rate that is then offered steadily.
const STEADY: f64 = 0.8;

/// What the whole reached.
struct Whole {
    events: u64,
    per_s: f64,
    behind: Duration,
    own: Usage,
    broker: Usage,
    threads: BTreeMap<String, Duration>,
    frame_events: f64,
    fsyncs_per_s: f64,
}

/// Measures in a folder of its own.
pub async fn run(folder: &Path, config: &Config, time: Duration) -> anyhow::Result<Vec<Figure>> {
    std::fs::create_dir(folder).with_context(|| format!("making {}", folder.display()))?;
    let posting = Posting::start()?;
    let stages = stages(&folder.join("stages"), config, &posting, time).await?;
    let slowest = stages
        .iter()
        .map(|(_, rate)| *rate)
        .fold(f64::MAX, f64::min);
    let mut figures: Vec<Figure> = stages
        .iter()
        .map(|(name, rate)| Figure {
            name: format!("whole: {name} alone"),
            value: format!("{rate:.0} events/s"),
            yardstick: format!("the slowest stage: {slowest:.0} events/s"),
            ratio: Some(rate / slowest),
        })
        .collect();
    figures.extend(whole(&folder.join("whole"), config, &posting, time, slowest).await?);
    Ok(figures)
}

fn configured(config: &Config, dir: PathBuf, roles: &[Role], url: Option<&str>) -> Config {
    let mut config = config.clone();
    config.data_dir = dir;
    config.listen = SocketAddr::from(([127, 0, 0, 1], 0));
    config.roles = roles.to_vec();
    config.streams.shards = Some(SHARDS);
    config.nats.url = url.map(str::to_owned);
    config
}

/// Each stage alone, by name, in events a second.
async fn stages(
    folder: &Path,
    config: &Config,
    posting: &Posting,
    time: Duration,
) -> anyhow::Result<Vec<(&'static str, f64)>> {
    std::fs::create_dir(folder).with_context(|| format!("making {}", folder.display()))?;
    let server = NatsServer::start(folder).await?;
    let measured = measure_stages(folder, config, posting, time, server.url()).await;
    server.stop().await;
    measured
}

async fn measure_stages(
    folder: &Path,
    config: &Config,
    posting: &Posting,
    time: Duration,
    url: &str,
) -> anyhow::Result<Vec<(&'static str, f64)>> {
    let jetstream = jetstream::new(connect(&NatsOptions::of_url(url), "adtally bench").await?);
    let limits = Limits {
        events_max_bytes: Some(NO_ROOM_BYTES),
        ..Limits::default()
    };
    ensure(&jetstream, Some(SHARDS), &limits).await?;
    posting::publish_catalogue(&jetstream).await?;
    telemetry::say("each stage alone: posting ...");
    let edge = configured(config, folder.join("edge"), &[Role::Collector], Some(url));
    let edge = Runner::start(&edge).await?;
    edge.ready().await?;
    let (address, _) = resolve(&edge.http_url()).await?;
    let posted = posting.post(address, None, time).await?;
    telemetry::say("shipping ...");
    let shipping = shipping_alone(&edge, &jetstream, posted.events).await;
    edge.stop().await;
    telemetry::say("folding ...");
    let roles = [Role::Projector, Role::Api];
    let fold = configured(config, folder.join("fold"), &roles, Some(url));
    let fold = Runner::start(&fold).await?;
    fold.ready().await?;
    let folding = folding_alone(&fold, posted.events).await;
    fold.stop().await;
    Ok(vec![
        ("posted and durable", rate(posted.events, posted.elapsed)),
        ("shipped and acknowledged", shipping?),
        ("read, folded and visible", folding?),
    ])
}

fn rate(events: u64, elapsed: Duration) -> f64 {
    events as f64 / elapsed.as_secs_f64()
}

/// Gives the streams room, and measures how fast the outbox empties.
async fn shipping_alone(
    edge: &Runner,
    jetstream: &jetstream::Context,
    events: u64,
) -> anyhow::Result<f64> {
    let outbox = edge.outbox("collector").await.context("a collector runs")?;
    for shard in 0..SHARDS {
        let mut stream = jetstream.get_stream(events_stream(shard)).await?;
        let mut config = stream.info().await?.config.clone();
        config.max_bytes = ROOM_BYTES;
        jetstream.update_stream(config).await?;
    }
    measured(events, || async {
        Ok(events.saturating_sub(outbox.status().unsent_events))
    })
    .await
}

async fn folding_alone(fold: &Runner, events: u64) -> anyhow::Result<f64> {
    let api = Api::new(&fold.http_url(), None)?;
    measured(events, || counted(&api)).await
}

/// Events a second from the moment at which a part is done until all are.
async fn measured<F: Future<Output = anyhow::Result<u64>>>(
    events: u64,
    mut done: impl FnMut() -> F,
) -> anyhow::Result<f64> {
    let (until, mut began) = (Instant::now() + PATIENCE, None);
    loop {
        let now = done().await?;
        if began.is_none() && now >= events / WARM_UP {
            began = Some((Instant::now(), now));
        }
        if now >= events {
            let (at, before) = began.context("the first part comes before all")?;
            return Ok(rate(events - before, at.elapsed()));
        }
        anyhow::ensure!(
            Instant::now() < until,
            "{now} of {events} events within {} s",
            PATIENCE.as_secs()
        );
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Impressions and clicks of the posted advertiser, as a query counts them.
async fn counted(api: &Api) -> anyhow::Result<u64> {
    let at = |ms: i64| {
        chrono::DateTime::from_timestamp_millis(ms)
            .unwrap_or_default()
            .to_rfc3339()
    };
    let now = chrono::Utc::now().timestamp_millis();
    let (start, end) = (at(now - 3_600_000), at(now + 3_600_000));
    let query = [
        ("advertiser_id", posting::ADVERTISER),
        ("start", start.as_str()),
        ("end", end.as_str()),
        ("granularity", "total"),
    ];
    let answer = api.get("/api/v1/analytics", &query).await?;
    let metric = |name: &str| answer.pointer(name).and_then(Value::as_u64).unwrap_or(0);
    Ok(metric("/totals/impressions")
        + metric("/totals/invalid_impressions")
        + metric("/totals/gross_clicks"))
}

async fn whole(
    folder: &Path,
    config: &Config,
    posting: &Posting,
    time: Duration,
    slowest: f64,
) -> anyhow::Result<Vec<Figure>> {
    telemetry::say("end to end, everything on ...");
    std::fs::create_dir(folder).with_context(|| format!("making {}", folder.display()))?;
    let server = NatsServer::start(folder).await?;
    let config = configured(config, folder.join("data"), &Role::ALL, Some(server.url()));
    let runner = Runner::start(&config).await?;
    let measured = measure_whole(&runner, &server, posting, time, slowest).await;
    runner.stop().await;
    server.stop().await;
    measured
}

async fn measure_whole(
    runner: &Runner,
    server: &NatsServer,
    posting: &Posting,
    time: Duration,
    slowest: f64,
) -> anyhow::Result<Vec<Figure>> {
    runner.ready().await?;
    posting::publish_catalogue(&jetstream::new(runner.client().clone())).await?;
    let api = Api::new(&runner.http_url(), None)?;
    let (address, _) = resolve(api.base()).await?;
    let outbox = runner
        .outbox("collector")
        .await
        .context("a collector runs")?;
    let pid = server.pid().context("the nats-server runs")?;
    let (own, broker, threads) = (Usage::own(), Usage::of(pid), by_thread());
    let began = Instant::now();
    let posted = posting.post(address, None, time).await?;
    let answered = Instant::now();
    until_counted(&api, posted.events).await?;
    let status = outbox.status();
    let reached = Whole {
        events: posted.events,
        per_s: rate(posted.events, began.elapsed()),
        behind: answered.elapsed(),
        own: Usage::own().since(own),
        broker: Usage::of(pid).since(broker),
        threads: by_thread()
            .into_iter()
            .map(|(name, cpu)| {
                let before = threads.get(&name).copied().unwrap_or_default();
                (name, cpu.saturating_sub(before))
            })
            .collect(),
        frame_events: status.framed_events as f64 / status.frames.max(1) as f64,
        fsyncs_per_s: (status.fsyncs + status.frames) as f64 / began.elapsed().as_secs_f64(),
    };
    let offered = reached.per_s * STEADY;
    telemetry::say(&format!("end to end at {offered:.0} events a second ..."));
    let steady = posting.post(address, Some(offered), time).await?;
    let answered = Instant::now();
    until_counted(&api, posted.events + steady.events).await?;
    let behind = answered.elapsed();
    Ok(vec![
        whole_figure(&reached, slowest),
        Figure {
            name: format!("whole: end to end, {offered:.0} events/s offered"),
            value: format!(
                "{:.0} events/s, the last of them visible {:.0} ms after its answer",
                rate(steady.events, steady.elapsed),
                behind.as_secs_f64() * 1e3
            ),
            yardstick: format!("{offered:.0} events/s offered"),
            ratio: Some(rate(steady.events, steady.elapsed) / offered),
        },
    ])
}

fn whole_figure(reached: &Whole, slowest: f64) -> Figure {
    let us = |cpu: &Duration| cpu.as_secs_f64() * 1e6 / reached.events as f64;
    let threads: Vec<String> = reached
        .threads
        .iter()
        .filter(|(_, cpu)| us(cpu) >= 0.05)
        .map(|(name, cpu)| format!("{name} {:.2}", us(cpu)))
        .collect();
    Figure {
        name: "whole: end to end, everything on".to_owned(),
        value: format!(
            "{:.0} events/s answered and visible, the last {:.0} ms after its answer; frames of {:.0} events, {:.0} fsyncs/s; processor us an event: {:.2} here ({}), {:.2} in nats-server; bytes an event written: {:.0} here, {:.0} by nats-server",
            reached.per_s,
            reached.behind.as_secs_f64() * 1e3,
            reached.frame_events,
            reached.fsyncs_per_s,
            reached.own.cpu_us_per(reached.events),
            threads.join(", "),
            reached.broker.cpu_us_per(reached.events),
            reached.own.written_per(reached.events),
            reached.broker.written_per(reached.events),
        ),
        yardstick: format!("the slowest stage alone: {slowest:.0} events/s"),
        ratio: Some(reached.per_s / slowest),
    }
}

async fn until_counted(api: &Api, events: u64) -> anyhow::Result<()> {
    let until = Instant::now() + PATIENCE;
    loop {
        let now = counted(api).await?;
        anyhow::ensure!(
            now <= events,
            "{now} events are counted and {events} were sent"
        );
        if now == events {
            return Ok(());
        }
        anyhow::ensure!(
            Instant::now() < until,
            "{now} of {events} events are visible after {} s",
            PATIENCE.as_secs()
        );
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
