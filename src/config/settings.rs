//! The list of every setting: its TOML key, its environment variable, its shape, and what it is for.
//!
//! One list serves the check of unknown keys, the reading of the environment and the documentation, so that the
//! three cannot drift apart; a test holds it against [`super::Config`].

use super::ConfigError;

/// How the text of an environment variable becomes a TOML value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Taken as it stands; also sizes, spans, paths and addresses.
    Text,
    /// A whole number.
    Integer,
    /// `true` or `false`.
    Flag,
    /// Comma-separated texts.
    List,
}

/// One setting.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// Dotted TOML key.
    pub key: &'static str,
    /// Shape of its value.
    pub shape: Shape,
    /// What it is for, one line.
    pub about: &'static str,
}

const fn s(key: &'static str, shape: Shape, about: &'static str) -> Setting {
    Setting { key, shape, about }
}

/// Variables by another name than [`Setting::env`] gives: those that the contract or the nats CLI name.
const ALIASES: [(&str, &str); 3] = [
    ("collector.signing_secret", "ADTALLY_SIGNING_SECRET"),
    ("nats.url", "NATS_URL"),
    ("nats.creds", "NATS_CREDS"),
];

impl Setting {
    /// Its environment variable: `ADTALLY_` and the key in capitals, with `_` for the dot.
    pub fn env(&self) -> String {
        format!(
            "ADTALLY_{}",
            self.key.replace('.', "_").to_ascii_uppercase()
        )
    }

    /// Every variable that sets it, the strongest last.
    pub fn variables(&self) -> Vec<String> {
        let alias = ALIASES.iter().find(|(key, _)| *key == self.key);
        alias
            .map(|(_, name)| (*name).to_string())
            .into_iter()
            .chain([self.env()])
            .collect()
    }
}

use Shape::{Flag, Integer, List, Text};

/// Every setting there is, in the order of the documentation.
pub const SETTINGS: &[Setting] = &[
    s(
        "data_dir",
        Text,
        "folder of everything this deployment keeps",
    ),
    s(
        "listen",
        Text,
        "address and port of the HTTP server; port 0 takes a free one",
    ),
    s(
        "roles",
        List,
        "what this process does: collector, intake, projector, api, archiver",
    ),
    s(
        "log",
        Text,
        "what is logged, as tracing's filters: info, adtally=debug",
    ),
    s(
        "drain_timeout",
        Text,
        "how long a stop waits for outboxes to empty",
    ),
    s(
        "nats.url",
        Text,
        "URL of a NATS server, or several by comma (or NATS_URL)",
    ),
    s("nats.context", Text, "context of the nats CLI"),
    s("nats.creds", Text, "credentials file (or NATS_CREDS)"),
    s("nats.user", Text, "user name"),
    s("nats.password", Text, "password of that user"),
    s("nats.tlsca", Text, "certificate authority of the server"),
    s("nats.tlscert", Text, "certificate of this client"),
    s("nats.tlskey", Text, "key of this client"),
    s(
        "streams.shards",
        Integer,
        "EVENTS streams when they are made; fixed from then on",
    ),
    s(
        "streams.replicas",
        Integer,
        "copies of each stream in a cluster when they are made: 1, 3 or 5",
    ),
    s(
        "streams.events_max_bytes",
        Text,
        "size of each EVENTS stream before it refuses",
    ),
    s(
        "streams.intake_max_bytes",
        Text,
        "size of INTAKE before it refuses",
    ),
    s(
        "streams.quarantine_max_bytes",
        Text,
        "size of QUARANTINE, oldest dropped",
    ),
    s(
        "collector.signing_secret",
        Text,
        "secret of signed landing URLs; none refuses url=",
    ),
    s(
        "collector.trusted_proxies",
        List,
        "networks whose X-Forwarded-For is believed",
    ),
    s(
        "collector.oldest_event",
        Text,
        "how old a ts the collector believes",
    ),
    s(
        "collector.geoip_database",
        Text,
        "MaxMind database for events that name no geo",
    ),
    s(
        "outbox.capacity",
        Text,
        "unsent bytes an outbox holds before it answers 503",
    ),
    s(
        "outbox.keep_sent",
        Text,
        "sent bytes an outbox keeps for a resend",
    ),
    s(
        "store.cache",
        Text,
        "memory of blocks of files, all shards; they also take what writes leave",
    ),
    s(
        "store.write_buffers",
        Text,
        "memory of writes not yet in files, all shards",
    ),
    s(
        "checkpoints.every",
        Text,
        "how often a checkpoint of each shard is made; 0s: never",
    ),
    s(
        "checkpoints.keep",
        Integer,
        "how many of a shard's newest checkpoints are kept",
    ),
    s(
        "checkpoints.keep_days",
        Integer,
        "of how many days a shard's newest checkpoint is kept besides",
    ),
    s(
        "verify.every",
        Text,
        "how often `serve` holds its state against the log; 0s: never",
    ),
    s(
        "verify.from",
        Text,
        "how far back the checkpoint lies from which that folds; 0s: all of the log",
    ),
    s(
        "query.shards",
        Text,
        "whose shards the role api reads: local or remote",
    ),
    s(
        "query.block_cache",
        Text,
        "memory of unpacked blocks of sealed counts and of printed rows; 0B: none",
    ),
    s(
        "query.block_cache_disk",
        Text,
        "room on disk for those that memory has none for, at least 128MiB; 0B: none",
    ),
    s(
        "retention.minutes",
        Text,
        "how long counts by minute are kept, by log time; at least 2d",
    ),
    s(
        "retention.hours",
        Text,
        "the same for hours; at least 33d, and not less than minutes",
    ),
    s(
        "retention.days",
        Text,
        "the same for days, or forever; not less than hours",
    ),
    s(
        "sealing.minutes_after",
        Text,
        "how long after an hour's end its minutes are sealed",
    ),
    s("sealing.hours_after", Text, "the same for the hour itself"),
    s(
        "sealing.days_after",
        Text,
        "how long after a day's end it is sealed",
    ),
    s(
        "http.max_connections",
        Integer,
        "connections at once; more wait",
    ),
    s(
        "http.url",
        Text,
        "where commands find the API; default: as the deployment says",
    ),
    s("http.key", Text, "API key that commands send"),
    s(
        "archive.url",
        Text,
        "where the archive is: s3://BUCKET/PREFIX (credentials from AWS_...) or file:///FOLDER",
    ),
    s(
        "archive.keep_in_stream",
        Text,
        "how long an archived message stays in its stream",
    ),
    s("json", Flag, "machine-readable output and logs"),
];

