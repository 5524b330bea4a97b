//! What is kept and counted of an event that is refused, whatever the way it came.
//!
//! Invariant: nothing is refused without a counter and, where it was about an event, a record (invariant 14).

use std::sync::Arc;

use adtally_streams::event::Kind;
use adtally_streams::refusal::{QuarantineRecord, Reason, Refusal};
use axum::http::Method;
use axum::http::uri::PathAndQuery;
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

/// Where an event came from and what it was, for its quarantine record. Nothing is put together before there is a
/// record to make: nearly every event is accepted.
#[derive(Clone, Debug)]
pub enum Source {
    /// A request to the collector's paths: its record holds path and query, and a form on the line below.
    Visit {
        /// The method.
        method: Method,
        /// Path and query as they came.
        target: PathAndQuery,
        /// The form of a POST; empty where there was none.
        form: Bytes,
    },
    /// A message, or one event of a body of many.
    Message {
        /// Its subject; over HTTP `http:<METHOD> <path>`.
        subject: Arc<str>,
        /// The stream that holds it and its sequence there.
        stored: Option<(&'static str, u64)>,
        /// Its bytes, which share the request's buffer.
        payload: Bytes,
    },
}

impl Source {
    /// The record of its refusal. `arrival_ms` is in milliseconds of the Unix epoch.
    pub fn record(&self, refusal: Refusal, arrival_ms: i64) -> QuarantineRecord {
        match self {
            Source::Visit {
                method,
                target,
                form,
            } => {
                let subject = format!("http:{method} {}", target.path());
                let target = target.as_str().as_bytes();
                if form.is_empty() {
                    return QuarantineRecord::new(refusal, &subject, arrival_ms, target);
                }
                let payload = [target, b"\n", form].concat();
                QuarantineRecord::new(refusal, &subject, arrival_ms, &payload)
            }
            Source::Message {
                subject,
                stored,
                payload,
            } => {
                let record = QuarantineRecord::new(refusal, subject, arrival_ms, payload);
                match stored {
                    Some((stream, sequence)) => record.from_stream(stream, *sequence),
                    None => record,
                }
            }
        }
    }
}

/// Shows a way's counters from its start: Prometheus sees no increase in a series that begins with its first one, and the
/// first refusal for a reason is the one to be woken by.
pub fn begin_at_zero(way: Way) {
    for kind in Kind::ALL {
        metrics::counter!("adtally_events_accepted_total", "kind" => kind.name(), "way" => way.name()).increment(0);
    }
    for reason in Reason::ALL {
        metrics::counter!("adtally_events_refused_total", "reason" => reason.name(), "way" => way.name()).increment(0);
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
        let visit = |method, form| Source::Visit {
            method,
            target: PathAndQuery::from_static("/click?ad_id=%"),
            form: Bytes::from_static(form),
        };
        let record = visit(Method::GET, b"").record(refusal.clone(), 0);
        assert_eq!(
            (record.subject.as_str(), record.stream.as_deref()),
            ("http:GET /click", None)
        );
        assert_eq!(record.payload.as_deref(), Some("/click?ad_id=%"));
        let record = visit(Method::POST, b"user_id=u1").record(refusal.clone(), 0);
        assert_eq!(record.subject, "http:POST /click");
        assert_eq!(
            record.payload.as_deref(),
            Some("/click?ad_id=%\nuser_id=u1")
        );
        let stored = Source::Message {
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
