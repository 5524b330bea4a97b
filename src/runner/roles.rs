//! The roles that run in this process, and the order of their end.
//!
//! Ways in end first, outboxes drain while the projector still folds, and the store closes when nobody writes.

use std::time::Duration;

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::catalogue_feed::CatalogueHandle;
use crate::outbox::{Outbox, OutboxHandle};

/// What runs.
#[derive(Default)]
pub struct Roles {
    /// The catalogue that all of them share.
    pub catalogue: Option<CatalogueHandle>,
    /// Outboxes, with the names of their owners.
    pub outboxes: Vec<(&'static str, Outbox)>,
    /// Tasks that end when the runner's token is cancelled.
    pub tasks: Vec<(&'static str, JoinHandle<()>)>,
    /// Cancelled after the outboxes are drained: what they still need, and the fold of what they sent, end then.
    pub late_stop: CancellationToken,
    /// Tasks that end when `late_stop` is cancelled.
    pub late_tasks: Vec<(&'static str, JoinHandle<()>)>,
}

impl std::fmt::Debug for Roles {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names: Vec<_> = self
            .tasks
            .iter()
            .chain(&self.late_tasks)
            .map(|(name, _)| name)
            .collect();
        f.debug_struct("Roles")
            .field("tasks", &names)
            .field("outboxes", &self.outboxes.len())
            .finish()
    }
}

impl Roles {
    /// The ways into the outboxes, with the names of their owners.
    pub fn outbox_handles(&self) -> Vec<(&'static str, OutboxHandle)> {
        self.outboxes
            .iter()
            .map(|(name, outbox)| (*name, outbox.handle()))
            .collect()
    }

    /// Ends them. The runner's token has been cancelled, so `tasks` are ending already.
    pub async fn stop(self, drain_within: Duration) {
        for (name, task) in self.tasks {
            ended(name, task).await;
        }
        let drains = self.outboxes.into_iter().map(|(name, outbox)| async move {
            let report = outbox.drain(drain_within).await;
            if report.drained {
                tracing::info!(outbox = name, "drained: everything answered is on the log");
            } else {
                tracing::warn!(
                    outbox = name,
                    left_events = report.left_events,
                    "not drained in time: what is left is on disk and is sent at the next start"
                );
            }
        });
        futures_util::future::join_all(drains).await;
        self.late_stop.cancel();
        for (name, task) in self.late_tasks.into_iter().rev() {
            ended(name, task).await;
        }
    }
}

async fn ended(name: &'static str, task: JoinHandle<()>) {
    if task.await.is_err() {
        tracing::error!(task = name, "had ended early");
    }
}
