//! What the way in, the writer and the shipper share, and the watermark that it adds up to.
//!
//! Order matters in one place: the watermark looks at the arrivals first and at the lanes afterwards, and an event
//! leaves the arrivals only once its lane holds it. So it is always seen in one of the two.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, mpsc};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use adtally_streams::id::{Epoch, Id};
use adtally_streams::lane::{InFlight, through_ms};
use adtally_streams::watermark::Watermark;
use metrics::{counter, gauge};
use tokio::sync::{Notify, Semaphore};
use tokio_util::sync::CancellationToken;

use super::accept::{Arrival, QUEUE_MAX_REQUESTS, Request, queue_units};
use super::disk::{Disk, LaneKey};
use super::epoch::EpochLanes;
use super::retain::Retained;
use super::{OutboxError, OutboxLimits, OutboxStatus, Owner};
use crate::log::publisher::Broker;

/// Bytes of frames that may be in memory at once, over all lanes; more lanes wait their turn.
pub(super) const FLIGHT_MAX_BYTES: usize = 64 << 20;

/// How long the oldest event may wait for its acknowledgement before the log says so.
const WAITS_LONG: Duration = Duration::from_secs(15);

/// Milliseconds of the Unix epoch by this machine's clock.
pub(super) fn now_ms() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| d.as_millis() as i64)
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What these locks guard is whole between any two statements, so a panic elsewhere does not spoil it.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Counts since the opening.
#[derive(Debug, Default)]
struct Counts {
    fsyncs: AtomicU64,
    accepted: AtomicU64,
    frames: AtomicU64,
    framed_events: AtomicU64,
    framed_bytes: AtomicU64,
    full_lanes: AtomicU64,
}

/// The heart of an outbox.
pub(super) struct Shared {
    pub disk: Disk,
    pub broker: Arc<dyn Broker>,
    pub producer: Id,
    pub owner: Owner,
    pub limits: OutboxLimits,
    /// The lanes of this opening.
    pub current: Arc<EpochLanes>,
    /// Room in the writer's queue.
    pub queue_requests: Arc<Semaphore>,
    pub queue_bytes: Arc<Semaphore>,
    /// Room for frames under way, in bytes.
    pub flight_bytes: Arc<Semaphore>,
    /// Turns at packing, as many as there are cores: more at once would only push each other's frames out of the
    /// cores' caches.
    pub packers: Semaphore,
    /// Everything of this outbox ends.
    pub stop: CancellationToken,
    /// Something has been acknowledged.
    pub progress: Notify,
    /// What is acknowledged and kept.
    pub retained: Mutex<Retained>,
    /// By shard: when it was last told the watermark, in Unix milliseconds.
    told_ms: Vec<AtomicI64>,
    /// By shard: it has acknowledged a watermark of this opening.
    heard: Vec<AtomicBool>,
    in_flight: Mutex<InFlight>,
    recovering: Mutex<Vec<Arc<EpochLanes>>>,
    unsent_bytes: AtomicU64,
    sender: RwLock<Option<mpsc::Sender<Request>>>,
    acks: Mutex<HashMap<(Epoch, LaneKey), u64>>,
    /// The disk is below its reserve.
    disk_full: AtomicBool,
    disk_closed: AtomicBool,
    /// It has been said that the broker acknowledges nothing.
    waits_long: AtomicBool,
    counts: Counts,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Outbox")
            .field("producer", &self.producer)
            .field("epoch", &self.current.epoch)
            .finish()
    }
}

/// What an outbox is made of when it opens.
pub(super) struct Parts {
    pub disk: Disk,
    pub broker: Arc<dyn Broker>,
    pub producer: Id,
    pub owner: Owner,
    pub limits: OutboxLimits,
    pub current: EpochLanes,
    pub recovering: Vec<Arc<EpochLanes>>,
    pub unsent_bytes: u64,
    pub retained: Retained,
}

