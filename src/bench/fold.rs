//! The fold beside its yardsticks: the bare decode of the same frames, and what DuckDB and ClickHouse take for the
//! same cells of the same events.
//!
//! Invariant: a yardstick counts only when its cells are ours: their number, events, squares and cost, grain by
//! grain. If they differ, one of the two is wrong, and the benchmark fails.

use std::io::{BufWriter, Write};
use std::path::Path;

use adtally_streams::event::Kind;
use anyhow::Context as _;
use serde::Deserialize;

use super::Figure;
use super::yardsticks::Program;
use crate::projector::figures::{self, FoldFigures, Load, Stored, Traffic};
use crate::telemetry;

/// Events of a frame of the measured fold: full ones, and those that load makes.
const FRAMES: [u32; 2] = [1_024, 256];

/// Measures folds of `events` events in full frames, and of a quarter of them in small ones.
pub async fn run(folder: &Path, events: u64) -> anyhow::Result<Vec<Figure>> {
    let mut all = Vec::new();
    for kind in [Kind::Impression, Kind::Click] {
        for frame_events in FRAMES {
            let full = frame_events == FRAMES[0];
            let load = Load {
                kind,
                events: if full { events } else { (events / 4).max(1) },
                frame_events,
                seed: 1,
            };
            telemetry::say(&format!(
                "folding {} {kind}s in frames of {frame_events} ...",
                load.events
            ));
            let place = folder.join(format!("fold-{kind}-{frame_events}"));
            let at = place.clone();
            let reached =
                tokio::task::spawn_blocking(move || figures::measure(&at, load)).await??;
            std::fs::remove_dir_all(&place)
                .with_context(|| format!("removing {}", place.display()))?;
            all.extend(fold_figures(&reached));
            if full {
                let others = tokio::task::spawn_blocking(move || yardsticks(&place, load));
                all.extend(held_against(&reached, &others.await??)?);
            }
        }
    }
    Ok(all)
}

fn fold_figures(reached: &FoldFigures) -> Vec<Figure> {
    let load = reached.load;
    let events = load.events as f64;
    let [decode, read, compute, write] = {
        let p = reached.parts;
        [p.decode, p.read, p.compute, p.write]
            .map(|part| 100.0 * part.as_secs_f64() / reached.passed.as_secs_f64())
    };
    let name = format!("fold: {}s, frames of {}", load.kind, load.frame_events);
    let written = reached
        .written_bytes
        .map(|bytes| format!(", {:.0} bytes written an event", bytes as f64 / events))
        .unwrap_or_default();
    let [minutes, hours, days] = reached.stored.grains.map(|g| g.cells as f64 / 1e6);
    vec![
        Figure {
            name: name.clone(),
            value: format!(
                "{:.2} M/s a core ({decode:.0}% decoding, {read:.0}% reading, {compute:.0}% folding, {write:.0}% writing), {:.2} rows an event in {} batches, {:.0} bytes an event",
                reached.folded_per_s() / 1e6,
                reached.rows as f64 / events,
                reached.batches,
                reached.bytes as f64 / events
            ),
            yardstick: format!("bare decode {:.2} M/s", reached.decoded_per_s() / 1e6),
            ratio: Some(reached.ratio()),
        },
        Figure {
            name: format!("{name}, with all flushes and compactions"),
            value: format!(
                "{:.2} M/s per CPU-second{written}; {:.1} M events made {minutes:.2} M minute, {hours:.2} M hour and {days:.2} M day cells",
                reached.folded_per_cpu_s() / 1e6,
                events / 1e6,
            ),
            yardstick: format!(
                "the folding thread alone {:.2} M/s",
                reached.folded_per_s() / 1e6
            ),
            ratio: Some(reached.folded_per_cpu_s() / reached.folded_per_s()),
        },
    ]
}

/// What another program took for the same cells.
#[derive(Debug, Deserialize)]
struct Batch {
    name: String,
    cpu_s: f64,
    wall_s: f64,
    grains: Stored,
}

fn held_against(ours: &FoldFigures, others: &[Batch]) -> anyhow::Result<Vec<Figure>> {
    let events = ours.load.events as f64;
    let figure = |other: &Batch| {
        anyhow::ensure!(
            other.grains == ours.stored,
            "{} made other cells of the same {}s than adtally: {:?}, and adtally {:?}",
            other.name,
            ours.load.kind,
            other.grains,
            ours.stored
        );
        Ok(Figure {
            name: format!("fold: {}s, equal cells by {}", ours.load.kind, other.name),
            value: format!(
                "adtally {:.2} M/s per CPU-second",
                ours.folded_per_cpu_s() / 1e6
            ),
            yardstick: format!(
                "{:.2} M/s per CPU-second ({:.1} s on one thread, which only sums)",
                events / other.cpu_s / 1e6,
                other.wall_s
            ),
            ratio: Some(ours.folded_per_cpu_s() / (events / other.cpu_s)),
        })
    };
    others.iter().map(figure).collect()
}

/// Runs DuckDB and ClickHouse over the load's events; none where they are not installed.
fn yardsticks(folder: &Path, load: Load) -> anyhow::Result<Vec<Batch>> {
    let Some(program) = Program::find("batch.py") else {
        return Ok(Vec::new());
    };
    std::fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
    let csv = folder.join("events.csv");
    telemetry::say("the same events to DuckDB and ClickHouse ...");
    write_csv(&csv, load).with_context(|| format!("writing {}", csv.display()))?;
    let all = program.ask(folder, &csv, &[])?;
    std::fs::remove_dir_all(folder).with_context(|| format!("removing {}", folder.display()))?;
    Ok(all)
}

/// Writes a load's events with what cells are made of, in the columns that the yardsticks' program names.
fn write_csv(path: &Path, load: Load) -> anyhow::Result<()> {
    let mut out = BufWriter::new(std::fs::File::create(path)?);
    writeln!(
        out,
        "campaign_id,ad_id,creative,region,device,time_ms,offset_s,cost_micros,is_click"
    )?;
    let mut traffic = Traffic::new(load, 0);
    for _ in 0..load.events {
        let event = traffic.event();
        let placement = event
            .placement()
            .context("the measured traffic has impressions and clicks only")?;
        writeln!(
            out,
            "{},{},{},{},{},{},{},{},{}",
            placement.campaign_id,
            placement.ad_id,
            placement.creative,
            placement.region,
            placement.device.name(),
            event.event_time_ms,
            event.utc_offset_s,
            placement.cost_micros,
            load.kind == Kind::Click
        )?;
    }
    Ok(out.flush()?)
}
