//! Outboxes that can heal a gap: which there are, what they hold, and telling them to send it again.
//!
//! A running `serve` is asked over the control service; the outboxes of a stopped one are opened, read-only.

use std::path::{Path, PathBuf};

use adtally_streams::id::{Epoch, Id};
use anyhow::Context as _;
use async_nats::Client;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::control::{self, Verb};
use crate::log::publisher::Publisher;
use crate::outbox::{KeptOutbox, OutboxHandle, Owner, Resent};
use crate::stretch::{self, Stretch};

/// Events that one request sends again; more are sent in several.
const EVENTS_AT_ONCE: u64 = 131_072;

/// What a running process is asked about its outboxes.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Question {
    /// What is wanted.
    #[serde(default)]
    pub wanted: Vec<Stretch>,
    /// Whose outbox is meant; none: all of them.
    #[serde(default)]
    pub opening: Option<Opening>,
}

/// One opening of an outbox, which no two processes share.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Opening {
    /// Its producer.
    pub producer: Id,
    /// The epoch that it writes at present.
    pub epoch: Epoch,
}

/// An open outbox, as its process tells of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct OpenOutbox {
    /// Whose it is: collector or intake.
    pub owner: String,
    /// Which opening.
    #[serde(flatten)]
    pub opening: Opening,
    /// Its process: id, and machine where that says its name.
    pub place: String,
    /// Epochs of earlier openings that it still ships.
    pub recovering: Vec<Epoch>,
    /// What it holds of what is wanted.
    pub held: Vec<Stretch>,
}

