//! Publishing to a stream, with the one question that matters answered: is the message stored, or not, or unknown.
//!
//! Nothing is handed to a connection that is down, since the client would keep it and send it later; and an
//! acknowledgement is not waited for across a reconnect, since it cannot come any more. Both are *unknown*, and
//! whoever published sends again under the same id.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

pub use adtally_streams::delivery::Outcome;
use async_nats::Client;
use async_nats::connection::State;
use async_nats::jetstream::Context;
use async_nats::jetstream::context::{ContextBuilder, PublishErrorKind};
use async_nats::jetstream::message::PublishMessage;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use tokio::sync::watch;

use super::LogError;
use super::reader::message_at;
use crate::fail_points::{Point, pass};

/// How long an acknowledgement may take before its message counts as unknown. A broker that fsyncs every message
/// for many publishers may take a second; one that has been killed answers never.
pub const ACK_TIMEOUT: Duration = Duration::from_secs(5);
/// How often the connection's state is looked at.
const LINK_POLL: Duration = Duration::from_millis(20);
/// Messages of this publisher that may wait for their acknowledgement at once; more wait to be sent.
const ACKS_IN_FLIGHT: usize = 1_024;

/// JetStream's error codes that decide what is done next.
mod code {
    /// Resource limits of the account.
    pub const ACCOUNT_RESOURCES: u64 = 10_002;
    /// Insufficient resources.
    pub const INSUFFICIENT_RESOURCES: u64 = 10_023;
    /// Storage resources of the server.
    pub const STORAGE_RESOURCES: u64 = 10_047;
    /// The message is larger than the stream allows.
    pub const MESSAGE_TOO_LARGE: u64 = 10_054;
    /// Another message was the subject's last.
    pub const WRONG_LAST_SEQUENCE: u64 = 10_071;
    /// The same, where the server does not say which.
    pub const WRONG_LAST_SEQUENCE_CONSTANT: u64 = 10_164;
    /// The stream could not store: its maximum is reached, or its disk failed.
    pub const STORE_FAILED: u64 = 10_077;
    /// A message of the same id is being stored at this moment.
    pub const SAME_ID_IN_PROGRESS: u64 = 10_158;
}

/// The log as an outbox sees it, so that an outbox can be held against a log that loses and repeats.
pub trait Broker: Send + Sync + 'static {
    /// Publishes and waits for what becomes of it; `id` is the broker's dedup id.
    fn publish(
        &self,
        subject: String,
        id: Option<String>,
        payload: Bytes,
    ) -> BoxFuture<'_, Outcome>;

    /// The payload that a stream holds at a sequence; none when it holds none there.
    fn stored(
        &self,
        stream: String,
        sequence: u64,
    ) -> BoxFuture<'_, Result<Option<Bytes>, LogError>>;

    /// Resolves once the broker can be reached.
    fn connected(&self) -> BoxFuture<'_, ()>;

    /// Bytes of the largest message that the broker takes.
    fn max_payload(&self) -> usize;
}

/// Publishes over one connection. Clones share it.
#[derive(Clone, Debug)]
pub struct Publisher {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    client: Client,
    jetstream: Context,
    link: watch::Receiver<Link>,
    monitor: tokio::task::JoinHandle<()>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.monitor.abort();
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Link {
    connected: bool,
    /// Connections made so far: another number means that whatever was under way is lost.
    connects: u64,
}

fn link_of(client: &Client) -> Link {
    Link {
        connected: client.connection_state() == State::Connected,
        connects: client.statistics().connects.load(Ordering::Relaxed),
    }
}

impl Publisher {
    /// A publisher over that connection. Must be called within a Tokio runtime.
    pub fn new(client: Client) -> Self {
        let jetstream = ContextBuilder::new()
            .timeout(ACK_TIMEOUT)
            .ack_timeout(ACK_TIMEOUT)
            .max_ack_inflight(ACKS_IN_FLIGHT)
            .build(client.clone());
        let (sender, link) = watch::channel(link_of(&client));
        let watched = client.clone();
        let monitor = tokio::spawn(async move {
            let mut ticks = tokio::time::interval(LINK_POLL);
            ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
            loop {
                ticks.tick().await;
                let now = link_of(&watched);
                sender.send_if_modified(|link| std::mem::replace(link, now) != now);
            }
        });
        Self {
            inner: Arc::new(Inner {
                client,
                jetstream,
                link,
                monitor,
            }),
        }
    }

