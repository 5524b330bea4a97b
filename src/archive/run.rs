//! The role `archiver`: passes, purges and sweeps, shard after shard, for as long as the process runs.

use std::time::{Duration, Instant};

use adtally_archive::manifest::log_folder;
use async_nats::Client;
use tokio_util::sync::CancellationToken;

use super::{ArchiveError, Archiver, Close, Passed, Place, Store};

/// The pause between two passes over all shards.
const EVERY: Duration = Duration::from_secs(10);
/// How often files that nobody names are looked for; at the start too.
const SWEEP_EVERY: Duration = Duration::from_secs(3_600);

/// Archives every shard until `stop`, and purges what it has archived more than `keep` ago. An error is told and tried
/// again: the events are in the stream meanwhile.
pub async fn serve(
    place: Place,
    client: Client,
    shards: u16,
    keep: Duration,
    stop: CancellationToken,
) {
    let store = loop {
        match Store::open(&place) {
            Ok(store) => break store,
            Err(error) => failed(None, &error),
        }
        tokio::select! {
            () = tokio::time::sleep(EVERY) => {}
            () = stop.cancelled() => return,
        }
    };
    let archiver = |shard| Archiver::new(store.clone(), client.clone(), shard, stop.clone());
    let mut archivers: Vec<Archiver> = (0..shards).map(archiver).collect();
    let mut swept: Option<Instant> = None;
    loop {
        let sweep = swept.is_none_or(|at| at.elapsed() >= SWEEP_EVERY);
        for mut archiver in std::mem::take(&mut archivers) {
            if stop.is_cancelled() {
                return;
            }
            let shard = archiver.shard;
            let turn = tokio::task::spawn_blocking(move || {
                let turn = archiver.turn(keep, sweep);
                (archiver, turn)
            });
            match turn.await {
                Ok((archiver, turn)) => {
                    if let Err(error) = turn
                        && !matches!(error, ArchiveError::Interrupted)
                    {
                        failed(Some(shard), &error);
                    }
                    archivers.push(archiver);
                }
                Err(_) => {
                    tracing::error!(shard, "the archiver of the shard panicked; it begins anew");
                    archivers.push(Archiver::new(
                        store.clone(),
                        client.clone(),
                        shard,
                        stop.clone(),
                    ));
                }
            }
        }
        if sweep {
            swept = Some(Instant::now());
        }
        tokio::select! {
            () = tokio::time::sleep(EVERY) => {}
            () = stop.cancelled() => return,
        }
    }
}

fn failed(shard: Option<u16>, error: &ArchiveError) {
    metrics::counter!("adtally_archive_failures_total").increment(1);
    tracing::warn!(shard, %error, "archiving failed; the events stay in the stream, and it is tried again");
}

impl Archiver {
    /// One turn: what is closed is archived, what nobody names goes, what is old leaves the stream.
    fn turn(&mut self, keep: Duration, sweep: bool) -> Result<(), ArchiveError> {
        let runtime = tokio::runtime::Handle::current();
        let passed = self.pass(Close::Over)?;
        self.tell(&passed);
        if sweep || passed.segments > 0 {
            runtime.block_on(self.sweep())?;
        }
        if let Some(last) = runtime.block_on(self.purge(keep))? {
            let shard = self.shard;
            tracing::info!(shard, last, "purged the stream of what is archived");
            metrics::gauge!("adtally_archive_purged_sequence", "shard" => shard.to_string())
                .set(last as f64);
        }
        Ok(())
    }

    /// Removes files that no entry names and none ever will.
    ///
    /// # Errors
    /// [`ArchiveError`] when the store does not answer.
    pub async fn sweep(&mut self) -> Result<u64, ArchiveError> {
        let chain = self.manifest.read().await?;
        let left = self.manifest.left_over(&chain, chrono::Utc::now()).await?;
        for path in &left {
            tracing::info!(%path, "removing a file that no entry of the manifest names");
            self.store.remove(path).await?;
        }
        self.store.remove_staged(&log_folder(self.shard));
        Ok(left.len() as u64)
    }

    fn tell(&self, passed: &Passed) {
        if passed.segments == 0 {
            return;
        }
        let shard = self.shard.to_string();
        metrics::counter!("adtally_archive_events_total", "shard" => shard.clone())
            .increment(passed.events);
        metrics::counter!("adtally_archive_bytes_total", "shard" => shard.clone())
            .increment(passed.bytes);
        metrics::gauge!("adtally_archive_written_timestamp_seconds", "shard" => shard)
            .set(super::archiver::now_ms() as f64 / 1_000.0);
        tracing::info!(
            shard = self.shard,
            segments = passed.segments,
            events = passed.events,
            bytes = passed.bytes,
            "archived"
        );
    }
}
