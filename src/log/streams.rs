//! The streams: defined as the JSON that `nats stream add --config` takes, made where they are missing, never changed.
//!
//! A running stream belongs to its operator. What differs from the definition is reported field by field, and where
//! it would break a promise (an EVENTS stream that forgets, another number of shards) the start is refused.

use std::fmt;
use std::time::Duration;

use adtally_streams::names::{
    DEFAULT_SHARDS, INTAKE_STREAM, MAX_SHARDS, QUARANTINE_STREAM, events_stream,
};
use async_nats::jetstream::context::CreateStreamErrorKind;
use async_nats::jetstream::stream::{Config, Info, Stream};
use async_nats::jetstream::{Context, ErrorCode};
use futures_util::TryStreamExt;
use serde::Serialize;
use tokio::time::Instant;

use super::LogError;

/// From this share of its maximum on, an EVENTS stream is reported.
pub const WARN_AT: f64 = 0.80;
/// From this share on, the deployment is not ready.
pub const NOT_READY_AT: f64 = 0.95;
/// How long a broker without a leader for a stream is waited for: an election takes 4 to 9 s.
const LEADER_WAIT: Duration = Duration::from_secs(20);
/// The pause between two tries.
const RETRY_PAUSE: Duration = Duration::from_millis(250);
/// Where no maximum is configured, the definition's is halved down to this while the broker has no room for it.
const EVENTS_MIN_BYTES: i64 = 64 << 20;
/// The key under which an EVENTS stream remembers how many there are.
const SHARDS_KEY: &str = "adtally.shards";

const EVENTS: &str = include_str!("../../streams/definitions/events.json");
const INTAKE: &str = include_str!("../../streams/definitions/intake.json");
const CATALOG: &str = include_str!("../../streams/definitions/catalog.json");
const STATEMENTS: &str = include_str!("../../streams/definitions/statements.json");
const QUARANTINE: &str = include_str!("../../streams/definitions/quarantine.json");

/// What an operator may choose of the streams.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of each EVENTS stream; none: the definition's, or less where the broker's disk has no room for that.
    pub events_max_bytes: Option<u64>,
    /// Bytes of INTAKE.
    pub intake_max_bytes: Option<u64>,
    /// Bytes of QUARANTINE.
    pub quarantine_max_bytes: Option<u64>,
    /// Copies of each stream in a cluster.
    pub replicas: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            events_max_bytes: None,
            intake_max_bytes: None,
            quarantine_max_bytes: None,
            replicas: 1,
        }
    }
}

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

/// How full an EVENTS stream is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Usage {
    /// The stream.
    pub stream: String,
    /// Its shard.
    pub shard: u16,
    /// Messages that it holds.
    pub messages: u64,
    /// Bytes that it holds.
    pub bytes: u64,
    /// Bytes that it may hold; none for no limit.
    pub max_bytes: Option<u64>,
    /// Its last sequence.
    pub last_sequence: u64,
}

impl Usage {
    /// The share of its maximum, 0 without one. Compare with [`WARN_AT`] and [`NOT_READY_AT`].
    pub fn share(&self) -> f64 {
        self.max_bytes
            .map_or(0.0, |max| self.bytes as f64 / max.max(1) as f64)
    }
}

/// What [`ensure`] found and made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Ensured {
    /// How many shards there are.
    pub shards: u16,
    /// Streams that were made now.
    pub created: Vec<String>,
    /// What differs and breaks nothing.
    pub differences: Vec<Difference>,
}

