//! The state at a log time, opened for reading: each shard folded to the last message at or before it.
//!
//! Invariant: it is a function of the log up to that time and of nothing else, whoever opens it and whenever, as long
//! as that time is so far back that no message can still bear it ([`SETTLED_AFTER`]). It lies in a scratch folder,
//! which goes away with it, and touches no generation of a data folder.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_nats::Client;
use async_nats::jetstream;
use tokio_util::sync::CancellationToken;

use super::ReplayError;
use super::range::{From, Range, To};
use super::source::Source;
use crate::archive;
use crate::projector::rebuild::{Ended, Rebuild};
use crate::scratch::Scratch;
use crate::store::{Building, Memory, Shard};

/// How far back a log time must lie before the state at it is asked for: longer than brokers' clocks differ and a
/// message is on its way.
pub const SETTLED_AFTER: Duration = Duration::from_secs(2);

/// The name of every generation that is opened so.
const GENERATION: &str = "g-at";

/// The state at a log time.
#[derive(Debug)]
pub struct StateAt {
    shards: Vec<Arc<Shard>>,
    /// Dropped after the shards are closed.
    scratch: Arc<Scratch>,
}

impl StateAt {
    /// The shards, in order.
    pub fn shards(&self) -> &[Arc<Shard>] {
        &self.shards
    }
}

impl Drop for StateAt {
    fn drop(&mut self) {
        for shard in self.shards.drain(..) {
            // Nobody reads it any more; what is not flushed is removed with the rest.
            if let Err(error) = shard.close() {
                tracing::debug!(%error, folder = %self.scratch.path().display(), "a state that is not needed any more did not close well");
            }
        }
    }
}

/// What a state is opened from.
pub struct Log<'l> {
    /// The connection to the broker.
    pub client: &'l Client,
    /// How many shards there are.
    pub shards: u16,
    /// A data folder whose checkpoints may be begun with, on the file system of the scratch folder; none: the log is
    /// read from its first message.
    pub checkpoints: Option<&'l Path>,
    /// Where the archive is that has what the streams have no longer.
    pub archive: &'l archive::Place,
}

/// Opens the state of every shard at a log time.
///
/// # Errors
/// [`ReplayError`] when the log has not all that is needed, cannot be read, or the folder cannot be written.
pub async fn open(
    log: Log<'_>,
    time_ms: i64,
    scratch: Scratch,
    memory: &Memory,
    stop: &CancellationToken,
) -> Result<StateAt, ReplayError> {
    let range = Range {
        from: match log.checkpoints {
            Some(_) => From::Time(time_ms.saturating_add(1)),
            None => From::Beginning,
        },
        to: Some(To::Time(time_ms)),
    };
    let jetstream = jetstream::new(log.client.clone());
    // A scratch folder has no checkpoints.
    let kept = log.checkpoints.unwrap_or(scratch.path());
    let mut sources = Vec::with_capacity(usize::from(log.shards));
    for shard in 0..log.shards {
        sources.push(Source::find(&jetstream, kept, log.archive, shard, &range).await?);
    }
    let stop = stop.child_token();
    let scratch = Arc::new(scratch);
    let threads = sources.into_iter().map(|source| {
        let (client, memory, stop) = (log.client.clone(), memory.clone(), stop.clone());
        let (scratch, shard) = (Arc::clone(&scratch), source.shard);
        let fold = move || fold(&client, &source, &range, scratch.path(), &memory, &stop);
        let thread = tokio::task::spawn_blocking(fold);
        async move { thread.await.unwrap_or(Err(ReplayError::Panicked { shard })) }
    });
    // From here on what has been opened is closed before its folder goes away.
    let (mut shards, mut failed) = (Vec::new(), None);
    for folded in futures_util::future::join_all(threads).await {
        match folded {
            Ok(shard) => shards.push(shard),
            Err(error) => failed = failed.or(Some(error)),
        }
    }
    let state = StateAt { shards, scratch };
    failed.map_or(Ok(state), Err)
}

fn fold(
    client: &Client,
    source: &Source,
    range: &Range,
    scratch: &Path,
    memory: &Memory,
    stop: &CancellationToken,
) -> Result<Arc<Shard>, ReplayError> {
    let from = source.from.as_ref();
    let building = Building::begin(scratch, source.shard, GENERATION, from, memory)?;
    let shard = Arc::clone(building.shard());
    let mut rebuild = Rebuild::begin(
        &shard,
        client,
        source.created_ns,
        range.until(),
        stop.clone(),
    )?;
    match source.fold(&mut rebuild, source.last, &mut |_| ())? {
        Ended::Stopped | Ended::Purged(_) => Err(ReplayError::Interrupted),
        Ended::There | Ended::Until => Ok(shard),
    }
}
