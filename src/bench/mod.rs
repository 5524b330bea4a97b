//! `adtally bench`: the figures of the walking path, each beside its yardstick from the same run.
//!
//! Load, server, broker and disk are one machine here, so a ratio says more than its parts: it stays when the
//! machine changes.

mod archive;
mod clicks;
mod events;
mod fold;
mod frames;
mod freshness;
mod fsync;
mod growth;
mod mixed;
mod posting;
mod posts;
mod queries;
mod redirects;
mod replay;
mod shipping;
mod usage;
mod whole;
mod wrk;
mod yardsticks;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use crate::api_client::Api;
use crate::config::Config;
use crate::runner::Runner;
use crate::simulate::sample::Sample;
use crate::simulate::{Run, Way, resolve};
use crate::{signals, telemetry};

/// Clients of the durable clicks, as in the measurements of the design.
const CLIENTS: [usize; 2] = [64, 256];
/// Clicks a second while freshness is measured.
const FRESHNESS_RATE: f64 = 10_000.0;
/// Events a second at which frames are measured.
const FRAME_RATES: [f64; 3] = [100.0, 2_000.0, 50_000.0];

/// One figure beside its yardstick.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Figure {
    /// What was measured.
    pub name: String,
    /// The figure.
    pub value: String,
    /// What it is held against.
    pub yardstick: String,
    /// The figure as a part of the yardstick, where that means something.
    pub ratio: Option<f64>,
}

/// What is measured, for how long.
#[derive(Clone, Debug)]
pub struct Options {
    /// Time of each figure.
    pub time: Duration,
    /// Only the groups whose name contains this.
    pub only: Option<String>,
    /// Events of each measured fold.
    pub events: Vec<u64>,
    /// Shards at which growth is measured, each with each number of events.
    pub shards: Vec<u16>,
}

impl Options {
    fn wants(&self, group: &str) -> bool {
        self.only
            .as_ref()
            .is_none_or(|only| group.contains(only.as_str()))
    }
}

/// Measures everything in a folder that is gone afterwards.
pub async fn run(options: &Options, config: &Config) -> anyhow::Result<Vec<Figure>> {
    let folder = PathBuf::from(format!("adtally-bench-{}", std::process::id()));
    std::fs::create_dir(&folder).with_context(|| format!("making {} here", folder.display()))?;
    let stop = signals::stop_on_signal();
    let figures = tokio::select! {
        figures = all(options, config, &folder) => figures,
        // What is dropped here ends the nats-servers that were started.
        () = stop.cancelled() => Err(anyhow::anyhow!("the benchmark was interrupted")),
    };
    std::fs::remove_dir_all(&folder).with_context(|| format!("removing {}", folder.display()))?;
    figures
}

async fn all(options: &Options, config: &Config, folder: &Path) -> anyhow::Result<Vec<Figure>> {
    // Takes minutes, so only by name.
    if options.only.as_deref() == Some("growth") {
        return growth::run(folder, &options.shards, &options.events).await;
    }
    if options.only.as_deref() == Some("queries") {
        let events = options.events.first().copied().unwrap_or_default();
        return queries::run(&folder.join("queries"), config, events, options.time).await;
    }
    let mut figures = Vec::new();
    if options.wants("fold") {
        for events in &options.events {
            figures.extend(fold::run(folder, *events).await?);
        }
    }
    if options.wants("archive") {
        for events in &options.events {
            figures.extend(archive::run(*events).await?);
        }
    }
    if options.wants("replay") {
        for events in &options.events {
            figures.extend(replay::run(&folder.join(format!("replay-{events}")), *events).await?);
        }
    }
    if options.wants("shipping") {
        figures.extend(shipping::run(&folder.join("shipping")).await?);
    }
    if options.wants("redirects") {
        figures.extend(redirects::run(&folder.join("redirects"), config, options.time).await?);
    }
    if options.wants("posts") {
        figures.extend(posts::run(&folder.join("posts"), config, options.time).await?);
    }
    if options.wants("whole") {
        figures.extend(whole::run(&folder.join("whole"), config, options.time).await?);
    }
    if ["clicks", "freshness", "frames"]
        .iter()
        .any(|group| options.wants(group))
    {
        let mut config = config.clone();
        config.data_dir = folder.join("data");
        config.listen = SocketAddr::from(([127, 0, 0, 1], 0));
        config.collector.trusted_proxies =
            vec!["127.0.0.0/8".parse().context("the loopback network")?];
        let runner = Runner::start(&config).await?;
        let measured = served(options, &runner, folder).await;
        runner.stop().await;
        figures.extend(measured?);
    }
    Ok(figures)
}

