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

/// Compares field by field; what the server fills in by itself counts as equal.
pub(super) fn differences(wanted: &Config, found: &Config, limits: &Limits) -> Vec<Difference> {
    let unlimited = |n: i64| {
        if n <= 0 {
            "unlimited".to_owned()
        } else {
            n.to_string()
        }
    };
    let text = |value: &dyn fmt::Debug| format!("{value:?}");
    let shards_of = |config: &Config| config.metadata.get(SHARDS_KEY).cloned();
    // Where the operator chose no maximum, any is theirs to choose.
    let any_max = shard_of_name(&wanted.name).is_some()
        && limits.events_max_bytes.is_none()
        && found.max_bytes > 0;
    let max_bytes = |config: &Config| {
        if any_max {
            String::new()
        } else {
            unlimited(config.max_bytes)
        }
    };
    // A stream made by hand need not say how many there are.
    let shards = |config: &Config| {
        shards_of(config)
            .or_else(|| shards_of(wanted))
            .unwrap_or_default()
    };
    let mut pairs: Vec<(&'static str, bool, String, String)> = Vec::new();
    let mut compare = |field, breaks, of: &dyn Fn(&Config) -> String| {
        let (wanted, found) = (of(wanted), of(found));
        if wanted != found {
            pairs.push((field, breaks, wanted, found));
        }
    };
    let kept = wanted.name != QUARANTINE_STREAM;
    compare("subjects", true, &|c| c.subjects.join(","));
    compare("retention", true, &|c| text(&c.retention));
    compare("storage", true, &|c| text(&c.storage));
    compare("discard", kept, &|c| text(&c.discard));
    compare("max_age", kept, &|c| text(&c.max_age));
    compare("max_msgs", kept, &|c| unlimited(c.max_messages));
    compare("max_msgs_per_subject", kept, &|c| {
        unlimited(c.max_messages_per_subject)
    });
    compare("no_ack", true, &|c| c.no_ack.to_string());
    compare("sealed", true, &|c| c.sealed.to_string());
    compare("mirror", true, &|c| c.mirror.is_some().to_string());
    compare("sources", true, &|c| {
        c.sources
            .as_ref()
            .is_some_and(|s| !s.is_empty())
            .to_string()
    });
    compare("subject_transform", true, &|c| {
        c.subject_transform.is_some().to_string()
    });
    compare("metadata", true, &|c| format!("{SHARDS_KEY}={}", shards(c)));
    compare("max_bytes", false, &max_bytes);
    compare("max_msg_size", false, &|c| {
        unlimited(i64::from(c.max_message_size))
    });
    compare("max_consumers", false, &|c| {
        unlimited(i64::from(c.max_consumers))
    });
    // Likewise copies: a stream is moved onto more nodes by its operator, not by a flag that was left out.
    compare("num_replicas", false, &|c| match limits.replicas {
        Some(_) => c.num_replicas.to_string(),
        None => String::new(),
    });
    compare("duplicate_window", false, &|c| text(&c.duplicate_window));
    compare("deny_delete", false, &|c| c.deny_delete.to_string());
    compare("deny_purge", false, &|c| c.deny_purge.to_string());
    compare("allow_rollup_hdrs", false, &|c| c.allow_rollup.to_string());
    compare("allow_direct", false, &|c| c.allow_direct.to_string());
    let named = pairs
        .into_iter()
        .map(|(field, breaks, wanted_text, found)| Difference {
            stream: wanted.name.clone(),
            field,
            wanted: wanted_text,
            found,
            breaks,
        });
    named.collect()
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