/// The setting of that key.
pub fn by_key(key: &str) -> Option<&'static Setting> {
    SETTINGS.iter().find(|s| s.key == key)
}

/// The known key that is nearest to `key`, by its whole or by its last part, and what it is for. For a `section`,
/// the nearest section.
fn nearest(key: &str, section: bool) -> String {
    if section {
        return format!("`{}`", nearest_section(key));
    }
    let likeness = |known: &str| {
        let whole = strsim::normalized_damerau_levenshtein(known, key);
        let last = |text: &str| text.rsplit('.').next().unwrap_or_default().to_string();
        whole.max(
            strsim::normalized_damerau_levenshtein(&last(known), &last(key)) * SAME_NAME_ELSEWHERE,
        )
    };
    SETTINGS
        .iter()
        .max_by(|a, b| likeness(a.key).total_cmp(&likeness(b.key)))
        .map_or_else(String::new, |s| format!("`{}` ({})", s.key, s.about))
}

fn nearest_section(key: &str) -> &'static str {
    SETTINGS
        .iter()
        .filter_map(|s| s.key.split_once('.'))
        .map(|(section, _)| {
            (
                strsim::normalized_damerau_levenshtein(section, key),
                section,
            )
        })
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map_or("", |(_, section)| section)
}

/// A variable that is no setting and looks like a misspelt one, with the setting's variable. Variables that are
/// further away are somebody else's: passwords in the broker's configuration, the set-up's places.
pub fn misspelt_variable(name: &str) -> Option<String> {
    let known: Vec<String> = SETTINGS.iter().flat_map(Setting::variables).collect();
    if !name.starts_with("ADTALLY_") || known.iter().any(|k| k == name) {
        return None;
    }
    known
        .into_iter()
        .filter(|k| k.starts_with("ADTALLY_"))
        .find(|k| strsim::damerau_levenshtein(k, name) <= MISSPELT_BY)
}

/// How many letters a misspelt variable has wrong at most: `ADTALLY_NATS_CLI` is two from `ADTALLY_NATS_URL`.
const MISSPELT_BY: usize = 1;

/// How much a key counts whose last part alone is like the unknown one's: a setting in the wrong section.
const SAME_NAME_ELSEWHERE: f64 = 0.9;

/// Refuses the first key of `table` that is no setting.
pub fn refuse_unknown(table: &toml::Table, place: &str) -> Result<(), ConfigError> {
    walk(table, "", place)
}

fn walk(table: &toml::Table, prefix: &str, place: &str) -> Result<(), ConfigError> {
    for (name, value) in table {
        let key = if prefix.is_empty() {
            name.clone()
        } else {
            format!("{prefix}.{name}")
        };
        let section = format!("{key}.");
        match value {
            toml::Value::Table(inner) if SETTINGS.iter().any(|s| s.key.starts_with(&section)) => {
                walk(inner, &key, place)?;
            }
            _ if by_key(&key).is_some() => {}
            _ => {
                return Err(ConfigError::UnknownKey {
                    place: place.into(),
                    nearest: nearest(&key, value.is_table()),
                    key,
                });
            }
        }
    }
    Ok(())
}

/// The TOML value of an environment variable's text.
pub fn value_of(setting: &Setting, variable: &str, text: &str) -> Result<toml::Value, ConfigError> {
    let bad = |expected: &'static str| ConfigError::BadValue {
        place: variable.into(),
        detail: format!("`{text}` is not {expected}"),
    };
    Ok(match setting.shape {
        Text => toml::Value::String(text.into()),
        Integer => toml::Value::Integer(text.trim().parse().map_err(|_| bad("a whole number"))?),
        Flag => match text.trim() {
            "1" | "true" | "yes" => toml::Value::Boolean(true),
            "0" | "false" | "no" | "" => toml::Value::Boolean(false),
            _ => return Err(bad("true or false")),
        },
        List => {
            let items = text.split(',').map(str::trim).filter(|t| !t.is_empty());
            toml::Value::Array(items.map(|t| toml::Value::String(t.into())).collect())
        }
    })
}

/// Puts `value` at a dotted key.
pub fn put(table: &mut toml::Table, key: &str, value: toml::Value) {
    match key.split_once('.') {
        None => {
            table.insert(key.into(), value);
        }
        Some((section, rest)) => {
            let entry = table
                .entry(section)
                .or_insert_with(|| toml::Value::Table(toml::Table::new()));
            if let toml::Value::Table(inner) = entry {
                put(inner, rest, value);
            }
        }
    }
}
