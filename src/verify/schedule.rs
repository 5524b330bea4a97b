//! The verifications that a running `serve` makes by itself, and what it shows of the last one, whoever made it.
//!
//! Invariant: one shard at a time is folded again, so that the fold that counts has the other processors; what a
//! verification finds or cannot do ends nothing.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use async_nats::Client;
use metrics::{counter, gauge};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::last::{self, Last, Run};
use super::{Job, Verdict, VerifyError};
use crate::archive;
use crate::frozen;
use crate::replay::range::From;
use crate::scratch::Scratch;
use crate::store::Shards;

/// How often it is looked whether one is due, and what a command has found.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// How long after one that could not be done the next one is tried, where that is sooner than by the schedule.
const AGAIN_AFTER_MS: i64 = 3_600_000;

/// Verifies the shards of a process.
pub struct Schedule {
    /// The connection to the broker.
    pub client: Client,
    /// The data folder.
    pub data_dir: PathBuf,
    /// Where the archive is.
    pub archive: archive::Place,
    /// The open shards.
    pub shards: Arc<Shards>,
    /// How often; zero: never.
    pub every: Duration,
    /// How far back the checkpoint lies from which it folds; zero: it folds all of the log.
    pub from: Duration,
}

impl Schedule {
    /// Verifies when it is due, until it is told to stop; `seen` hears of the last one.
    pub async fn run(self, seen: watch::Sender<Option<Run>>, stop: CancellationToken) {
        for outcome in ["equal", "different", "failed"] {
            counter!("adtally_verify_runs_total", "outcome" => outcome).increment(0);
        }
        loop {
            let now_ms = chrono::Utc::now().timestamp_millis();
            let last = match self.last(now_ms) {
                Ok(last) => {
                    show(&last, &seen);
                    Some(last)
                }
                Err(error) => {
                    tracing::warn!(%error, "what the last verification found cannot be read");
                    None
                }
            };
            if last.is_some_and(|last| self.is_due(&last, now_ms)) {
                self.verify(&stop).await;
            }
            tokio::select! {
                () = tokio::time::sleep(LOOK_EVERY) => {}
                () = stop.cancelled() => return,
            }
        }
    }

    fn last(&self, now_ms: i64) -> std::io::Result<Last> {
        if let Some(last) = last::read(&self.data_dir)? {
            return Ok(last);
        }
        let last = Last {
            since_ms: now_ms,
            run: None,
        };
        last::write(&self.data_dir, &last)?;
        Ok(last)
    }

    fn is_due(&self, last: &Last, now_ms: i64) -> bool {
        let since_ms = last.run.as_ref().map_or(last.since_ms, |run| run.at_ms);
        let mut every_ms = i64::try_from(self.every.as_millis()).unwrap_or(i64::MAX);
        if last.run.as_ref().is_some_and(|run| run.error.is_some()) {
            every_ms = every_ms.min(AGAIN_AFTER_MS);
        }
        // One of the future was noted by a clock that has been set back since.
        every_ms > 0 && !(0..every_ms).contains(&now_ms.saturating_sub(since_ms))
    }

    async fn verify(&self, stop: &CancellationToken) {
        tracing::info!("verifying the state against the log");
        let outcome = match self.job(stop).await {
            Ok((job, _scratch)) => job.run(watch::Sender::default()).await,
            Err(error) => {
                tracing::warn!(
                    error = format!("{error:#}"),
                    "the state could not be verified"
                );
                counter!("adtally_verify_runs_total", "outcome" => "failed").increment(1);
                return self.note(&Err(VerifyError::Unprepared(format!("{error:#}"))));
            }
        };
        match &outcome {
            Err(VerifyError::Interrupted) => return,
            Err(error) => {
                counter!("adtally_verify_runs_total", "outcome" => "failed").increment(1);
                tracing::warn!(%error, "the state could not be verified");
            }
            Ok(verdict) => tell(verdict),
        }
        self.note(&outcome);
    }

    async fn job(&self, stop: &CancellationToken) -> anyhow::Result<(Job, Scratch)> {
        let (data_dir, shards) = (self.data_dir.clone(), Arc::clone(&self.shards));
        let freeze = move || -> anyhow::Result<_> {
            let scratch = Scratch::make(&data_dir)?;
            let numbers: Vec<u16> = shards.set().iter().map(|s| s.number()).collect();
            let frozen = frozen::of_open(&shards, &numbers, scratch.path())?;
            Ok((scratch, frozen))
        };
        let frozen = tokio::task::spawn_blocking(freeze).await;
        let (scratch, frozen) = frozen.context("taking the state's positions")??;
        let from = match self.from.is_zero() {
            true => From::Beginning,
            false => {
                let back = i64::try_from(self.from.as_millis()).unwrap_or(i64::MAX);
                let now_ms = chrono::Utc::now().timestamp_millis();
                From::Time(now_ms.saturating_sub(back))
            }
        };
        let job = Job {
            client: self.client.clone(),
            data_dir: self.data_dir.clone(),
            archive: self.archive.clone(),
            frozen,
            scratch: scratch.path().to_path_buf(),
            from,
            retention: self.shards.retention(),
            at_once: 1,
            stop: stop.child_token(),
        };
        Ok((job, scratch))
    }

    fn note(&self, outcome: &Result<Verdict, VerifyError>) {
        if let Err(error) = last::note(&self.data_dir, outcome) {
            tracing::warn!(%error, "what the verification found could not be noted");
        }
    }
}

fn tell(verdict: &Verdict) {
    let outcome = if verdict.equal { "equal" } else { "different" };
    counter!("adtally_verify_runs_total", "outcome" => outcome).increment(1);
    let messages: u64 = verdict.shards.iter().map(|s| s.messages).sum();
    match verdict.equal {
        true => tracing::info!(
            messages,
            seconds = verdict.seconds,
            "the state is the fold of the log"
        ),
        false => tracing::error!(
            messages,
            differences = verdict.differences(),
            lost_events = verdict.lost_events,
            "THE STATE IS NOT THE FOLD OF THE LOG: `adtally verify` names what differs"
        ),
    }
}

fn show(last: &Last, seen: &watch::Sender<Option<Run>>) {
    let Some(run) = &last.run else {
        return;
    };
    seen.send_if_modified(|seen| {
        let differs = seen.as_ref() != Some(run);
        if differs {
            *seen = Some(run.clone());
        }
        differs
    });
    gauge!("adtally_verify_timestamp_seconds").set(run.at_ms as f64 / 1_000.0);
    gauge!("adtally_verify_last_duration_seconds").set(run.seconds);
    gauge!("adtally_verify_failed").set(f64::from(u8::from(run.error.is_some())));
    for (sort, count) in [
        ("state", run.differences),
        ("lost", run.lost_events),
        ("missing", run.missing_messages),
        ("bad", run.bad_frames),
    ] {
        gauge!("adtally_verify_differences", "sort" => sort).set(count as f64);
    }
}
