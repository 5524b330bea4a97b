//! The projector: one thread a shard that reads the shard's stream, folds it and writes what comes of it.
//!
//! Invariant: a shard's state has one writer, and its position moves only with a whole batch written. Nothing is
//! acknowledged to the broker: the position is in the state, and reading goes on after it.

mod check;
pub mod checkpoints;
pub mod figures;
pub mod folder;
pub mod rebuild;
pub mod reports;
mod sealer;
mod telemetry;
#[cfg(test)]
mod tests;
mod worker;

pub use check::same_stream;
pub use worker::{BatchLimits, Until};

use std::sync::Arc;
use std::time::Duration;

use adtally_projections::fold::FoldError;
use async_nats::Client;
use tokio::sync::{mpsc, oneshot, watch};

use crate::log::LogError;
use crate::log::reader::ReaderProgress;
use crate::store::{Shard, Shards, StoreError};
use worker::Handover;

/// Why a shard is not folded any further.
#[derive(Debug, thiserror::Error)]
pub enum ProjectorError {
    /// The stream was deleted and made again, or is another deployment's.
    #[error(
        "{stream} is not the stream that shard {shard} was folded from: that one was created at {folded} ns of the Unix epoch, this one at {found}. If it was restored from a backup, remove the folder shards/{shard} of the data folder: the state is rebuilt from the log"
    )]
    OtherStream {
        /// The shard.
        shard: u16,
        /// Its stream.
        stream: String,
        /// Creation of the stream that was folded.
        folded: i64,
        /// Creation of the stream that is there.
        found: i64,
    },
    /// The stream ends before the position.
    #[error(
        "{stream} ends at sequence {last}, and shard {shard} is folded up to {position}: the stream was restored from before then, or its broker has dropped a damaged end of it. `adtally replay --from beginning --shard {shard}` on the stopped folder rebuilds the state from the log"
    )]
    Shorter {
        /// The shard.
        shard: u16,
        /// Its stream.
        stream: String,
        /// The stream's last sequence.
        last: u64,
        /// The state's position.
        position: u64,
    },
    /// The message at the position is another one.
    #[error(
        "message {position} of {stream} has checksum {found:08x}, and shard {shard} was folded from one of {folded:08x}: the stream was restored from elsewhere, or its broker has dropped a damaged end of it and gone on. `adtally replay --from beginning --shard {shard}` on the stopped folder rebuilds the state from the log"
    )]
    OtherMessage {
        /// The shard.
        shard: u16,
        /// Its stream.
        stream: String,
        /// The state's position.
        position: u64,
        /// Checksum of the message that was folded.
        folded: u32,
        /// Checksum of the one that is there.
        found: u32,
    },
    /// Messages that were not folded are gone.
    #[error(
        "{stream} begins at sequence {first}, and shard {shard} is folded up to {position} only: what is between was purged, and a count without it would be wrong. Restore the stream or a state at or past {before}; where an archive has what is gone, `adtally replay --from beginning --shard {shard}` on the stopped folder reads it there"
    )]
    Purged {
        /// The shard.
        shard: u16,
        /// Its stream.
        stream: String,
        /// The stream's first sequence.
        first: u64,
        /// The state's position.
        position: u64,
        /// The sequence before the first.
        before: u64,
    },
    /// The log refuses.
    #[error("shard {shard}: {source}")]
    Log {
        /// The shard.
        shard: u16,
        /// What the log says.
        source: LogError,
    },
    /// The state cannot be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A batch cannot be folded.
    #[error("shard {shard}: {source}")]
    Fold {
        /// The shard.
        shard: u16,
        /// What the fold says.
        source: FoldError<StoreError>,
    },
    /// A stream has stopped giving what it says it has.
    #[error(
        "{stream} has {last} messages and has given none after {position} for {} s: if the broker is away, bring it back and try again",
        .quiet.as_secs()
    )]
    Silent {
        /// The stream.
        stream: String,
        /// Its last sequence.
        last: u64,
        /// The last sequence that came.
        position: u64,
        /// How long none has come.
        quiet: Duration,
    },
    /// A stream was changed under a rebuild.
    #[error("shard {shard}: the stream is not the one any more that was read: {why}")]
    Changed {
        /// The shard.
        shard: u16,
        /// How it differs.
        why: String,
    },
    /// What the stream has no longer cannot be read elsewhere.
    #[error("shard {shard}: {why}")]
    Earlier {
        /// The shard.
        shard: u16,
        /// Why not.
        why: String,
    },
    /// No thread could be started, or one panicked.
    #[error("the thread of shard {shard} {what}")]
    Thread {
        /// The shard.
        shard: u16,
        /// What became of it.
        what: String,
    },
}

/// Where a shard's projector is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// The stream was found to be the one that was folded. Until then the broker is waited for.
    pub verified: bool,
    /// Sequence of the last message whose effects can be read.
    pub sequence: u64,
    /// Its log time, Unix milliseconds.
    pub log_time_ms: i64,
}

struct Worker {
    progress: watch::Receiver<Progress>,
    reading: watch::Receiver<ReaderProgress>,
    handovers: mpsc::Sender<Handover>,
    thread: Option<std::thread::JoinHandle<()>>,
}

/// A shard's projector that stands still until this is dropped or [`StandsStill::go_on`] is called.
#[derive(Debug)]
pub struct StandsStill {
    /// The sequence that it has folded.
    pub sequence: u64,
    go_on: oneshot::Sender<Arc<Shard>>,
}

