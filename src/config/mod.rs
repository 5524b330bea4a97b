//! Configuration: flag over environment over TOML file over default; what is set where is said in every error.
//!
//! Layers are merged as one TOML table and read once, so a setting cannot exist in one layer and be missing in
//! another. An unknown key is refused with the nearest known one: a misspelt limit must not be a silent default.

mod archive;
pub mod kept;
mod query;
mod role;
pub mod settings;
pub mod units;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use archive::Archive;
pub use kept::{Retention, Sealing};
pub use query::{Query, QueryShards};
pub use role::Role;
pub use units::{Bytes, Keep, Span};

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file could not be read.
    #[error("configuration file {path}: {source}; name another one with --config")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// The file is not TOML.
    #[error("configuration file {path}: {detail}")]
    NotToml {
        /// The file.
        path: PathBuf,
        /// Where and why.
        detail: String,
    },
    /// A key that is no setting.
    #[error("{place}: unknown key `{key}`; did you mean {nearest}?")]
    UnknownKey {
        /// The file.
        place: String,
        /// The key.
        key: String,
        /// The known key that is most like it, and what it is for.
        nearest: String,
    },
    /// A variable that is no setting, and nearly the name of one.
    #[error("the environment variable {name} is no setting; did you mean {nearest}?")]
    UnknownVariable {
        /// The variable.
        name: String,
        /// The known one that is most like it.
        nearest: String,
    },
    /// A value that its setting cannot take.
    #[error("{place}: {detail}")]
    BadValue {
        /// File, variable or flag.
        place: String,
        /// What is wrong.
        detail: String,
    },
}

/// Everything that can be configured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Folder of everything that this deployment keeps.
    pub data_dir: PathBuf,
    /// Address of the HTTP server.
    pub listen: SocketAddr,
    /// What this process does.
    pub roles: Vec<Role>,
    /// Log filter.
    pub log: String,
    /// How long a stop waits for the outboxes to empty.
    pub drain_timeout: Span,
    /// Machine-readable output and logs.
    pub json: bool,
    /// Where NATS is; empty: a server of one's own.
    pub nats: Nats,
    /// How the streams are made.
    pub streams: Streams,
    /// The collector.
    pub collector: Collector,
    /// The outboxes of collector and intake, each.
    pub outbox: Outbox,
    /// The shards' store.
    pub store: Store,
    /// Checkpoints of the shards.
    pub checkpoints: Checkpoints,
    /// The check of the state against the log.
    pub verify: Verify,
    /// How questions are answered.
    pub query: Query,
    /// How long counts are kept.
    pub retention: Retention,
    /// When they are sealed.
    pub sealing: Sealing,
    /// The HTTP server, and how commands reach it.
    pub http: Http,
    /// Where the log goes from its streams.
    pub archive: Archive,
}

/// What is logged when nothing says otherwise: the NATS client and the block cache repeat what the program itself says
/// better.
pub const DEFAULT_LOG: &str = "info,async_nats=warn,foyer=off";

/// Where NATS is and who we are there.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Nats {
    /// URL, or several by comma.
    pub url: Option<String>,
    /// Context of the nats CLI.
    pub context: Option<String>,
    /// Credentials file.
    pub creds: Option<PathBuf>,
    /// User name.
    pub user: Option<String>,
    /// Its password.
    pub password: Option<String>,
    /// Certificate authority.
    pub tlsca: Option<PathBuf>,
    /// Client certificate.
    pub tlscert: Option<PathBuf>,
    /// Client key.
    pub tlskey: Option<PathBuf>,
}

/// How the streams are made.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Streams {
    /// EVENTS streams; none: as many as there are, or [`adtally_streams::names::DEFAULT_SHARDS`] when there are none.
    pub shards: Option<u16>,
    /// Copies of each; none: as many as the streams that are there have, else one.
    pub replicas: Option<u8>,
    /// Size of each EVENTS stream; none: as much as the definition says and the broker has room for.
    pub events_max_bytes: Option<Bytes>,
    /// Size of INTAKE; none: the definition's.
    pub intake_max_bytes: Option<Bytes>,
    /// Size of QUARANTINE; none: the definition's.
    pub quarantine_max_bytes: Option<Bytes>,
}

