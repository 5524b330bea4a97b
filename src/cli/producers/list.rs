//! `adtally producers list`.

use super::args::List;
use super::scene::{self, Scene};
use crate::cli::Exit;
use crate::cli::output::Output;
use crate::config::Config;
use crate::producers::{Fate, Row};
use crate::simulate::report::grouped;
use crate::telemetry;

/// Gaps that the table names; JSON names more.
const TABLE_GAPS: usize = 40;

/// Runs `adtally producers list`; [`Exit::No`] when something is missing.
pub async fn run(args: &List, config: &Config, output: Output) -> anyhow::Result<Exit> {
    let stopped = match args.log_itself {
        true => None,
        false => tokio::task::block_in_place(|| scene::of_stopped_folder(config))?,
    };
    let mut from_log = false;
    let rows = match stopped {
        Some((mut rows, holders)) => {
            scene::note_holders(&mut rows, &holders)?;
            rows
        }
        None => {
            let scene = Scene::open(config).await?;
            let listed = of_scene(&scene, args.log_itself).await;
            scene.close().await;
            let listed = listed?;
            from_log = listed.from_log;
            listed.rows
        }
    };
    print(&rows, output)?;
    let missing: u64 = rows.iter().map(|r| r.total().missing).sum();
    let what = if from_log { "in the log" } else { "applied" };
    if missing > 0 {
        telemetry::say(&format!(
            "{} events were answered or acknowledged and are not {what}.",
            grouped(missing as i64)
        ));
    }
    Ok(if missing == 0 { Exit::Done } else { Exit::No })
}

async fn of_scene(scene: &Scene, from_log: bool) -> anyhow::Result<scene::Rows> {
    let mut listed = scene.rows(from_log).await?;
    let wanted = scene::gaps(&listed.rows);
    if !wanted.is_empty() {
        let holders = scene.holders(&wanted).await?;
        scene::note_holders(&mut listed.rows, &holders)?;
    }
    Ok(listed)
}

/// Prints rows, and as a table of its own what is missing.
pub fn print(rows: &[Row], output: Output) -> anyhow::Result<()> {
    let header = [
        "producer",
        "epoch",
        "state",
        "through",
        "accepted",
        "acknowledged",
        "applied",
        "lost",
        "refused",
        "on the way",
        "last heard",
    ];
    output.rows(&header, rows, |row| {
        let total = row.total();
        vec![
            row.producer.clone(),
            row.epoch.clone(),
            row.state.name().into(),
            row.through.clone().unwrap_or_default(),
            grouped(total.accepted as i64),
            grouped(total.acknowledged as i64),
            grouped(total.applied as i64),
            grouped(total.missing as i64),
            grouped(total.refused as i64),
            grouped(total.outstanding as i64),
            row.last_seen.clone(),
        ]
    })?;
    let retired = rows.iter().filter_map(|row| {
        let (at, reason) = (row.retired_at.as_ref()?, row.retired_reason.as_ref()?);
        let reason: String = reason.chars().filter(|c| !c.is_control()).collect();
        Some(format!("Epoch {} was retired at {at}: {reason}", row.epoch))
    });
    if output.json {
        return Ok(());
    }
    for line in retired {
        output.line(&line)?;
    }
    print_gaps(rows, output)
}

fn print_gaps(rows: &[Row], output: Output) -> anyhow::Result<()> {
    let gaps: Vec<_> = rows
        .iter()
        .flat_map(|row| row.gaps.iter().map(move |gap| (row, gap)))
        .filter(|(_, gap)| gap.fate == Fate::Lost)
        .collect();
    if gaps.is_empty() {
        return Ok(());
    }
    let header = [
        "lost of",
        "epoch",
        "shard",
        "kind",
        "first",
        "last",
        "events",
        "an outbox holds",
    ];
    let mut table = crate::table::table(&header);
    for (row, gap) in gaps.iter().take(TABLE_GAPS) {
        let held = match gap.healable {
            0 => "none".to_owned(),
            n => format!("{} ({})", grouped(n as i64), gap.held_by.join("; ")),
        };
        table.add_row(vec![
            row.producer.clone(),
            row.epoch.clone(),
            gap.stretch.shard.to_string(),
            gap.stretch.kind.to_string(),
            gap.stretch.first.to_string(),
            gap.stretch.last.to_string(),
            grouped(gap.stretch.events() as i64),
            held,
        ]);
    }
    output.line(&table.to_string())?;
    if gaps.len() > TABLE_GAPS {
        output.line(&format!(
            "and {} more; --json names them",
            gaps.len() - TABLE_GAPS
        ))?;
    }
    Ok(())
}
