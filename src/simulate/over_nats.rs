//! Senders by NATS: one message an event into INTAKE, acknowledgements awaited by many senders at once.

use std::sync::Arc;
use std::time::{Duration, Instant};

use adtally_streams::names;
use async_nats::jetstream::{self, consumer};
use futures_util::StreamExt;

use super::encode;
use super::ledger::Ledger;
use super::plan::{Job, Queue, now_ms};
use super::sample::Sample;
use super::traffic::Event;

/// Waits between attempts: doubled from the first to the last.
const FIRST_WAIT: Duration = Duration::from_millis(20);
const LAST_WAIT: Duration = Duration::from_secs(1);
/// How long one acknowledgement may take before the send is repeated under the same id.
const ACK_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the refusals of the last events may take to show in QUARANTINE.
const QUARANTINE_WAIT: Duration = Duration::from_secs(30);

/// What all senders of a run share.
#[derive(Debug)]
pub struct Target {
    /// The broker.
    pub jetstream: jetstream::Context,
    /// The run's tag, put into broken events so that their refusals can be found.
    pub tag: String,
    /// The sample.
    pub sample: Arc<Sample>,
    /// The ledger.
    pub ledger: Arc<Ledger>,
    /// How long one event is tried.
    pub patience: Duration,
}

/// One sender: takes jobs until the queue ends.
pub async fn sender(target: Arc<Target>, queue: Queue) {
    loop {
        let job = queue.lock().await.recv().await;
        match job {
            None => return,
            Some(Job::One(event)) => target.send(&event).await,
            Some(Job::Batch(events)) => {
                for event in &events {
                    target.send(event).await;
                }
            }
        }
    }
}

impl Target {
    async fn send(&self, event: &Event) {
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
            match self.attempt(&subject, &headers, &payload).await {
                Ok(()) if event.fault.is_some() => return self.ledger.broken_published(now_ms()),
                Ok(()) => return self.ledger.acknowledged(event, &self.sample, now_ms()),
                Err(error) => tracing::debug!(%error, "not acknowledged; sending again"),
            }
            if began.elapsed() >= self.patience {
                return self.ledger.gave_up(event);
            }
            self.ledger.retrying();
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(LAST_WAIT);
        }
    }

    async fn attempt(
        &self,
        subject: &str,
        headers: &async_nats::HeaderMap,
        payload: &bytes::Bytes,
    ) -> anyhow::Result<()> {
        tokio::time::timeout(ACK_TIMEOUT, async {
            let ack = self.jetstream.publish_with_headers(
                subject.to_string(),
                headers.clone(),
                payload.clone(),
            );
            ack.await?.await?;
            Ok(())
        })
        .await?
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
