//! The intake: takes single events from the stream INTAKE into the outbox, as many as are there at a time.
//!
//! Invariants: a message is acknowledged only after its event (or the record of its refusal) is on disk, so a
//! crash means that it comes again, and the id index drops it; nothing a message holds and nothing the broker does
//! ends this task. INTAKE is a work queue, so any number of intakes share one consumer.

use std::sync::Arc;
use std::time::Duration;

use adtally_streams::names::{INTAKE_CONSUMER, INTAKE_STREAM};
use adtally_streams::parse::{RawEvent, parse_subject};
use adtally_streams::refusal::Refusal;
use adtally_streams::watermark::intake_limit_ms;
use async_nats::jetstream::consumer::{AckPolicy, PullConsumer, pull};
use async_nats::jetstream::{self, Message};
use futures_util::StreamExt;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::border::facts::Sender;
use crate::border::{Border, Incoming, Unavailable};
use crate::fail_points::{Point, pass};
use crate::outbox::OutboxHandle;
use crate::quarantine::{Source, Way, begin_at_zero};
use crate::stream_info::stream_state;

/// Messages that all intakes together may hold unacknowledged; the broker gives out no more.
const MAX_ACK_PENDING: i64 = 32_768;
/// After how long the broker gives an unacknowledged message to somebody else.
const ACK_WAIT: Duration = Duration::from_secs(30);
/// How long a batch is tried again before it is given back: less than [`ACK_WAIT`], since after that somebody
/// else has it too.
const BATCH_WITHIN: Duration = Duration::from_secs(20);
/// Messages of one batch: one fsync and one look at the catalogue for all of them.
const BATCH_MAX_MESSAGES: usize = 4_096;
/// Bytes of one batch, more or less: what is on its way to this process at a time.
const BATCH_MAX_BYTES: usize = 8 << 20;
/// How long a request for messages stays with the broker.
const PULL_EXPIRES: Duration = Duration::from_secs(30);
/// How often the broker says that it is still there.
const HEARTBEAT: Duration = Duration::from_secs(5);
/// The first pause after an error; it doubles up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// The longest pause between two tries.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// How often the watermark's limit is renewed.
const LIMIT_EVERY: Duration = Duration::from_secs(1);

/// What an intake works with.
pub struct Intake {
    /// The border, over the intake's outbox.
    pub border: Border,
    /// The intake's outbox, whose watermark is limited by what waits in INTAKE.
    pub outbox: OutboxHandle,
    /// The broker.
    pub broker: jetstream::Context,
}

/// Why reading ended; it begins again.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error("INTAKE cannot be read: {0}")]
    Broker(String),
    #[error("a batch is given back to INTAKE: {0}")]
    Batch(#[from] Unavailable),
}

impl Ended {
    fn broker(error: impl std::fmt::Display) -> Self {
        Ended::Broker(error.to_string())
    }
}

impl Intake {
    /// Takes events in until told to stop; then the batch under way is finished.
    pub async fn run(self, stop: CancellationToken) {
        begin_at_zero(Way::Nats);
        let (outbox, broker) = (self.outbox.clone(), self.broker.clone());
        let limiting = stop.child_token();
        let limit = limit_watermark(outbox, broker, limiting.clone());
        let take = async {
            self.take(&stop).await;
            limiting.cancel();
        };
        tokio::join!(limit, take);
    }

