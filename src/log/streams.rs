//! The streams: defined as the JSON that `nats stream add --config` takes, made where they are missing, never changed.
//!
//! A running stream belongs to its operator. What differs from the definition is reported field by field, and where
//! it would break a promise (an EVENTS stream that forgets, another number of shards) the start is refused.

use std::time::Duration;

use adtally_streams::names::{DEFAULT_SHARDS, MAX_SHARDS, events_stream};
use async_nats::jetstream::stream::{Config, Info, Stream};
use async_nats::jetstream::{Context, ErrorCode};
use futures_util::TryStreamExt;
use serde::Serialize;
use tokio::time::Instant;

use super::LogError;
use super::compare::differences;
use super::definitions::{SHARDS_KEY, shard_of_name};
use super::making::Maker;
use super::quorum::has_majority;
use super::refusals::Refusals;
use super::room::is_events;

pub use super::compare::Difference;
pub use super::definitions::{Limits, definitions};

/// From this share of its maximum on, an EVENTS stream is reported.
pub const WARN_AT: f64 = 0.80;
/// How long a broker without a leader for a stream, or without servers for its copies, is waited for: an election
/// takes 4 to 9 s.
pub(super) const LEADER_WAIT: Duration = Duration::from_secs(20);
/// The pause between two tries.
pub(super) const RETRY_PAUSE: Duration = Duration::from_millis(250);

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
    /// The share of its maximum, 0 without one. Compare with [`WARN_AT`].
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
    /// The broker has no room for the maxima of the streams that are missing, with the least that EVENTS streams get.
    #[error(
        "the broker has no room for the {streams} streams that are to be made, which take {bytes} bytes at the least: {why}. Give JetStream more (max_file_store), or choose smaller maxima (streams.intake_max_bytes, streams.quarantine_max_bytes, streams.events_max_bytes)"
    )]
    NoRoomForAll {
        /// How many.
        streams: usize,
        /// What they would take together.
        bytes: i64,
        /// What the broker says.
        why: String,
    },
    /// The account allows no stream as large.
    #[error(
        "{stream} may not have a maximum of {max_bytes} bytes: {why}. Choose a smaller maximum, or let the account have larger streams"
    )]
    TooLarge {
        /// The stream.
        stream: String,
        /// The maximum asked for.
        max_bytes: i64,
        /// What the broker says.
        why: String,
    },
    /// The cluster has no servers for a stream's copies. Trying again is reasonable: they may be on their way.
    #[error(
        "the cluster has no place for {stream} in as many copies as are asked for, {copies}: {why}. Some of its servers are away, or there are fewer: start them, or choose fewer copies (streams.replicas)"
    )]
    NoPlace {
        /// The stream.
        stream: String,
        /// Copies asked for.
        copies: usize,
        /// What the broker says.
        why: String,
    },
    /// This user may not make a stream that is missing.
    #[error(
        "{stream} is missing, and this user may not make it: {why}. Let one who may run `adtally streams apply` first"
    )]
    Forbidden {
        /// The stream.
        stream: String,
        /// What the broker says.
        why: String,
    },
    /// The broker does not answer, or refuses.
    #[error(transparent)]
    Log(#[from] LogError),
}

impl StreamsError {
    /// Whether waiting may mend it: the broker, or a part of it, is away.
    pub fn passes(&self) -> bool {
        matches!(
            self,
            Self::NoPlace { .. } | Self::Log(LogError::Unreachable { .. })
        )
    }

    /// Whether it is for somebody else to mend.
    pub fn is_forbidden(&self) -> bool {
        matches!(self, Self::Forbidden { .. })
    }
}

fn list(differences: &[Difference]) -> String {
    differences
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join("; ")
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
        Ok(async_nats::jetstream::response::Response::Ok(info))
            if has_majority(info.cluster.as_ref()) =>
        {
            Ok(info)
        }
        Ok(async_nats::jetstream::response::Response::Ok(_)) => Err(LogError::unreachable(
            asked(),
            "its leader does not hear from a majority of its replicas",
        )),
        Ok(async_nats::jetstream::response::Response::Err { error }) => match error.error_code() {
            ErrorCode::STREAM_NOT_FOUND => Err(LogError::NoStream(name.to_owned())),
            _ if error.code() == 503 => Err(LogError::unreachable(asked(), error)),
            _ => Err(LogError::refused(asked(), error)),
        },
        Err(error) => Err(LogError::unreachable(asked(), error)),
    }
}

