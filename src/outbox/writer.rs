//! The one writer: everything that waits goes into one batch with one fsync, and then everybody is answered.
//!
//! An fsync costs 0.3 to 4 ms whatever it carries, so the group is everything. A failed write or fsync ends the
//! process: the kernel has dropped the pages, so that a second fsync would succeed without them.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use adtally_streams::commit::Group;
use rocksdb::WriteBatch;

use super::accept::Request;
use super::shared::Shared;
use crate::fail_points::{Point, is_armed, pass, pass_or_fail};

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

struct Writer {
    shared: Arc<Shared>,
    group: Group,
    acks_written: Instant,
}

impl Writer {
    fn new(shared: Arc<Shared>) -> Self {
        Self {
            group: Group::new(shared.current.count()),
            shared,
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
        let mut group = Vec::new();
        let mut next = Some(first);
        while let Some(request) = next.take() {
            self.add(&mut batch, &request);
            group.push(request);
            if !self.group.is_full() {
                next = requests.try_recv().ok();
            }
        }
        let events = self.group.events();
        let (disk, current) = (&self.shared.disk, &self.shared.current);
        self.group.close(&mut |lane, first, run| {
            disk.put_run(&mut batch, current.epoch, current.key(lane), first, run);
        });
        let marks = self.acks_written.elapsed() >= ACKS_EVERY && self.add_acks(&mut batch);
        pass(Point::OutboxBatched);
        self.write(batch, true);
        pass(Point::OutboxSynced);
        if marks {
            pass(Point::OutboxMarked);
        }
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
        pass(Point::OutboxAnswered);
    }

    fn add(&mut self, batch: &mut WriteBatch, request: &Request) {
        let (disk, current) = (&self.shared.disk, &self.shared.current);
        // Only this thread adds to a lane, so its head is the next counter.
        let head = |lane: usize| current.cell(lane).lock().head();
        for row in &request.rows {
            self.group.add(row, head, &mut |lane, first, run| {
                disk.put_run(batch, current.epoch, current.key(lane), first, run);
            });
        }
    }

    /// Shows the shipper what is on disk.
    fn publish(&mut self) {
        for gained in self.group.committed() {
            self.shared.current.cell(gained.lane).accepted(
                gained.count,
                gained.row_bytes,
                gained.oldest_ms,
            );
        }
    }

    /// Adds the acknowledged positions that have changed; whether there are any.
    fn add_acks(&mut self, batch: &mut WriteBatch) -> bool {
        let acks = self.shared.take_acks();
        let any = !acks.is_empty();
        for ((epoch, lane), acked) in acks {
            self.shared.disk.put_acked(batch, epoch, lane, acked);
        }
        self.acks_written = Instant::now();
        any
    }

    /// Writes the acknowledged positions by themselves, which nobody waits for.
    fn write_acks(&mut self) {
        let mut batch = WriteBatch::default();
        if self.add_acks(&mut batch) {
            self.write(batch, false);
            pass(Point::OutboxMarked);
        }
    }

    fn write(&self, batch: WriteBatch, sync: bool) {
        let written = if sync && is_armed(Point::OutboxWritten) {
            self.write_in_two_steps(batch)
        } else {
            self.shared.disk.write(batch, sync).map_err(Into::into)
        };
        if let Err(error) = written {
            tracing::error!(%error, "a write of the outbox failed, so what it held may be lost: the process ends without answering it");
            std::process::exit(EXIT_IO);
        }
    }

    /// What `write` does in one call of RocksDB, so that there is something between writing and syncing.
    fn write_in_two_steps(&self, batch: WriteBatch) -> anyhow::Result<()> {
        self.shared.disk.write(batch, false)?;
        pass_or_fail(Point::OutboxWritten)?;
        Ok(self.shared.disk.sync()?)
    }
}
