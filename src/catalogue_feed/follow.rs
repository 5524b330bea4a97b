//! Reading CATALOG: an ordered consumer from the revision on, rebuilt after whatever goes wrong.

use std::time::Duration;

use adtally_streams::names::CATALOG_STREAM;
use async_nats::jetstream::consumer::{DeliverPolicy, pull::OrderedConfig};
use futures_util::StreamExt;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Inner;
use crate::stream_info::stream_state;

/// The first pause after an error; it doubles up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// The longest pause between two tries.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// How long CATALOG may end before what was read of it: a leader that was just elected may answer before it has
/// applied all that its log holds. After that it was restored from before, and is read anew.
const BEHIND_FOR: Duration = Duration::from_secs(15);

/// Why reading ended; it begins again.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error("{0}")]
    Info(#[from] crate::stream_info::InfoError),
    #[error("CATALOG cannot be read: {0}")]
    Broker(String),
    #[error("CATALOG ends at {0}, before what was read of it; its leader may have just changed")]
    Behind(u64),
    #[error("CATALOG was replaced by another stream")]
    Replaced,
}

impl Ended {
    fn broker(error: impl std::fmt::Display) -> Self {
        Ended::Broker(error.to_string())
    }
}

/// Follows CATALOG until told to stop.
pub(super) async fn follow(inner: &Inner, stop: &CancellationToken) {
    let mut pause = FIRST_PAUSE;
    let mut behind = None;
    loop {
        let started = Instant::now();
        let error = tokio::select! {
            () = stop.cancelled() => return,
            error = read_on(inner, &mut behind) => error,
        };
        if started.elapsed() > LONGEST_PAUSE {
            pause = FIRST_PAUSE;
        }
        tracing::warn!(%error, revision = inner.read().revision(), "the catalogue is not followed; trying again");
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Reads until something goes wrong.
async fn read_on(inner: &Inner, behind: &mut Option<Instant>) -> Ended {
    match try_read_on(inner, behind).await {
        Ok(never) => match never {},
        Err(ended) => ended,
    }
}

/// `behind`: since when CATALOG has ended before what was read of it.
async fn try_read_on(
    inner: &Inner,
    behind: &mut Option<Instant>,
) -> Result<std::convert::Infallible, Ended> {
    let state = stream_state(&inner.broker, CATALOG_STREAM).await?;
    let is_same = inner.created().as_deref() == Some(&state.created);
    if is_same
        && inner.read().revision() > state.last_sequence
        && behind.get_or_insert_with(Instant::now).elapsed() < BEHIND_FOR
    {
        return Err(Ended::Behind(state.last_sequence));
    }
    *behind = None;
    inner.belong_to(&state.created, state.last_sequence);
    let revision = inner.read().revision();
    if revision >= state.last_sequence {
        inner.warm();
    }
    let stream = inner
        .broker
        .get_stream_no_info(CATALOG_STREAM)
        .await
        .map_err(Ended::broker)?;
    let config = OrderedConfig {
        deliver_policy: DeliverPolicy::ByStartSequence {
            start_sequence: revision + 1,
        },
        ..OrderedConfig::default()
    };
    let consumer = stream
        .create_consumer(config)
        .await
        .map_err(Ended::broker)?;
    let mut messages = consumer.messages().await.map_err(Ended::broker)?;
    loop {
        let message = tokio::select! {
            () = inner.replaced.notified() => return Err(Ended::Replaced),
            message = messages.next() => message,
        };
        let message = message
            .ok_or_else(|| Ended::broker("the subscription ended"))?
            .map_err(Ended::broker)?;
        let info = message.info().map_err(Ended::broker)?;
        let sequence = info.stream_sequence;
        inner.apply(sequence, &message.subject, &message.payload);
        if sequence >= state.last_sequence {
            inner.warm();
        }
    }
}
