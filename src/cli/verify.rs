//! `adtally verify`: the state of a data folder held against its log.
//!
//! The command folds in its own process. Of a running `serve` it asks nothing but checkpoints, so that the service
//! answers throughout; a stopped folder is held meanwhile, and its state is only read.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use indicatif::{ProgressBar, ProgressStyle};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::args::Verify;
use super::folder::{Holder, Scene};
use super::located::located;
use super::output::Output;
use super::{Exit, Usage};
use crate::archive;
use crate::config::{Config, Role};
use crate::frozen::{self, FrozenShard};
use crate::replay::range::Range;
use crate::scratch::Scratch;
use crate::signals;
use crate::simulate::report::grouped;
use crate::table::table;
use crate::telemetry;
use crate::verify::{Job, Progress, Told, Verdict, VerifyError, checkpoints_at, last};

/// Differences that the table shows; JSON holds more.
const TABLE_DIFFERENCES: usize = 40;
/// Days and sections with differences that the table of sums shows.
const TABLE_SUMS: usize = 40;
/// What the bar looks like.
const BAR: &str = "{bar:30} {pos}/{len} messages  {per_sec}, {eta} left";
/// How often it is drawn.
const DRAW_EVERY: Duration = Duration::from_millis(200);

/// Runs `adtally verify`; [`Exit::No`] when the state is not the fold of the log, or something is lost.
pub async fn run(args: &Verify, config: &Config, output: Output) -> anyhow::Result<Exit> {
    let now_ms = chrono::Utc::now().timestamp_millis();
    let to = args.to.as_deref();
    let range = Range::read(&args.from, to, args.shard.is_some(), now_ms).map_err(Usage)?;
    let stop = signals::stop_on_signal();
    let config = &located(config, Role::Projector).await?;
    let scene = Scene::open(config).await?;
    let outcome = verify(&scene, args, range, config, &stop).await;
    scene.deployment.close().await;
    let outcome = outcome?;
    // The whole of what is in use, and not a part of it or of the past.
    if args.shard.is_none()
        && args.to.is_none()
        && !matches!(outcome, Err(VerifyError::Interrupted))
    {
        last::note(&config.data_dir, &outcome).context("noting what was found")?;
    }
    let verdict = outcome?;
    if output.json {
        output.json(&verdict)?;
    } else {
        print(&verdict, output)?;
    }
    Ok(if verdict.equal { Exit::Done } else { Exit::No })
}

async fn verify(
    scene: &Scene,
    args: &Verify,
    range: Range,
    config: &Config,
    stop: &CancellationToken,
) -> anyhow::Result<Result<Verdict, VerifyError>> {
    let shards = scene.shards(args.shard).await?;
    let own = Scratch::make(&config.data_dir)?;
    let other = args.scratch.as_deref().map(Scratch::make_in).transpose()?;
    let frozen = match range.to {
        Some(to) => {
            let made = tokio::task::block_in_place(|| {
                checkpoints_at(&config.data_dir, &shards, to, &own.path().join("compared"))
            });
            match made {
                Ok(frozen) => frozen,
                Err(error) => return Ok(Err(error)),
            }
        }
        None => freeze(scene, &config.data_dir, &shards, own.path()).await?,
    };
    let job = Job {
        client: scene.deployment.client.clone(),
        data_dir: config.data_dir.clone(),
        archive: archive::Place::of(config)?,
        frozen,
        scratch: other.as_ref().unwrap_or(&own).path().to_path_buf(),
        from: range.from,
        retention: config.kept(),
        at_once: std::thread::available_parallelism().map_or(1, usize::from),
        stop: stop.child_token(),
    };
    let (told, progress) = watch::channel(Progress::default());
    let bar = ProgressBar::new(0);
    if let Ok(style) = ProgressStyle::with_template(BAR) {
        bar.set_style(style);
    }
    let running = job.run(told);
    tokio::pin!(running);
    let outcome = loop {
        tokio::select! {
            outcome = &mut running => break outcome,
            () = tokio::time::sleep(DRAW_EVERY) => {
                let progress = *progress.borrow();
                bar.set_length(progress.of);
                bar.set_position(progress.messages);
            }
        }
    };
    bar.finish_and_clear();
    Ok(outcome)
}

/// The state in use at one set of positions.
pub async fn freeze(
    scene: &Scene,
    data_dir: &Path,
    shards: &[u16],
    into: &Path,
) -> anyhow::Result<Vec<FrozenShard>> {
    match scene.holder {
        Holder::Process(process) => {
            let client = &scene.deployment.client;
            frozen::ask(client, data_dir, process, shards, into).await
        }
        Holder::Us { .. } => {
            let frozen = tokio::task::block_in_place(|| frozen::of_stopped(data_dir, shards));
            Ok(frozen?)
        }
    }
}

fn print(verdict: &Verdict, output: Output) -> anyhow::Result<()> {
    shards(verdict, output)?;
    let told: Vec<&Told> = verdict.shards.iter().flat_map(|s| &s.differences).collect();
    if !told.is_empty() {
        sums(&told, output)?;
        differences(&told, output)?;
    }
    if verdict.lost_events > 0 {
        super::producers::print(&verdict.lost, output)?;
    }
    for shard in &verdict.shards {
        notes(shard);
    }
    let more = if verdict.shards.iter().any(|s| s.more_differences) {
        "at least "
    } else {
        ""
    };
    output.line(&match verdict.equal {
        true => {
            "Equal: the state is the fold of the log, and nothing that was announced is missing."
                .into()
        }
        false => format!(
            "NOT EQUAL: {more}{} lines of the state differ from the log's, and {} events are lost.",
            grouped(told.len() as i64),
            grouped(verdict.lost_events as i64)
        ),
    })
}

