//! `adtally producers resend`: what the log has lost is sent again from the outboxes that still hold it, and looked
//! for afterwards.
//!
//! Doing it twice is harmless: the ledger counts a counter once.

use std::collections::BTreeMap;

use serde::Serialize;

use super::args::Resend;
use super::scene::{Rows, Scene};
use crate::cli::output::Output;
use crate::cli::{Exit, Usage};
use crate::config::Config;
use crate::outbox::Resent;
use crate::producers::Row;
use crate::producers::holders::Holder;
use crate::simulate::report::grouped;
use crate::stretch::{self, Stretch};

/// What one outbox is to send, or has sent.
#[derive(Debug, Serialize)]
struct Part {
    producer: String,
    outbox: String,
    stretches: Vec<Stretch>,
    events: u64,
}

/// What came of it.
#[derive(Debug, Serialize)]
struct Report {
    /// What was asked for, or found to be missing.
    wanted: Vec<Stretch>,
    /// What is sent, or would be.
    sent: Vec<Part>,
    /// In how many frames.
    frames: u64,
    /// What no outbox that could be reached holds any more.
    not_held: Vec<Stretch>,
    /// What of all that was wanted is missing afterwards; with a dry run, what would be.
    missing: Vec<Stretch>,
    dry_run: bool,
}

/// Runs `adtally producers resend`; [`Exit::No`] when something stays missing.
pub async fn run(args: &Resend, config: &Config, output: Output) -> anyhow::Result<Exit> {
    if args.first > args.last {
        return Err(Usage("--first is past --last".into()).into());
    }
    let scene = Scene::open(config).await?;
    let done = resend(args, &scene).await;
    scene.close().await;
    let report = done?;
    print(&report, output)?;
    Ok(if report.missing.is_empty() {
        Exit::Done
    } else {
        Exit::No
    })
}

async fn resend(args: &Resend, scene: &Scene) -> anyhow::Result<Report> {
    let wanted = match explicit(args) {
        Some(stretch) => vec![stretch],
        None => lost(args, &scene.rows(args.log_itself).await?.rows),
    };
    let holders = match wanted.is_empty() {
        true => Vec::new(),
        false => scene.holders(&wanted).await?,
    };
    let plan = plan(&wanted, &holders)?;
    let planned: Vec<Stretch> = plan.iter().flat_map(|(_, s)| s).copied().collect();
    let not_held: Vec<Stretch> = wanted.iter().flat_map(|w| w.without(&planned)).collect();
    let mut report = Report {
        sent: plan
            .iter()
            .map(|(h, stretches)| part(h, stretches))
            .collect(),
        wanted,
        frames: 0,
        missing: not_held.clone(),
        not_held,
        dry_run: args.dry_run,
    };
    if args.dry_run {
        return Ok(report);
    }
    let mut sequences = BTreeMap::new();
    for (holder, stretches) in &plan {
        let told = |resent: &Resent| {
            report.frames += resent.frames;
            for (shard, sequence) in &resent.sequences {
                let greatest = sequences.entry(*shard).or_default();
                *greatest = (*sequence).max(*greatest);
            }
        };
        holder
            .resend(&scene.deployment.client, stretches, told)
            .await?;
    }
    if !report.wanted.is_empty() {
        report.missing = still_missing(args, scene, &report.wanted, &sequences).await?;
    }
    Ok(report)
}

/// The stretch that the command line names, counter by counter.
fn explicit(args: &Resend) -> Option<Stretch> {
    Some(Stretch {
        epoch: args.epoch?,
        shard: args.shard?,
        kind: args.kind?,
        first: args.first?,
        last: args.last?,
    })
}

/// What is lost of what the command line is about.
fn lost(args: &Resend, rows: &[Row]) -> Vec<Stretch> {
    let about = |row: &&Row| {
        args.producer
            .as_ref()
            .is_none_or(|p| p.as_str() == row.producer)
    };
    rows.iter()
        .filter(about)
        .flat_map(Row::lost)
        .filter(|s| args.epoch.is_none_or(|e| e == s.epoch))
        .filter(|s| args.shard.is_none_or(|p| p == s.shard))
        .filter(|s| args.kind.is_none_or(|k| k == s.kind))
        .copied()
        .collect()
}