/// The figures that need a running deployment.
async fn served(options: &Options, runner: &Runner, folder: &Path) -> anyhow::Result<Vec<Figure>> {
    runner.ready().await?;
    let api = Api::new(&runner.http_url(), None)?;
    let (address, _) = resolve(api.base()).await?;
    let mut run = Run::new(api.clone(), Way::Http, 1, String::new(), 1);
    run.prepare()
        .await
        .context("applying the sample catalogue")?;
    let sample = run.sample.clone();
    let mut figures = Vec::new();
    if options.wants("clicks") {
        figures.extend(durable_clicks(options, address, &sample, folder).await?);
    }
    if options.wants("freshness") {
        figures.push(fresh(options, &api, address, &sample).await?);
    }
    if options.wants("frames") {
        let ads: Vec<String> = sample.ads.iter().map(|ad| ad.ad_id.clone()).collect();
        for rate in FRAME_RATES {
            telemetry::say(&format!("frames at {rate} events a second ..."));
            let status = runner
                .outbox("collector")
                .await
                .context("this process has a collector")?;
            let reached =
                frames::run(address, &ads, rate, options.time, || status.status()).await?;
            figures.push(frame_figure(&reached));
        }
    }
    Ok(figures)
}

async fn durable_clicks(
    options: &Options,
    address: SocketAddr,
    sample: &Sample,
    folder: &Path,
) -> anyhow::Result<Vec<Figure>> {
    let mut figures = Vec::new();
    for clients in CLIENTS {
        telemetry::say(&format!("durable redirects with {clients} clients ..."));
        let raw = fsync::group_commit(folder, clients, options.time).await?;
        let reached =
            clicks::run(address, &sample.ads[0].ad_id, clients, None, options.time).await?;
        figures.push(Figure {
            name: format!("clicks: durable 302, {clients} clients"),
            value: format!(
                "{:.0}/s, p50 {:.1} ms, p99 {:.1} ms, {} failed",
                reached.per_s,
                ms(reached.p50),
                ms(reached.p99),
                reached.failed
            ),
            yardstick: format!(
                "group-committed records {:.0}/s ({:.0} fsyncs/s)",
                raw.records_per_s, raw.fsyncs_per_s
            ),
            ratio: Some(reached.per_s / raw.records_per_s),
        });
    }
    Ok(figures)
}

async fn fresh(
    options: &Options,
    api: &Api,
    address: SocketAddr,
    sample: &Sample,
) -> anyhow::Result<Figure> {
    telemetry::say(&format!(
        "freshness at {FRESHNESS_RATE} clicks a second ..."
    ));
    let loaded = &sample.ads[0].ad_id;
    let probed: Vec<String> = sample.ads[20..20 + freshness::PROBERS]
        .iter()
        .map(|ad| ad.ad_id.clone())
        .collect();
    let load = clicks::run(
        address,
        loaded,
        CLIENTS[0],
        Some(FRESHNESS_RATE),
        options.time,
    );
    let probes = freshness::run(api, address, &probed, options.time);
    let (load, probes) = tokio::join!(load, probes);
    let (load, probes) = (load?, probes?);
    Ok(Figure {
        name: format!("freshness: click to query at {:.0} clicks/s", load.per_s),
        value: format!(
            "p50 {:.1} ms, p99 {:.1} ms, at most {:.1} ms, of {} probes",
            ms(probes.p50),
            ms(probes.p99),
            ms(probes.most),
            probes.probes
        ),
        yardstick: format!("one query p50 {:.1} ms", ms(probes.query_p50)),
        ratio: Some(ms(probes.p50) / ms(probes.query_p50).max(0.001)),
    })
}

fn frame_figure(reached: &frames::Reached) -> Figure {
    Figure {
        name: format!("frames: at {:.0} events/s", reached.asked_per_s),
        value: format!(
            "{:.0}/s, {:.3} fsyncs an event, {:.1} events a frame, {:.0} bytes an event",
            reached.per_s,
            reached.fsyncs_per_event,
            reached.events_per_frame,
            reached.bytes_per_event
        ),
        yardstick: format!("{:.0}/s asked for", reached.asked_per_s),
        ratio: Some(reached.per_s / reached.asked_per_s),
    }
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1_000.0
}

/// The value below which that share of a sorted list lies.
fn percentile(sorted: &[Duration], share: f64) -> Duration {
    let at = (sorted.len().saturating_sub(1)) as f64 * share;
    sorted.get(at as usize).copied().unwrap_or_default()
}
