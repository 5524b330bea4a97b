//! Making a stream, and what the broker's answers to that mean.
//!
//! Servers of a cluster come one after the other, and until they are there it has no place for three copies, nobody who
//! decides, or no JetStream at all. That passes, so it is waited out; everything else is final and is said at once.

use std::time::Duration;

use async_nats::jetstream::context::CreateStreamErrorKind;
use async_nats::jetstream::stream::Config;
use async_nats::jetstream::{Context, ErrorCode};
use tokio::time::Instant;

use super::LogError;
use super::refusals::Refusals;
use super::streams::{LEADER_WAIT, RETRY_PAUSE, StreamsError, info_or_none};

/// How often it is said again that a stream still has no place.
const SAY_EVERY: Duration = Duration::from_secs(10);

/// What an answer to the making of a stream means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Meaning {
    /// Somebody else has made it meanwhile.
    Exists,
    /// Nobody answers or decides at this moment.
    Passing,
    /// The cluster lacks servers for its copies at this moment.
    NoPlace,
    /// Its maximum is more than there is room for.
    NoRoom,
    /// Its maximum is more than one stream may have.
    TooLarge,
    /// Asking again changes nothing.
    Final,
}

fn meaning(kind: &CreateStreamErrorKind) -> Meaning {
    match kind {
        CreateStreamErrorKind::JetStream(error) => {
            meaning_of(error.error_code(), error.code(), &error.to_string())
        }
        // Nobody answers, or what answers is not understood; a server that has not heard of the stream's group yet
        // knows no such stream.
        CreateStreamErrorKind::JetStreamUnavailable
        | CreateStreamErrorKind::TimedOut
        | CreateStreamErrorKind::Response
        | CreateStreamErrorKind::ResponseParse
        | CreateStreamErrorKind::NotFound => Meaning::Passing,
        CreateStreamErrorKind::EmptyStreamName
        | CreateStreamErrorKind::InvalidStreamName
        | CreateStreamErrorKind::DomainAndExternalSet => Meaning::Final,
    }
}

fn meaning_of(code: ErrorCode, status: usize, text: &str) -> Meaning {
    match code {
        ErrorCode::STREAM_NAME_EXIST => Meaning::Exists,
        ErrorCode::CLUSTER_NO_PEERS => meaning_of_placement(text),
        ErrorCode::STORAGE_RESOURCES_EXCEEDED | ErrorCode::ACCOUNT_RESOURCES_EXCEEDED => {
            Meaning::NoRoom
        }
        ErrorCode::STREAM_MAX_STREAM_BYTES_EXCEEDED => Meaning::TooLarge,
        _ if status == 503 => Meaning::Passing,
        _ => Meaning::Final,
    }
}

/// What "no suitable peers for placement, <why>, <why>" means: nats-server lists a reason for each server that it has
/// passed over, and none for one that it has never heard of.
fn meaning_of_placement(text: &str) -> Meaning {
    let says = |reasons: &[&str]| reasons.iter().any(|reason| text.contains(reason));
    // "miscellaneous issue" is said of a server that has not told yet what it is.
    if says(&[
        "peer offline",
        "miscellaneous issue",
        "jetstream not enabled in cluster",
    ]) {
        return Meaning::NoPlace;
    }
    if says(&["insufficient storage"]) {
        return Meaning::NoRoom;
    }
    if says(&[
        "exclude tag set",
        "server tag not unique",
        "tags not matched",
        "tags excluded",
    ]) {
        return Meaning::Final;
    }
    Meaning::NoPlace
}

/// Makes streams for one who asks.
pub(super) struct Maker<'a> {
    pub(super) jetstream: &'a Context,
    pub(super) refusals: &'a Refusals,
}