/// The collector's rules.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Collector {
    /// Secret of signed landing URLs.
    pub signing_secret: Option<String>,
    /// Networks whose X-Forwarded-For is believed.
    #[serde(deserialize_with = "networks")]
    pub trusted_proxies: Vec<ipnet::IpNet>,
    /// How old a `ts` is believed.
    pub oldest_event: Span,
    /// MaxMind database.
    pub geoip_database: Option<PathBuf>,
}

/// Reads networks; a bare address is a network of one.
fn networks<'de, D: serde::Deserializer<'de>>(d: D) -> Result<Vec<ipnet::IpNet>, D::Error> {
    Vec::<String>::deserialize(d)?
        .iter()
        .map(|text| {
            let text = text.trim();
            let alone = || text.parse::<std::net::IpAddr>().map(ipnet::IpNet::from);
            text.parse().or_else(|_| alone()).map_err(|_| {
                serde::de::Error::custom(format!(
                    "`{text}` is not a network: write 10.0.0.0/8 or 192.0.2.7"
                ))
            })
        })
        .collect()
}

/// Limits of one outbox.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Outbox {
    /// Unsent bytes before new events get 503.
    pub capacity: Bytes,
    /// Sent bytes kept for a resend.
    pub keep_sent: Bytes,
}

/// Memory of the store.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Store {
    /// Block cache.
    pub cache: Bytes,
    /// Writes not yet in files.
    pub write_buffers: Bytes,
}

/// Checkpoints of the shards.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Checkpoints {
    /// How often one is made; zero: never.
    pub every: Span,
    /// How many of the newest are kept.
    pub keep: usize,
    /// Of how many days one is kept besides.
    pub keep_days: usize,
}

/// The check of the state against the log that `serve` makes by itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Verify {
    /// How often; zero: never.
    pub every: Span,
    /// How far back the checkpoint lies from which it folds; zero: it folds all of the log.
    pub from: Span,
}

/// The HTTP server, and how commands reach it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Http {
    /// Connections at once.
    pub max_connections: usize,
    /// Where commands find the API.
    pub url: Option<String>,
    /// API key that commands send.
    pub key: Option<String>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            data_dir: PathBuf::from("adtally-data"),
            listen: SocketAddr::from(([127, 0, 0, 1], 8080)),
            roles: Role::ALL.to_vec(),
            log: DEFAULT_LOG.into(),
            drain_timeout: Span(Duration::from_secs(30)),
            json: false,
            nats: Nats::default(),
            streams: Streams::default(),
            collector: Collector::default(),
            outbox: Outbox::default(),
            store: Store::default(),
            checkpoints: Checkpoints::default(),
            verify: Verify::default(),
            query: Query::default(),
            retention: Retention::default(),
            sealing: Sealing::default(),
            http: Http::default(),
            archive: Archive::default(),
        }
    }
}

impl Default for Collector {
    fn default() -> Self {
        Self {
            signing_secret: None,
            trusted_proxies: Vec::new(),
            oldest_event: Span(Duration::from_secs(7 * 86_400)),
            geoip_database: None,
        }
    }
}

impl Default for Outbox {
    fn default() -> Self {
        Self {
            capacity: Bytes(4 << 30),
            keep_sent: Bytes(1 << 30),
        }
    }
}

impl Default for Store {
    fn default() -> Self {
        Self {
            cache: Bytes(128 << 20),
            write_buffers: Bytes(256 << 20),
        }
    }
}

const DAY: Span = Span(Duration::from_secs(86_400));

impl Default for Checkpoints {
    fn default() -> Self {
        Self {
            every: Span(Duration::from_secs(3_600)),
            keep: 24,
            keep_days: 7,
        }
    }
}

impl Default for Verify {
    fn default() -> Self {
        Self {
            every: DAY,
            from: DAY,
        }
    }
}