/// Why the streams cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StreamsError {
    /// The streams exist for another number of shards.
    #[error(
        "{wanted} shards are asked for, but these streams are there for {found}: {streams}. The number is fixed once they exist: leave the option out, or use another NATS account"
    )]
    Shards {
        /// What was asked for.
        wanted: u16,
        /// What there is.
        found: u16,
        /// The streams that there are.
        streams: String,
    },
    /// The number of shards cannot be had.
    #[error("{0} shards: there are 1 to {MAX_SHARDS}")]
    ShardCount(u16),
    /// Running streams break a promise.
    #[error("streams that are there do not keep what they must: {}. Change them with `nats stream edit`, or use another NATS account", list(.0))]
    Broken(Vec<Difference>),
    /// The broker has no room for a stream's maximum.
    #[error(
        "the broker has no room for {stream} with a maximum of {max_bytes} bytes: {why}. Choose a smaller maximum, or give JetStream more (max_file_store)"
    )]
    NoRoom {
        /// The stream.
        stream: String,
        /// The maximum asked for.
        max_bytes: i64,
        /// What the broker says.
        why: String,
    },
    /// The broker does not answer, or refuses.
    #[error(transparent)]
    Log(#[from] LogError),
}

fn list(differences: &[Difference]) -> String {
    differences
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join("; ")
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
    config.num_replicas = limits.replicas;
    config
}

/// The shard whose stream has that name.
fn shard_of_name(name: &str) -> Option<u16> {
    let shard = name.strip_prefix("EVENTS_")?.parse::<u16>().ok()?;
    (events_stream(shard) == name).then_some(shard)
}

/// A stream without asking whether it exists.
pub(crate) async fn get_stream(jetstream: &Context, name: &str) -> Result<Stream<()>, LogError> {
    jetstream
        .get_stream_no_info(name)
        .await
        .map_err(|e| LogError::refused(format!("the stream {name}"), e))
}

/// What the broker says of a stream at this moment.
pub async fn info_of(jetstream: &Context, name: &str) -> Result<Info, LogError> {
    let subject = format!("STREAM.INFO.{name}");
    let asked = || format!("what {name} is");
    let answer = jetstream
        .request::<_, _, async_nats::jetstream::response::Response<Info>>(subject, &())
        .await;
    match answer {
        Ok(async_nats::jetstream::response::Response::Ok(info)) => Ok(info),
        Ok(async_nats::jetstream::response::Response::Err { error }) => match error.error_code() {
            ErrorCode::STREAM_NOT_FOUND => Err(LogError::NoStream(name.to_owned())),
            _ if error.code() == 503 => Err(LogError::unreachable(asked(), error)),
            _ => Err(LogError::refused(asked(), error)),
        },
        Err(error) => Err(LogError::unreachable(asked(), error)),
    }
}

/// What the broker says of a stream, waiting a while for a leader; none when it does not exist.
async fn info_or_none(jetstream: &Context, name: &str) -> Result<Option<Info>, LogError> {
    let until = Instant::now() + LEADER_WAIT;
    loop {
        match info_of(jetstream, name).await {
            Ok(info) => return Ok(Some(info)),
            Err(LogError::NoStream(_)) => return Ok(None),
            Err(error) if matches!(error, LogError::Refused { .. }) || Instant::now() >= until => {
                return Err(error);
            }
            Err(_) => tokio::time::sleep(RETRY_PAUSE).await,
        }
    }
}

/// Names of the EVENTS streams that exist, by shard.
async fn running_events(jetstream: &Context) -> Result<Vec<u16>, LogError> {
    let until = Instant::now() + LEADER_WAIT;
    loop {
        match jetstream.stream_names().try_collect::<Vec<String>>().await {
            Ok(names) => {
                let mut shards: Vec<u16> = names
                    .iter()
                    .filter_map(|name| shard_of_name(name))
                    .collect();
                shards.sort_unstable();
                return Ok(shards);
            }
            Err(error) if Instant::now() >= until => {
                return Err(LogError::unreachable("which streams there are", error));
            }
            Err(_) => tokio::time::sleep(RETRY_PAUSE).await,
        }
    }
}

/// How many shards the streams that exist are made for; none when there are no EVENTS streams. Streams of which
/// some are still missing, since whoever made them was interrupted, remember the number too.
pub async fn shards_of_running(jetstream: &Context) -> Result<Option<u16>, LogError> {
    let running = running_events(jetstream).await?;
    for shard in &running {
        let Some(info) = info_or_none(jetstream, &events_stream(*shard)).await? else {
            continue;
        };
        let remembered = info
            .config
            .metadata
            .get(SHARDS_KEY)
            .and_then(|text| text.parse::<u16>().ok());
        if let Some(shards) = remembered.filter(|n| (1..=MAX_SHARDS).contains(n)) {
            return Ok(Some(shards));
        }
    }
    // Made by hand, without the number: as many as there are up to the highest.
    Ok(running.last().map(|highest| highest + 1))
}

