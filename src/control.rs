//! The service on NATS by which commands ask a running `serve`: `adtally.ctl.<verb>`, and `adtally.act.<verb>` for
//! what it does on request.
//!
//! Questions change nothing, so whoever may ask can do no harm; `adtally.act.>` is the operator's, and the accounts
//! file of `nats/` keeps it from the other users. Several processes may answer one question: each answer bears its
//! answerer's name, and a long one comes in parts.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use adtally_streams::names::{ACT_PREFIX, CONTROL_PREFIX};
use async_nats::{Client, HeaderMap, Message, StatusCode, Subject};
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use serde_json::{Value, json};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How long an answer to a question may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// How long it may take to do something.
const DONE_WITHIN: Duration = Duration::from_secs(120);
/// Whoever wants the answers of all processes waits this long for the first one, and for another one after each.
const QUIET_FOR: Duration = Duration::from_millis(1_500);
/// How long a subscription that broke waits before the next attempt.
const AGAIN_AFTER: Duration = Duration::from_millis(500);
/// Bytes of an answer in one message, well under the broker's limit.
const PART_BYTES: usize = 512 << 10;
/// The longest answer in bytes, in parts; a longer one is refused.
const MAX_ANSWER_BYTES: usize = 64 << 20;
/// Header of a part: who answers.
const ANSWERER: &str = "Adtally-Answerer";
/// Header of a part: `<number>/<how many>`, from 1.
const PART: &str = "Adtally-Part";

/// What a `serve` can be asked.
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
    /// Which outboxes it has, and what of the given stretches they still hold.
    Outboxes,
    /// Send the given stretches of one of its outboxes again.
    Resend,
    /// How far a replay is.
    ReplayStatus,
    /// Begin a replay, or interrupt it.
    Replay,
    /// Make checkpoints of shards in a scratch folder.
    Checkpoint,
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
            Verb::Outboxes => "outboxes",
            Verb::Resend => "resend",
            Verb::ReplayStatus => "replay-status",
            Verb::Replay => "replay",
            Verb::Checkpoint => "checkpoint",
        }
    }

    /// Whether it does something.
    fn acts(self) -> bool {
        matches!(self, Verb::Resend | Verb::Replay | Verb::Checkpoint)
    }

    /// The subject to ask on.
    pub fn subject(self) -> String {
        let prefix = if self.acts() {
            ACT_PREFIX
        } else {
            CONTROL_PREFIX
        };
        format!("{prefix}.{}", self.name())
    }

    fn within(self) -> Duration {
        if self.acts() {
            DONE_WITHIN
        } else {
            ANSWER_WITHIN
        }
    }

    /// Which `serve` would answer.
    fn needed(self) -> &'static str {
        match self {
            Verb::Info => "start one, or name its data folder with --data-dir",
            Verb::Positions
            | Verb::Producers
            | Verb::Conflicts
            | Verb::BadFrames
            | Verb::ReplayStatus
            | Verb::Replay
            | Verb::Checkpoint => "one with the role projector would",
            Verb::Outboxes | Verb::Resend => "one with the role collector or intake would",
        }
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

/// A question's answerer: takes the question's details, which are null where it has none; none is no answer, where
/// the question is meant for another process.
pub type Answerer =
    Arc<dyn Fn(Value) -> BoxFuture<'static, anyhow::Result<Option<Value>>> + Send + Sync>;

/// Answers until `stop`; a lost connection only interrupts it.
pub async fn serve(client: Client, answerers: BTreeMap<Verb, Answerer>, stop: CancellationToken) {
    let name = format!("{:016x}", rand::random::<u64>());
    let tasks = tokio_util::task::TaskTracker::new();
    for (verb, answerer) in answerers {
        let server = VerbServer {
            client: client.clone(),
            name: name.clone(),
            verb,
            answerer,
        };
        tasks.spawn(server.run(stop.clone()));
    }
    tasks.close();
    tasks.wait().await;
}

struct VerbServer {
    client: Client,
    name: String,
    verb: Verb,
    answerer: Answerer,
}

