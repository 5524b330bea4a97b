//! Looks again and again whether somebody answers for each shard: who folds nothing is ready by that.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::Remote;

/// How often it is looked: each time, one process holds a snapshot of each shard for a moment.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Looks until it is told to stop, and tells the shards for which nobody answers.
pub async fn watch(remote: Arc<Remote>, told: watch::Sender<Vec<u16>>, stop: CancellationToken) {
    loop {
        let away = tokio::select! {
            away = remote.away() => away,
            () = stop.cancelled() => return,
        };
        told.send_if_modified(|before| {
            let changed = *before != away;
            if changed && !away.is_empty() {
                tracing::warn!(shards = ?away, "nobody answers for some shards: no process with the role projector that speaks as this one does is there");
            } else if changed {
                tracing::info!("somebody answers for every shard");
            }
            *before = away;
            changed
        });
        tokio::select! {
            () = tokio::time::sleep(LOOK_EVERY) => {}
            () = stop.cancelled() => return,
        }
    }
}
