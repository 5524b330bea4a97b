//! POSTed batches that are durable when they are answered, by the size of the batch and the form of the body.
//!
//! The collector alone, with a broker that takes what comes; the load's own processor time is told apart, since it
//! has the same cores.

use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;

use super::posting::{Form, LOAD_THREADS, Posting};
use super::usage::by_thread;
use super::{Figure, fsync, redirects};
use crate::config::Config;
use crate::runner::Runner;
use crate::simulate::resolve;
use crate::telemetry;

/// Events of a batch.
const BATCHES: [usize; 3] = [100, 1_000, 10_000];
/// Clients of the yardstick: as many as the load has connections.
const CLIENTS: usize = 16;

/// Measures in a folder of its own.
pub async fn run(folder: &Path, config: &Config, time: Duration) -> anyhow::Result<Vec<Figure>> {
    std::fs::create_dir(folder).with_context(|| format!("making {}", folder.display()))?;
    let collector = redirects::Alone::start(folder, config).await?;
    let posting = Posting::start()?;
    let measured = measure(folder, &collector.runner, &posting, time).await;
    collector.stop().await;
    measured
}

async fn measure(
    folder: &Path,
    runner: &Runner,
    posting: &Posting,
    time: Duration,
) -> anyhow::Result<Vec<Figure>> {
    let (address, _) = resolve(&runner.http_url()).await?;
    let mut figures = Vec::new();
    for (form, what) in [(Form::Array, "JSON arrays"), (Form::Lines, "NDJSON")] {
        for batch in BATCHES {
            telemetry::say(&format!("POSTs of {batch} events as {what} ..."));
            let raw = fsync::group_commit(folder, CLIENTS, time).await?;
            let before = by_thread();
            let answered = posting
                .post_batches(address, (batch, form), None, time)
                .await?;
            let after = by_thread();
            let spent = |is_load: bool| -> f64 {
                let used = after
                    .iter()
                    .filter(|(name, _)| (*name == LOAD_THREADS) == is_load);
                let used: Duration = used
                    .map(|(name, cpu)| {
                        cpu.saturating_sub(before.get(name).copied().unwrap_or_default())
                    })
                    .sum();
                used.as_secs_f64() * 1e6 / answered.events.max(1) as f64
            };
            let per_s = answered.events as f64 / answered.elapsed.as_secs_f64();
            figures.push(Figure {
                name: format!("posts: durable events, {what} of {batch}"),
                value: format!(
                    "{per_s:.0} events/s; {:.2} us of processor an event, and {:.2} us of the load's",
                    spent(false),
                    spent(true)
                ),
                yardstick: format!(
                    "group-committed records {:.0}/s from {CLIENTS} clients ({:.0} fsyncs/s)",
                    raw.records_per_s, raw.fsyncs_per_s
                ),
                ratio: None,
            });
        }
    }
    Ok(figures)
}
