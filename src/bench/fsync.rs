//! The yardstick of everything durable: records that many clients hand to one writer, which appends all that wait
//! and syncs once. No format, no index, no network: what this disk and this many clients can do at most.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};

/// Bytes of a record: about those of a click in an outbox.
const RECORD_BYTES: usize = 256;

/// What was reached.
#[derive(Clone, Copy, Debug)]
pub struct Reached {
    /// Durable records a second.
    pub records_per_s: f64,
    /// Syncs a second.
    pub fsyncs_per_s: f64,
}

/// Runs `clients` against one file in `folder` for `time`.
pub async fn group_commit(
    folder: &Path,
    clients: usize,
    time: Duration,
) -> anyhow::Result<Reached> {
    let path = folder.join("group-commit");
    let file = File::create(&path)?;
    let (tx, rx) = mpsc::channel::<oneshot::Sender<()>>(clients.max(1));
    let writer = tokio::task::spawn_blocking(move || write(file, rx));
    let ended = Arc::new(AtomicBool::new(false));
    let began = Instant::now();
    let mut waiting = tokio::task::JoinSet::new();
    for _ in 0..clients {
        let (tx, ended) = (tx.clone(), ended.clone());
        waiting.spawn(async move {
            let mut done = 0u64;
            while !ended.load(Ordering::Relaxed) {
                let (told, durable) = oneshot::channel();
                if tx.send(told).await.is_err() || durable.await.is_err() {
                    break;
                }
                done += 1;
            }
            done
        });
    }
    drop(tx);
    tokio::time::sleep(time).await;
    ended.store(true, Ordering::Relaxed);
    let records: u64 = waiting.join_all().await.into_iter().sum();
    let elapsed = began.elapsed().as_secs_f64();
    let fsyncs = writer.await??;
    std::fs::remove_file(path)?;
    Ok(Reached {
        records_per_s: records as f64 / elapsed,
        fsyncs_per_s: fsyncs as f64 / elapsed,
    })
}

fn write(mut file: File, mut waiting: mpsc::Receiver<oneshot::Sender<()>>) -> std::io::Result<u64> {
    let mut fsyncs = 0;
    let mut batch = Vec::new();
    let record = [7u8; RECORD_BYTES];
    while let Some(first) = waiting.blocking_recv() {
        batch.push(first);
        while let Ok(more) = waiting.try_recv() {
            batch.push(more);
        }
        file.write_all(&record.repeat(batch.len()))?;
        file.sync_data()?;
        fsyncs += 1;
        for told in batch.drain(..) {
            // A client that has gone away needs no answer.
            let _ = told.send(());
        }
    }
    Ok(fsyncs)
}
