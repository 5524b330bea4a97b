//! Admission in groups: everything that waits at the collector is decided together and kept with one fsync.
//!
//! What costs the same for one event as for a thousand (the question how far CATALOG is, the outbox's queue and
//! its watermark, a commit) is paid once a group. A group grows by backpressure, without a timer: while
//! [`GROUPS_AT_ONCE`] are under way, whoever comes waits and forms the next one. So a single click is kept at once,
//! and under load the groups are as large as the disk is slow.
//!
//! Invariant: the question how far CATALOG is leaves after every event of the group has arrived.

use std::sync::Arc;

use adtally_streams::event::Kind;
use adtally_streams::id::Id;
use adtally_streams::refusal::Reason;
use tokio::sync::{Semaphore, mpsc, oneshot};

use super::plan::{Planned, Refused};
use super::visit::Visit;
use super::{Collector, Failure};
use crate::border::facts::Sender;
use crate::border::{Decided, Entry, Incoming, Unavailable};
use crate::http::problem::Problem;
use crate::quarantine::{Way, begin_at_zero, count_refused};

/// Groups under way at once: one commit takes all that are decided while the disk writes the one before. With fewer,
/// visits would wait here that the next commit could take; with more, groups would be of a few visits each.
const GROUPS_AT_ONCE: usize = 8;
/// Visits of one group; more wait for the next one.
const GROUP_MAX_VISITS: usize = 4_096;
/// Visits that may wait for a group; whoever comes then waits to wait, and his connection with him.
const QUEUE_MAX_VISITS: usize = 16_384;

/// What was kept of a visit, as its answer needs it.
#[derive(Clone, Debug)]
pub(super) struct Kept {
    /// The event's id.
    pub id: Id,
    /// Where a click leads.
    pub location: Option<Arc<str>>,
}

/// A visit, and where its outcome is told.
struct Waiting {
    visit: Visit,
    told: oneshot::Sender<Result<Kept, Failure>>,
}

/// The way into the groups. Clones share them.
#[derive(Clone)]
pub(super) struct Groups {
    queue: mpsc::Sender<Waiting>,
}

impl Groups {
    /// Begins to form groups, until every clone is gone.
    pub fn start(collector: Arc<Collector>) -> Self {
        begin_at_zero(Way::Collector);
        let (queue, waiting) = mpsc::channel(QUEUE_MAX_VISITS);
        tokio::spawn(form(collector, waiting));
        Self { queue }
    }

    /// Makes a visit's event durable, or keeps the record of its refusal; a HEAD request leaves no trace.
    ///
    /// A caller that goes away while it waits changes nothing: the visit has been handed over.
    pub async fn keep(&self, visit: Visit) -> Result<Kept, Failure> {
        let (told, outcome) = oneshot::channel();
        let ended = || {
            Failure::Problem(Problem::unavailable(
                "this request could not be answered; the operator's log says why",
            ))
        };
        let waiting = Waiting { visit, told };
        self.queue.send(waiting).await.map_err(|_| ended())?;
        outcome.await.map_err(|_| ended())?
    }
}

/// Forms groups for as long as somebody may come.
async fn form(collector: Arc<Collector>, mut queue: mpsc::Receiver<Waiting>) {
    let places = Arc::new(Semaphore::new(GROUPS_AT_ONCE));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else {
            return;
        };
        let mut group = Vec::new();
        if queue.recv_many(&mut group, GROUP_MAX_VISITS).await == 0 {
            return;
        }
        // Whoever has been read from the network meanwhile comes along.
        tokio::task::yield_now().await;
        while group.len() < GROUP_MAX_VISITS
            && let Ok(waiting) = queue.try_recv()
        {
            group.push(waiting);
        }
        let collector = Arc::clone(&collector);
        // A task of its own: it runs beside the next one, and a panic in it ends this group and nothing else.
        tokio::spawn(async move {
            let (_counter, _place) = (PanicCounter, place);
            collector.keep_group(group).await;
        });
    }
}

/// Counts a panic while it unwinds: those who wait are answered 503, as for every request that panics.
struct PanicCounter;

impl Drop for PanicCounter {
    fn drop(&mut self) {
        if std::thread::panicking() {
            tracing::error!("deciding over a group of requests panicked");
            metrics::counter!("adtally_http_panics_total").increment(1);
        }
    }
}