/// Makes the streams that are missing and looks at those that are there. Without `shards`, as many as run, else
/// [`DEFAULT_SHARDS`].
pub async fn ensure(
    jetstream: &Context,
    shards: Option<u16>,
    limits: &Limits,
) -> Result<Ensured, StreamsError> {
    let found = shards_of_running(jetstream).await?;
    if let (Some(wanted), Some(found)) = (shards, found)
        && wanted != found
    {
        let names: Vec<String> = running_events(jetstream)
            .await?
            .into_iter()
            .map(events_stream)
            .collect();
        return Err(StreamsError::Shards {
            wanted,
            found,
            streams: names.join(", "),
        });
    }
    let shards = shards.or(found).unwrap_or(DEFAULT_SHARDS);
    if shards == 0 || shards > MAX_SHARDS {
        return Err(StreamsError::ShardCount(shards));
    }
    let mut ensured = Ensured {
        shards,
        created: Vec::new(),
        differences: Vec::new(),
    };
    let mut cap = i64::MAX;
    for mut config in definitions(shards, limits) {
        let running = match info_or_none(jetstream, &config.name).await? {
            Some(info) => info.config,
            None => {
                let may_shrink =
                    limits.events_max_bytes.is_none() && shard_of_name(&config.name).is_some();
                if may_shrink {
                    config.max_bytes = config.max_bytes.min(cap);
                }
                let made = create(jetstream, &config, may_shrink).await?;
                if may_shrink {
                    cap = made.max_bytes;
                }
                ensured.created.push(config.name.clone());
                config.max_bytes = made.max_bytes;
                made
            }
        };
        ensured
            .differences
            .extend(differences(&config, &running, limits));
    }
    let (broken, harmless) = ensured
        .differences
        .into_iter()
        .partition::<Vec<_>, _>(|d| d.breaks);
    if !broken.is_empty() {
        return Err(StreamsError::Broken(broken));
    }
    Ok(Ensured {
        differences: harmless,
        ..ensured
    })
}

async fn create(
    jetstream: &Context,
    config: &Config,
    may_shrink: bool,
) -> Result<Config, StreamsError> {
    let mut config = config.clone();
    let until = Instant::now() + LEADER_WAIT;
    loop {
        let error = match jetstream.create_stream(config.clone()).await {
            Ok(stream) => return Ok(stream.cached_info().config.clone()),
            Err(error) => error,
        };
        let asked = || format!("to make the stream {}", config.name);
        match error.kind() {
            CreateStreamErrorKind::JetStream(e) if no_room(e.error_code()) => {
                if !may_shrink || config.max_bytes / 2 < EVENTS_MIN_BYTES {
                    let why = e.to_string();
                    return Err(StreamsError::NoRoom {
                        stream: config.name,
                        max_bytes: config.max_bytes,
                        why,
                    });
                }
                config.max_bytes /= 2;
                tracing::warn!(stream = %config.name, max_bytes = config.max_bytes, "the broker has little room; the stream gets a smaller maximum");
            }
            // Somebody else has made it meanwhile; whether it is the same is looked at below.
            CreateStreamErrorKind::JetStream(e)
                if e.error_code() == ErrorCode::STREAM_NAME_EXIST =>
            {
                let info = info_or_none(jetstream, &config.name).await?;
                return info
                    .map(|i| i.config)
                    .ok_or(LogError::NoStream(config.name).into());
            }
            CreateStreamErrorKind::JetStream(e) if e.code() != 503 => {
                return Err(LogError::refused(asked(), e).into());
            }
            _ if Instant::now() >= until => {
                return Err(LogError::unreachable(asked(), error).into());
            }
            _ => tokio::time::sleep(RETRY_PAUSE).await,
        }
    }
}

