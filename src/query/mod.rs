//! Questions and their answers: one snapshot of every shard, partial sums on threads of their own, merged.
//!
//! Invariant: an answer comes from one snapshot of each shard and says which (invariant 12). RocksDB blocks, so
//! nothing here runs on the async threads; how many questions run and wait is limited, and one that nobody waits
//! for any more stops.

pub mod analytics;
pub mod fraud;
pub mod read;
pub mod rolling;
pub mod scope;
pub mod shard;
pub mod spend;
mod stored;
pub mod top;
pub mod trending;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use adtally_projections::codec::Damaged;
use adtally_projections::partial::{PartialError, TooManyRows};
use adtally_projections::plan::PlanError;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use self::shard::{SnapshotSet, Snapshots};

/// The most questions that are worked on at once; further ones wait. Each holds up to a million rows of sums.
pub const MAX_RUNNING: usize = 8;
/// The most questions that run or wait; one more is refused with 503.
pub const MAX_ADMITTED: usize = 128;
/// How long a question may wait and run before it is given up.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QueryError {
    /// The question cannot be answered as it was asked.
    #[error("{detail}")]
    Asked {
        /// The parameter to blame, where it is one.
        parameter: Option<&'static str>,
        /// What is wrong, and what to do.
        detail: String,
    },
    /// It is about something that does not exist.
    #[error("{0}")]
    NotFound(String),
    /// Too many questions at once.
    #[error("{MAX_ADMITTED} questions are being answered or waiting; ask again in a moment")]
    Busy,
    /// It took too long, or nobody waits for it any more.
    #[error("the answer took longer than {} s; ask for a shorter range or fewer groups", DEADLINE.as_secs())]
    TookTooLong,
    /// The state cannot be read.
    #[error("the state could not be read: {0}")]
    Store(String),
    /// A row of it cannot be read.
    #[error(transparent)]
    Damaged(#[from] Damaged),
    /// A block of sealed cells cannot be read.
    #[error(
        "shard {shard} cannot read its sealed counts of campaign {campaign}, {span}: {what}; nothing is lost, as they are rebuilt from the log by `adtally replay --from beginning --shard {shard}`"
    )]
    Block {
        /// The shard.
        shard: u16,
        /// The campaign.
        campaign: String,
        /// The span, or the spans among which it is.
        span: String,
        /// What is wrong.
        what: String,
    },
}

impl QueryError {
    /// The question is at fault.
    pub fn asked(parameter: Option<&'static str>, detail: impl Into<String>) -> Self {
        Self::Asked {
            parameter,
            detail: detail.into(),
        }
    }
}

impl From<PlanError> for QueryError {
    fn from(error: PlanError) -> Self {
        let parameter = match &error {
            PlanError::Empty => "end",
            PlanError::TooManyBuckets(_) => "granularity",
            PlanError::NotKept { .. } => "start",
            PlanError::Indivisible { .. } => "time_zone",
        };
        Self::asked(Some(parameter), error.to_string())
    }
}

impl From<TooManyRows> for QueryError {
    fn from(error: TooManyRows) -> Self {
        Self::asked(None, error.to_string())
    }
}

impl From<PartialError> for QueryError {
    fn from(error: PartialError) -> Self {
        match error {
            PartialError::TooManyRows(error) => error.into(),
            PartialError::Damaged(error) => error.into(),
            PartialError::Block(error) => Self::Store(error.to_string()),
        }
    }
}

/// Tells work that nobody waits for it any more.
#[derive(Clone, Debug)]
pub struct Cancel {
    cancelled: Arc<AtomicBool>,
    deadline: Instant,
}

impl Cancel {
    /// Work that may go on for this long.
    pub fn after(time: Duration) -> Self {
        Self {
            cancelled: Arc::default(),
            deadline: Instant::now() + time,
        }
    }

