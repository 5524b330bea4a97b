//! Publishing documents: read, check, and write only if nobody else has written meanwhile.
//!
//! The broker compares the stream's last sequence with the revision that the check was made at. So what a
//! document refers to, and what is fixed at creation, cannot change between the check and the write; who loses
//! the race reads on and tries again.

use std::collections::HashMap;
use std::time::Duration;

use adtally_streams::catalogue::{Catalogue, CatalogueError, Document, DocumentKind};
use adtally_streams::id::Id;
use async_nats::connection;
use async_nats::jetstream::context::PublishErrorKind;
use async_nats::jetstream::message::PublishMessage;
use bytes::Bytes;
use tokio::time::Instant;

use super::{CatalogueHandle, Freshness};
use crate::fail_points::{Point, pass};

/// Tries against other writers before giving up.
const MAX_TRIES: usize = 16;
/// Writes without an acknowledgement, from a broker that answers otherwise, before giving up.
const MAX_UNANSWERED: usize = 2;
/// Documents on their way to the broker at the same time.
const MAX_IN_FLIGHT: usize = 256;
/// How long a broker that is connected may take to say how far CATALOG is.
const CURRENT_WITHIN: Duration = Duration::from_secs(10);
/// The pause before it is asked again.
const ASK_AGAIN_AFTER: Duration = Duration::from_millis(250);
/// How long a written document may take until it is applied here.
const APPLY_TIMEOUT: Duration = Duration::from_secs(10);

/// Why a document is not in force.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// The document itself, or what it refers to.
    #[error(transparent)]
    Refused(#[from] CatalogueError),
    /// The broker does not answer, or the catalogue has not been read yet.
    #[error("the catalogue cannot be written now: {0}; try again")]
    Unavailable(String),
    /// Others kept writing.
    #[error("the catalogue was changed by others {MAX_TRIES} times in a row; try again")]
    Contended,
}

impl PublishError {
    fn unavailable(error: impl std::fmt::Display) -> Self {
        PublishError::Unavailable(error.to_string())
    }
}

impl CatalogueHandle {
    /// Puts a document in force and returns the revision at which it is, in this process. A document that is in
    /// force already is not written again.
    pub async fn publish(&self, document: Document) -> Result<u64, PublishError> {
        self.publish_all(std::slice::from_ref(&document)).await
    }

    /// Puts documents in force, one after the other, each checked on top of those before it; all of them are
    /// checked before the first is written. Returns the revision at which all are in force here.
    pub async fn publish_all(&self, documents: &[Document]) -> Result<u64, PublishError> {
        let mut unanswered = 0;
        for _ in 0..MAX_TRIES {
            if !self.is_current().await {
                return Err(PublishError::unavailable("the broker does not answer"));
            }
            let (revision, wanted) = {
                let catalogue = self.read();
                catalogue.check_all(documents)?;
                (catalogue.revision(), not_in_force(&catalogue, documents))
            };
            if wanted.is_empty() {
                return Ok(revision);
            }
            match self.write(revision, &wanted).await? {
                Written::Through(last) => {
                    pass(Point::CataloguePublished);
                    if !self.wait_for(last, APPLY_TIMEOUT).await {
                        return Err(PublishError::unavailable(
                            "it is written, but not applied here yet",
                        ));
                    }
                    return Ok(last);
                }
                Written::Overtaken => {}
                Written::Unanswered => unanswered += 1,
            }
            if unanswered == MAX_UNANSWERED {
                return Err(PublishError::unavailable(
                    "the broker answers, but does not acknowledge what is written to catalog.>, as when this user may not write there",
                ));
            }
        }
        Err(PublishError::Contended)
    }

    /// Whether everything that was published before is in force here, asked again while a broker that is there takes
    /// longer to answer than an event would wait for it.
    async fn is_current(&self) -> bool {
        let until = Instant::now() + CURRENT_WITHIN;
        loop {
            if self.barrier().await == Freshness::Current {
                return true;
            }
            let state = self.inner.broker.client().connection_state();
            if state != connection::State::Connected || Instant::now() >= until {
                return false;
            }
            tokio::time::sleep(ASK_AGAIN_AFTER).await;
        }
    }

    /// Writes documents on top of a revision, and says how far that came.
    /// Each message expects the sequence of the one before it, so all can be on their way at once.
    async fn write(&self, revision: u64, documents: &[&Document]) -> Result<Written, PublishError> {
        let mut last = revision;
        let mut expected = revision;
        for chunk in documents.chunks(MAX_IN_FLIGHT) {
            let mut acks = Vec::with_capacity(chunk.len());
            for document in chunk {
                let message = PublishMessage::build()
                    .payload(Bytes::from(document.to_json_bytes()))
                    .expected_last_sequence(expected);
                expected += 1;
                let sent = self
                    .inner
                    .broker
                    .send_publish(document.subject(), message)
                    .await;
                acks.push(tokio::spawn(
                    sent.map_err(PublishError::unavailable)?.into_future(),
                ));
            }
            for ack in acks {
                match ack.await.map_err(PublishError::unavailable)? {
                    Ok(stored) => last = stored.sequence,
                    Err(error) => match error.kind() {
                        PublishErrorKind::WrongLastSequence => return Ok(Written::Overtaken),
                        PublishErrorKind::TimedOut | PublishErrorKind::BrokenPipe => {
                            return Ok(Written::Unanswered);
                        }
                        _ => return Err(PublishError::unavailable(error)),
                    },
                }
            }
        }
        Ok(Written::Through(last))
    }
}

/// What became of documents that were sent.
enum Written {
    /// All are written; the last one's sequence.
    Through(u64),
    /// Somebody else wrote first.
    Overtaken,
    /// It is unknown whether they are written: the next try finds out by reading.
    Unanswered,
}

/// The documents that would change something, each on top of those before it.
fn not_in_force<'d>(catalogue: &Catalogue, documents: &'d [Document]) -> Vec<&'d Document> {
    let mut before: HashMap<(DocumentKind, &Id), Document> = HashMap::new();
    let mut wanted = Vec::new();
    for document in documents {
        let key = (document.kind(), document.id());
        let completed = catalogue.completed(document.clone());
        let earlier = before
            .get(&key)
            .cloned()
            .or_else(|| catalogue.document(key.0, key.1.as_str()));
        if earlier.as_ref() != Some(&completed) {
            before.insert(key, completed);
            wanted.push(document);
        }
    }
    wanted
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn advertiser(id: &str, name: &str) -> Document {
        let json = format!(
            r#"{{"advertiser_id":"{id}","name":"{name}","currency_code":"USD","time_zone":"UTC"}}"#
        );
        Document::from_json(DocumentKind::Advertiser, None, json.as_bytes()).unwrap()
    }

    #[test]
    fn only_what_changes_something_is_written_and_the_last_word_stays_the_last() {
        let mut catalogue = Catalogue::default();
        let [first, second, other] = [
            advertiser("a", "1"),
            advertiser("a", "2"),
            advertiser("b", "1"),
        ];
        catalogue
            .apply(1, &second.subject(), &second.to_json_bytes())
            .unwrap();
        assert_eq!(
            not_in_force(&catalogue, std::slice::from_ref(&second)),
            Vec::<&Document>::new()
        );
        let documents = [first.clone(), second.clone(), other.clone(), other.clone()];
        assert_eq!(
            not_in_force(&catalogue, &documents),
            [&first, &second, &other]
        );
    }
}