fn no_room(code: ErrorCode) -> bool {
    [
        ErrorCode::STORAGE_RESOURCES_EXCEEDED,
        ErrorCode::INSUFFICIENT_RESOURCES,
        ErrorCode::ACCOUNT_RESOURCES_EXCEEDED,
    ]
    .contains(&code)
}

/// What differs between the definitions and what runs, missing streams too. Changes nothing. Without `shards`, the
/// running number is taken.
pub async fn check(
    jetstream: &Context,
    shards: Option<u16>,
    limits: &Limits,
) -> Result<Vec<Difference>, StreamsError> {
    let found = shards_of_running(jetstream).await?;
    let shards = shards.or(found).unwrap_or(DEFAULT_SHARDS);
    let mut differences_found = Vec::new();
    for shard in running_events(jetstream)
        .await?
        .into_iter()
        .filter(|shard| *shard >= shards)
    {
        differences_found.push(Difference {
            stream: events_stream(shard),
            field: "stream",
            wanted: "nothing".to_owned(),
            found: "a stream".to_owned(),
            breaks: true,
        });
    }
    for config in definitions(shards, limits) {
        match info_or_none(jetstream, &config.name).await? {
            Some(info) => differences_found.extend(differences(&config, &info.config, limits)),
            None => differences_found.push(Difference {
                stream: config.name,
                field: "stream",
                wanted: "a stream".to_owned(),
                found: "nothing".to_owned(),
                breaks: true,
            }),
        }
    }
    Ok(differences_found)
}

/// How full the EVENTS streams are.
pub async fn usage(jetstream: &Context, shards: u16) -> Result<Vec<Usage>, LogError> {
    let mut found = Vec::with_capacity(usize::from(shards));
    for shard in 0..shards {
        let stream = events_stream(shard);
        let info = info_of(jetstream, &stream).await?;
        found.push(Usage {
            stream,
            shard,
            messages: info.state.messages,
            bytes: info.state.bytes,
            max_bytes: u64::try_from(info.config.max_bytes)
                .ok()
                .filter(|max| *max > 0),
            last_sequence: info.state.last_sequence,
        });
    }
    Ok(found)
}

/// Compares field by field; what the server fills in by itself counts as equal.
fn differences(wanted: &Config, found: &Config, limits: &Limits) -> Vec<Difference> {
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
    compare("num_replicas", false, &|c| c.num_replicas.to_string());
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

/// Whether JetStream answers.
pub async fn jetstream_answers(jetstream: &Context) -> Result<(), LogError> {
    match jetstream.query_account().await {
        Ok(_) => Ok(()),
        Err(error) => Err(LogError::unreachable("whether JetStream is there", error)),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use async_nats::jetstream::stream::{DiscardPolicy, RetentionPolicy};

    use super::*;

    #[test]
    fn the_definitions_say_what_the_design_says() {
        let all = definitions(
            3,
            &Limits {
                events_max_bytes: Some(7),
                replicas: 3,
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
    fn what_differs_is_named_and_what_the_server_fills_in_is_not() {
        let limits = Limits::default();
        let wanted = definitions(2, &limits).pop().unwrap();
        let mut found = wanted.clone();
        found
            .metadata
            .insert("_nats.ver".to_owned(), "2.15.1".to_owned());
        found.max_bytes = 123;
        found.max_messages = -1;
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
            ..limits
        };
        let wanted = definitions(2, &chosen).pop().unwrap();
        assert_eq!(
            differences(&wanted, &found, &chosen)[1].to_string(),
            "EVENTS_1 max_bytes: 999 is wanted, 123 is there"
        );
    }

    #[test]
    fn only_names_of_shards_are_shards() {
        assert_eq!(
            ["EVENTS_0", "EVENTS_255", "EVENTS_01", "EVENTS_x", "EVENTS"].map(shard_of_name),
            [Some(0), Some(255), None, None, None]
        );
    }
}
