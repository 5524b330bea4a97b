//! Whether this process should get traffic, and why not.
//!
//! The runner gathers facts; what they mean is decided here, by limits that have names.

use std::sync::Arc;

/// The furthest that a shard may be behind its stream, in messages, while the process counts as ready.
pub const MAX_LAG_MESSAGES: u64 = 1_000;
/// The fill of a stream, in percent of its max_bytes, from which on the process is not ready.
pub const STREAM_FULL_PERCENT: u64 = 95;
/// The fill of an outbox, in percent of its capacity, from which on the process is not ready.
pub const OUTBOX_FULL_PERCENT: u64 = 95;
/// How long the oldest event of an outbox may wait for the broker's acknowledgement, in seconds, while the process
/// counts as ready. A broker whose disk is full answers nothing at all, so nothing else would tell.
pub const OUTBOX_WAITS_SECONDS: u64 = 15;

/// How far one shard is behind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardFacts {
    /// The shard.
    pub shard: u16,
    /// Messages of its stream that are not applied yet; none while that is not known.
    pub lag_messages: Option<u64>,
    /// Why it does not advance, where it has stopped.
    pub stopped: Option<String>,
}

/// How full something is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FillFacts {
    /// The stream's or the outbox's name.
    pub name: String,
    /// Bytes that it holds.
    pub bytes: u64,
    /// Bytes that it may hold; 0 for no limit.
    pub max_bytes: u64,
}

/// What readiness is decided from. What a process does not have, it leaves empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// Whether a role of this process is not up yet, so that what it answers is not there.
    pub starting: bool,
    /// Whether a catalogue is there, from disk or from the broker.
    pub has_catalogue: bool,
    /// Whether the broker answers.
    pub broker_connected: bool,
    /// Why the broker says nothing of its streams, where it has not for longer than an election takes.
    pub streams_silent: Option<String>,
    /// Which of the streams is not there any more, and who makes it.
    pub stream_missing: Option<String>,
    /// The shards that this process folds.
    pub shards: Vec<ShardFacts>,
    /// The shards that others fold and for which none of them answers.
    pub shards_away: Vec<u16>,
    /// The broker's streams with a limit.
    pub streams: Vec<FillFacts>,
    /// The outboxes of this process, by bytes that the broker has not taken.
    pub outboxes: Vec<FillFacts>,
    /// By outbox: lanes whose stream takes no more, where there are any.
    pub refused_lanes: Vec<(String, u64)>,
    /// By outbox: for how many seconds its oldest event has been waiting for the broker's acknowledgement.
    pub waiting_seconds: Vec<(String, u64)>,
    /// Outboxes that take nothing, since their disks are nearly full.
    pub full_disks: Vec<String>,
    /// What the last verification of the state found; none before the first.
    pub verified: Option<VerifyFacts>,
}

/// What a verification found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VerifyFacts {
    /// When it ended, RFC 3339.
    pub at: String,
    /// Why it could not be done.
    pub error: Option<String>,
    /// Whether the state is the fold of the log, and nothing is lost.
    pub equal: bool,
    /// Lines of the state that differ.
    pub differences: u64,
    /// Events that the log has lost.
    pub lost_events: u64,
}

/// Gathers facts when it is asked; must not block.
pub type Readiness = Arc<dyn Fn() -> Facts + Send + Sync>;

/// What a process says that is not up yet, or not in all its roles.
pub const STARTING: &str = "adtally is starting: it waits for its catalogue and its streams";

/// Why the process is not ready; empty when it is.
pub fn reasons(facts: &Facts) -> Vec<String> {
    let mut out = Vec::new();
    if facts.starting {
        out.push(STARTING.to_owned());
    }
    if !facts.has_catalogue {
        out.push(
            "the catalogue has not been read yet, neither from disk nor from the broker".to_owned(),
        );
    }
    if !facts.broker_connected {
        out.push("the NATS server does not answer".to_owned());
    }
    if let Some(why) = facts
        .streams_silent
        .as_ref()
        .filter(|_| facts.broker_connected)
    {
        out.push(format!(
            "the NATS server is there, and its streams have no leader, as when a majority of the servers is away: {why}"
        ));
    }
    out.extend(facts.stream_missing.clone());
    out.extend(facts.shards.iter().filter_map(of_shard));
    if !facts.shards_away.is_empty() && facts.broker_connected {
        let shards: Vec<_> = facts.shards_away.iter().map(u16::to_string).collect();
        out.push(format!(
            "nobody answers for shard {}: no process with the role projector and of this version of adtally is connected to this NATS",
            shards.join(", ")
        ));
    }
    let full = |what, limit| move |fill| of_fill(what, limit, fill);
    out.extend(
        facts
            .streams
            .iter()
            .filter_map(full("stream", STREAM_FULL_PERCENT)),
    );
    out.extend(
        facts
            .outboxes
            .iter()
            .filter_map(full("outbox", OUTBOX_FULL_PERCENT)),
    );
    out.extend(of_outboxes(facts));
    out
}

/// Why a shard keeps its process from being ready.
fn of_shard(facts: &ShardFacts) -> Option<String> {
    let shard = facts.shard;
    match (&facts.stopped, facts.lag_messages) {
        (Some(why), _) => Some(format!("shard {shard} has stopped: {why}")),
        (None, None) => Some(format!(
            "shard {shard} does not know yet how far it is behind"
        )),
        (None, Some(lag)) if lag > MAX_LAG_MESSAGES => Some(format!(
            "shard {shard} is {lag} messages behind its stream, more than {MAX_LAG_MESSAGES}"
        )),
        (None, Some(_)) => None,
    }
}

