//! Senders by NATS: one message an event into INTAKE, acknowledgements awaited by many senders at once.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use adtally_streams::names;
use async_nats::jetstream::{self, consumer};
use futures_util::StreamExt;
use tokio_util::sync::CancellationToken;

use super::encode;
use super::ledger::Ledger;
use super::plan::{Job, Queue, now_ms};
use super::sample::Sample;
use super::traffic::Event;
use crate::log::refusals::Refusals;

/// Waits between attempts: doubled from the first to the last.
const FIRST_WAIT: Duration = Duration::from_millis(20);
const LAST_WAIT: Duration = Duration::from_secs(1);
/// How long one acknowledgement may take before the send is repeated under the same id.
const ACK_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the refusals of the last events may take to show in QUARANTINE.
const QUARANTINE_WAIT: Duration = Duration::from_secs(30);

/// A broker to publish to.
#[derive(Clone, Debug)]
pub struct Broker {
    /// Its JetStream.
    pub jetstream: jetstream::Context,
    /// What the connection is refused.
    pub refusals: Refusals,
}

/// Why a message is not known to be stored.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// Sending it again would change nothing.
    #[error(
        "this user may not publish there: {0}. Choose another by --user, or look at the broker's permissions"
    )]
    Refused(String),
    /// It may be stored or not.
    #[error("not acknowledged: {0}")]
    Unacknowledged(String),
}

impl Broker {
    /// Publishes and waits for the acknowledgement.
    pub async fn publish(
        &self,
        subject: &str,
        headers: async_nats::HeaderMap,
        payload: bytes::Bytes,
    ) -> Result<(), PublishError> {
        let mut refused = self.refusals.listen();
        let stored = async {
            let ack = self
                .jetstream
                .publish_with_headers(subject.to_owned(), headers, payload);
            ack.await?.await
        };
        tokio::select! {
            why = refused.of(subject) => Err(PublishError::Refused(why.to_string())),
            stored = tokio::time::timeout(ACK_TIMEOUT, stored) => match stored {
                Ok(Ok(_)) => Ok(()),
                Ok(Err(error)) => Err(PublishError::Unacknowledged(error.to_string())),
                Err(error) => Err(PublishError::Unacknowledged(error.to_string())),
            },
        }
    }
}

/// What all senders of a run share.
#[derive(Debug)]
pub struct Target {
    /// The broker.
    pub broker: Broker,
    /// Why the broker takes no events of ours: nobody sends any more.
    pub refused: OnceLock<PublishError>,
    /// Ends the traffic then.
    pub stop: CancellationToken,
    /// The run's tag, put into broken events so that their refusals can be found.
    pub tag: String,
    /// The sample.
    pub sample: Arc<Sample>,
    /// The ledger.
    pub ledger: Arc<Ledger>,
    /// How long one event is tried.
    pub patience: Duration,
}

/// One sender: takes jobs until the queue ends, and sends them unless the broker takes none.
pub async fn sender(target: Arc<Target>, queue: Queue) {
    loop {
        let job = queue.lock().await.recv().await;
        let events = match job {
            None => return,
            Some(Job::One(event)) => vec![event],
            Some(Job::Batch(events)) => events,
        };
        for event in &events {
            target.send(event).await;
        }
    }
}

impl Target {
    async fn send(&self, event: &Event) {
        if self.refused.get().is_some() {
            return;
        }
        self.ledger.sending(event);
        let mut object = encode::object(event, &self.sample, now_ms());
        if event.fault.is_some() {
            object.insert("simulation".into(), marker(&self.tag).into());
        }
        let payload = bytes::Bytes::from(serde_json::Value::Object(object).to_string());
        let subject = encode::subject(event, &self.sample);
        let mut headers = async_nats::HeaderMap::new();
        // A second send without a message id passes the broker, so that the id index has to find it.
        if !event.second_send {
            headers.insert("Nats-Msg-Id", event.id.as_str());
        }
        let began = Instant::now();
        let mut wait = FIRST_WAIT;
        loop {
            let attempt = self
                .broker
                .publish(&subject, headers.clone(), payload.clone());
            match attempt.await {
                Ok(()) if event.fault.is_some() => return self.ledger.broken_published(now_ms()),
                Ok(()) => return self.ledger.acknowledged(event, &self.sample, now_ms()),
                Err(error @ PublishError::Refused(_)) => {
                    // Another sender may have said so first, in the same words.
                    let _ = self.refused.set(error);
                    return self.stop.cancel();
                }
                Err(error) => tracing::debug!(%error, "sending again"),
            }
            if began.elapsed() >= self.patience {
                return self.ledger.gave_up(event);
            }
            self.ledger.retrying();
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(LAST_WAIT);
        }
    }
}

/// What is put into the broken events of the run `tag`, so that their refusals can be told from others.
fn marker(tag: &str) -> String {
    format!("broken:{tag}")
}

/// The last sequence of QUARANTINE: refusals of this run come after it.
pub async fn quarantine_position(jetstream: &jetstream::Context) -> anyhow::Result<u64> {
    let stream = jetstream.get_stream(names::QUARANTINE_STREAM).await?;
    Ok(stream.cached_info().state.last_sequence)
}

/// Counts the refusals of the run `tag` in QUARANTINE after `position`, until there are `expected` or none come.
pub async fn count_quarantined(
    jetstream: &jetstream::Context,
    position: u64,
    tag: &str,
    expected: u64,
) -> anyhow::Result<u64> {
    let stream = jetstream.get_stream(names::QUARANTINE_STREAM).await?;
    let consumer = stream
        .create_consumer(consumer::pull::OrderedConfig {
            deliver_policy: consumer::DeliverPolicy::ByStartSequence {
                start_sequence: position + 1,
            },
            ..Default::default()
        })
        .await?;
    let mut messages = consumer.messages().await?;
    let marker = marker(tag);
    let mut found = 0;
    while found < expected {
        let Ok(Some(message)) = tokio::time::timeout(QUARANTINE_WAIT, messages.next()).await else {
            break;
        };
        let payload = message?.payload.clone();
        if String::from_utf8_lossy(&payload).contains(&marker) {
            found += 1;
        }
    }
    Ok(found)
}
