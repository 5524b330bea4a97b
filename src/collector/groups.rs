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
use crate::quarantine::{Way, begin_at_zero, count_refused};

/// Groups under way at once: one commit takes all that are decided while the disk writes the one before. With fewer,
/// visits would wait here that the next commit could take; with more, groups would be of a few visits each.
const GROUPS_AT_ONCE: usize = 8;
/// Visits of one group; more wait for the next one.
pub const GROUP_MAX_VISITS: usize = 4_096;
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

/// What became of a visit.
pub(super) type Outcome = Result<Kept, Failure>;

/// A visit, and where its outcome is told.
struct Waiting {
    visit: Visit,
    told: oneshot::Sender<Outcome>,
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
    pub async fn keep(&self, visit: Visit) -> Outcome {
        let (told, outcome) = oneshot::channel();
        let waiting = Waiting { visit, told };
        self.queue
            .send(waiting)
            .await
            .map_err(|_| Failure::ended())?;
        outcome.await.map_err(|_| Failure::ended())?
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
            let _place = place;
            let (visits, told): (_, Vec<_>) = group.into_iter().map(|w| (w.visit, w.told)).unzip();
            for (told, outcome) in told.into_iter().zip(collector.keep_group(visits).await) {
                // Whoever has gone away needs no outcome.
                let _ = told.send(outcome);
            }
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

/// A group on its way: what goes to admission, what was refused before it, and what each visit is told once everything
/// of the group is durable.
#[derive(Default)]
struct Sorted {
    outcomes: Vec<Outcome>,
    batch: Vec<Incoming>,
    /// Whose visit each of the batch is.
    batch_of: Vec<usize>,
    refused: Vec<Decided>,
    refused_of: Vec<usize>,
}

impl Collector {
    /// Makes the events of a group durable with one fsync, and keeps the records of what is refused. One outcome for
    /// each visit, in their order.
    pub(super) async fn keep_group(&self, visits: Vec<Visit>) -> Vec<Outcome> {
        let _counter = PanicCounter;
        let entry = match self.border.enter(visits.len()).await {
            Ok(entry) => entry,
            Err(error) => {
                let problem = error.problem();
                return visits
                    .iter()
                    .map(|_| Err(Failure::Problem(problem.clone())))
                    .collect();
            }
        };
        let Sorted {
            mut outcomes,
            batch,
            batch_of,
            mut refused,
            mut refused_of,
        } = self.sort(&entry, visits);
        let mut keep = self.border.decide_batch(&entry, batch).await;
        let mut keep_of = batch_of;
        if !entry.is_current() {
            (keep, keep_of) = without_stale(keep, keep_of, &mut outcomes);
        }
        keep.append(&mut refused);
        keep_of.append(&mut refused_of);
        if let Err(error) = self.border.keep(entry, Way::Collector, keep).await {
            let problem = error.problem();
            for of in keep_of {
                outcomes[of] = Err(Failure::Problem(problem.clone()));
            }
        }
        outcomes
    }

    /// Plans every visit under one reading of the catalogue.
    fn sort(&self, entry: &Entry, visits: Vec<Visit>) -> Sorted {
        let mut sorted = Sorted {
            outcomes: Vec::with_capacity(visits.len()),
            batch: Vec::with_capacity(visits.len()),
            batch_of: Vec::with_capacity(visits.len()),
            ..Sorted::default()
        };
        let catalogue = self.border.catalogue().read();
        for visit in visits {
            let outcome = match self.plan(&visit, entry.arrival_ms(), &catalogue) {
                Ok(planned) => Ok(sorted.admit(visit, planned)),
                Err(refused) => Err(sorted.refuse(entry, visit, refused)),
            };
            sorted.outcomes.push(outcome);
        }
        sorted
    }
}

/// Leaves out events whose ad is not known to a catalogue that may be behind: their visits are told so.
fn without_stale(
    decided: Vec<Decided>,
    decided_of: Vec<usize>,
    outcomes: &mut [Outcome],
) -> (Vec<Decided>, Vec<usize>) {
    let known = decided.into_iter().zip(decided_of).filter(|(decided, of)| {
        let is_stale = decided.is_unknown_ad();
        if is_stale {
            outcomes[*of] = Err(Unavailable::Stale.into());
        }
        !is_stale
    });
    known.unzip()
}

impl Sorted {
    /// Also where admission refuses the event this is the outcome: then its record is kept, and the person still
    /// arrives.
    fn admit(&mut self, visit: Visit, planned: Planned) -> Kept {
        let kept = Kept {
            id: planned.raw.id.clone(),
            location: planned.location.clone(),
        };
        if visit.is_head() {
            return kept;
        }
        let (source, sender) = visit.into_source();
        self.batch_of.push(self.outcomes.len());
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
        kept
    }

    fn refuse(&mut self, entry: &Entry, visit: Visit, refused: Box<Refused>) -> Failure {
        if refused.refusal.reason == Reason::UnknownAd && !entry.is_current() {
            return Unavailable::Stale.into();
        }
        if visit.is_head() {
            return Failure::Refused(refused);
        }
        if refused.is_about_nothing() {
            count_refused(Way::Collector, std::iter::once(refused.refusal.reason));
            return Failure::Refused(refused);
        }
        let (refusal, arrival_ms) = (refused.refusal.clone(), entry.arrival_ms());
        let (source, _) = visit.into_source();
        self.refused_of.push(self.outcomes.len());
        self.refused
            .push(Decided::refused(refusal, &source, arrival_ms));
        Failure::Refused(refused)
    }
}
