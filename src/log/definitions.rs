//! The definitions: the JSON that `nats stream add --config` takes, and what an operator may choose in them.

use adtally_streams::names::{INTAKE_STREAM, QUARANTINE_STREAM, events_stream};
use async_nats::jetstream::stream::Config;

/// The key under which an EVENTS stream remembers how many there are.
pub(super) const SHARDS_KEY: &str = "adtally.shards";

const EVENTS: &str = include_str!("../../streams/definitions/events.json");
const INTAKE: &str = include_str!("../../streams/definitions/intake.json");
const CATALOG: &str = include_str!("../../streams/definitions/catalog.json");
const STATEMENTS: &str = include_str!("../../streams/definitions/statements.json");
const QUARANTINE: &str = include_str!("../../streams/definitions/quarantine.json");

/// What an operator may choose of the streams.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of each EVENTS stream; none: the definition's, or less where the broker's disk has no room for that.
    pub events_max_bytes: Option<u64>,
    /// Bytes of INTAKE.
    pub intake_max_bytes: Option<u64>,
    /// Bytes of QUARANTINE.
    pub quarantine_max_bytes: Option<u64>,
    /// Copies of each stream in a cluster; none: as many as the streams that are there have, else one.
    pub replicas: Option<usize>,
}

/// The definition of one EVENTS stream, as JSON.
fn events_definition(shard: u16, shards: u16) -> String {
    EVENTS
        .replace("{p}", &shard.to_string())
        .replace("{shards}", &shards.to_string())
}

/// Every stream of a deployment of that many shards.
pub fn definitions(shards: u16, limits: &Limits) -> Vec<Config> {
    let events = (0..shards).map(|shard| events_definition(shard, shards));
    let others = [INTAKE, CATALOG, STATEMENTS, QUARANTINE].map(str::to_owned);
    let parsed = others.into_iter().chain(events).map(|json| {
        serde_json::from_str::<Config>(&json)
            .expect("the embedded definitions are JSON of a stream, which a test reads")
    });
    parsed.map(|config| with_limits(config, limits)).collect()
}

fn with_limits(mut config: Config, limits: &Limits) -> Config {
    let chosen = match config.name.as_str() {
        INTAKE_STREAM => limits.intake_max_bytes,
        QUARANTINE_STREAM => limits.quarantine_max_bytes,
        name if shard_of_name(name).is_some() => limits.events_max_bytes,
        _ => None,
    };
    if let Some(bytes) = chosen {
        config.max_bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
    }
    config.num_replicas = limits.replicas.unwrap_or(1);
    config
}

/// The shard whose stream has that name.
pub(super) fn shard_of_name(name: &str) -> Option<u16> {
    let shard = name.strip_prefix("EVENTS_")?.parse::<u16>().ok()?;
    (events_stream(shard) == name).then_some(shard)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::time::Duration;

    use async_nats::jetstream::stream::{DiscardPolicy, RetentionPolicy};

    use super::*;

    #[test]
    fn the_definitions_say_what_the_design_says() {
        let all = definitions(
            3,
            &Limits {
                events_max_bytes: Some(7),
                replicas: Some(3),
                ..Limits::default()
            },
        );
        let names: Vec<&str> = all.iter().map(|c| c.name.as_str()).collect();
        assert_eq!(
            names,
            [
                "INTAKE",
                "CATALOG",
                "STATEMENTS",
                "QUARANTINE",
                "EVENTS_0",
                "EVENTS_1",
                "EVENTS_2"
            ]
        );
        let of = |name: &str| all.iter().find(|c| c.name == name).unwrap();
        let events = of("EVENTS_2");
        assert_eq!(
            (events.subjects.as_slice(), events.max_bytes),
            (&["events.2.>".to_owned()][..], 7)
        );
        assert!(
            events.deny_delete
                && events.allow_direct
                && !events.deny_purge
                && events.max_age.is_zero()
        );
        assert_eq!(
            (events.discard, events.duplicate_window),
            (DiscardPolicy::New, Duration::from_secs(600))
        );
        assert_eq!(
            (events.num_replicas, events.metadata[SHARDS_KEY].as_str()),
            (3, "3")
        );
        let intake = of("INTAKE");
        assert_eq!(
            (intake.retention, intake.subjects[0].as_str()),
            (RetentionPolicy::WorkQueue, "ads.>")
        );
        assert_eq!(of("QUARANTINE").max_age, Duration::from_secs(30 * 86_400));
        assert_eq!(of("QUARANTINE").discard, DiscardPolicy::Old);
        assert!(of("CATALOG").max_age.is_zero() && of("CATALOG").max_bytes <= 0);
    }

    #[test]
    fn only_names_of_shards_are_shards() {
        assert_eq!(
            ["EVENTS_0", "EVENTS_255", "EVENTS_01", "EVENTS_x", "EVENTS"].map(shard_of_name),
            [Some(0), Some(255), None, None, None]
        );
    }
}