/// Who sends what: the first outbox that holds it.
fn plan<'h>(
    wanted: &[Stretch],
    holders: &'h [Holder],
) -> anyhow::Result<Vec<(&'h Holder, Vec<Stretch>)>> {
    let (mut plan, mut planned) = (Vec::new(), Vec::new());
    for holder in holders {
        let held = holder.holds(wanted)?;
        let new: Vec<Stretch> = held.iter().flat_map(|h| h.without(&planned)).collect();
        if !new.is_empty() {
            planned.extend(&new);
            plan.push((holder, new));
        }
    }
    Ok(plan)
}

fn part(holder: &Holder, stretches: &[Stretch]) -> Part {
    Part {
        producer: holder.producer().to_string(),
        outbox: holder.name(),
        events: stretch::events(stretches),
        stretches: stretches.to_vec(),
    }
}

/// What of the wanted counters is missing once everything that was sent is folded.
async fn still_missing(
    args: &Resend,
    scene: &Scene,
    wanted: &[Stretch],
    sequences: &BTreeMap<u16, u64>,
) -> anyhow::Result<Vec<Stretch>> {
    let Rows { mut rows, from_log } = scene.rows(args.log_itself).await?;
    if !from_log {
        scene.folded(sequences).await?;
        rows = scene.rows(false).await?.rows;
    }
    let lost: Vec<Stretch> = rows.iter().flat_map(Row::lost).copied().collect();
    // What is wanted and lost is what is wanted without that which is wanted and not lost.
    let missing = wanted.iter().flat_map(|w| {
        let there = w.without(&lost);
        w.without(&there)
    });
    Ok(missing.collect())
}

fn print(report: &Report, output: Output) -> anyhow::Result<()> {
    if output.json {
        return output.json(report);
    }
    if report.wanted.is_empty() {
        return output.line("Nothing is missing.");
    }
    let grouped = |n: u64| grouped(n as i64);
    for part in &report.sent {
        let verb = if report.dry_run { "would send" } else { "sent" };
        output.line(&format!(
            "{} ({}) {verb} {} events:",
            part.producer,
            part.outbox,
            grouped(part.events)
        ))?;
        for stretch in &part.stretches {
            output.line(&format!("  epoch {}: {stretch}", stretch.epoch))?;
        }
    }
    if !report.not_held.is_empty() {
        output.line(&format!(
            "No outbox that could be reached holds {} events any more (sent long ago and evicted, or on a disk that is not here):",
            grouped(stretch::events(&report.not_held))
        ))?;
        for stretch in &report.not_held {
            output.line(&format!("  epoch {}: {stretch}", stretch.epoch))?;
        }
    }
    if report.dry_run {
        return Ok(());
    }
    let missing = stretch::events(&report.missing);
    if missing == 0 {
        return output.line(&format!(
            "Everything that was wanted, {} events, is there now.",
            grouped(stretch::events(&report.wanted))
        ));
    }
    output.line(&format!("{} events stay missing:", grouped(missing)))?;
    for stretch in &report.missing {
        output.line(&format!("  epoch {}: {stretch}", stretch.epoch))?;
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use adtally_streams::event::Kind;
    use adtally_streams::id::Epoch;

    use super::*;

    #[test]
    fn a_range_is_wanted_whether_it_is_missing_or_not_and_needs_its_lane() {
        let mut args = Resend {
            epoch: Some(Epoch(5)),
            shard: Some(2),
            kind: Some(Kind::Click),
            first: Some(7),
            last: Some(9),
            ..Resend::default()
        };
        let stretch = explicit(&args).unwrap();
        assert_eq!(stretch.to_string(), "click 7 to 9 of shard 2");
        assert_eq!(stretch.events(), 3);
        args.kind = None;
        assert_eq!(explicit(&args), None);
    }
}
