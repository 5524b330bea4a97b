//! The one writer: everything that waits goes into one batch with one fsync, and then everybody is answered.
//!
//! An fsync costs 0.3 to 4 ms whatever it carries, so the group is everything. A failed write or fsync ends the
//! process: the kernel has dropped the pages, so that a second fsync would succeed without them.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use rocksdb::WriteBatch;

use super::accept::Request;
use super::disk::{ROW_PREFIX_BYTES, RunBuilder};
use super::shared::Shared;

/// Events of one group commit; more wait for the next.
const GROUP_MAX_EVENTS: usize = 16_384;
/// Bytes of rows of one group commit.
const GROUP_MAX_BYTES: u64 = 8 << 20;
/// Bytes after which a lane's run is closed within a commit, so that the shipper need not read far for a few rows.
const RUN_MAX_BYTES: usize = 256 << 10;
/// How often acknowledged positions are written.
const ACKS_EVERY: Duration = Duration::from_millis(500);
/// The exit status when the disk has failed: could not.
const EXIT_IO: i32 = 3;

/// The running thread.
#[derive(Debug)]
pub(super) struct WriterThread {
    thread: std::thread::JoinHandle<()>,
}

impl WriterThread {
    /// Waits until everything that was handed over is answered. The queue must be closed.
    pub async fn finish(self) {
        let ended = tokio::task::spawn_blocking(move || self.thread.join()).await;
        if !matches!(ended, Ok(Ok(()))) {
            tracing::error!(
                "the outbox's writer ended by a panic; what it had not answered is not on disk"
            );
        }
    }
}

pub(super) fn spawn(shared: Arc<Shared>, requests: Receiver<Request>) -> WriterThread {
    let name = format!("outbox-{}", shared.owner.name());
    let thread = std::thread::Builder::new()
        .name(name)
        .spawn(move || Writer::new(shared).run(&requests))
        .expect("a thread can be started while the program starts");
    WriterThread { thread }
}

/// A lane's part of the commit that is being put together.
#[derive(Debug, Default)]
struct Pending {
    run: RunBuilder,
    /// Counter of the run's first event.
    first: u64,
    /// Of all runs of this commit.
    count: u64,
    row_bytes: u64,
    oldest_ms: i64,
}

struct Writer {
    shared: Arc<Shared>,
    lanes: Vec<Pending>,
    touched: Vec<usize>,
    acks_written: Instant,
}

impl Writer {
    fn new(shared: Arc<Shared>) -> Self {
        let lanes = (0..shared.current.count())
            .map(|_| Pending::default())
            .collect();
        Self {
            shared,
            lanes,
            touched: Vec::new(),
            acks_written: Instant::now(),
        }
    }

    fn run(mut self, requests: &Receiver<Request>) {
        loop {
            match requests.recv_timeout(ACKS_EVERY) {
                Ok(first) => self.commit(first, requests),
                Err(RecvTimeoutError::Timeout) => self.write_acks(),
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        self.write_acks();
    }

    /// Takes what waits, writes it, and answers.
    fn commit(&mut self, first: Request, requests: &Receiver<Request>) {
        let mut batch = WriteBatch::default();
        let (mut events, mut bytes) = (0, 0);
        let mut group = Vec::new();
        let mut next = Some(first);
        while let Some(request) = next.take() {
            events += request.rows.len();
            bytes += request.bytes;
            self.add(&mut batch, &request);
            group.push(request);
            if events < GROUP_MAX_EVENTS && bytes < GROUP_MAX_BYTES {
                next = requests.try_recv().ok();
            }
        }
        for at in 0..self.touched.len() {
            self.close_run(&mut batch, self.touched[at]);
        }
        if self.acks_written.elapsed() >= ACKS_EVERY {
            self.add_acks(&mut batch);
        }
        self.write(batch, true);
        self.shared.written(events as u64);
        self.publish();
        for request in group {
            let Request {
                arrival,
                answer,
                permits,
                ..
            } = request;
            // The lanes hold the rows now, so the arrival need not hold the watermark back any more.
            drop(arrival);
            drop(permits);
            // A caller that has gone away is no reason to do anything.
            let _ = answer.send(());
        }
    }

    fn add(&mut self, batch: &mut WriteBatch, request: &Request) {
        for row in &request.rows {
            let lane = &mut self.lanes[row.lane];
            if lane.count == 0 {
                lane.oldest_ms = row.arrival_ms;
                // Only this thread adds to a lane, so the head is the next counter.
                lane.first = self.shared.current.cell(row.lane).lock().head();
                self.touched.push(row.lane);
            }
            lane.run.push(&row.bytes, row.arrival_ms);
            lane.count += 1;
            lane.row_bytes += (row.bytes.len() + ROW_PREFIX_BYTES) as u64;
            lane.oldest_ms = lane.oldest_ms.min(row.arrival_ms);
            if lane.run.bytes() >= RUN_MAX_BYTES {
                self.close_run(batch, row.lane);
            }
        }
    }

    fn close_run(&mut self, batch: &mut WriteBatch, index: usize) {
        let lane = &mut self.lanes[index];
        let count = lane.run.count;
        if count == 0 {
            return;
        }
        let current = &self.shared.current;
        self.shared.disk.put_run(
            batch,
            current.epoch,
            current.key(index),
            lane.first,
            lane.run.finish(),
        );
        lane.first += count;
    }

    /// Shows the shipper what is on disk.
    fn publish(&mut self) {
        for index in self.touched.drain(..) {
            let lane = &mut self.lanes[index];
            self.shared
                .current
                .cell(index)
                .accepted(lane.count, lane.row_bytes, lane.oldest_ms);
            lane.count = 0;
            lane.row_bytes = 0;
        }
    }

    fn add_acks(&mut self, batch: &mut WriteBatch) {
        for ((epoch, lane), acked) in self.shared.take_acks() {
            self.shared.disk.put_acked(batch, epoch, lane, acked);
        }
        self.acks_written = Instant::now();
    }

    /// Writes the acknowledged positions by themselves, which nobody waits for.
    fn write_acks(&mut self) {
        let mut batch = WriteBatch::default();
        self.add_acks(&mut batch);
        if !batch.is_empty() {
            self.write(batch, false);
        }
    }

    fn write(&self, batch: WriteBatch, sync: bool) {
        if let Err(error) = self.shared.disk.write(batch, sync) {
            tracing::error!(%error, "a write of the outbox failed, so what it held may be lost: the process ends without answering it");
            std::process::exit(EXIT_IO);
        }
    }
}
