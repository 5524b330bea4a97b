//! Comparing a running stream with its definition, field by field.

use std::fmt;

use adtally_streams::names::QUARANTINE_STREAM;
use async_nats::jetstream::stream::Config;
use serde::Serialize;

use super::definitions::{Limits, SHARDS_KEY, shard_of_name};

/// A field of a running stream that is not what the definition says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// The stream.
    pub stream: String,
    /// The field, as in the JSON; `stream` when there is none.
    pub field: &'static str,
    /// What the definition says.
    pub wanted: String,
    /// What runs.
    pub found: String,
    /// Whether it breaks a promise, so that nothing starts.
    pub breaks: bool,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} {}: {} is wanted, {} is there",
            self.stream, self.field, self.wanted, self.found
        )
    }
}

/// Whether a field that differs breaks a promise.
#[derive(Clone, Copy)]
enum Breaks {
    Always,
    /// Only of what must not be lost: quarantine may forget.
    Kept,
    Never,
}

/// A definition, the stream that runs, and what the operator chose.
struct Sides<'a> {
    wanted: &'a Config,
    found: &'a Config,
    limits: &'a Limits,
}

/// A field, and what a side says of it.
type Field = (&'static str, Breaks, fn(&Sides<'_>, &Config) -> String);

/// The fields that are compared.
const FIELDS: &[Field] = &[
    ("subjects", Breaks::Always, |_, c| c.subjects.join(",")),
    ("retention", Breaks::Always, |_, c| text(&c.retention)),
    ("storage", Breaks::Always, |_, c| text(&c.storage)),
    ("discard", Breaks::Kept, |_, c| text(&c.discard)),
    ("max_age", Breaks::Kept, |_, c| text(&c.max_age)),
    ("max_msgs", Breaks::Kept, |_, c| unlimited(c.max_messages)),
    ("max_msgs_per_subject", Breaks::Kept, |_, c| {
        unlimited(c.max_messages_per_subject)
    }),
    ("no_ack", Breaks::Always, |_, c| c.no_ack.to_string()),
    ("sealed", Breaks::Always, |_, c| c.sealed.to_string()),
    ("mirror", Breaks::Always, |_, c| {
        c.mirror.is_some().to_string()
    }),
    ("sources", Breaks::Always, |_, c| {
        let has_some = c.sources.as_ref().is_some_and(|s| !s.is_empty());
        has_some.to_string()
    }),
    ("subject_transform", Breaks::Always, |_, c| {
        c.subject_transform.is_some().to_string()
    }),
    ("metadata", Breaks::Always, |s, c| s.shards(c)),
    ("max_bytes", Breaks::Never, |s, c| s.max_bytes(c)),
    ("max_msg_size", Breaks::Never, |_, c| {
        unlimited(i64::from(c.max_message_size))
    }),
    ("max_consumers", Breaks::Never, |_, c| {
        unlimited(i64::from(c.max_consumers))
    }),
    ("num_replicas", Breaks::Never, |s, c| s.replicas(c)),
    ("duplicate_window", Breaks::Never, |_, c| {
        text(&c.duplicate_window)
    }),
    ("deny_delete", Breaks::Never, |_, c| {
        c.deny_delete.to_string()
    }),
    ("deny_purge", Breaks::Never, |_, c| c.deny_purge.to_string()),
    ("allow_rollup_hdrs", Breaks::Never, |_, c| {
        c.allow_rollup.to_string()
    }),
    ("allow_direct", Breaks::Never, |_, c| {
        c.allow_direct.to_string()
    }),
];

impl Sides<'_> {
    /// How many shards there are. A stream made by hand need not say so.
    fn shards(&self, side: &Config) -> String {
        let of = |config: &Config| config.metadata.get(SHARDS_KEY).cloned();
        let shards = of(side).or_else(|| of(self.wanted)).unwrap_or_default();
        format!("{SHARDS_KEY}={shards}")
    }

    /// Where the operator chose no maximum, any is theirs to choose.
    fn max_bytes(&self, side: &Config) -> String {
        let is_theirs = shard_of_name(&self.wanted.name).is_some()
            && self.limits.events_max_bytes.is_none()
            && self.found.max_bytes > 0;
        match is_theirs {
            true => String::new(),
            false => unlimited(side.max_bytes),
        }
    }

    /// Likewise copies: a stream is moved onto more nodes by its operator, not by a flag that was left out.
    fn replicas(&self, side: &Config) -> String {
        match self.limits.replicas {
            Some(_) => side.num_replicas.to_string(),
            None => String::new(),
        }
    }
}

fn unlimited(n: i64) -> String {
    match n {
        ..=0 => "unlimited".to_owned(),
        _ => n.to_string(),
    }
}

fn text(value: &dyn fmt::Debug) -> String {
    format!("{value:?}")
}

/// Compares field by field; what the server fills in by itself counts as equal.
pub(super) fn differences(wanted: &Config, found: &Config, limits: &Limits) -> Vec<Difference> {
    let sides = Sides {
        wanted,
        found,
        limits,
    };
    let is_kept = wanted.name != QUARANTINE_STREAM;
    let difference = |(field, breaks, of): &Field| {
        let (wanted_text, found_text) = (of(&sides, wanted), of(&sides, found));
        (wanted_text != found_text).then(|| Difference {
            stream: wanted.name.clone(),
            field,
            wanted: wanted_text,
            found: found_text,
            breaks: match breaks {
                Breaks::Always => true,
                Breaks::Kept => is_kept,
                Breaks::Never => false,
            },
        })
    };
    FIELDS.iter().filter_map(difference).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::time::Duration;

    use super::*;
    use crate::log::definitions::definitions;

    #[test]
    fn what_differs_is_named_and_what_the_server_fills_in_is_not() {
        let limits = Limits::default();
        let wanted = definitions(2, &limits).pop().unwrap();
        let mut found = wanted.clone();
        found
            .metadata
            .insert("_nats.ver".to_owned(), "2.15.1".to_owned());
        found.max_bytes = 123;
        found.max_messages = -1;
        found.num_replicas = 3;
        assert_eq!(differences(&wanted, &found, &limits), []);
        found.max_age = Duration::from_secs(60);
        found.duplicate_window = Duration::from_secs(1);
        let named = differences(&wanted, &found, &limits);
        assert_eq!(
            named
                .iter()
                .map(|d| (d.field, d.breaks))
                .collect::<Vec<_>>(),
            [("max_age", true), ("duplicate_window", false)]
        );
        let chosen = Limits {
            events_max_bytes: Some(999),
            replicas: Some(5),
            ..limits
        };
        let wanted = definitions(2, &chosen).pop().unwrap();
        assert_eq!(
            differences(&wanted, &found, &chosen)[1].to_string(),
            "EVENTS_1 max_bytes: 999 is wanted, 123 is there"
        );
    }
}
