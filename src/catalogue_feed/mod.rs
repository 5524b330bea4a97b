//! The catalogue as this process knows it: a fold of CATALOG, kept on disk, and never behind what was published
//! before an event arrived.
//!
//! Invariant: [`CatalogueHandle::barrier`] says `Current` only when everything that CATALOG held at some moment
//! after the call has been applied. "Unknown ad" is a verdict only then; so whoever publishes an ad and then its
//! first click never finds the click in QUARANTINE.

mod barrier;
mod disk;
mod follow;
mod publish;

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, RwLock, RwLockReadGuard};
use std::time::Duration;

use adtally_streams::catalogue::{Applied, Catalogue};
use adtally_streams::document_keys::{UnknownKey, unknown_keys};
use adtally_streams::documents::parse_document_subject;
use async_nats::jetstream;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub use publish::PublishError;

use crate::misspelt;
use barrier::Barrier;

/// How fresh the catalogue is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Freshness {
    /// Everything published before the question is applied.
    Current,
    /// The broker did not answer; what was known last stands.
    Stale,
    /// Nothing is known: neither a copy on disk nor the broker.
    Cold,
}

/// The catalogue of this process. Clones share it.
#[derive(Clone)]
pub struct CatalogueHandle {
    inner: Arc<Inner>,
}

struct Inner {
    state: RwLock<Catalogue>,
    /// [`Catalogue::revision`], for those who wait for it.
    revision: watch::Sender<u64>,
    is_warm: AtomicBool,
    /// When the stream that `state` was read from was created, as the broker writes it.
    created: Mutex<Option<String>>,
    /// Another stream stands where ours stood: the reader must begin anew.
    replaced: Notify,
    broker: jetstream::Context,
    barrier: Barrier,
    file: Option<PathBuf>,
}

impl CatalogueHandle {
    /// Begins to follow CATALOG, from the copy in `file` (normally `<data-dir>/catalogue.snapshot`) where there
    /// is one. The task ends, with the copy written, after `stop` is cancelled.
    pub fn start(
        broker: jetstream::Context,
        file: Option<PathBuf>,
        stop: CancellationToken,
    ) -> (Self, JoinHandle<()>) {
        let copy = file.as_deref().and_then(disk::read);
        let is_warm = AtomicBool::new(copy.is_some());
        let (created, state) =
            copy.map_or_else(Default::default, |(created, state)| (Some(created), state));
        let (barrier, questions) = Barrier::new();
        let inner = Arc::new(Inner {
            revision: watch::Sender::new(state.revision()),
            state: RwLock::new(state),
            is_warm,
            created: Mutex::new(created),
            replaced: Notify::new(),
            broker,
            barrier,
            file,
        });
        let handle = Self {
            inner: inner.clone(),
        };
        let task = tokio::spawn(async move {
            tokio::join!(
                follow::follow(&inner, &stop),
                barrier::answer(&inner, questions, &stop),
                disk::keep(&inner, &stop),
            );
        });
        (handle, task)
    }

    /// The catalogue. The guard must not be held across an await.
    pub fn read(&self) -> RwLockReadGuard<'_, Catalogue> {
        self.inner.read()
    }

    /// The sequence in CATALOG of the last document read.
    #[cfg(test)]
    pub fn revision(&self) -> u64 {
        *self.inner.revision.borrow()
    }

    /// Whether there is a catalogue at all, from disk or from the broker.
    pub fn is_warm(&self) -> bool {
        self.inner.is_warm()
    }

    /// Waits until a revision is applied; whether it was, within `at_most`.
    pub async fn wait_for(&self, revision: u64, at_most: Duration) -> bool {
        self.inner.wait_for(revision, at_most).await
    }

    /// Waits until everything that was published before this call is applied, as far as the broker answers.
    pub async fn barrier(&self) -> Freshness {
        self.barrier_for(1).await
    }

    /// The same on behalf of a batch of so many events.
    pub async fn barrier_for(&self, events: usize) -> Freshness {
        barrier::pass(&self.inner, events).await
    }
}

impl Inner {
    fn read(&self) -> RwLockReadGuard<'_, Catalogue> {
        self.state
            .read()
            .expect("no thread panics while it applies a document")
    }

    fn is_warm(&self) -> bool {
        self.is_warm.load(Ordering::Acquire)
    }

    fn created(&self) -> Option<String> {
        self.created
            .lock()
            .expect("no thread panics while it notes when the stream was created")
            .clone()
    }

    async fn wait_for(&self, revision: u64, at_most: Duration) -> bool {
        let mut applied = self.revision.subscribe();
        let reached = applied.wait_for(|now| *now >= revision);
        matches!(tokio::time::timeout(at_most, reached).await, Ok(Ok(_)))
    }

    /// Applies one message. A document that does not fit is counted and skipped, as every other reader skips it.
    fn apply(&self, sequence: u64, subject: &str, payload: &[u8]) {
        let (applied, revision) = {
            let mut state = self
                .state
                .write()
                .expect("no thread panics while it applies a document");
            let applied = state.apply(sequence, subject, payload);
            (applied, state.revision())
        };
        if self.is_warm() && matches!(applied, Ok(Applied::Changed(_) | Applied::Unchanged)) {
            tell_unknown(sequence, subject, payload);
        }
        match applied {
            Ok(Applied::Changed(document)) => {
                tracing::debug!(
                    sequence,
                    subject,
                    kind = document.kind().name(),
                    "a catalogue document is in force"
                );
            }
            Ok(_) => {}
            Err(error) => {
                metrics::counter!("adtally_catalogue_documents_bad_total").increment(1);
                tracing::warn!(sequence, subject, %error, "a catalogue document is skipped; the earlier one stands");
            }
        }
        self.revision.send_replace(revision);
        metrics::gauge!("adtally_catalogue_revision").set(revision as f64);
    }

    /// Makes sure that what is known was read from this very stream; whatever came from another is forgotten.
    fn belong_to(&self, created: &str, last_sequence: u64) {
        let mut known = self
            .created
            .lock()
            .expect("no thread panics while it notes when the stream was created");
        let is_same = known.as_deref() == Some(created) && self.read().revision() <= last_sequence;
        if is_same {
            return;
        }
        if known.is_some() {
            tracing::warn!(
                created,
                "CATALOG is another stream than before; the catalogue is read anew"
            );
            self.is_warm.store(false, Ordering::Release);
            *self
                .state
                .write()
                .expect("no thread panics while it applies a document") = Catalogue::default();
            self.revision.send_replace(0);
        }
        *known = Some(created.to_owned());
    }

    fn warm(&self) {
        self.is_warm.store(true, Ordering::Release);
    }
}

/// Says in the log which keys of a document are no fields: who publishes one has nobody else to hear it from.
fn tell_unknown(sequence: u64, subject: &str, payload: &[u8]) {
    for key in unknown_in(subject, payload) {
        let key = misspelt::told(&key);
        tracing::warn!(sequence, subject, %key, "a key of a catalogue document is no field, and nothing is read from it");
    }
}

fn unknown_in(subject: &str, payload: &[u8]) -> Vec<UnknownKey> {
    let document = serde_json::from_slice(payload).ok();
    let read = parse_document_subject(subject).zip(document);
    read.map_or_else(Vec::new, |((kind, _), document)| {
        unknown_keys(kind, &document, "")
    })
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