fn shards(verdict: &Verdict, output: Output) -> anyhow::Result<()> {
    let mut table = table(&[
        "shard", "from", "up to", "log time", "messages", "lines", "differ", "hash",
    ]);
    for shard in &verdict.shards {
        table.add_row([
            shard.shard.to_string(),
            match shard.from_sequence {
                0 => "the beginning".into(),
                sequence => sequence.to_string(),
            },
            shard.sequence.to_string(),
            shard.log_time.clone().unwrap_or_default(),
            grouped(shard.messages as i64),
            grouped(shard.lines as i64),
            grouped(shard.differences.len() as i64),
            shard.live_hash.chars().take(16).collect(),
        ]);
    }
    output.line(&table.to_string())
}

/// How many lines differ by campaign, day and section.
fn sums(told: &[&Told], output: Output) -> anyhow::Result<()> {
    let mut sums: BTreeMap<(&str, &str, &str), u64> = BTreeMap::new();
    for told in told {
        let campaign = told.campaign.as_deref().unwrap_or_default();
        let day = told.day.as_deref().unwrap_or_default();
        *sums.entry((campaign, day, told.section)).or_default() += 1;
    }
    let mut table = table(&["campaign", "day", "section", "lines that differ"]);
    for ((campaign, day, section), lines) in sums.iter().take(TABLE_SUMS) {
        table.add_row([*campaign, *day, *section, &grouped(*lines as i64)]);
    }
    output.line(&table.to_string())?;
    more(sums.len(), TABLE_SUMS, "days and sections");
    Ok(())
}

fn differences(told: &[&Told], output: Output) -> anyhow::Result<()> {
    let mut table = table(&["campaign", "day", "section", "of", "live", "again"]);
    for told in told.iter().take(TABLE_DIFFERENCES) {
        let (live, again) = parted(told.live.as_deref(), told.again.as_deref());
        table.add_row([
            told.campaign.clone().unwrap_or_default(),
            told.day.clone().unwrap_or_default(),
            told.section.to_owned(),
            told.key.clone(),
            live,
            again,
        ]);
    }
    output.line(&table.to_string())?;
    more(told.len(), TABLE_DIFFERENCES, "lines");
    Ok(())
}

fn more(there: usize, shown: usize, what: &str) {
    if there > shown {
        telemetry::say(&format!(
            "{} more {what} differ; --json has up to a thousand of each shard.",
            there - shown
        ));
    }
}

/// What differs of two values: of a printed structure only the fields that do.
fn parted(live: Option<&str>, again: Option<&str>) -> (String, String) {
    let fields = |value: &str| -> Vec<String> {
        let inner = value.split_once('{').map_or(value, |(_, rest)| rest);
        let inner = inner.trim_end().trim_end_matches('}');
        inner.split(", ").map(|f| f.trim().to_owned()).collect()
    };
    let none = || "(none)".to_owned();
    match (live, again) {
        (Some(live), Some(again)) => {
            let (a, b) = (fields(live), fields(again));
            let only = |of: &[String], than: &[String]| -> String {
                let left = of.iter().filter(|f| !than.contains(f));
                left.cloned().collect::<Vec<_>>().join(", ")
            };
            match a.len() == b.len() {
                true => (only(&a, &b), only(&b, &a)),
                false => (live.to_owned(), again.to_owned()),
            }
        }
        (live, again) => (
            live.map_or_else(none, str::to_owned),
            again.map_or_else(none, str::to_owned),
        ),
    }
}

/// What does not decide by itself, on stderr.
fn notes(shard: &crate::verify::ShardVerdict) {
    let stream = adtally_streams::names::events_stream(shard.shard);
    if let Some(last) = shard.stream_ends_at {
        telemetry::say(&format!(
            "{stream} ends at sequence {last}, and the state is folded up to {}.",
            shard.sequence
        ));
    }
    if shard.missing_messages > 0 {
        let named: Vec<String> = shard
            .missing
            .iter()
            .take(10)
            .map(|(a, b)| {
                if a == b {
                    a.to_string()
                } else {
                    format!("{a} to {b}")
                }
            })
            .collect();
        telemetry::say(&format!(
            "{stream} does not hold {} of its sequences: {}{}. Where events were in them and did not come again, the ledger names them as lost.",
            grouped(shard.missing_messages as i64),
            named.join(", "),
            if shard.missing.len() > named.len() {
                ", …"
            } else {
                ""
            }
        ));
    }
    for bad in shard.bad_frames.iter().take(10) {
        telemetry::say(&format!(
            "message {} of {stream} ({}, {}) cannot be read: {}",
            bad.sequence, bad.subject, bad.log_time, bad.error
        ));
    }
    if shard.bad_frames_count > 10 {
        telemetry::say(&format!(
            "{} messages of {stream} cannot be read in all: `adtally events bad` lists them.",
            grouped(shard.bad_frames_count as i64)
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_two_structures_only_the_fields_that_differ_are_shown() {
        let (live, again) = parted(
            Some("Metrics { impressions: 2, clicks: 5, cost: 7 }"),
            Some("Metrics { impressions: 2, clicks: 4, cost: 6 }"),
        );
        assert_eq!(
            (live.as_str(), again.as_str()),
            ("clicks: 5, cost: 7", "clicks: 4, cost: 6")
        );
        let (live, again) = parted(None, Some("Spend { gross: 1 }"));
        assert_eq!(
            (live.as_str(), again.as_str()),
            ("(none)", "Spend { gross: 1 }")
        );
    }
}
