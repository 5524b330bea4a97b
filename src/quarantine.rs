//! What is kept and counted of an event that is refused, whatever the way it came.
//!
//! Invariant: nothing is refused without a counter and, where it was about an event, a record (invariant 14).

use std::sync::Arc;

use adtally_streams::event::Kind;
use adtally_streams::refusal::{QuarantineRecord, Reason, Refusal};
use bytes::Bytes;

/// A way in, as metrics name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// The collector's paths.
    Collector,
    /// `POST /api/v1/events`.
    Post,
    /// INTAKE.
    Nats,
}

impl Way {
    /// The label's value.
    pub fn name(self) -> &'static str {
        match self {
            Way::Collector => "collector",
            Way::Post => "post",
            Way::Nats => "nats",
        }
    }
}

/// Where an event came from and what it was, for its quarantine record.
#[derive(Clone, Debug)]
pub struct Source {
    /// Its subject; over HTTP `http:<METHOD> <path>`.
    pub subject: Arc<str>,
    /// The stream that holds it and its sequence there.
    pub stored: Option<(&'static str, u64)>,
    /// Its bytes. Sharing the request's buffer costs nothing until a record is made.
    pub payload: Bytes,
}

impl Source {
    /// An event of an HTTP request.
    pub fn of_http(method: &str, path: &str, payload: Bytes) -> Self {
        Self {
            subject: Arc::from(format!("http:{method} {path}")),
            stored: None,
            payload,
        }
    }

    /// The record of its refusal. `arrival_ms` is in milliseconds of the Unix epoch.
    pub fn record(&self, refusal: Refusal, arrival_ms: i64) -> QuarantineRecord {
        let record = QuarantineRecord::new(refusal, &self.subject, arrival_ms, &self.payload);
        match self.stored {
            Some((stream, sequence)) => record.from_stream(stream, sequence),
            None => record,
        }
    }
}

/// Counts events that are durable, by kind.
pub fn count_accepted(way: Way, kinds: [u64; Kind::ALL.len()]) {
    for kind in Kind::ALL {
        let n = kinds[kind as usize];
        if n > 0 {
            metrics::counter!("adtally_events_accepted_total", "kind" => kind.name(), "way" => way.name()).increment(n);
        }
    }
}

/// Counts refusals, by reason.
pub fn count_refused(way: Way, reasons: impl Iterator<Item = Reason>) {
    for reason in reasons {
        metrics::counter!("adtally_events_refused_total", "reason" => reason.name(), "way" => way.name()).increment(1);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_record_names_the_way_and_the_place() {
        let refusal = Refusal::new(Reason::BadId, "ad_id: too long");
        let http = Source::of_http("GET", "/click", Bytes::from_static(b"/click?ad_id=%"));
        let record = http.record(refusal.clone(), 0);
        assert_eq!(
            (record.subject.as_str(), record.stream.as_deref()),
            ("http:GET /click", None)
        );
        assert_eq!(record.payload.as_deref(), Some("/click?ad_id=%"));
        let stored = Source {
            subject: "ads.click.x".into(),
            stored: Some(("INTAKE", 7)),
            payload: Bytes::new(),
        };
        let record = stored.record(refusal, 0);
        assert_eq!(
            (record.stream.as_deref(), record.sequence),
            (Some("INTAKE"), Some(7))
        );
    }
}
