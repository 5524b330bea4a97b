//! `adtally producers list`: asked of the running `serve`, or read from the data folder of a stopped one.

use super::output::Output;
use super::{Exit, state};
use crate::config::Config;
use crate::control::Verb;
use crate::producers;
use crate::simulate::report::grouped;

/// Runs `adtally producers list`; [`Exit::No`] when something is missing.
pub async fn run(config: &Config, output: Output) -> anyhow::Result<Exit> {
    let rows = state::answer(config, Verb::Producers, producers::list).await?;
    output.rows(
        &[
            "producer",
            "epoch",
            "through",
            "accepted",
            "acknowledged",
            "applied",
            "missing",
            "on the way",
            "state",
        ],
        &rows,
        |row| {
            let total = row.total();
            vec![
                row.producer.clone(),
                row.epoch.clone(),
                row.through.clone().unwrap_or_default(),
                grouped(total.accepted as i64),
                grouped(total.acknowledged as i64),
                grouped(total.applied as i64),
                grouped(total.missing as i64),
                grouped(total.outstanding as i64),
                if row.drained { "drained" } else { "open" }.into(),
            ]
        },
    )?;
    let missing: u64 = rows.iter().map(|r| r.total().missing).sum();
    if missing > 0 {
        eprintln!("{missing} events were acknowledged by the broker and are not in the log.");
    }
    Ok(if missing == 0 { Exit::Done } else { Exit::No })
}