impl Shared {
    /// The heart, and the end of the queue that the writer reads.
    pub fn new(parts: Parts) -> (Arc<Self>, mpsc::Receiver<Request>) {
        let (sender, receiver) = mpsc::channel();
        let mut in_flight = InFlight::default();
        if parts.owner == Owner::Intake {
            in_flight.limit(Some(0));
        }
        let shards = usize::from(parts.current.shards);
        let shared = Self {
            disk: parts.disk,
            broker: parts.broker,
            producer: parts.producer,
            owner: parts.owner,
            limits: parts.limits,
            current: Arc::new(parts.current),
            queue_requests: Arc::new(Semaphore::new(QUEUE_MAX_REQUESTS)),
            queue_bytes: Arc::new(Semaphore::new(queue_units())),
            flight_bytes: Arc::new(Semaphore::new(FLIGHT_MAX_BYTES)),
            packers: Semaphore::new(std::thread::available_parallelism().map_or(1, |n| n.get())),
            stop: CancellationToken::new(),
            progress: Notify::new(),
            retained: Mutex::new(parts.retained),
            told_ms: (0..shards).map(|_| AtomicI64::new(i64::MIN)).collect(),
            heard: (0..shards).map(|_| AtomicBool::new(false)).collect(),
            in_flight: Mutex::new(in_flight),
            recovering: Mutex::new(parts.recovering),
            unsent_bytes: AtomicU64::new(parts.unsent_bytes),
            sender: RwLock::new(Some(sender)),
            acks: Mutex::default(),
            disk_full: AtomicBool::new(false),
            disk_closed: AtomicBool::new(false),
            waits_long: AtomicBool::new(false),
            counts: Counts::default(),
        };
        (Arc::new(shared), receiver)
    }

    // The way in.

    pub fn arrive(self: &Arc<Self>) -> Arrival {
        let ms = locked(&self.in_flight).arrive(now_ms());
        Arrival::registered(self, ms)
    }

    pub fn arrive_at(self: &Arc<Self>, ms: i64) -> Arrival {
        let ms = locked(&self.in_flight).arrive_at(ms);
        Arrival::registered(self, ms)
    }

    pub fn leave(&self, ms: i64) {
        locked(&self.in_flight).leave(ms);
    }

    pub fn limit_arrival(&self, ms: Option<i64>) {
        locked(&self.in_flight).limit(ms);
    }

    /// Counts bytes as unsent, unless they would be too many.
    pub fn reserve_unsent(&self, bytes: u64) -> Result<(), OutboxError> {
        if self.disk_full.load(Ordering::Relaxed) {
            let free_bytes = self.disk.free_bytes().unwrap_or(0);
            return Err(OutboxError::DiskFull {
                free_bytes,
                reserve_bytes: self.limits.disk_reserve_bytes,
            });
        }
        let before = self.unsent_bytes.fetch_add(bytes, Ordering::Relaxed);
        if before.saturating_add(bytes) > self.limits.unsent_max_bytes {
            self.release_unsent(bytes);
            return Err(OutboxError::Full {
                unsent_bytes: before,
                limit_bytes: self.limits.unsent_max_bytes,
            });
        }
        Ok(())
    }