    /// JetStream over this connection.
    pub fn jetstream(&self) -> &Context {
        &self.inner.jetstream
    }

    /// Publishes and waits for what becomes of it; `id` is the broker's dedup id.
    pub async fn publish(&self, subject: &str, id: Option<&str>, payload: Bytes) -> Outcome {
        let message = PublishMessage::build().payload(payload);
        let message = match id {
            Some(id) => message.message_id(id),
            None => message,
        };
        self.send(subject, message).await
    }

    /// Publishes what must be the first message of its subject: [`Outcome::Conflict`] when there is one already.
    pub async fn publish_first(&self, subject: &str, payload: Bytes) -> Outcome {
        let message = PublishMessage::build()
            .payload(payload)
            .expected_last_subject_sequence(0);
        self.send(subject, message).await
    }

    async fn send(&self, subject: &str, message: PublishMessage) -> Outcome {
        let before = *self.inner.link.borrow();
        if !before.connected {
            return Outcome::Unknown("the broker is not connected".to_owned());
        }
        let acknowledged = async {
            match self
                .inner
                .jetstream
                .send_publish(subject.to_owned(), message)
                .await
            {
                Ok(ack) => {
                    pass(Point::ShipperSent);
                    ack.await
                }
                Err(error) => Err(error),
            }
        };
        let mut link = self.inner.link.clone();
        tokio::select! {
            answer = acknowledged => match answer {
                Ok(ack) => Outcome::Stored { stream: ack.stream, sequence: ack.sequence, duplicate: ack.duplicate },
                Err(error) => outcome_of(&error),
            },
            _ = link.wait_for(|now| *now != before) => {
                Outcome::Unknown("the connection was lost before the acknowledgement".to_owned())
            }
        }
    }
}

fn outcome_of(error: &async_nats::jetstream::context::PublishError) -> Outcome {
    let said = std::error::Error::source(error)
        .map_or_else(|| error.to_string(), |source| format!("{error}: {source}"));
    let jetstream = std::error::Error::source(error)
        .and_then(|source| source.downcast_ref::<async_nats::jetstream::Error>())
        .map(|source| source.error_code().0);
    match (error.kind(), jetstream) {
        (PublishErrorKind::MaxPayloadExceeded, _) | (_, Some(code::MESSAGE_TOO_LARGE)) => {
            Outcome::TooLarge(said)
        }
        (PublishErrorKind::WrongLastSequence | PublishErrorKind::WrongLastMessageId, _)
        | (_, Some(code::WRONG_LAST_SEQUENCE | code::WRONG_LAST_SEQUENCE_CONSTANT)) => {
            Outcome::Conflict(said)
        }
        (
            _,
            Some(
                code::STORE_FAILED
                | code::STORAGE_RESOURCES
                | code::INSUFFICIENT_RESOURCES
                | code::ACCOUNT_RESOURCES,
            ),
        ) => Outcome::Full(said),
        (_, Some(code::SAME_ID_IN_PROGRESS)) => Outcome::Unknown(said),
        // Codes of 503 are a stream without a leader for the moment.
        (_, Some(_)) if said.contains("503") => Outcome::Unknown(said),
        (_, Some(_)) => Outcome::Refused(said),
        _ => Outcome::Unknown(said),
    }
}

impl Broker for Publisher {
    fn publish(
        &self,
        subject: String,
        id: Option<String>,
        payload: Bytes,
    ) -> BoxFuture<'_, Outcome> {
        Box::pin(async move { Publisher::publish(self, &subject, id.as_deref(), payload).await })
    }

    fn stored(
        &self,
        stream: String,
        sequence: u64,
    ) -> BoxFuture<'_, Result<Option<Bytes>, LogError>> {
        Box::pin(async move {
            Ok(message_at(self.jetstream(), &stream, sequence)
                .await?
                .map(|m| m.payload))
        })
    }

    fn connected(&self) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            let mut link = self.inner.link.clone();
            // The sender ends only with this publisher.
            let _ = link.wait_for(|now| now.connected).await;
        })
    }

    fn max_payload(&self) -> usize {
        self.inner.client.max_payload()
    }
}
