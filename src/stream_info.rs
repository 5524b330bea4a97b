//! How far a stream has come, by the clock and the word of the broker that leads it.
//!
//! The client library's own answer leaves out the broker's time, and whoever says "nothing older than this is
//! waiting" needs exactly that: the messages carry the broker's clock, not ours.

use adtally_streams::time::parse_rfc3339;
use async_nats::jetstream::{self, response::Response, stream::ClusterInfo};
use serde::Deserialize;

use crate::log::quorum::has_majority;

/// The state of a stream at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamState {
    /// When the stream was created, as the broker writes it: what tells a stream from another of its name.
    pub created: String,
    /// Messages held.
    pub messages: u64,
    /// The last sequence given out.
    pub last_sequence: u64,
    /// The time of the oldest message held, in milliseconds of the Unix epoch; none when there is none.
    pub first_ms: Option<i64>,
    /// The broker's clock when it answered, likewise; none from a server that does not tell.
    pub broker_ms: Option<i64>,
}

#[derive(Deserialize)]
struct Info {
    created: String,
    state: State,
    #[serde(default)]
    ts: Option<String>,
    #[serde(default)]
    cluster: Option<ClusterInfo>,
}

#[derive(Deserialize)]
struct State {
    messages: u64,
    last_seq: u64,
    first_ts: String,
}

/// No answer about a stream.
#[derive(Debug, thiserror::Error)]
pub enum InfoError {
    /// The request failed.
    #[error("the stream {0} cannot be asked for its state: {1}")]
    Request(String, String),
    /// The broker said no.
    #[error("the broker does not tell the state of the stream {0}: {1}")]
    Refused(String, String),
    /// Who answered may have been replaced without knowing it.
    #[error("the leader of the stream {0} does not hear from a majority of its replicas")]
    NoMajority(String),
}

/// Asks the leader of a stream for its state. A leader that may have a rival is not believed: what it says of the
/// stream's end would be old, and a watermark above it untrue.
pub async fn stream_state(
    broker: &jetstream::Context,
    stream: &str,
) -> Result<StreamState, InfoError> {
    let answer: Response<Info> = broker
        .request(format!("STREAM.INFO.{stream}"), &())
        .await
        .map_err(|error| InfoError::Request(stream.to_owned(), error.to_string()))?;
    match answer {
        Response::Ok(info) if !has_majority(info.cluster.as_ref()) => {
            Err(InfoError::NoMajority(stream.to_owned()))
        }
        Response::Ok(info) => Ok(state_of(info)),
        Response::Err { error } => Err(InfoError::Refused(stream.to_owned(), error.to_string())),
    }
}

fn state_of(info: Info) -> StreamState {
    let first_ms = parse_rfc3339(&info.state.first_ts)
        .ok()
        .filter(|_| info.state.messages > 0);
    StreamState {
        created: info.created,
        messages: info.state.messages,
        last_sequence: info.state.last_seq,
        first_ms,
        broker_ms: info.ts.and_then(|ts| parse_rfc3339(&ts).ok()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_brokers_answer_is_read() {
        // As nats-server 2.15 answers, shortened.
        let text = r#"{"type":"io.nats.jetstream.api.v1.stream_info_response","total":0,"config":{"name":"INTAKE"},
            "created":"2026-01-02T03:04:05.123456789Z","state":{"messages":2,"bytes":90,"first_seq":41,
            "first_ts":"2026-01-02T03:05:00.5Z","last_seq":42,"last_ts":"2026-01-02T03:05:01Z","consumer_count":1},
            "ts":"2026-01-02T03:05:02.25Z"}"#;
        let Response::Ok(info) = serde_json::from_str::<Response<Info>>(text).unwrap() else {
            panic!("an error")
        };
        let state = state_of(info);
        // date -u -d 2026-01-02T03:05:00 +%s
        let minute = 1_767_323_100_000;
        assert_eq!((state.messages, state.last_sequence), (2, 42));
        assert_eq!(
            (state.first_ms, state.broker_ms),
            (Some(minute + 500), Some(minute + 2_250))
        );
        assert_eq!(state.created, "2026-01-02T03:04:05.123456789Z");
    }

    #[test]
    fn an_empty_stream_has_no_oldest_message() {
        let text = r#"{"created":"2026-01-02T03:04:05Z","state":{"messages":0,"bytes":0,"first_seq":43,
            "first_ts":"0001-01-01T00:00:00Z","last_seq":42,"last_ts":"0001-01-01T00:00:00Z","consumer_count":1}}"#;
        let Response::Ok(info) = serde_json::from_str::<Response<Info>>(text).unwrap() else {
            panic!("an error")
        };
        assert_eq!((state_of(info).first_ms,), (None,));
    }

    #[test]
    fn a_refusal_is_read() {
        let text = r#"{"type":"x","error":{"code":404,"err_code":10059,"description":"stream not found"}}"#;
        assert!(matches!(
            serde_json::from_str::<Response<Info>>(text).unwrap(),
            Response::Err { .. }
        ));
    }
}
