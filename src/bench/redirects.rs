//! Durable redirects of a collector beside nginx's `return 302`: the same client, the same cores, in turn.
//!
//! nginx parses the same requests and writes nothing anywhere: the ratio is what it costs that a click is decided
//! about, on disk before it is answered, and on its way to the broker.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use async_nats::jetstream;

use super::usage::Usage;
use super::wrk::{Nginx, Programs, Reached, cpu_us_each};
use super::{Figure, posting};
use crate::config::{Config, Role};
use crate::log::connect::{NatsOptions, connect};
use crate::log::embedded::NatsServer;
use crate::log::streams::{Limits, ensure};
use crate::runner::Runner;
use crate::simulate::resolve;
use crate::telemetry;

/// Connections.
const CONNECTIONS: [usize; 4] = [64, 256, 512, 1_024];
/// The connections at which half of the reached load is offered steadily.
const STEADY_CONNECTIONS: usize = 256;
/// Ads that are clicked on.
const ADS: usize = 64;
/// Each server's turns, in alternation; the medians are compared.
const ROUNDS: usize = 3;
/// What to do where a program is missing.
const ADVICE: &str =
    "install them (Debian, Ubuntu: apt install nginx-light wrk) for the figures beside nginx";

/// Measures in a folder of its own; no figure where a program is missing.
pub async fn run(folder: &Path, config: &Config, time: Duration) -> anyhow::Result<Vec<Figure>> {
    let programs = match Programs::find() {
        Ok(programs) => programs,
        Err(missing) => {
            telemetry::say(&format!(
                "redirects beside nginx are left out: {missing}; {ADVICE}"
            ));
            return Ok(Vec::new());
        }
    };
    std::fs::create_dir(folder).with_context(|| format!("making {}", folder.display()))?;
    let nginx = programs.nginx(&folder.join("nginx"))?;
    let collector = Alone::start(folder, config).await?;
    let measured = measure(&programs, &nginx, folder, &collector, time).await;
    collector.stop().await;
    measured
}

/// A process with the role collector only, and its broker, which syncs every write.
pub struct Alone {
    /// The process.
    pub runner: Runner,
    server: NatsServer,
}

impl Alone {
    /// Starts both in a folder, with the catalogue of the measured load.
    pub async fn start(folder: &Path, config: &Config) -> anyhow::Result<Self> {
        let server = NatsServer::start(&folder.join("broker")).await?;
        let client = connect(&NatsOptions::of_url(server.url()), "adtally bench").await?;
        let jetstream = jetstream::new(client);
        ensure(&jetstream, config.streams.shards, &Limits::default()).await?;
        posting::publish_catalogue(&jetstream).await?;
        let mut config = config.clone();
        config.data_dir = folder.join("collector");
        config.listen = SocketAddr::from(([127, 0, 0, 1], 0));
        config.roles = vec![Role::Collector];
        config.nats.url = Some(server.url().to_owned());
        // Every click of the load is another visitor's, as a proxy would tell it.
        config.collector.trusted_proxies =
            vec!["127.0.0.0/8".parse().context("the loopback network")?];
        let runner = Runner::start(&config).await?;
        runner.ready().await?;
        Ok(Self { runner, server })
    }

    /// Ends both.
    pub async fn stop(self) {
        self.runner.stop().await;
        self.server.stop().await;
    }
}

async fn measure(
    programs: &Programs,
    nginx: &Nginx,
    folder: &Path,
    collector: &Alone,
    time: Duration,
) -> anyhow::Result<Vec<Figure>> {
    let outbox = collector
        .runner
        .outbox("collector")
        .await
        .context("this process has a collector")?;
    let (collector, _) = resolve(&collector.runner.http_url()).await?;
    let ads: Vec<String> = (0..ADS).map(posting::ad_id).collect();
    let turn = |address: SocketAddr, connections, wait| {
        tokio::task::block_in_place(|| programs.run(folder, address, &ads, connections, wait, time))
    };
    let (mut figures, mut reached_per_s) = (Vec::new(), 0.0);
    for connections in CONNECTIONS {
        telemetry::say(&format!(
            "redirects of nginx and a collector, {connections} connections ..."
        ));
        let (mut theirs, mut ours, mut groups, mut cpu) = (Vec::new(), Vec::new(), 0.0, 0.0);
        for _ in 0..ROUNDS {
            theirs.push(turn(nginx.address, connections, Duration::ZERO)?);
            let (before, used) = (outbox.status(), Usage::own());
            let reached = turn(collector, connections, Duration::ZERO)?;
            let after = outbox.status();
            cpu = cpu_us_each(used, reached, time);
            let fsyncs = (after.fsyncs - before.fsyncs).max(1) as f64;
            groups = (after.accepted_events - before.accepted_events) as f64 / fsyncs;
            ours.push(reached);
        }
        let (theirs, ours) = (median(theirs), median(ours));
        if connections == STEADY_CONNECTIONS {
            reached_per_s = ours.per_s;
        }
        let extra = format!("{groups:.0} events an fsync, {cpu:.1} us of processor each");
        figures.push(figure(
            format!("{connections} connections"),
            &ours,
            &theirs,
            &extra,
        ));
    }
    telemetry::say("redirects at half of that load ...");
    let wait_ms = STEADY_CONNECTIONS as f64 * 1_000.0 / (reached_per_s / 2.0);
    let wait = Duration::from_millis(wait_ms.round().max(1.0) as u64);
    let theirs = turn(nginx.address, STEADY_CONNECTIONS, wait)?;
    let ours = turn(collector, STEADY_CONNECTIONS, wait)?;
    figures.push(figure(
        "half load".to_owned(),
        &ours,
        &theirs,
        "offered steadily",
    ));
    Ok(figures)
}

fn figure(what: String, ours: &Reached, theirs: &Reached, extra: &str) -> Figure {
    let told = |reached: &Reached| {
        format!(
            "{:.0}/s, p50 {:.1} ms, p99 {:.1} ms",
            reached.per_s, reached.p50_ms, reached.p99_ms
        )
    };
    Figure {
        name: format!("redirects: durable 302, {what}"),
        value: format!("{}, {} failed, {extra}", told(ours), ours.failed),
        yardstick: format!("nginx return 302: {}", told(theirs)),
        ratio: Some(ours.per_s / theirs.per_s),
    }
}

/// The turn of the median rate.
fn median(mut turns: Vec<Reached>) -> Reached {
    turns.sort_by(|a, b| a.per_s.total_cmp(&b.per_s));
    turns[turns.len() / 2]
}