    async fn take(&self, stop: &CancellationToken) {
        let mut pause = FIRST_PAUSE;
        while !stop.is_cancelled() {
            let started = Instant::now();
            let Err(error) = self.read_on(stop).await else {
                return;
            };
            if started.elapsed() > LONGEST_PAUSE {
                pause = FIRST_PAUSE;
            }
            metrics::counter!("adtally_intake_interruptions_total").increment(1);
            tracing::warn!(%error, "events wait in INTAKE; trying again");
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Reads until something goes wrong, or until told to stop.
    async fn read_on(&self, stop: &CancellationToken) -> Result<(), Ended> {
        let consumer = self.consumer().await?;
        let messages = consumer
            .stream()
            .max_messages_per_batch(BATCH_MAX_MESSAGES)
            .max_bytes_per_batch(BATCH_MAX_BYTES)
            .expires(PULL_EXPIRES)
            .heartbeat(HEARTBEAT)
            .messages()
            .await
            .map_err(Ended::broker)?;
        let mut batches = messages.ready_chunks(BATCH_MAX_MESSAGES);
        loop {
            let chunk = tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                chunk = batches.next() => chunk,
            };
            let chunk = chunk.ok_or_else(|| Ended::broker("the subscription ended"))?;
            let mut messages = Vec::with_capacity(chunk.len());
            let mut broken = None;
            for message in chunk {
                match message {
                    Ok(message) => messages.push(message),
                    Err(error) => broken = Some(Ended::broker(error)),
                }
            }
            self.take_in(messages).await?;
            if let Some(error) = broken {
                return Err(error);
            }
        }
    }

    /// The consumer that all intakes share.
    async fn consumer(&self) -> Result<PullConsumer, Ended> {
        let stream = self
            .broker
            .get_stream_no_info(INTAKE_STREAM)
            .await
            .map_err(Ended::broker)?;
        let config = pull::Config {
            durable_name: Some(INTAKE_CONSUMER.to_owned()),
            description: Some("adtally: events on their way into an intake's outbox".to_owned()),
            ack_policy: AckPolicy::Explicit,
            ack_wait: ACK_WAIT,
            max_ack_pending: MAX_ACK_PENDING,
            ..pull::Config::default()
        };
        stream.create_consumer(config).await.map_err(Ended::broker)
    }

    /// Makes a batch durable and acknowledges it.
    async fn take_in(&self, messages: Vec<Message>) -> Result<(), Ended> {
        if messages.is_empty() {
            return Ok(());
        }
        let batch = messages
            .iter()
            .map(incoming)
            .collect::<Result<Vec<_>, _>>()?;
        let first_ms = batch
            .iter()
            .filter_map(|incoming| incoming.arrival_ms)
            .min()
            .unwrap_or_default();
        pass(Point::IntakeReceived);
        let give_up = Instant::now() + BATCH_WITHIN;
        let mut pause = FIRST_PAUSE;
        loop {
            match self.try_take_in(first_ms, batch.clone()).await {
                Ok(()) => break,
                Err(error) if Instant::now() + pause >= give_up => return Err(error.into()),
                Err(error) => tracing::debug!(%error, events = batch.len(), "a batch waits"),
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
        pass(Point::IntakeDurable);
        for message in &messages {
            // An acknowledgement that does not arrive means that the message comes again, and is dropped by its id.
            if let Err(error) = message.ack().await {
                return Err(Ended::Broker(error.to_string()));
            }
        }
        pass(Point::IntakeAcknowledged);
        metrics::counter!("adtally_intake_batches_total").increment(1);
        Ok(())
    }

    async fn try_take_in(&self, first_ms: i64, batch: Vec<Incoming>) -> Result<(), Unavailable> {
        let entry = self.border.enter_at(first_ms, batch.len()).await?;
        // What was refused has its record; here nobody waits for an answer.
        self.border
            .admit_batch(entry, Way::Nats, batch)
            .await
            .map(drop)
    }
}

/// One message as it came in. Its arrival is when the broker took it.
fn incoming(message: &Message) -> Result<Incoming, Ended> {
    let info = message.info().map_err(Ended::broker)?;
    let arrival_ms =
        i64::try_from(info.published.unix_timestamp_nanos() / 1_000_000).map_err(Ended::broker)?;
    let header = message
        .headers
        .as_ref()
        .and_then(|headers| headers.get(async_nats::header::NATS_MESSAGE_ID));
    Ok(Incoming {
        raw: read(
            &message.subject,
            header.map(async_nats::HeaderValue::as_str),
            &message.payload,
        ),
        sender: Sender::default(),
        source: Source::Message {
            subject: Arc::from(message.subject.as_str()),
            stored: Some((INTAKE_STREAM, info.stream_sequence)),
            payload: message.payload.clone(),
        },
        arrival_ms: Some(arrival_ms),
        landing_url: None,
    })
}

/// The event of a message.
fn read(subject: &str, message_id: Option<&str>, payload: &[u8]) -> Result<RawEvent, Refusal> {
    let subject = parse_subject(subject)?;
    RawEvent::from_payload(subject.kind, Some(subject.key), message_id, payload)
}

/// Keeps the outbox's watermark below whatever waits in INTAKE, by the broker's own clock. The last limit stays
/// when this ends: then nothing later than it is ever announced by this epoch.
async fn limit_watermark(
    outbox: OutboxHandle,
    broker: jetstream::Context,
    stop: CancellationToken,
) {
    loop {
        match stream_state(&broker, INTAKE_STREAM).await {
            Ok(state) => {
                if let Some(limit) =
                    intake_limit_ms(state.messages, state.first_ms, state.broker_ms)
                {
                    outbox.limit_arrival(Some(limit));
                }
                metrics::gauge!("adtally_intake_waiting_messages").set(state.messages as f64);
            }
            Err(error) => tracing::debug!(%error, "the intake's watermark stands still"),
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(LIMIT_EVERY) => {}
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use adtally_streams::event::Kind;
    use adtally_streams::refusal::Reason;

    use super::*;

    #[test]
    fn a_message_is_read_by_its_subject_header_and_payload() {
        let raw = read("ads.click.ad1", Some("click:c1"), b"{}").unwrap();
        assert_eq!(
            (raw.kind, raw.key.as_str(), raw.id.as_str()),
            (Kind::Click, "ad1", "c1")
        );
        for (subject, payload, reason) in [
            ("ads.click.ad1", &b"nonsense"[..], Reason::InvalidPayload),
            ("ads.view.ad1", b"{}", Reason::UnknownKind),
            ("ads.click", b"{}", Reason::BadSubject),
            (
                "ads.click.ad1",
                b"{\"ad_id\":\"ad2\"}",
                Reason::SubjectMismatch,
            ),
            ("ads.click.ad1", b"{}", Reason::MissingEventId),
        ] {
            assert_eq!(
                read(subject, None, payload).unwrap_err().reason,
                reason,
                "{subject}"
            );
        }
    }
}