impl StandsStill {
    /// Lets it go on from another generation of the shard, at whichever position that is.
    pub fn go_on(self, shard: Arc<Shard>) {
        // It may have been told to stop meanwhile; then it needs none.
        let _ = self.go_on.send(shard);
    }
}

/// The running projectors of all shards.
pub struct Projector {
    shards: Arc<Shards>,
    workers: Vec<Worker>,
    stop: watch::Sender<bool>,
    failures: mpsc::UnboundedReceiver<ProjectorError>,
}

/// What others see of the projectors; clones look at the same ones.
#[derive(Clone)]
pub struct ProjectorHandle {
    shards: Arc<Shards>,
    workers: Arc<[Seen]>,
}

/// What others see of one thread, and how they ask it to stand still.
struct Seen {
    progress: watch::Receiver<Progress>,
    reading: watch::Receiver<ReaderProgress>,
    handovers: mpsc::Sender<Handover>,
}

impl Projector {
    /// Starts a thread for every shard. Must be called within a Tokio runtime. A broker that is not there is waited
    /// for; a stream that is not the one that was folded is a failure, see [`Projector::failed`].
    ///
    /// # Errors
    /// [`ProjectorError`] when a state cannot be read or a thread cannot be started.
    pub fn start(shards: Arc<Shards>, client: &Client) -> Result<Self, ProjectorError> {
        let (stop, stopped) = watch::channel(false);
        let (failed, failures) = mpsc::unbounded_channel();
        let mut workers = Vec::new();
        for shard in shards.set().iter() {
            let number = shard.number();
            let position = shard.snapshot()?.position();
            let (progress, seen) = watch::channel(Progress {
                verified: false,
                sequence: position.map_or(0, |p| p.sequence),
                log_time_ms: position.map_or(0, |p| p.log_time_ms),
            });
            let (reading, read) = watch::channel(ReaderProgress::default());
            let (handovers, asked) = mpsc::channel(1);
            let run = worker::Run {
                shard: Arc::clone(shard),
                client: client.clone(),
                stop: stopped.clone(),
                progress,
                reading,
                handovers: asked,
                failed: failed.clone(),
                runtime: tokio::runtime::Handle::current(),
            };
            let thread = std::thread::Builder::new()
                .name(format!("shard-{number}"))
                .spawn(move || run.run())
                .map_err(|error| ProjectorError::Thread {
                    shard: number,
                    what: format!("did not start: {error}"),
                })?;
            workers.push(Worker {
                progress: seen,
                reading: read,
                handovers,
                thread: Some(thread),
            });
        }
        Ok(Self {
            shards,
            workers,
            stop,
            failures,
        })
    }

    /// What others see of it.
    pub fn handle(&self) -> ProjectorHandle {
        ProjectorHandle {
            shards: Arc::clone(&self.shards),
            workers: self
                .workers
                .iter()
                .map(|w| Seen {
                    progress: w.progress.clone(),
                    reading: w.reading.clone(),
                    handovers: w.handovers.clone(),
                })
                .collect(),
        }
    }

    /// Waits until a shard fails, and says why. Whoever runs the projector ends the process then: an answer would
    /// be of a state that stands still.
    pub async fn failed(&mut self) -> ProjectorError {
        match self.failures.recv().await {
            Some(error) => error,
            // Every thread has ended without a failure: it was told to stop.
            None => std::future::pending().await,
        }
    }

    /// Stops all threads after the batch that each is at. The shards stay open.
    ///
    /// # Errors
    /// [`ProjectorError`] when a thread panicked.
    pub async fn stop(mut self) -> Result<(), ProjectorError> {
        self.stop.send_replace(true);
        for (shard, worker) in self.workers.iter_mut().enumerate() {
            let Some(thread) = worker.thread.take() else {
                continue;
            };
            let ended = tokio::task::spawn_blocking(|| thread.join()).await;
            if !matches!(ended, Ok(Ok(()))) {
                return Err(ProjectorError::Thread {
                    shard: shard as u16,
                    what: "panicked".to_owned(),
                });
            }
        }
        Ok(())
    }
}

impl ProjectorHandle {
    /// The shards, for questions.
    pub fn shards(&self) -> &Arc<Shards> {
        &self.shards
    }

    /// The applied sequence of every shard, in their order.
    pub fn positions(&self) -> Vec<u64> {
        self.workers
            .iter()
            .map(|seen| seen.progress.borrow().sequence)
            .collect()
    }

    /// Where every shard's projector is.
    pub fn progress(&self) -> Vec<Progress> {
        self.workers
            .iter()
            .map(|seen| *seen.progress.borrow())
            .collect()
    }

    /// Asks a shard's projector to stand still after the batch that it is at, and waits until it does; none when it
    /// ends or has ended. Nothing is read from the broker meanwhile, so whoever asks is quick.
    pub async fn stand_still(&self, shard: u16) -> Option<StandsStill> {
        let seen = self.workers.get(usize::from(shard))?;
        let (stands_at, stands) = oneshot::channel();
        let (go_on, goes_on) = oneshot::channel();
        let handover = Handover {
            stands_at,
            go_on: goes_on,
        };
        seen.handovers.send(handover).await.ok()?;
        let sequence = stands.await.ok()?;
        Some(StandsStill { sequence, go_on })
    }

    /// How many messages every shard has yet to fold, as far as its reader has heard.
    pub fn lag(&self) -> Vec<u64> {
        let lag = |progress: &Progress, reading: &ReaderProgress| {
            reading.last_sequence().saturating_sub(progress.sequence)
        };
        self.workers
            .iter()
            .map(|seen| lag(&seen.progress.borrow(), &seen.reading.borrow()))
            .collect()
    }
}
