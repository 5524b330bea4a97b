//! The service on NATS by which commands ask a running `serve`: `adtally.ctl.<verb>`.
//!
//! It answers questions and changes nothing, so whoever may use it can do no harm; the accounts file of `nats/`
//! gives it to operators only.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use adtally_streams::names::CONTROL_PREFIX;
use async_nats::{Client, RequestErrorKind};
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

/// How long an answer may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// How long a subscription that broke waits before the next attempt.
const AGAIN_AFTER: Duration = Duration::from_millis(500);
/// The longest answer in bytes, well under the broker's limit on a message.
const MAX_ANSWER_BYTES: usize = 900 * 1024;

/// Questions that a `serve` answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verb {
    /// Version, roles and addresses.
    Info,
    /// Where the projector stands in every shard.
    Positions,
    /// Producers and their epochs.
    Producers,
    /// Events whose id was taken by other content.
    Conflicts,
    /// Messages that could not be applied.
    BadFrames,
}

impl Verb {
    /// Its name in the subject.
    pub fn name(self) -> &'static str {
        match self {
            Verb::Info => "info",
            Verb::Positions => "positions",
            Verb::Producers => "producers",
            Verb::Conflicts => "conflicts",
            Verb::BadFrames => "bad-frames",
        }
    }

    /// The subject to ask on.
    pub fn subject(self) -> String {
        format!("{CONTROL_PREFIX}.{}", self.name())
    }
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// Nobody serves that question.
    #[error("no running `adtally serve` answers {subject} on this NATS; {needed}")]
    Nobody {
        /// The subject.
        subject: String,
        /// Which role would.
        needed: &'static str,
    },
    /// The question or the answer was lost.
    #[error("asking {subject}: {detail}")]
    Lost {
        /// The subject.
        subject: String,
        /// The client's error.
        detail: String,
    },
    /// The answer says that it could not be answered.
    #[error("the running `adtally serve` could not answer {subject}: {detail}")]
    Failed {
        /// The subject.
        subject: String,
        /// What it said.
        detail: String,
    },
}

/// A question's answerer.
pub type Answerer = Arc<dyn Fn() -> BoxFuture<'static, anyhow::Result<Value>> + Send + Sync>;

/// Answers until `stop`; a lost connection only interrupts it.
pub async fn serve(client: Client, answerers: BTreeMap<Verb, Answerer>, stop: CancellationToken) {
    let tasks = tokio_util::task::TaskTracker::new();
    for (verb, answerer) in answerers {
        tasks.spawn(serve_verb(client.clone(), verb, answerer, stop.clone()));
    }
    tasks.close();
    tasks.wait().await;
}

async fn serve_verb(client: Client, verb: Verb, answerer: Answerer, stop: CancellationToken) {
    while !stop.is_cancelled() {
        let subscription = match client.subscribe(verb.subject()).await {
            Ok(subscription) => subscription,
            Err(error) => {
                tracing::warn!(%error, subject = verb.subject(), "the control service could not subscribe");
                tokio::select! {
                    () = tokio::time::sleep(AGAIN_AFTER) => continue,
                    () = stop.cancelled() => return,
                }
            }
        };
        let mut questions = Box::pin(subscription.take_until(stop.cancelled()));
        while let Some(question) = questions.next().await {
            let Some(reply) = question.reply else {
                continue;
            };
            let answer = match answerer().await {
                Ok(value) => value,
                Err(error) => json!({"error": format!("{error:#}")}),
            };
            let mut text = answer.to_string();
            if text.len() > MAX_ANSWER_BYTES {
                text = json!({"error": "the answer is larger than a NATS message; stop `serve` and ask its data folder"})
                    .to_string();
            }
            if let Err(error) = client.publish(reply, text.into()).await {
                tracing::warn!(%error, "an answer of the control service was lost");
            }
        }
    }
}

/// Asks whoever serves on this NATS.
pub async fn ask(client: &Client, verb: Verb) -> Result<Value, ControlError> {
    let subject = verb.subject();
    let lost = |detail: String| ControlError::Lost {
        subject: verb.subject(),
        detail,
    };
    let asked =
        tokio::time::timeout(ANSWER_WITHIN, client.request(subject.clone(), "".into())).await;
    let message = match asked {
        Err(_) => {
            return Err(lost(format!(
                "no answer within {} s",
                ANSWER_WITHIN.as_secs()
            )));
        }
        Ok(Err(error)) if error.kind() == RequestErrorKind::NoResponders => {
            let needed = match verb {
                Verb::Info => "start one, or name its data folder with --data-dir",
                Verb::Positions | Verb::Producers | Verb::Conflicts | Verb::BadFrames => {
                    "one with the role projector would"
                }
            };
            return Err(ControlError::Nobody { subject, needed });
        }
        Ok(Err(error)) => return Err(lost(error.to_string())),
        Ok(Ok(message)) => message,
    };
    let value: Value = serde_json::from_slice(&message.payload).map_err(|e| lost(e.to_string()))?;
    match value.get("error").and_then(Value::as_str) {
        Some(detail) => Err(ControlError::Failed {
            subject,
            detail: detail.into(),
        }),
        None => Ok(value),
    }
}
