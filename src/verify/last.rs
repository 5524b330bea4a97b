//! What the last verification of a data folder found, in a file of that folder: whoever verified, a running `serve`
//! shows it on its metrics page and in `/readyz`, and a restart forgets neither it nor when the next one is due.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{Verdict, VerifyError};

/// The file.
const NAME: &str = "verify.json";

/// The file's content.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Last {
    /// Since when a `serve` has been here that verifies, Unix milliseconds: the first one is due so long after that.
    pub since_ms: i64,
    /// The last one; none before the first.
    pub run: Option<Run>,
}

/// A verification that has ended.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// When it ended, Unix milliseconds.
    pub at_ms: i64,
    /// How long it took.
    pub seconds: f64,
    /// Why it could not be done; then the numbers are zero.
    pub error: Option<String>,
    /// Whether it found nothing that decides.
    pub equal: bool,
    /// Messages that it read.
    pub messages: u64,
    /// Lines that differ, as far as they are told.
    pub differences: u64,
    /// Events that are lost.
    pub lost_events: u64,
    /// Sequences that streams do not hold.
    pub missing_messages: u64,
    /// Messages that could not be read.
    pub bad_frames: u64,
}

impl Run {
    /// What is kept of an outcome.
    pub fn of(outcome: &Result<Verdict, VerifyError>, at_ms: i64) -> Self {
        match outcome {
            Ok(verdict) => {
                let sum = |of: fn(&super::ShardVerdict) -> u64| verdict.shards.iter().map(of).sum();
                let ends = verdict.shards.iter().filter(|s| s.stream_ends_at.is_some());
                Self {
                    at_ms,
                    seconds: verdict.seconds,
                    error: None,
                    equal: verdict.equal,
                    messages: sum(|s| s.messages),
                    differences: verdict.differences() + ends.count() as u64,
                    lost_events: verdict.lost_events,
                    missing_messages: sum(|s| s.missing_messages),
                    bad_frames: sum(|s| s.bad_frames_count),
                }
            }
            Err(error) => Self {
                at_ms,
                error: Some(error.to_string()),
                ..Self::default()
            },
        }
    }
}

/// Reads it; nothing where no `serve` that verifies was ever here.
///
/// # Errors
/// When it cannot be read.
pub fn read(data_dir: &Path) -> io::Result<Option<Last>> {
    match fs::read(data_dir.join(NAME)) {
        Ok(text) => Ok(Some(serde_json::from_slice(&text)?)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Writes it, whole or not at all.
///
/// # Errors
/// When it cannot be written.
pub fn write(data_dir: &Path, last: &Last) -> io::Result<()> {
    // Two processes may write at once, a command and its `serve`.
    let new = data_dir.join(format!("{NAME}.{}", std::process::id()));
    let mut file = File::create(&new)?;
    serde_json::to_writer(&mut file, last)?;
    file.write_all(b"\n")?;
    file.sync_all()?;
    fs::rename(new, data_dir.join(NAME))
}

/// Notes an outcome.
///
/// # Errors
/// When the file cannot be read or written.
pub fn note(data_dir: &Path, outcome: &Result<Verdict, VerifyError>) -> io::Result<()> {
    let now_ms = chrono::Utc::now().timestamp_millis();
    let mut last = read(data_dir)?.unwrap_or(Last {
        since_ms: now_ms,
        run: None,
    });
    last.run = Some(Run::of(outcome, now_ms));
    write(data_dir, &last)
}