impl Maker<'_> {
    /// Makes a stream, or finds the one that somebody else has made meanwhile.
    pub(super) async fn create(&self, config: &Config) -> Result<Config, StreamsError> {
        let until = Instant::now() + LEADER_WAIT;
        let subject = format!("$JS.API.STREAM.CREATE.{}", config.name);
        let asked = || format!("to make the stream {}", config.name);
        let mut say_at = Instant::now();
        loop {
            let mut refused = self.refusals.listen();
            let error = tokio::select! {
                answer = self.jetstream.create_stream(config.clone()) => match answer {
                    Ok(stream) => return Ok(stream.cached_info().config.clone()),
                    Err(error) => error,
                },
                why = refused.of(&subject) => {
                    return Err(StreamsError::Forbidden { stream: config.name.clone(), why: why.to_string() });
                }
            };
            let kind = error.kind();
            let is_over = Instant::now() >= until;
            match meaning(&kind) {
                Meaning::Exists => return self.found(&config.name).await,
                Meaning::NoRoom => {
                    return Err(StreamsError::NoRoom {
                        stream: config.name.clone(),
                        max_bytes: config.max_bytes,
                        why: kind.to_string(),
                    });
                }
                Meaning::TooLarge => {
                    return Err(StreamsError::TooLarge {
                        stream: config.name.clone(),
                        max_bytes: config.max_bytes,
                        why: kind.to_string(),
                    });
                }
                Meaning::NoPlace => {
                    let error = StreamsError::NoPlace {
                        stream: config.name.clone(),
                        copies: config.num_replicas,
                        why: kind.to_string(),
                    };
                    if is_over {
                        return Err(error);
                    }
                    if Instant::now() >= say_at {
                        tracing::warn!(%error, "waiting for servers of the cluster");
                        say_at = Instant::now() + SAY_EVERY;
                    }
                }
                Meaning::Final => return Err(LogError::refused(asked(), error).into()),
                Meaning::Passing if is_over => {
                    return Err(LogError::unreachable(asked(), error).into());
                }
                Meaning::Passing => {}
            }
            tokio::time::sleep(RETRY_PAUSE).await;
        }
    }

    /// A stream that somebody else has made meanwhile; whether it is the same is looked at by who asked.
    async fn found(&self, name: &str) -> Result<Config, StreamsError> {
        let info = info_or_none(self.jetstream, name).await?;
        info.map(|i| i.config)
            .ok_or(LogError::NoStream(name.to_owned()).into())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// An error as nats-server sends it: status, error code, description.
    fn answer(code: u16, err_code: u16, description: &str) -> CreateStreamErrorKind {
        let json =
            serde_json::json!({"code": code, "err_code": err_code, "description": description});
        CreateStreamErrorKind::JetStream(serde_json::from_value(json).unwrap())
    }

    /// Codes and texts of nats-server 2.15's errors.json and of its selectPeerGroup.
    #[test]
    fn what_servers_that_come_will_mend_is_waited_out_and_nothing_else() {
        let no_peers = "no suitable peers for placement";
        for (code, err_code, description, expected) in [
            (400, 10_058, "stream name already in use", Meaning::Exists),
            (400, 10_005, no_peers, Meaning::NoPlace),
            (400, 10_005, "{}, peer offline", Meaning::NoPlace),
            (400, 10_005, "{}, miscellaneous issue", Meaning::NoPlace),
            (
                400,
                10_005,
                "{}, jetstream not enabled in cluster",
                Meaning::NoPlace,
            ),
            // One that is away may have the room, or the tag.
            (
                400,
                10_005,
                "{}, peer offline, insufficient storage",
                Meaning::NoPlace,
            ),
            (
                400,
                10_005,
                "{}, peer offline, server tag not unique",
                Meaning::NoPlace,
            ),
            (400, 10_005, "{}, insufficient storage", Meaning::NoRoom),
            (400, 10_005, "{}, server tag not unique", Meaning::Final),
            (400, 10_005, "{}, exclude tag set", Meaning::Final),
            (400, 10_005, "{}, tags not matched ['ssd']", Meaning::Final),
            (400, 10_005, "{}, tags excluded ['hdd']", Meaning::Final),
            (503, 10_023, "insufficient resources", Meaning::Passing),
            (
                503,
                10_008,
                "JetStream system temporarily unavailable",
                Meaning::Passing,
            ),
            (503, 10_004, "incomplete results", Meaning::Passing),
            (503, 10_076, "JetStream not enabled", Meaning::Passing),
            (
                503,
                10_039,
                "JetStream not enabled for account",
                Meaning::Passing,
            ),
            (
                500,
                10_047,
                "insufficient storage resources available",
                Meaning::NoRoom,
            ),
            (
                400,
                10_002,
                "resource limits exceeded for account",
                Meaning::NoRoom,
            ),
            (
                400,
                10_122,
                "stream max bytes exceeds account limit max stream bytes",
                Meaning::TooLarge,
            ),
            (
                500,
                10_074,
                "replicas > 1 not supported in non-clustered mode",
                Meaning::Final,
            ),
            (
                400,
                10_027,
                "maximum number of streams reached",
                Meaning::Final,
            ),
            (
                400,
                10_120,
                "no JetStream default or applicable tiered limit present",
                Meaning::Final,
            ),
            (
                400,
                10_065,
                "subjects overlap with an existing stream",
                Meaning::Final,
            ),
            (500, 10_052, "stream configuration invalid", Meaning::Final),
        ] {
            let text = description.replace("{}", no_peers);
            let kind = answer(code, err_code, &text);
            assert_eq!(meaning(&kind), expected, "{err_code} {text}");
        }
        for (kind, expected) in [
            (CreateStreamErrorKind::TimedOut, Meaning::Passing),
            (
                CreateStreamErrorKind::JetStreamUnavailable,
                Meaning::Passing,
            ),
            (CreateStreamErrorKind::NotFound, Meaning::Passing),
            (CreateStreamErrorKind::InvalidStreamName, Meaning::Final),
        ] {
            assert_eq!(meaning(&kind), expected, "{kind}");
        }
    }
}