    pub fn release_unsent(&self, bytes: u64) {
        self.unsent_bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Hands a request to the writer.
    pub fn submit(&self, request: Request) -> Result<(), OutboxError> {
        let sender = self.sender.read().unwrap_or_else(PoisonError::into_inner);
        let sender = sender.as_ref().ok_or(OutboxError::Closed)?;
        sender.send(request).map_err(|_| OutboxError::Closed)
    }

    /// Takes no more requests; the writer ends once it has answered those that it has.
    pub fn close(&self) {
        self.queue_requests.close();
        self.queue_bytes.close();
        self.sender
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
    }

    // The writer.

    pub fn written(&self, events: u64) {
        self.counts.fsyncs.fetch_add(1, Ordering::Relaxed);
        self.counts.accepted.fetch_add(events, Ordering::Relaxed);
        counter!("adtally_outbox_fsyncs_total", "owner" => self.owner.name()).increment(1);
        counter!("adtally_outbox_events_total", "owner" => self.owner.name()).increment(events);
    }

    /// The acknowledged positions that have changed since the last call.
    pub fn take_acks(&self) -> HashMap<(Epoch, LaneKey), u64> {
        std::mem::take(&mut *locked(&self.acks))
    }

    // The shipper.

    /// The broker holds a frame: what that frees is counted, and the position is kept for the next write.
    pub fn landed(&self, epoch: &EpochLanes, lane: usize, first: u64, row_bytes: u64) {
        let (acked, events) = epoch.cell(lane).landed(first);
        self.release_unsent(row_bytes);
        if events > 0 {
            locked(&self.acks).insert((epoch.epoch, epoch.key(lane)), acked);
        }
        locked(&self.retained).landed(epoch.epoch, epoch.key(lane), acked, row_bytes, now_ms());
        self.progress.notify_waiters();
    }

    pub fn framed(&self, events: u64, bytes: u64) {
        self.counts.frames.fetch_add(1, Ordering::Relaxed);
        self.counts
            .framed_events
            .fetch_add(events, Ordering::Relaxed);
        self.counts.framed_bytes.fetch_add(bytes, Ordering::Relaxed);
        counter!("adtally_frames_published_total", "owner" => self.owner.name()).increment(1);
        counter!("adtally_frames_events_total", "owner" => self.owner.name()).increment(events);
        counter!("adtally_frames_bytes_total", "owner" => self.owner.name()).increment(bytes);
    }

    /// A lane's stream takes no more, or does again.
    pub fn lane_full(&self, full: bool) {
        if full {
            self.counts.full_lanes.fetch_add(1, Ordering::Relaxed);
        } else {
            self.counts.full_lanes.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// An earlier epoch, or a part of one, is shipped.
    pub fn recovered(&self, epoch: &Arc<EpochLanes>) {
        locked(&self.recovering).retain(|e| !Arc::ptr_eq(e, epoch));
        self.progress.notify_waiters();
    }

    pub fn recovering(&self) -> Vec<Arc<EpochLanes>> {
        locked(&self.recovering).clone()
    }

    // What is announced.

    /// The watermark of this opening for a shard.
    pub fn watermark(&self, shard: u16) -> Watermark {
        let horizon = locked(&self.in_flight).horizon(now_ms());
        let through = through_ms(horizon, self.oldest_unacked_ms());
        let (acked, heads) = self.current.counters(shard);
        Watermark {
            through_ms: through,
            acked,
            heads,
            drained: false,
        }
    }

    /// The watermark of an earlier opening for a shard. It says nothing of time: this opening's does, for both.
    pub fn watermark_of(&self, epoch: &EpochLanes, shard: u16) -> Watermark {
        if epoch.epoch == self.current.epoch {
            return self.watermark(shard);
        }
        let (acked, heads) = epoch.counters(shard);
        Watermark {
            through_ms: 0,
            acked,
            heads,
            drained: false,
        }
    }

    fn oldest_unacked_ms(&self) -> Option<i64> {
        let recovering = locked(&self.recovering);
        let earlier = recovering.iter().filter_map(|e| e.oldest_ms()).min();
        drop(recovering);
        [earlier, self.current.oldest_ms()]
            .into_iter()
            .flatten()
            .min()
    }

    /// The shard has been told the watermark just now.
    pub fn told(&self, shard: u16) {
        if let Some(told) = self.told_ms.get(usize::from(shard)) {
            told.store(now_ms(), Ordering::Relaxed);
        }
    }

    /// The shard has acknowledged a watermark of this opening.
    pub fn heard(&self, shard: u16) {
        if let Some(heard) = self.heard.get(usize::from(shard)) {
            heard.store(true, Ordering::Relaxed);
        }
    }

    /// Whether it has.
    pub fn is_heard(&self, shard: u16) -> bool {
        self.heard
            .get(usize::from(shard))
            .is_some_and(|heard| heard.load(Ordering::Relaxed))
    }

    pub fn told_ms(&self, shard: u16) -> i64 {
        self.told_ms
            .get(usize::from(shard))
            .map_or(i64::MAX, |told| told.load(Ordering::Relaxed))
    }

    // What is said of it.

    pub fn unsent_events(&self) -> u64 {
        self.current.unacked() + self.recovering().iter().map(|e| e.unacked()).sum::<u64>()
    }

    pub fn status(&self) -> OutboxStatus {
        let unsent_bytes = self.unsent_bytes.load(Ordering::Relaxed);
        let closed = self
            .sender
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .is_none();
        OutboxStatus {
            producer: self.producer.clone(),
            epoch: self.current.epoch,
            unsent_events: self.unsent_events(),
            unsent_bytes,
            capacity_bytes: self.limits.unsent_max_bytes,
            sent_bytes: locked(&self.retained).bytes(),
            oldest_unacked_ms: self.oldest_unacked_ms(),
            recovering_epochs: locked(&self.recovering).len(),
            full_lanes: self.counts.full_lanes.load(Ordering::Relaxed),
            disk_full: self.disk_full.load(Ordering::Relaxed),
            refusing: closed
                || self.disk_full.load(Ordering::Relaxed)
                || unsent_bytes >= self.limits.unsent_max_bytes,
            fsyncs: self.counts.fsyncs.load(Ordering::Relaxed),
            accepted_events: self.counts.accepted.load(Ordering::Relaxed),
            frames: self.counts.frames.load(Ordering::Relaxed),
            framed_events: self.counts.framed_events.load(Ordering::Relaxed),
            framed_bytes: self.counts.framed_bytes.load(Ordering::Relaxed),
        }
    }

    /// Looks at the disk and publishes the gauges.
    pub fn observe(&self) {
        if let Some(free) = self.disk.free_bytes() {
            let full = free < self.limits.disk_reserve_bytes;
            match (self.disk_full.swap(full, Ordering::Relaxed), full) {
                (false, true) => tracing::warn!(
                    dir = %self.disk.dir().display(),
                    free_bytes = free,
                    reserve_bytes = self.limits.disk_reserve_bytes,
                    "the disk of the outbox is nearly full, so it takes no more events: make room"
                ),
                (true, false) => {
                    tracing::info!(free_bytes = free, "the disk of the outbox has room again");
                }
                _ => {}
            }
        }
        let status = self.status();
        let owner = self.owner.name();
        let age_ms = status
            .oldest_unacked_ms
            .map_or(0, |ms| (now_ms() - ms).max(0));
        self.say_if_waiting(age_ms, status.unsent_events);
        gauge!("adtally_outbox_unsent_events", "owner" => owner).set(status.unsent_events as f64);
        gauge!("adtally_outbox_unsent_bytes", "owner" => owner).set(status.unsent_bytes as f64);
        gauge!("adtally_outbox_capacity_bytes", "owner" => owner).set(status.capacity_bytes as f64);
        gauge!("adtally_outbox_sent_bytes", "owner" => owner).set(status.sent_bytes as f64);
        gauge!("adtally_outbox_oldest_unacked_seconds", "owner" => owner).set(age_ms as f64 / 1e3);
        gauge!("adtally_outbox_full_lanes", "owner" => owner).set(status.full_lanes as f64);
    }

    /// Says once that the broker acknowledges nothing, and once that it does again: whoever reads the log sees no
    /// other sign of a broker whose disk is full.
    fn say_if_waiting(&self, age_ms: i64, events: u64) {
        let waits = age_ms >= WAITS_LONG.as_millis() as i64;
        let owner = self.owner.name();
        match (self.waits_long.swap(waits, Ordering::Relaxed), waits) {
            (false, true) => tracing::warn!(
                outbox = owner,
                seconds = age_ms / 1_000,
                events,
                "the broker does not acknowledge what the outbox sends: it may be away, or its disk full; events wait on disk until it does"
            ),
            (true, false) => tracing::info!(outbox = owner, "the broker acknowledges again"),
            _ => {}
        }
    }

    /// Closes the database, once.
    pub async fn close_disk(self: &Arc<Self>) {
        if self.disk_closed.swap(true, Ordering::SeqCst) {
            return;
        }
        let shared = Arc::clone(self);
        let closing = move || {
            let mut batch = rocksdb::WriteBatch::default();
            for ((epoch, lane), acked) in shared.take_acks() {
                shared.disk.put_acked(&mut batch, epoch, lane, acked);
            }
            if let Err(error) = shared.disk.write(batch, false) {
                tracing::warn!(%error, "the last acknowledged positions were not kept; the next start sends their events again");
            }
            shared.disk.close();
        };
        if tokio::task::spawn_blocking(closing).await.is_err() {
            tracing::error!("closing the outbox panicked; its write-ahead log holds everything");
        }
    }
}