/// Whether something is too full, `limit` being in percent.
fn of_fill(what: &str, limit: u64, fill: &FillFacts) -> Option<String> {
    let percent = percent(fill).filter(|p| *p >= limit)?;
    Some(format!(
        "the {what} {} is {percent}% full ({} of {} bytes); not ready from {limit}% on",
        fill.name, fill.bytes, fill.max_bytes
    ))
}

/// Why the outboxes do, besides by their fill.
fn of_outboxes(facts: &Facts) -> Vec<String> {
    let mut out = Vec::new();
    for (outbox, lanes) in &facts.refused_lanes {
        out.push(format!(
            "an EVENTS stream is at its max_bytes and takes no more: {lanes} lanes of the outbox {outbox} wait"
        ));
    }
    for (outbox, seconds) in &facts.waiting_seconds {
        if *seconds > OUTBOX_WAITS_SECONDS {
            out.push(format!(
                "the broker has not acknowledged an event that has been in the outbox {outbox} for {seconds} s: it may be away, or its disk full; see its log"
            ));
        }
    }
    for outbox in &facts.full_disks {
        out.push(format!(
            "the disk of the outbox {outbox} is nearly full, so it takes no more events: make room"
        ));
    }
    out
}

/// What whoever asks should know besides, and what does not keep traffic away: a wrong count is not mended by
/// answering nobody.
pub fn notes(facts: &Facts) -> Vec<String> {
    let Some(verified) = &facts.verified else {
        return Vec::new();
    };
    let at = &verified.at;
    let note = match &verified.error {
        Some(error) => format!("the state could not be verified at {at}: {error}"),
        None if verified.equal => return Vec::new(),
        None => format!(
            "the state differs from the log: {} lines differ and {} events are lost, as of {at}; `adtally verify` names them",
            verified.differences, verified.lost_events
        ),
    };
    vec![note]
}

/// How full something is, in whole percent; none without a limit.
pub fn percent(fill: &FillFacts) -> Option<u64> {
    let part = u128::from(fill.bytes) * 100;
    part.checked_div(u128::from(fill.max_bytes))
        .map(|p| u64::try_from(p).unwrap_or(u64::MAX))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn ready() -> Facts {
        Facts {
            starting: false,
            has_catalogue: true,
            broker_connected: true,
            streams_silent: None,
            stream_missing: None,
            shards: vec![ShardFacts {
                shard: 3,
                lag_messages: Some(MAX_LAG_MESSAGES),
                stopped: None,
            }],
            shards_away: Vec::new(),
            streams: vec![FillFacts {
                name: "EVENTS_3".into(),
                bytes: 949,
                max_bytes: 1_000,
            }],
            outboxes: vec![FillFacts {
                name: "collector".into(),
                bytes: 7,
                max_bytes: 0,
            }],
            refused_lanes: Vec::new(),
            waiting_seconds: vec![("collector".into(), OUTBOX_WAITS_SECONDS)],
            full_disks: Vec::new(),
            verified: None,
        }
    }

    #[test]
    fn what_a_verification_found_is_told_and_keeps_nobody_away() {
        let mut facts = ready();
        facts.verified = Some(VerifyFacts {
            at: "2026-11-27T00:00:00Z".into(),
            equal: true,
            ..VerifyFacts::default()
        });
        assert_eq!(notes(&facts), Vec::<String>::new());
        let found = facts.verified.as_mut().unwrap();
        (found.equal, found.differences, found.lost_events) = (false, 3, 5);
        let told = notes(&facts);
        assert!(
            told[0].contains("3 lines")
                && told[0].contains("5 events")
                && told[0].contains("2026-11-27"),
            "{told:?}"
        );
        assert_eq!(reasons(&facts), Vec::<String>::new());
        facts.verified.as_mut().unwrap().error = Some("no room".into());
        assert!(notes(&facts)[0].contains("no room"));
    }

    #[test]
    fn within_every_limit_it_is_ready() {
        assert_eq!(reasons(&ready()), Vec::<String>::new());
    }

    #[test]
    fn past_any_limit_it_says_which() {
        type Change = fn(&mut Facts);
        let cases: [(Change, &str); 14] = [
            (|f| f.shards_away = vec![3, 5], "for shard 3, 5:"),
            (|f| f.full_disks.push("intake".into()), "make room"),
            (
                |f| f.refused_lanes.push(("collector".into(), 2)),
                "takes no more",
            ),
            (|f| f.starting = true, "is starting"),
            (|f| f.has_catalogue = false, "catalogue"),
            (|f| f.broker_connected = false, "NATS"),
            (|f| f.streams_silent = Some("EVENTS_3".into()), "no leader"),
            (
                |f| f.stream_missing = Some("EVENTS_3 is gone".into()),
                "gone",
            ),
            (
                |f| f.shards[0].lag_messages = Some(MAX_LAG_MESSAGES + 1),
                "shard 3",
            ),
            (|f| f.shards[0].lag_messages = None, "shard 3"),
            (
                |f| f.shards[0].stopped = Some("another stream".into()),
                "another stream",
            ),
            (|f| f.streams[0].bytes = 950, "EVENTS_3"),
            (|f| f.outboxes[0].max_bytes = 7, "collector"),
            (|f| f.waiting_seconds[0].1 += 1, "not acknowledged"),
        ];
        for (change, word) in cases {
            let mut facts = ready();
            change(&mut facts);
            let reasons = reasons(&facts);
            assert!(
                reasons.len() == 1 && reasons[0].contains(word),
                "{word}: {reasons:?}"
            );
        }
    }
}
