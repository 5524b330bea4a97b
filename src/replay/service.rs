//! The replay that a running `serve` does at an operator's word, one at a time.

use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

use super::range::Range;
use super::{Job, Place, ReplayError, Started, Status};
use crate::projector::ProjectorHandle;

/// What a `serve` is asked. It is meant for the process that holds one data folder: others do not answer.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Question {
    /// That process, as its folder's lock names it.
    pub process: u32,
    /// What it is to do.
    pub what: What,
}

/// What is to be done.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum What {
    /// Begin.
    Start {
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
        projector: ProjectorHandle,
        stop: CancellationToken,
    ) -> Arc<Self> {
        Arc::new(Self {
            client,
            data_dir,
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
        if question.process != std::process::id() {
            return Ok(None);
        }
        let mut replay = self.replay.lock().await;
        let status = |replay: &Option<Started>| replay.as_ref().map(|r| r.status.borrow().clone());
        match question.what {
            What::Start { range, shards } => {
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
                    stop: self.stop.child_token(),
                };
                let started = job.start().await?;
                *replay = Some(started);
                Ok(status(&replay))
            }
            What::Status { generation } => {
                Ok(status(&replay).filter(|status| status.generation == generation))
            }
            What::Interrupt { generation } => {
                let meant = status(&replay).filter(|status| status.generation == generation);
                if let (Some(started), Some(_)) = (&*replay, &meant) {
                    started.stop.cancel();
                }
                Ok(meant)
            }
        }
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
