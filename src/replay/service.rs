//! The replay that a running `serve` does at an operator's word, one at a time.

use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

use super::range::Range;
use super::{Job, Place, ReplayError, Started, Status};
use crate::archive;
use crate::projector::ProjectorHandle;

/// What a `serve` is asked. Each is meant for one process: others on the same NATS do not answer.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Question {
    /// Begin.
    Start {
        /// The process that holds the folder, as its lock says. Alone it names nobody: processes of several
        /// machines and containers share their numbers.
        process: u32,
        /// The generation that the folder has in use for the first of the shards; another folder has another one.
        in_use: String,
        /// What part of the log.
        range: Range,
        /// The shards.
        shards: Vec<u16>,
    },
    /// Say how far it is.
    Status {
        /// The generation that is being built.
        generation: String,
    },
    /// Interrupt it.
    Interrupt {
        /// The generation that is being built.
        generation: String,
    },
}

/// Replays on behalf of commands.
pub struct Service {
    client: async_nats::Client,
    data_dir: PathBuf,
    archive: archive::Place,
    projector: ProjectorHandle,
    stop: CancellationToken,
    /// The last one.
    replay: Mutex<Option<Started>>,
}

impl Service {
    /// Replays beside that projector until `stop`.
    pub fn new(
        client: async_nats::Client,
        data_dir: PathBuf,
        archive: archive::Place,
        projector: ProjectorHandle,
        stop: CancellationToken,
    ) -> Arc<Self> {
        Arc::new(Self {
            client,
            data_dir,
            archive,
            projector,
            stop,
            replay: Mutex::default(),
        })
    }

    /// Does what it is asked and says how far the replay is; none when another process is meant.
    ///
    /// # Errors
    /// [`ReplayError`] when a replay cannot begin.
    pub async fn answer(&self, question: Question) -> Result<Option<Status>, ReplayError> {
        let mut replay = self.replay.lock().await;
        let status = |replay: &Option<Started>| replay.as_ref().map(|r| r.status.borrow().clone());
        match question {
            Question::Start {
                process,
                in_use,
                range,
                shards,
            } => {
                if process != std::process::id() || !self.has_in_use(&shards, &in_use) {
                    return Ok(None);
                }
                if let Some(busy) = status(&replay).filter(|status| !status.finished) {
                    return Err(ReplayError::Busy {
                        generation: busy.generation,
                    });
                }
                let job = Job {
                    client: self.client.clone(),
                    data_dir: self.data_dir.clone(),
                    place: Place::Live(self.projector.clone()),
                    shards,
                    range,
                    archive: self.archive.clone(),
                    stop: self.stop.child_token(),
                };
                let started = job.start().await?;
                *replay = Some(started);
                Ok(status(&replay))
            }
            Question::Status { generation } => {
                Ok(status(&replay).filter(|status| status.generation == generation))
            }
            Question::Interrupt { generation } => {
                let meant = status(&replay).filter(|status| status.generation == generation);
                if let (Some(started), Some(_)) = (&*replay, &meant) {
                    started.stop.cancel();
                }
                Ok(meant)
            }
        }
    }

    fn has_in_use(&self, shards: &[u16], generation: &str) -> bool {
        let set = self.projector.shards().set();
        shards.first().is_some_and(|first| {
            set.iter()
                .nth(usize::from(*first))
                .is_some_and(|shard| shard.generation() == generation)
        })
    }

    /// Waits until it is told to stop and the replay that was under way has ended. The state may be closed then.
    pub async fn ended(self: Arc<Self>) {
        self.stop.cancelled().await;
        let replay = self.replay.lock().await.take();
        if let Some(started) = replay
            && started.task.await.is_err()
        {
            tracing::error!("the replay that was under way had panicked");
        }
    }
}
