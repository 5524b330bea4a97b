//! How far a replay is: bars on stderr for people, lines of JSON on stdout for programs; and what came of it.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::AtWork;
use crate::cli::output::Output;
use crate::replay::{ShardStatus, State, Status};
use crate::simulate::report::grouped;

/// How often it is looked.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// How often the lines for programs are printed.
const LINES_EVERY: Duration = Duration::from_secs(1);
/// What a bar looks like.
const BAR: &str = "shard {prefix:>3} {bar:30} {pos}/{len} messages  {msg}";

/// Waits for the end and shows the way there. When `stop` is cancelled, the replay is interrupted; its end is
/// waited for all the same.
pub async fn until_the_end(
    at_work: &mut AtWork,
    output: Output,
    stop: &CancellationToken,
) -> anyhow::Result<Status> {
    let bars = MultiProgress::new();
    let mut shown: Vec<ProgressBar> = Vec::new();
    let mut printed: Option<Instant> = None;
    let mut interrupted = false;
    loop {
        let status = at_work.status().await?;
        if output.json {
            if status.finished || printed.is_none_or(|at| at.elapsed() >= LINES_EVERY) {
                status.shards.iter().try_for_each(|s| line(s, output))?;
                printed = Some(Instant::now());
            }
        } else {
            show(&bars, &mut shown, &status);
        }
        if status.finished {
            shown.iter().for_each(ProgressBar::finish_and_clear);
            return Ok(status);
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK_EVERY) => {}
            () = stop.cancelled(), if !interrupted => {
                interrupted = true;
                at_work.interrupt().await?;
            }
        }
    }
}

fn line(shard: &ShardStatus, output: Output) -> anyhow::Result<()> {
    output.json(&json!({
        "shard": shard.shard,
        "state": shard.state,
        "from_sequence": shard.from_sequence,
        "sequence": shard.sequence,
        "last_sequence": shard.last_sequence,
        "messages_per_second": shard.messages_per_second.round(),
        "seconds_left": shard.seconds_left,
    }))
}

/// Draws on stderr, and nothing where that is no terminal.
fn show(bars: &MultiProgress, shown: &mut Vec<ProgressBar>, status: &Status) {
    for (index, shard) in status.shards.iter().enumerate() {
        if shown.len() <= index {
            let bar = bars.add(ProgressBar::new(shard.last_sequence));
            if let Ok(style) = ProgressStyle::with_template(BAR) {
                bar.set_style(style);
            }
            bar.set_prefix(shard.shard.to_string());
            shown.push(bar);
        }
        let bar = &shown[index];
        bar.set_length(shard.last_sequence);
        bar.set_position(shard.sequence);
        bar.set_message(match (shard.state, shard.seconds_left) {
            (State::Built, _) => "built".to_owned(),
            (State::Switched, _) => "switched".to_owned(),
            (State::Folding, None) => String::new(),
            (State::Folding, Some(left)) => {
                format!("{:.0}/s, {left} s left", shard.messages_per_second)
            }
        });
    }
}

/// Prints what came of it.
pub fn report(
    status: Option<&Status>,
    pruned: Option<&Vec<PathBuf>>,
    output: Output,
) -> anyhow::Result<()> {
    if output.json {
        return output.json(&json!({
            "generation": status.map(|s| &s.generation),
            "shards": status.map(|s| &s.shards),
            "pruned": pruned,
        }));
    }
    if let Some(status) = status {
        let read = |s: &ShardStatus| s.sequence.saturating_sub(s.from_sequence);
        let messages: u64 = status.shards.iter().map(read).sum();
        output.line(&format!(
            "{} messages of {} shards were read again, into {}.",
            grouped(messages as i64),
            status.shards.len(),
            status.generation
        ))?;
        for shard in &status.shards {
            let now = match shard.state {
                State::Switched => "in use",
                State::Built | State::Folding => "not in use",
            };
            let from = match shard.from_sequence {
                0 => "the beginning".to_owned(),
                sequence => format!("the checkpoint at sequence {sequence}"),
            };
            output.line(&format!(
                "shard {} from {from} up to sequence {}, {now}: {}",
                shard.shard,
                shard.sequence,
                shard.folder.display()
            ))?;
        }
    }
    let Some(pruned) = pruned else {
        return Ok(());
    };
    output.line(&format!("{} generations removed.", pruned.len()))?;
    pruned
        .iter()
        .try_for_each(|folder| output.line(&format!("removed {}", folder.display())))
}
