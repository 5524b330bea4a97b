//! Questions and their answers: one snapshot of every shard, partial sums on threads of their own, merged.
//!
//! Invariant: an answer comes from one snapshot of each shard and says which (invariant 12). RocksDB blocks, so
//! nothing here runs on the async threads; how many questions run and wait is limited, and one that nobody waits
//! for any more stops.

pub mod analytics;
pub mod block_cache;
pub mod fraud;
pub mod printed_rows;
pub mod read;
pub mod remote;
pub mod rolling;
pub mod scope;
pub mod shard;
pub mod spend;
pub mod stored;
pub mod top;
pub mod trending;
pub mod uniques;
pub mod united;
pub mod unread;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use adtally_projections::codec::Damaged;
use adtally_projections::partial::{PartialError, TooManyRows};
use adtally_projections::plan::PlanError;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use self::printed_rows::PrintedRows;
use self::shard::{SnapshotSet, Snapshots};
use self::unread::{MAX_UNREAD_ROWS, Room};

/// The most questions that are worked on at once; further ones wait. Each holds up to a million rows of sums.
pub const MAX_RUNNING: usize = 8;
/// The most questions that run or wait; one more is refused with 503.
pub const MAX_ADMITTED: usize = 128;
/// How long a question may wait and run before it is given up.
pub const DEADLINE: Duration = Duration::from_secs(30);
/// How often a question is asked again, as a whole, when a process that answered for a shard goes away.
const MAX_AGAIN: u32 = 3;

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
    /// Large answers are being read, and there is no room for another.
    #[error(
        "{MAX_UNREAD_ROWS} rows of large answers are waiting to be read by those who asked for them; ask again in a moment, or for a shorter range or fewer groups"
    )]
    Unread,
    /// It took too long, or nobody waits for it any more.
    #[error("the answer took longer than {} s; ask for a shorter range or fewer groups", DEADLINE.as_secs())]
    TookTooLong,
    /// Nobody answers for some shards, or whoever did has gone away.
    #[error(
        "no process answers for {}: an answer without {} would be too small. Start a process with the role projector, or look at its log",
        shards(.0), if .0.len() == 1 { "it" } else { "them" }
    )]
    ShardsAway(Vec<u16>),
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

fn shards(numbers: &[u16]) -> String {
    let list: Vec<String> = numbers.iter().map(u16::to_string).collect();
    match list.as_slice() {
        [one] => format!("shard {one}"),
        _ => format!("shards {}", list.join(", ")),
    }
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
    room: Room,
    printed: Option<PrintedRows>,
}

impl Engine {
    /// An engine over a source of snapshots.
    pub fn new(snapshots: Arc<impl Snapshots>) -> Self {
        Self {
            snapshots,
            running: Arc::new(Semaphore::new(MAX_RUNNING)),
            admitted: Arc::new(Semaphore::new(MAX_ADMITTED)),
            room: Room::default(),
            printed: None,
        }
    }

    /// The same, with texts of rows that are kept from one answer to the next.
    pub fn with_printed_rows(mut self, printed: Option<PrintedRows>) -> Self {
        self.printed = printed;
        self
    }

    /// What is kept of the texts of large answers, where anything is.
    pub fn printed_rows(&self) -> Option<&PrintedRows> {
        self.printed.as_ref()
    }

    /// Room for large answers while they are read.
    pub fn room(&self) -> Room {
        self.room.clone()
    }

    /// Runs a question on a blocking thread, over one snapshot of every shard; again, over other ones, when a process
    /// that answered for a shard has gone away. `question` names its kind in metrics.
    ///
    /// # Errors
    /// What `work` returns; [`QueryError::Busy`] past [`MAX_ADMITTED`]; [`QueryError::TookTooLong`] past
    /// [`DEADLINE`]; [`QueryError::ShardsAway`] when nobody answers for a shard; [`QueryError::Store`] when no snapshot
    /// can be had.
    pub async fn run<T: Send + 'static>(
        &self,
        question: &'static str,
        work: impl FnOnce(&SnapshotSet<'_>, &Cancel) -> Result<T, QueryError> + Clone + Send + 'static,
    ) -> Result<T, QueryError> {
        let began = Instant::now();
        let outcome = tokio::time::timeout(DEADLINE, self.admit(work))
            .await
            .unwrap_or(Err(QueryError::TookTooLong));
        let name = match &outcome {
            Ok(_) => "answered",
            Err(QueryError::Asked { .. } | QueryError::NotFound(_)) => "refused",
            Err(QueryError::Busy | QueryError::Unread) => "busy",
            Err(QueryError::TookTooLong) => "took_too_long",
            Err(QueryError::ShardsAway(_)) => "shards_away",
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
        work: impl FnOnce(&SnapshotSet<'_>, &Cancel) -> Result<T, QueryError> + Clone + Send + 'static,
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
            let mut again = 0;
            loop {
                let mut result = None;
                snapshots.with(&mut |set| result = Some((work.clone())(set, &cancel)))?;
                match result {
                    // Another process may have the shard; what was read so far is of another moment.
                    Some(Err(QueryError::ShardsAway(shards))) if again < MAX_AGAIN => {
                        again += 1;
                        cancel.check()?;
                        tracing::info!(?shards, again, "asking a question again");
                    }
                    Some(result) => return result,
                    None => return Err(QueryError::Store("no snapshot was taken".into())),
                }
            }
        });
        let result = blocking
            .await
            .unwrap_or_else(|error| Err(QueryError::Store(error.to_string())));
        drop(waiting);
        result
    }
}

#[cfg(test)]
pub(crate) mod tests;
