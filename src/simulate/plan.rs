//! How much traffic, how fast, for how long; and the pacing of it into a bounded queue.

use std::sync::Arc;
use std::time::{Duration, Instant};

use adtally_streams::event::Kind;
use tokio::sync::{Mutex, mpsc};
use tokio_util::sync::CancellationToken;

use super::traffic::{Event, Traffic};

/// Events that wait for a sender at most; the generator waits past it.
const QUEUE: usize = 1_024;
/// Events of one POST.
const BATCH: usize = 25;
/// Of how many sound impressions and conversions one goes by POST instead of the collector's own path.
const POST_ONE_IN: u64 = 4;
/// Events that are made between two looks at the clock.
const BURST: u64 = 16;

/// How much, how fast, for how long.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Stop after this many events; none: only `duration` or a signal stops.
    pub events: Option<u64>,
    /// Events a second; none: as fast as they are acknowledged.
    pub rate: Option<f64>,
    /// Stop after this time.
    pub duration: Option<Duration>,
}

/// Work for one sender.
#[derive(Clone, Debug)]
pub enum Job {
    /// One event by its own request.
    One(Event),
    /// Several events in one POST.
    Batch(Vec<Event>),
}

/// The senders' end of the queue.
pub type Queue = Arc<Mutex<mpsc::Receiver<Job>>>;

/// An empty queue.
pub fn queue() -> (mpsc::Sender<Job>, Queue) {
    let (tx, rx) = mpsc::channel(QUEUE);
    (tx, Arc::new(Mutex::new(rx)))
}

/// Which events can go to the collector's own paths.
pub type Direct = fn(&Event) -> bool;

/// Makes traffic into `tx` until the plan is done or `stop` is asked; returns how many events it made.
///
/// `direct` says which events the way can send alone; the others are gathered into POSTs. None: all go alone.
pub async fn produce(
    traffic: &mut Traffic,
    plan: Plan,
    direct: Option<Direct>,
    tx: &mpsc::Sender<Job>,
    stop: &CancellationToken,
) -> u64 {
    let began = Instant::now();
    let mut made = 0;
    let mut batch = Vec::with_capacity(BATCH);
    while !stop.is_cancelled() && plan.events.is_none_or(|n| made < n) {
        if made % BURST == 0 {
            if plan.duration.is_some_and(|d| began.elapsed() >= d) {
                break;
            }
            if !pace(began, made, plan.rate, stop).await {
                break;
            }
        }
        let event = traffic.next(now_ms());
        let job = match direct {
            Some(direct) if goes_by_post(&event, made, direct) => {
                batch.push(event);
                (batch.len() == BATCH).then(|| Job::Batch(std::mem::take(&mut batch)))
            }
            _ => Some(Job::One(event)),
        };
        made += 1;
        if let Some(job) = job
            && tx.send(job).await.is_err()
        {
            return made;
        }
    }
    if !batch.is_empty() {
        let _ = tx.send(Job::Batch(batch)).await;
    }
    made
}

fn goes_by_post(event: &Event, n: u64, direct: Direct) -> bool {
    let server_side = event.kind != Kind::Click && n.is_multiple_of(POST_ONE_IN);
    // The second send of a click takes the other way in, where the id index has to find it.
    let other_way = event.kind == Kind::Click && event.second_send;
    server_side || other_way || !direct(event)
}

/// Waits until event `made` is due; false when it is stopped meanwhile.
async fn pace(began: Instant, made: u64, rate: Option<f64>, stop: &CancellationToken) -> bool {
    let Some(rate) = rate else {
        return true;
    };
    let due = began + Duration::from_secs_f64(made as f64 / rate);
    tokio::select! {
        () = tokio::time::sleep_until(due.into()) => true,
        () = stop.cancelled() => false,
    }
}

/// Unix milliseconds.
pub fn now_ms() -> i64 {
    chrono::Utc::now().timestamp_millis()
}