impl VerbServer {
    async fn run(self, stop: CancellationToken) {
        while !stop.is_cancelled() {
            let subscription = match self.client.subscribe(self.verb.subject()).await {
                Ok(subscription) => subscription,
                Err(error) => {
                    tracing::warn!(%error, subject = self.verb.subject(), "the control service could not subscribe");
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
                // Who asks without details sends nothing.
                let details = serde_json::from_slice(&question.payload).unwrap_or(Value::Null);
                let answer = match (self.answerer)(details).await {
                    Ok(None) => continue,
                    Ok(Some(value)) => value,
                    Err(error) => json!({"error": format!("{error:#}")}),
                };
                self.answer(reply, answer.to_string()).await;
            }
        }
    }

    async fn answer(&self, reply: Subject, mut text: String) {
        if text.len() > MAX_ANSWER_BYTES {
            text =
                json!({"error": "the answer is too large; stop `serve` and ask its data folder"})
                    .to_string();
        }
        let text = Bytes::from(text);
        let parts = text.len().div_ceil(PART_BYTES).max(1);
        for part in 0..parts {
            let mut headers = HeaderMap::new();
            headers.insert(ANSWERER, self.name.as_str());
            headers.insert(PART, format!("{}/{parts}", part + 1));
            let until = text.len().min((part + 1) * PART_BYTES);
            let sent = self
                .client
                .publish_with_headers(reply.clone(), headers, text.slice(part * PART_BYTES..until))
                .await;
            if let Err(error) = sent {
                tracing::warn!(%error, "an answer of the control service was lost");
                return;
            }
        }
    }
}

/// Asks whoever serves on this NATS; the first answer counts.
pub async fn ask(client: &Client, verb: Verb, details: &Value) -> Result<Value, ControlError> {
    let mut asking = Asking::begin(client, verb, details).await?;
    let until = Instant::now() + verb.within();
    match asking.next(until).await? {
        Some(answer) => said(verb, answer),
        None => Err(ControlError::Lost {
            subject: verb.subject(),
            detail: format!("no answer within {} s", verb.within().as_secs()),
        }),
    }
}

/// Asks every process on this NATS; none that answers is no error.
pub async fn ask_all(
    client: &Client,
    verb: Verb,
    details: &Value,
) -> Result<Vec<Value>, ControlError> {
    let mut asking = Asking::begin(client, verb, details).await?;
    let mut answers = Vec::new();
    loop {
        match asking.next(Instant::now() + QUIET_FOR).await {
            Ok(Some(answer)) => answers.push(said(verb, answer)?),
            Ok(None) | Err(ControlError::Nobody { .. }) => return Ok(answers),
            Err(error) => return Err(error),
        }
    }
}

fn said(verb: Verb, answer: Value) -> Result<Value, ControlError> {
    match answer.get("error").and_then(Value::as_str) {
        Some(detail) => Err(ControlError::Failed {
            subject: verb.subject(),
            detail: detail.into(),
        }),
        None => Ok(answer),
    }
}

/// A question that has been asked, and the parts of answers that have come.
struct Asking {
    verb: Verb,
    answers: async_nats::Subscriber,
    parts: BTreeMap<String, BTreeMap<usize, Bytes>>,
}

impl Asking {
    async fn begin(client: &Client, verb: Verb, details: &Value) -> Result<Self, ControlError> {
        let lost = |e: &dyn std::fmt::Display| ControlError::Lost {
            subject: verb.subject(),
            detail: e.to_string(),
        };
        let inbox = client.new_inbox();
        let answers = client
            .subscribe(inbox.clone())
            .await
            .map_err(|e| lost(&e))?;
        let question = match details {
            Value::Null => Bytes::new(),
            details => details.to_string().into(),
        };
        client
            .publish_with_reply(verb.subject(), inbox, question)
            .await
            .map_err(|e| lost(&e))?;
        client.flush().await.map_err(|e| lost(&e))?;
        Ok(Self {
            verb,
            answers,
            parts: BTreeMap::new(),
        })
    }

    /// The next whole answer; none when none has come until then.
    async fn next(&mut self, until: Instant) -> Result<Option<Value>, ControlError> {
        loop {
            let Ok(Some(message)) = tokio::time::timeout_at(until, self.answers.next()).await
            else {
                return Ok(None);
            };
            if message.status == Some(StatusCode::NO_RESPONDERS) {
                return Err(ControlError::Nobody {
                    subject: self.verb.subject(),
                    needed: self.verb.needed(),
                });
            }
            if let Some(text) = self.take(message) {
                return serde_json::from_slice(&text)
                    .map(Some)
                    .map_err(|e| ControlError::Lost {
                        subject: self.verb.subject(),
                        detail: e.to_string(),
                    });
            }
        }
    }

    /// Takes a part in; the answer, once it is whole. One without headers is a whole answer.
    fn take(&mut self, message: Message) -> Option<Vec<u8>> {
        let header = |name: &str| {
            let headers = message.headers.as_ref()?;
            Some(headers.get(name)?.as_str().to_owned())
        };
        let (Some(answerer), Some(part)) = (header(ANSWERER), header(PART)) else {
            return Some(message.payload.to_vec());
        };
        let (number, count) = part.split_once('/')?;
        let (number, count): (usize, usize) = (number.parse().ok()?, count.parse().ok()?);
        let parts = self.parts.entry(answerer.clone()).or_default();
        parts.insert(number, message.payload);
        if parts.len() < count {
            return None;
        }
        let parts = self.parts.remove(&answerer)?;
        Some(parts.into_values().flatten().collect())
    }
}