/// Those of a group whose event goes to admission, and those whose request was refused before it.
#[derive(Default)]
struct Sorted {
    batch: Vec<Incoming>,
    batch_told: Vec<Told>,
    refused: Vec<Decided>,
    refused_told: Vec<Told>,
}

/// An outcome that is told once everything of the group is durable.
struct Told {
    told: oneshot::Sender<Result<Kept, Failure>>,
    outcome: Result<Kept, Failure>,
}

/// Tells an outcome; whoever has gone away needs none.
fn tell(told: oneshot::Sender<Result<Kept, Failure>>, outcome: Result<Kept, Failure>) {
    let _ = told.send(outcome);
}

impl Collector {
    async fn keep_group(&self, group: Vec<Waiting>) {
        let entry = match self.border.enter(group.len()).await {
            Ok(entry) => entry,
            Err(error) => {
                let problem = error.problem();
                for waiting in group {
                    tell(waiting.told, Err(Failure::Problem(problem.clone())));
                }
                return;
            }
        };
        let mut sorted = self.sort(&entry, group);
        let decided = self.border.decide_batch(&entry, sorted.batch).await;
        let mut keep = Vec::with_capacity(decided.len() + sorted.refused.len());
        let mut telling = Vec::with_capacity(keep.capacity());
        for (decided, told) in decided.into_iter().zip(sorted.batch_told) {
            if decided.is_unknown_ad() && !entry.is_current() {
                tell(told.told, Err(Unavailable::Stale.into()));
                continue;
            }
            keep.push(decided);
            telling.push(told);
        }
        keep.append(&mut sorted.refused);
        telling.append(&mut sorted.refused_told);
        match self.border.keep(entry, Way::Collector, keep).await {
            Ok(_) => {
                for Told { told, outcome } in telling {
                    tell(told, outcome);
                }
            }
            Err(error) => {
                let problem = error.problem();
                for Told { told, .. } in telling {
                    tell(told, Err(Failure::Problem(problem.clone())));
                }
            }
        }
    }

    /// Plans every visit under one reading of the catalogue. Whatever leaves no trace is told here.
    fn sort(&self, entry: &Entry, group: Vec<Waiting>) -> Sorted {
        let mut sorted = Sorted {
            batch: Vec::with_capacity(group.len()),
            batch_told: Vec::with_capacity(group.len()),
            ..Sorted::default()
        };
        let catalogue = self.border.catalogue().read();
        for Waiting { visit, told } in group {
            match self.plan(&visit, entry.arrival_ms(), &catalogue) {
                Ok(planned) => sorted.admit(visit, told, planned),
                Err(refused) => sorted.refuse(entry, visit, told, refused),
            }
        }
        sorted
    }
}

impl Sorted {
    fn admit(
        &mut self,
        visit: Visit,
        told: oneshot::Sender<Result<Kept, Failure>>,
        planned: Planned,
    ) {
        let kept = Kept {
            id: planned.raw.id.clone(),
            location: planned.location.clone(),
        };
        if visit.is_head() {
            return tell(told, Ok(kept));
        }
        let (source, sender) = visit.into_source();
        self.batch.push(Incoming {
            sender: Sender {
                is_limited: planned.raw.kind == Kind::Click,
                has_minted_id: planned.has_minted_id,
                mended: planned.mended,
                ..sender
            },
            raw: Ok(planned.raw),
            source,
            arrival_ms: None,
            landing_url: planned.location,
        });
        // Also where admission refuses the event: then its record is kept, and the person still arrives.
        self.batch_told.push(Told {
            told,
            outcome: Ok(kept),
        });
    }

    fn refuse(
        &mut self,
        entry: &Entry,
        visit: Visit,
        told: oneshot::Sender<Result<Kept, Failure>>,
        refused: Box<Refused>,
    ) {
        if refused.refusal.reason == Reason::UnknownAd && !entry.is_current() {
            return tell(told, Err(Unavailable::Stale.into()));
        }
        if visit.is_head() {
            return tell(told, Err(Failure::Refused(refused)));
        }
        if refused.is_about_nothing() {
            count_refused(Way::Collector, std::iter::once(refused.refusal.reason));
            return tell(told, Err(Failure::Refused(refused)));
        }
        let (refusal, arrival_ms) = (refused.refusal.clone(), entry.arrival_ms());
        let (source, _) = visit.into_source();
        self.refused
            .push(Decided::refused(refusal, &source, arrival_ms));
        self.refused_told.push(Told {
            told,
            outcome: Err(Failure::Refused(refused)),
        });
    }
}
