//! Checkpoints of the running shards: each made when it is due, and those past the retention removed.
//!
//! Invariant: the fold never waits for one and never fails with one. What goes wrong is counted and said, and tried
//! again.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use metrics::{counter, gauge, histogram};
use tokio_util::sync::CancellationToken;

use crate::store::{Checkpoint, Retention, Shard, Shards, StoreError, checkpoints};

/// How often it is looked whether one is due.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long a shard whose checkpoint could not be made is left alone.
const AGAIN_AFTER: Duration = Duration::from_secs(60);

/// Makes checkpoints of running shards.
pub struct Keeper {
    shards: Arc<Shards>,
    data_dir: PathBuf,
    every: Duration,
    retention: Retention,
}

/// What is known of one shard's checkpoints.
#[derive(Clone, Copy, Debug, Default)]
struct Last {
    /// Sequence and time (by this machine's clock, Unix milliseconds) of the newest.
    made: Option<(u64, i64)>,
    not_before: Option<Instant>,
}

impl Keeper {
    /// Makes one of each shard in `data_dir` after each `every`; zero: never.
    pub fn new(
        shards: Arc<Shards>,
        data_dir: PathBuf,
        every: Duration,
        retention: Retention,
    ) -> Self {
        Self {
            shards,
            data_dir,
            every,
            retention,
        }
    }

    /// Makes what is due until it is told to stop.
    pub async fn run(self, stop: CancellationToken) {
        if self.every.is_zero() {
            return;
        }
        let keeper = Arc::new(self);
        let mut last = vec![None; keeper.shards.set().iter().len()];
        loop {
            let set = keeper.shards.set();
            for (shard, last) in set.iter().zip(&mut last) {
                if stop.is_cancelled() {
                    return;
                }
                let (keeper, shard, known) = (Arc::clone(&keeper), Arc::clone(shard), *last);
                let look = move || keeper.look(&shard, known);
                match tokio::task::spawn_blocking(look).await {
                    Ok(seen) => *last = Some(seen),
                    Err(error) => tracing::error!(%error, "making a checkpoint panicked"),
                }
            }
            drop(set);
            tokio::select! {
                () = tokio::time::sleep(LOOK_EVERY) => {}
                () = stop.cancelled() => return,
            }
        }
    }

    /// Makes one of a shard when it is due.
    fn look(&self, shard: &Shard, known: Option<Last>) -> Last {
        let mut last = known.unwrap_or_else(|| self.first_look(shard));
        let now_ms = chrono::Utc::now().timestamp_millis();
        let waits = last.not_before.is_some_and(|at| Instant::now() < at);
        let every_ms = i64::try_from(self.every.as_millis()).unwrap_or(i64::MAX);
        // One of the future was made by a clock that has been set back since.
        let is_due = last
            .made
            .is_none_or(|(_, at)| !(0..every_ms).contains(&now_ms.saturating_sub(at)));
        if waits || !is_due {
            return last;
        }
        match self.make(shard, last.made.map(|(sequence, _)| sequence), now_ms) {
            Ok(Some(checkpoint)) => {
                let record = &checkpoint.record;
                last.made = Some((record.sequence, record.made_ms));
                last.not_before = None;
            }
            // It stands where it stood then.
            Ok(None) => {}
            Err(error) => {
                failure(shard, &error);
                last.not_before = Some(Instant::now() + AGAIN_AFTER);
            }
        }
        last
    }

    fn first_look(&self, shard: &Shard) -> Last {
        let kept = match checkpoints::list(&self.data_dir, shard.number()) {
            Ok(kept) => kept,
            Err(error) => {
                failure(shard, &error);
                Vec::new()
            }
        };
        // The counter is there from the beginning, at zero.
        let number = shard.number().to_string();
        counter!("adtally_checkpoint_failures_total", "shard" => number).increment(0);
        tell(shard, &kept);
        Last {
            made: kept.last().map(|c| (c.record.sequence, c.record.made_ms)),
            not_before: None,
        }
    }

    fn make(
        &self,
        shard: &Shard,
        last: Option<u64>,
        now_ms: i64,
    ) -> Result<Option<Checkpoint>, StoreError> {
        let position = shard.snapshot()?.position();
        if position.map(|p| p.sequence) == last {
            return Ok(None);
        }
        let began = Instant::now();
        let folder = checkpoints::folder_of(&self.data_dir, shard.number());
        let Some(made) = checkpoints::make(shard, &folder, now_ms)? else {
            return Ok(None);
        };
        histogram!("adtally_checkpoint_duration_seconds").record(began.elapsed().as_secs_f64());
        let number = shard.number().to_string();
        counter!("adtally_checkpoints_total", "shard" => number).increment(1);
        tracing::debug!(
            shard = shard.number(),
            sequence = made.record.sequence,
            "checkpoint"
        );
        let kept = self.thin_out(shard)?;
        tell(shard, &kept);
        Ok(Some(made))
    }

    /// Removes what is past the retention; answers what is kept.
    fn thin_out(&self, shard: &Shard) -> Result<Vec<Checkpoint>, StoreError> {
        let mut kept = checkpoints::list(&self.data_dir, shard.number())?;
        let times: Vec<i64> = kept.iter().map(|c| c.record.log_time_ms).collect();
        for place in self.retention.superfluous(&times) {
            checkpoints::remove(&kept[place])?;
            kept.remove(place);
        }
        Ok(kept)
    }
}

fn tell(shard: &Shard, kept: &[Checkpoint]) {
    let number = shard.number().to_string();
    gauge!("adtally_checkpoints_kept", "shard" => number.clone()).set(kept.len() as f64);
    if let Some(newest) = kept.last() {
        gauge!("adtally_checkpoint_timestamp_seconds", "shard" => number)
            .set(newest.record.made_ms as f64 / 1_000.0);
    }
}

fn failure(shard: &Shard, error: &StoreError) {
    let number = shard.number().to_string();
    counter!("adtally_checkpoint_failures_total", "shard" => number).increment(1);
    tracing::warn!(
        shard = shard.number(),
        %error,
        again_after_s = AGAIN_AFTER.as_secs(),
        "no checkpoint was made; the fold goes on"
    );
}