/// What the broker says of a stream, waiting a while for a leader; none when it does not exist.
pub(super) async fn info_or_none(
    jetstream: &Context,
    name: &str,
) -> Result<Option<Info>, LogError> {
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

/// Waits until a stream that was just made can be used: its making is answered before it has a leader.
async fn wait_for_leader(jetstream: &Context, name: &str) -> Result<(), LogError> {
    let until = Instant::now() + LEADER_WAIT;
    loop {
        match info_of(jetstream, name).await {
            Ok(_) => return Ok(()),
            Err(error) if matches!(error, LogError::Refused { .. }) || Instant::now() >= until => {
                return Err(error);
            }
            // Not only a stream without a leader: a server that has not heard of it yet knows no such stream.
            Err(_) => tokio::time::sleep(RETRY_PAUSE).await,
        }
    }
}

/// What the EVENTS streams that exist were made as.
struct Running {
    shards: u16,
    replicas: Option<usize>,
}

/// How many shards the streams that exist are made for; none when there are no EVENTS streams. Streams of which
/// some are still missing, since whoever made them was interrupted, remember the number too.
pub async fn shards_of_running(jetstream: &Context) -> Result<Option<u16>, LogError> {
    Ok(running(jetstream).await?.map(|running| running.shards))
}

async fn running(jetstream: &Context) -> Result<Option<Running>, LogError> {
    let running = running_events(jetstream).await?;
    let mut replicas = None;
    for shard in &running {
        let Some(info) = info_or_none(jetstream, &events_stream(*shard)).await? else {
            continue;
        };
        replicas = replicas.or(Some(info.config.num_replicas));
        let remembered = info
            .config
            .metadata
            .get(SHARDS_KEY)
            .and_then(|text| text.parse::<u16>().ok());
        if let Some(shards) = remembered.filter(|n| (1..=MAX_SHARDS).contains(n)) {
            return Ok(Some(Running { shards, replicas }));
        }
    }
    // Made by hand, without the number: as many as there are up to the highest.
    Ok(running.last().map(|highest| Running {
        shards: highest + 1,
        replicas,
    }))
}

/// Makes the streams that are missing, waits until they have leaders, and looks at those that are there. Without
/// `shards`, as many as run, else [`DEFAULT_SHARDS`]; likewise their copies.
pub async fn ensure(
    jetstream: &Context,
    shards: Option<u16>,
    limits: &Limits,
) -> Result<Ensured, StreamsError> {
    ensure_heeding(jetstream, shards, limits, &Refusals::default()).await
}

/// Likewise, for a user who may be refused it: `refusals` are those of the connection.
pub async fn ensure_heeding(
    jetstream: &Context,
    shards: Option<u16>,
    limits: &Limits,
    refusals: &Refusals,
) -> Result<Ensured, StreamsError> {
    let running = running(jetstream).await?;
    let found = running.as_ref().map(|running| running.shards);
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
    let maker = Maker {
        jetstream,
        refusals,
    };
    let copies = Limits {
        replicas: limits.replicas.or(running.and_then(|r| r.replicas)),
        ..limits.clone()
    };
    let mut wanted = definitions(shards, &copies);
    if limits.events_max_bytes.is_none() {
        ensured.created.extend(fit(&maker, &mut wanted).await?);
    }
    let has_room = !ensured.created.is_empty();
    for config in wanted {
        let running = match info_or_none(jetstream, &config.name).await? {
            Some(info) => info.config,
            None => {
                let made = match has_room {
                    true => maker.create_in_room(&config).await?,
                    false => maker.create(&config).await?,
                };
                ensured.created.push(config.name.clone());
                made
            }
        };
        ensured
            .differences
            .extend(differences(&config, &running, limits));
    }
    for name in &ensured.created {
        wait_for_leader(jetstream, name).await?;
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

/// Finds room for the EVENTS streams that are missing, and puts their share of it into what is `wanted`. The first of
/// them is made by that; its name, where there is one.
async fn fit(maker: &Maker<'_>, wanted: &mut [Config]) -> Result<Option<String>, StreamsError> {
    let (mut found, mut missing) = (Vec::new(), Vec::new());
    for config in wanted.iter() {
        match info_or_none(maker.jetstream, &config.name).await? {
            Some(info) => found.push(info),
            None => missing.push(config.clone()),
        }
    }
    let Some(first) = missing.iter().find(|config| is_events(config)) else {
        return Ok(None);
    };
    maker.give_back(&found, first.max_bytes).await?;
    let made = maker.make_room(first, &missing).await?;
    for config in wanted.iter_mut().filter(|config| is_events(config)) {
        config.max_bytes = made.max_bytes;
    }
    Ok(Some(made.name))
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

/// Whether JetStream answers.
pub async fn jetstream_answers(jetstream: &Context) -> Result<(), LogError> {
    match jetstream.query_account().await {
        Ok(_) => Ok(()),
        Err(error) => Err(LogError::unreachable("whether JetStream is there", error)),
    }
}
