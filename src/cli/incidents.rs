//! `adtally events conflicts` and `adtally events bad`: what the fold set aside, newest last.

use serde::Serialize;

use super::Exit;
use super::output::Output;
use super::state;
use crate::config::Config;
use crate::control::Verb;
use crate::incidents::{self, Incidents};
use crate::simulate::report::grouped;
use crate::telemetry;

/// Runs `adtally events conflicts`.
pub async fn conflicts(lines: usize, config: &Config, output: Output) -> anyhow::Result<Exit> {
    let listed = state::answer(config, Verb::Conflicts, incidents::conflicts).await?;
    let header = [
        "time",
        "kind",
        "ad or advertiser",
        "id",
        "stream",
        "sequence",
        "first sequence",
    ];
    print(listed, lines, &header, output, |row| {
        let owner = row.ad_id.as_ref().or(row.advertiser_id.as_ref());
        vec![
            row.time.clone(),
            row.kind.clone(),
            owner.cloned().unwrap_or_default(),
            row.id.clone(),
            row.stream.clone(),
            row.sequence.to_string(),
            row.first_sequence.to_string(),
        ]
    })
}

/// Runs `adtally events bad`.
pub async fn bad_frames(lines: usize, config: &Config, output: Output) -> anyhow::Result<Exit> {
    let listed = state::answer(config, Verb::BadFrames, incidents::bad_frames).await?;
    let header = [
        "time",
        "stream",
        "sequence",
        "subject",
        "reason",
        "events refused",
    ];
    print(listed, lines, &header, output, |row| {
        vec![
            row.time.clone(),
            row.stream.clone(),
            row.sequence.to_string(),
            row.subject.clone(),
            row.reason.clone(),
            row.events.to_string(),
        ]
    })
}

/// The newest `lines` records; on stderr how many there were, where that is more.
fn print<T: Serialize>(
    listed: Incidents<T>,
    lines: usize,
    header: &[&str],
    output: Output,
    cells: impl Fn(&T) -> Vec<String>,
) -> anyhow::Result<Exit> {
    let older = listed.rows.len().saturating_sub(lines);
    let rows = &listed.rows[older..];
    output.rows(header, rows, cells)?;
    if listed.total > rows.len() as u64 {
        telemetry::say(&format!(
            "The newest {} of {}.",
            grouped(rows.len() as i64),
            grouped(listed.total as i64)
        ));
    }
    Ok(Exit::Done)
}