    /// An error once nobody waits any more.
    pub fn check(&self) -> Result<(), QueryError> {
        if self.cancelled.load(Ordering::Relaxed) || Instant::now() >= self.deadline {
            Err(QueryError::TookTooLong)
        } else {
            Ok(())
        }
    }
}

/// Cancels when it is dropped, which is when a client goes away.
struct CancelOnDrop(Cancel);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.cancelled.store(true, Ordering::Relaxed);
    }
}

/// Answers questions.
#[derive(Clone)]
pub struct Engine {
    snapshots: Arc<dyn Snapshots>,
    running: Arc<Semaphore>,
    admitted: Arc<Semaphore>,
}

impl Engine {
    /// An engine over a source of snapshots.
    pub fn new(snapshots: impl Snapshots) -> Self {
        Self {
            snapshots: Arc::new(snapshots),
            running: Arc::new(Semaphore::new(MAX_RUNNING)),
            admitted: Arc::new(Semaphore::new(MAX_ADMITTED)),
        }
    }

    /// Runs a question on a blocking thread, over one snapshot of every shard. `question` names its kind in
    /// metrics.
    ///
    /// # Errors
    /// What `work` returns; [`QueryError::Busy`] past [`MAX_ADMITTED`]; [`QueryError::TookTooLong`] past
    /// [`DEADLINE`]; [`QueryError::Store`] when no snapshot can be had.
    pub async fn run<T: Send + 'static>(
        &self,
        question: &'static str,
        work: impl FnOnce(&SnapshotSet<'_>, &Cancel) -> Result<T, QueryError> + Send + 'static,
    ) -> Result<T, QueryError> {
        let began = Instant::now();
        let outcome = tokio::time::timeout(DEADLINE, self.admit(work))
            .await
            .unwrap_or(Err(QueryError::TookTooLong));
        let name = match &outcome {
            Ok(_) => "answered",
            Err(QueryError::Asked { .. } | QueryError::NotFound(_)) => "refused",
            Err(QueryError::Busy) => "busy",
            Err(QueryError::TookTooLong) => "took_too_long",
            Err(QueryError::Store(_) | QueryError::Damaged(_) | QueryError::Block { .. }) => {
                "failed"
            }
        };
        metrics::histogram!("adtally_query_duration_seconds", "question" => question)
            .record(began.elapsed().as_secs_f64());
        metrics::counter!("adtally_queries_total", "question" => question, "outcome" => name)
            .increment(1);
        if let Err(
            error @ (QueryError::Store(_) | QueryError::Damaged(_) | QueryError::Block { .. }),
        ) = &outcome
        {
            tracing::error!(question, %error, "a question could not be answered");
        }
        outcome
    }

    async fn admit<T: Send + 'static>(
        &self,
        work: impl FnOnce(&SnapshotSet<'_>, &Cancel) -> Result<T, QueryError> + Send + 'static,
    ) -> Result<T, QueryError> {
        let closed = |_| QueryError::Store("the service is stopping".into());
        let admitted = self
            .admitted
            .clone()
            .try_acquire_owned()
            .map_err(|_| QueryError::Busy)?;
        let running = self.running.clone().acquire_owned().await.map_err(closed)?;
        let cancel = Cancel::after(DEADLINE);
        let snapshots = self.snapshots.clone();
        let waiting = CancelOnDrop(cancel.clone());
        let blocking = tokio::task::spawn_blocking(move || {
            // Held by the work and not by whoever waits: work that is given up still counts until it has stopped.
            let _permits: [OwnedSemaphorePermit; 2] = [admitted, running];
            let (mut work, mut result) = (Some(work), None);
            snapshots.with(&mut |set| {
                if let Some(work) = work.take() {
                    result = Some(work(set, &cancel));
                }
            })?;
            result.unwrap_or_else(|| Err(QueryError::Store("no snapshot was taken".into())))
        });
        let result = blocking
            .await
            .unwrap_or_else(|error| Err(QueryError::Store(error.to_string())));
        drop(waiting);
        result
    }
}

#[cfg(test)]
mod tests;
