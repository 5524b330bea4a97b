//! The barrier before every admission: which sequence CATALOG has come to, asked once for everybody who waits.
//!
//! A question that is on its way cannot serve who comes after it was sent, since its answer may be older than
//! their event. So one is in flight, and all who come meanwhile share the next one: at any load the broker sees
//! at most one question a round trip, and when many events wait at most one in [`LEAST_INTERVAL`].

use std::time::Duration;

use adtally_streams::names::CATALOG_STREAM;
use async_nats::connection;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{Freshness, Inner};
use crate::stream_info::stream_state;

/// Events that may wait for an answer at the same time; one more goes on with what is known.
const MAX_WAITING: usize = 65_536;
/// How long an answer may take.
const ASK_TIMEOUT: Duration = Duration::from_secs(1);
/// How long nobody asks again after a question without an answer: else every event would wait that long. It doubles
/// up to [`ASK_PAUSE_MAX`], since a server that is cut off from the stream's leader takes every question.
const ASK_PAUSE: Duration = Duration::from_millis(500);
/// The longest such pause.
const ASK_PAUSE_MAX: Duration = Duration::from_secs(4);
/// How long a batch waits for what was published to be applied.
const APPLY_TIMEOUT: Duration = Duration::from_secs(2);

/// How many events make a question one of many: whoever has so many is short of processors and not of time.
const MANY_EVENTS: usize = 128;
/// How long after a question for many events the next one is asked. A question costs broker and asker a tenth of a
/// millisecond of processor, and a round trip is hardly longer than that.
const LEAST_INTERVAL: Duration = Duration::from_millis(3);

/// CATALOG's last sequence at a moment after the question, or no answer.
type Answer = Option<u64>;

/// A batch that waits for an answer.
pub(super) struct Question {
    events: usize,
    told: oneshot::Sender<Answer>,
}

/// Where questions are put.
pub(super) struct Barrier {
    questions: mpsc::Sender<Question>,
}

/// Questions on their way to [`answer`].
pub(super) type Questions = mpsc::Receiver<Question>;

impl Barrier {
    pub(super) fn new() -> (Self, Questions) {
        let (questions, waiting) = mpsc::channel(MAX_WAITING);
        (Self { questions }, waiting)
    }
}

/// Waits until everything published before this call is applied, on behalf of so many events.
pub(super) async fn pass(inner: &Inner, events: usize) -> Freshness {
    let otherwise = || {
        if inner.is_warm() {
            Freshness::Stale
        } else {
            Freshness::Cold
        }
    };
    let (ask, told) = oneshot::channel();
    let question = Question { events, told: ask };
    if inner.barrier.questions.try_send(question).is_err() {
        return otherwise();
    }
    let Ok(Some(last_sequence)) = told.await else {
        return otherwise();
    };
    let is_applied = *inner.revision.borrow() >= last_sequence
        || inner.wait_for(last_sequence, APPLY_TIMEOUT).await;
    if is_applied && inner.is_warm() {
        Freshness::Current
    } else {
        otherwise()
    }
}

/// Answers questions until told to stop.
pub(super) async fn answer(inner: &Inner, mut questions: Questions, stop: &CancellationToken) {
    let mut waiting = Vec::new();
    let mut not_before = Instant::now();
    let mut pause = ASK_PAUSE;
    let mut next = Instant::now();
    loop {
        let received = tokio::select! {
            () = stop.cancelled() => return,
            received = questions.recv_many(&mut waiting, MAX_WAITING) => received,
        };
        if received == 0 {
            return;
        }
        if Instant::now() < next {
            tokio::time::sleep_until(next).await;
            while waiting.len() < MAX_WAITING
                && let Ok(question) = questions.try_recv()
            {
                waiting.push(question);
            }
        }
        next = Instant::now() + least_interval(waiting.iter().map(|question| question.events));
        let is_connected = inner.broker.client().connection_state() == connection::State::Connected;
        let answer = if is_connected && Instant::now() >= not_before {
            let answer = ask(inner).await;
            if answer.is_none() {
                not_before = Instant::now() + pause;
                pause = (pause * 2).min(ASK_PAUSE_MAX);
            } else {
                pause = ASK_PAUSE;
            }
            answer
        } else {
            None
        };
        if answer.is_none() {
            metrics::counter!("adtally_catalogue_stale_total").increment(waiting.len() as u64);
        }
        for question in waiting.drain(..) {
            // Whoever hung up meanwhile needs no answer.
            let _ = question.told.send(answer);
        }
    }
}

/// How long after a question for batches of so many events the next one is asked at the soonest.
fn least_interval(events: impl Iterator<Item = usize>) -> Duration {
    match events.fold(0, usize::saturating_add) {
        0..MANY_EVENTS => Duration::ZERO,
        _ => LEAST_INTERVAL,
    }
}

/// Asks once.
async fn ask(inner: &Inner) -> Answer {
    // Before the first reading there is nothing that an answer could be compared with.
    let created = inner.created()?;
    match tokio::time::timeout(ASK_TIMEOUT, stream_state(&inner.broker, CATALOG_STREAM)).await {
        Ok(Ok(state)) if created == state.created => Some(state.last_sequence),
        Ok(Ok(_)) => {
            inner.replaced.notify_one();
            None
        }
        Ok(Err(error)) => {
            tracing::warn!(%error, "the catalogue may be behind: going on with what is known");
            None
        }
        Err(_) => {
            tracing::warn!(
                "the broker did not tell within a second how far CATALOG is: going on with what is known"
            );
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_question_for_many_events_keeps_the_next_one_waiting() {
        let after = |events: &[usize]| least_interval(events.iter().copied());
        assert_eq!(after(&[]), Duration::ZERO);
        assert_eq!(after(&[1, 1, 1]), Duration::ZERO);
        assert_eq!(after(&[127]), Duration::ZERO);
        assert_eq!(after(&[100, 28]), Duration::from_millis(3));
        assert_eq!(after(&[usize::MAX, 500]), Duration::from_millis(3));
    }
}