/// What the outboxes of this process answer. Blocks.
///
/// # Errors
/// When a disk cannot be read.
pub fn answer(
    outboxes: &[(&'static str, OutboxHandle)],
    question: &Question,
) -> anyhow::Result<Vec<OpenOutbox>> {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let place = match host.trim() {
        "" => format!("process {}", std::process::id()),
        host => format!("process {} on {host}", std::process::id()),
    };
    outboxes
        .iter()
        .map(|(owner, outbox)| {
            let status = outbox.status();
            Ok(OpenOutbox {
                owner: (*owner).to_owned(),
                opening: Opening {
                    producer: status.producer,
                    epoch: status.epoch,
                },
                place: place.clone(),
                recovering: outbox.recovering(),
                held: outbox.holds(&question.wanted)?,
            })
        })
        .collect()
}

/// Sends again what the outbox of this process holds, when it is the one that is meant.
///
/// # Errors
/// When the disk cannot be read or the broker does not take it.
pub async fn resend(
    outboxes: &[(&'static str, OutboxHandle)],
    question: &Question,
) -> anyhow::Result<Option<Resent>> {
    for (_, outbox) in outboxes {
        let status = outbox.status();
        let opening = Opening {
            producer: status.producer,
            epoch: status.epoch,
        };
        if question.opening.as_ref() == Some(&opening) {
            tracing::info!(
                producer = %opening.producer,
                stretches = question.wanted.len(),
                events = stretch::events(&question.wanted),
                "an operator asks that events be sent again"
            );
            return Ok(Some(outbox.resend(&question.wanted).await?));
        }
    }
    Ok(None)
}

/// Whoever can send something again.
pub enum Holder {
    /// An outbox that a running process has open.
    Running(Box<OpenOutbox>),
    /// One that nobody has open.
    Stopped {
        /// Its folder.
        dir: PathBuf,
        /// The outbox.
        outbox: Box<KeptOutbox>,
    },
}

impl Holder {
    /// As people are told of it.
    pub fn name(&self) -> String {
        match self {
            Holder::Running(open) => format!("{} of {}", open.owner, open.place),
            Holder::Stopped { dir, .. } => dir.display().to_string(),
        }
    }

    /// Who writes it.
    pub fn producer(&self) -> &Id {
        match self {
            Holder::Running(open) => &open.opening.producer,
            Holder::Stopped { outbox, .. } => outbox.producer(),
        }
    }

    /// Whether a process has it open.
    pub fn is_running(&self) -> bool {
        matches!(self, Holder::Running(_))
    }

    /// Whether its process has that epoch in hand, and will send what it holds unsent of it.
    pub fn ships(&self, epoch: Epoch) -> bool {
        match self {
            Holder::Running(open) => {
                open.opening.epoch == epoch || open.recovering.contains(&epoch)
            }
            Holder::Stopped { .. } => false,
        }
    }

    /// What it holds of the stretches.
    ///
    /// # Errors
    /// When a disk cannot be read.
    pub fn holds(&self, wanted: &[Stretch]) -> anyhow::Result<Vec<Stretch>> {
        match self {
            Holder::Running(open) => Ok(open.held.clone()),
            Holder::Stopped { dir, outbox } => tokio::task::block_in_place(|| outbox.holds(wanted))
                .with_context(|| format!("reading the outbox in {}", dir.display())),
        }
    }

    /// Sends the stretches again, as far as it holds them; `told` hears of each part that has been sent.
    ///
    /// # Errors
    /// When it cannot be asked, or cannot do it.
    pub async fn resend(
        &self,
        client: &Client,
        wanted: &[Stretch],
        mut told: impl FnMut(&Resent),
    ) -> anyhow::Result<()> {
        for part in parts(wanted) {
            let resent = match self {
                Holder::Running(open) => {
                    let question = Question {
                        wanted: part,
                        opening: Some(open.opening.clone()),
                    };
                    let details = serde_json::to_value(question)?;
                    let answer = control::ask(client, Verb::Resend, &details).await?;
                    serde_json::from_value(answer)?
                }
                Holder::Stopped { outbox, .. } => {
                    outbox
                        .resend(&Publisher::new(client.clone()), &part)
                        .await?
                }
            };
            told(&resent);
        }
        Ok(())
    }
}

/// The stretches in parts of at most [`EVENTS_AT_ONCE`] events.
fn parts(wanted: &[Stretch]) -> Vec<Vec<Stretch>> {
    let (mut parts, mut part, mut room) = (Vec::new(), Vec::new(), EVENTS_AT_ONCE);
    for stretch in wanted {
        let mut at = stretch.first;
        while let Some(rest) = stretch.part(at, stretch.last.saturating_add(1)) {
            let until = at + rest.events().min(room);
            part.extend(rest.part(at, until));
            room -= until - at;
            at = until;
            if room == 0 {
                parts.push(std::mem::take(&mut part));
                room = EVENTS_AT_ONCE;
            }
        }
    }
    if !part.is_empty() {
        parts.push(part);
    }
    parts
}

/// The outboxes that running processes of this NATS have open, with what they hold of the stretches.
///
/// # Errors
/// When the broker cannot be asked or an outbox cannot be read.
pub async fn running(client: &Client, wanted: &[Stretch]) -> anyhow::Result<Vec<Holder>> {
    let question = Question {
        wanted: wanted.to_vec(),
        opening: None,
    };
    let details = serde_json::to_value(question)?;
    let answers = control::ask_all(client, Verb::Outboxes, &details).await?;
    let mut holders = Vec::new();
    for answer in answers {
        let outboxes: Vec<OpenOutbox> = read(answer)?;
        holders.extend(outboxes.into_iter().map(|o| Holder::Running(Box::new(o))));
    }
    Ok(holders)
}

/// The outboxes in a data folder that this process holds; one that will not open is told of and passed over. Blocks.
pub fn stopped(data_dir: &Path) -> Vec<Holder> {
    let mut holders = Vec::new();
    for owner in [Owner::Collector, Owner::Intake] {
        let dir = data_dir.join(format!("outbox-{}", owner.name()));
        match KeptOutbox::open(&dir) {
            Ok(Some(outbox)) => {
                let outbox = Box::new(outbox);
                holders.push(Holder::Stopped { dir, outbox });
            }
            Ok(None) => {}
            Err(error) => crate::telemetry::say(&format!("adtally: {error}")),
        }
    }
    holders
}

/// Reads an answer of a running process.
///
/// # Errors
/// When it is of another version.
pub fn read<T: serde::de::DeserializeOwned>(answer: Value) -> anyhow::Result<T> {
    serde_json::from_value(answer)
        .context("the running `serve` is of another version: its answer cannot be read")
}

#[cfg(test)]
mod tests {
    use adtally_streams::event::Kind;

    use super::*;

    #[test]
    fn a_long_stretch_is_sent_in_parts_and_nothing_of_it_twice() {
        let stretch = |first, last| Stretch {
            epoch: Epoch(1),
            shard: 0,
            kind: Kind::Click,
            first,
            last,
        };
        assert_eq!(parts(&[]).len(), 0);
        let wanted = [
            stretch(0, 99),
            stretch(1_000, 1_000 + 3 * EVENTS_AT_ONCE - 1),
        ];
        let parts = parts(&wanted);
        let sizes: Vec<u64> = parts.iter().map(|p| stretch::events(p)).collect();
        assert_eq!(sizes, [EVENTS_AT_ONCE, EVENTS_AT_ONCE, EVENTS_AT_ONCE, 100]);
        let all: Vec<Stretch> = parts.into_iter().flatten().collect();
        assert_eq!(wanted[1].without(&all), []);
        assert_eq!(stretch::events(&all), 3 * EVENTS_AT_ONCE + 100);
    }
}