impl Default for Http {
    fn default() -> Self {
        Self {
            max_connections: 10_000,
            url: None,
            key: None,
        }
    }
}

/// A value given by a flag: dotted key, flag as the user wrote it, value.
pub struct FlagValue {
    /// Dotted key of the setting.
    pub key: &'static str,
    /// The flag, for errors.
    pub flag: &'static str,
    /// Its value.
    pub value: toml::Value,
}

/// Reads the configuration: `file`, then the environment by `env`, then `flags`.
pub fn load(
    file: Option<&Path>,
    env: impl Fn(&str) -> Option<String>,
    flags: Vec<FlagValue>,
) -> Result<Config, ConfigError> {
    let mut table = match file {
        Some(path) => read_file(path)?,
        None => toml::Table::new(),
    };
    for setting in settings::SETTINGS {
        for variable in setting.variables() {
            if let Some(text) = env(&variable) {
                settings::put(
                    &mut table,
                    setting.key,
                    settings::value_of(setting, &variable, &text)?,
                );
                parse(&table, &variable)?;
            }
        }
    }
    for given in flags {
        settings::put(&mut table, given.key, given.value);
        parse(&table, given.flag)?;
    }
    let config = parse(&table, "configuration")?;
    check(&config)?;
    Ok(config)
}

fn read_file(path: &Path) -> Result<toml::Table, ConfigError> {
    let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Unreadable {
        path: path.into(),
        source,
    })?;
    let table: toml::Table = text
        .parse()
        .map_err(|e: toml::de::Error| ConfigError::NotToml {
            path: path.into(),
            detail: e.to_string(),
        })?;
    settings::refuse_unknown(&table, &path.display().to_string())?;
    parse(&table, &path.display().to_string())?;
    Ok(table)
}

/// Reads the merged table; an error is `place`'s, since all that was merged before it could be read.
fn parse(table: &toml::Table, place: &str) -> Result<Config, ConfigError> {
    Config::deserialize(toml::Value::Table(table.clone())).map_err(|e| ConfigError::BadValue {
        place: place.into(),
        detail: e.to_string().trim_end().replace('\n', " "),
    })
}

/// Limits that concern several values, or that a type cannot say.
fn check(config: &Config) -> Result<(), ConfigError> {
    let refuse = |key: &str, detail: String| {
        Err(ConfigError::BadValue {
            place: key.into(),
            detail,
        })
    };
    let most = adtally_streams::names::MAX_SHARDS;
    if let Some(shards) = config.streams.shards.filter(|n| !(1..=most).contains(n)) {
        return refuse(
            "streams.shards",
            format!("{shards} is not between 1 and {most}"),
        );
    }
    if let Some(replicas) = config.streams.replicas.filter(|n| ![1, 3, 5].contains(n)) {
        return refuse("streams.replicas", format!("{replicas} is not 1, 3 or 5"));
    }
    if config.roles.is_empty() {
        return refuse("roles", "no role is left: name at least one".into());
    }
    if config.http.max_connections == 0 {
        return refuse("http.max_connections", "0 would let nobody in".into());
    }
    if !config.checkpoints.every.0.is_zero() && config.checkpoints.keep == 0 {
        return refuse(
            "checkpoints.keep",
            "0 would keep none: checkpoints.every = \"0s\" makes none".into(),
        );
    }
    let verify = &config.verify;
    if !verify.from.0.is_zero() && verify.from < verify.every {
        return refuse(
            "verify.from",
            format!(
                "{} is less than verify.every, {}: what is damaged between two verifications would be in the checkpoint too, and never be seen",
                verify.from, verify.every
            ),
        );
    }
    kept::check(&config.retention)?;
    query::check(&config.query)?;
    if config.outbox.capacity < MIN_OUTBOX {
        return refuse(
            "outbox.capacity",
            format!(
                "{} is under the least, {MIN_OUTBOX}",
                config.outbox.capacity
            ),
        );
    }
    Ok(())
}

/// The least capacity of an outbox: some full frames of every lane.
const MIN_OUTBOX: Bytes = Bytes(1 << 20);

#[cfg(test)]
mod tests;
