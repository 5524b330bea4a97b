//! Connecting to NATS with the options that the nats CLI has, under the same names.
//!
//! A connection is kept for as long as the process lives: it reconnects without end, and whoever uses it asks for
//! its state rather than waiting on it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use async_nats::connection::State;
use async_nats::{Client, ConnectErrorKind, ConnectOptions, Event, ServerAddr};
use serde::Deserialize;

use super::refusals::Refusals;

/// The URL when none is given and none is needed otherwise.
pub const DEFAULT_URL: &str = "nats://127.0.0.1:4222";
/// How long one attempt to connect may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How often a silent connection is tried; two unanswered ones end it.
const PING_EVERY: Duration = Duration::from_secs(5);
/// How long a request to the broker may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// The first pause before a reconnect; it doubles.
const RECONNECT_MIN: Duration = Duration::from_millis(50);
/// The longest pause.
const RECONNECT_MAX: Duration = Duration::from_secs(1);

/// How to reach NATS, as the nats CLI has it. A flag wins over the environment, that over a context.
#[derive(Clone, Debug, Default, PartialEq, Eq, clap::Args)]
#[command(next_help_heading = "NATS")]
pub struct NatsOptions {
    /// Connect as a context of the nats CLI says
    #[arg(
        long = "context",
        global = true,
        value_name = "NAME",
        env = "NATS_CONTEXT"
    )]
    pub context: Option<String>,
    /// Servers to connect to, separated by commas
    #[arg(
        long = "server",
        short = 's',
        global = true,
        value_name = "URL",
        env = "NATS_URL"
    )]
    pub server: Option<String>,
    /// File with a user's JWT and seed
    #[arg(long = "creds", global = true, value_name = "FILE", env = "NATS_CREDS")]
    pub creds: Option<PathBuf>,
    /// User name
    #[arg(long = "user", global = true, value_name = "NAME", env = "NATS_USER")]
    pub user: Option<String>,
    /// Password
    #[arg(
        long = "password",
        global = true,
        value_name = "TEXT",
        env = "NATS_PASSWORD",
        hide_env_values = true
    )]
    pub password: Option<String>,
    /// File with the certificates of those who may sign the server's
    #[arg(long = "tlsca", global = true, value_name = "FILE", env = "NATS_CA")]
    pub tlsca: Option<PathBuf>,
    /// File with this client's certificate
    #[arg(
        long = "tlscert",
        global = true,
        value_name = "FILE",
        env = "NATS_CERT",
        requires = "tlskey"
    )]
    pub tlscert: Option<PathBuf>,
    /// File with the key of this client's certificate
    #[arg(
        long = "tlskey",
        global = true,
        value_name = "FILE",
        env = "NATS_KEY",
        requires = "tlscert"
    )]
    pub tlskey: Option<PathBuf>,
}

impl NatsOptions {
    /// The servers' addresses, where they are all that it takes to connect: what a data folder may hold for others
    /// to read, because there is no secret in it.
    pub fn without_secrets(&self) -> Option<&str> {
        let only_address = Self {
            server: None,
            ..self.clone()
        } == Self::default();
        self.server
            .as_deref()
            .filter(|url| only_address && !url.contains('@'))
    }
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The context cannot be used.
    #[error("the NATS context {name:?}: {why}. `nats context ls` lists those that there are")]
    Context {
        /// Its name.
        name: String,
        /// What is wrong.
        why: String,
    },
    /// An option cannot be used.
    #[error("{what}: {why}")]
    Option {
        /// Which.
        what: String,
        /// What is wrong.
        why: String,
    },
    /// The server does not let this user in.
    #[error(
        "the NATS server at {servers} refuses these credentials; see --user, --password, --creds and --context"
    )]
    Refused {
        /// The URLs tried, without passwords.
        servers: String,
    },
    /// No server answers.
    #[error("no NATS server answers at {servers}: {why}")]
    Connect {
        /// The URLs tried, without passwords.
        servers: String,
        /// What the client library says.
        why: String,
    },
}

/// A context file of the nats CLI, as far as it is understood.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ContextFile {
    url: String,
    user: String,
    password: String,
    token: String,
    creds: String,
    nkey: String,
    cert: String,
    key: String,
    ca: String,
    inbox_prefix: String,
}

impl NatsOptions {
    /// Options that reach one server at that URL.
    pub fn of_url(url: &str) -> Self {
        Self {
            server: Some(url.to_owned()),
            ..Self::default()
        }
    }

    /// Whether anything says which NATS to use; without it, `serve` starts one of its own.
    pub fn is_given(&self) -> bool {
        self.server.is_some() || self.context.is_some()
    }

    fn load_context(&self) -> Result<ContextFile, ConnectError> {
        let Some(name) = &self.context else {
            return Ok(ContextFile::default());
        };
        let failed = |why: String| ConnectError::Context {
            name: name.clone(),
            why,
        };
        let path = context_path(name)
            .ok_or_else(|| failed("neither XDG_CONFIG_HOME nor HOME is set".to_owned()))?;
        let text = std::fs::read_to_string(&path)
            .map_err(|e| failed(format!("{}: {e}", path.display())))?;
        serde_json::from_str(&text).map_err(|e| failed(format!("{}: {e}", path.display())))
    }
}

/// Where the nats CLI keeps a context; a path is taken as one.
fn context_path(name: &str) -> Option<PathBuf> {
    if name.contains('/') {
        return Some(PathBuf::from(name));
    }
    let base = std::env::var_os("XDG_CONFIG_HOME")
        .filter(|v| !v.is_empty())
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(".config")))?;
    Some(base.join("nats/context").join(format!("{name}.json")))
}

/// A text of a context file, where it says anything; `~/` is the home folder.
fn said(text: &str) -> Option<String> {
    match (text, std::env::var("HOME")) {
        ("", _) => None,
        (text, Ok(home)) if text.starts_with("~/") => Some(format!("{home}{}", &text[1..])),
        (text, _) => Some(text.to_owned()),
    }
}

/// Connects, or says why not. `name` is what the server's connection list shows.
pub async fn connect(options: &NatsOptions, name: &str) -> Result<Client, ConnectError> {
    let (client, _) = connect_telling(options, name).await?;
    Ok(client)
}

/// Likewise, with where the connection tells what it is refused.
pub async fn connect_telling(
    options: &NatsOptions,
    name: &str,
) -> Result<(Client, Refusals), ConnectError> {
    connect_with(options, name, |connecting| connecting).await
}

/// Gives a connection that is made as soon as a server answers, however long that takes: what is asked meanwhile
/// fails or waits, as it does while a connection is lost.
pub async fn connect_in_time(
    options: &NatsOptions,
    name: &str,
) -> Result<(Client, Refusals), ConnectError> {
    connect_with(options, name, ConnectOptions::retry_on_initial_connect).await
}

async fn connect_with(
    options: &NatsOptions,
    name: &str,
    change: impl FnOnce(ConnectOptions) -> ConnectOptions,
) -> Result<(Client, Refusals), ConnectError> {
    let context = options.load_context()?;
    let servers = options
        .server
        .clone()
        .or_else(|| said(&context.url))
        .unwrap_or_else(|| DEFAULT_URL.to_owned());
    let addresses = addresses(&servers)?;
    let refusals = Refusals::default();
    let base = base_options(name, refusals.clone());
    let connecting = with_identity(base, options, &context).await?;
    let shown = without_passwords(&addresses);
    let connected = change(connecting).connect(addresses).await;
    connected
        .map(|client| (client, refusals))
        .map_err(|e| match e.kind() {
            ConnectErrorKind::Authentication | ConnectErrorKind::AuthorizationViolation => {
                ConnectError::Refused { servers: shown }
            }
            _ => ConnectError::Connect {
                servers: shown,
                why: with_sources(&e),
            },
        })
}

/// Whether the connection stands at this moment.
pub fn is_connected(client: &Client) -> bool {
    client.connection_state() == State::Connected
}

fn base_options(name: &str, refusals: Refusals) -> ConnectOptions {
    ConnectOptions::new()
        .name(name)
        .connection_timeout(CONNECT_TIMEOUT)
        .ping_interval(PING_EVERY)
        .request_timeout(Some(REQUEST_TIMEOUT))
        .max_reconnects(None)
        .reconnect_delay_callback(|attempt| {
            let doubled = RECONNECT_MIN.saturating_mul(1 << attempt.min(10));
            doubled.min(RECONNECT_MAX)
        })
        .event_callback(move |event| {
            note(&event, &refusals);
            std::future::ready(())
        })
}

fn note(event: &Event, refusals: &Refusals) {
    match event {
        Event::Connected => tracing::info!("connected to the broker"),
        Event::Disconnected => tracing::warn!(
            "the connection to the broker is lost; it is made again as soon as it can be"
        ),
        Event::SlowConsumer(subscription) => tracing::warn!(
            subscription,
            "the broker's messages come faster than they are read"
        ),
        Event::ServerError(error) => {
            tracing::error!(%error, "the broker reports an error");
            refusals.note(&error.to_string());
        }
        Event::ClientError(error) => {
            tracing::debug!(%error, "the connection to the broker cannot be made yet")
        }
        other => tracing::debug!(%other, "the connection to the broker"),
    }
}

async fn with_identity(
    mut connecting: ConnectOptions,
    options: &NatsOptions,
    context: &ContextFile,
) -> Result<ConnectOptions, ConnectError> {
    let path = |given: &Option<PathBuf>, of_context: &str| {
        given
            .clone()
            .or_else(|| said(of_context).map(PathBuf::from))
    };
    if let Some(creds) = path(&options.creds, &context.creds) {
        let what = format!("the credentials file {}", creds.display());
        connecting =
            connecting
                .credentials_file(&creds)
                .await
                .map_err(|e| ConnectError::Option {
                    what,
                    why: e.to_string(),
                })?;
    }
    if let Some(user) = options.user.clone().or_else(|| said(&context.user)) {
        let password = options
            .password
            .clone()
            .or_else(|| said(&context.password))
            .unwrap_or_default();
        connecting = connecting.user_and_password(user, password);
    }
    if let Some(token) = said(&context.token) {
        connecting = connecting.token(token);
    }
    if let Some(file) = said(&context.nkey) {
        let seed = std::fs::read_to_string(&file).map_err(|e| ConnectError::Option {
            what: format!("the nkey file {file}"),
            why: e.to_string(),
        })?;
        connecting = connecting.nkey(seed.trim().to_owned());
    }
    if let Some(ca) = path(&options.tlsca, &context.ca) {
        connecting = connecting.add_root_certificates(ca);
    }
    if let (Some(cert), Some(key)) = (
        path(&options.tlscert, &context.cert),
        path(&options.tlskey, &context.key),
    ) {
        connecting = connecting.add_client_certificate(cert, key);
    }
    if let Some(prefix) = said(&context.inbox_prefix) {
        connecting = connecting.custom_inbox_prefix(prefix);
    }
    Ok(connecting)
}

fn addresses(servers: &str) -> Result<Vec<ServerAddr>, ConnectError> {
    let parsed = servers
        .split(',')
        .map(str::trim)
        .filter(|s| !s.is_empty())
        .map(|server| {
            server
                .parse::<ServerAddr>()
                .map_err(|e| ConnectError::Option {
                    what: format!("the server {server:?}"),
                    why: e.to_string(),
                })
        });
    let parsed = parsed.collect::<Result<Vec<_>, _>>()?;
    if parsed.is_empty() {
        return Err(ConnectError::Option {
            what: "the list of servers".to_owned(),
            why: "it is empty".to_owned(),
        });
    }
    Ok(parsed)
}

fn without_passwords(addresses: &[ServerAddr]) -> String {
    let shown = addresses
        .iter()
        .map(|a| format!("{}://{}:{}", a.scheme(), a.host(), a.port()));
    shown.collect::<Vec<_>>().join(", ")
}

fn with_sources(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn servers_are_a_list_and_passwords_stay_unsaid() {
        let parsed = addresses("nats://u:secret@a:1, b:2,,tls://c").unwrap();
        assert_eq!(
            without_passwords(&parsed),
            "nats://a:1, nats://b:2, tls://c:4222"
        );
        assert!(addresses(" , ").is_err());
    }

    #[test]
    fn a_context_is_read_from_a_file_of_the_nats_cli() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("edge.json");
        // As `nats context add edge --server ... --user ...` writes it.
        std::fs::write(
            &file,
            r#"{"description":"","url":"nats://edge:4333","user":"u","password":"p","creds":"","nkey":"","cert":"","key":"","ca":"","nsc":"","jetstream_domain":""}"#,
        )
        .unwrap();
        let options = NatsOptions {
            context: Some(file.display().to_string()),
            ..NatsOptions::default()
        };
        let context = options.load_context().unwrap();
        assert_eq!(
            (
                context.url.as_str(),
                context.user.as_str(),
                context.password.as_str()
            ),
            ("nats://edge:4333", "u", "p")
        );
        assert!(options.is_given());
        let missing = NatsOptions {
            context: Some("./none.json".to_owned()),
            ..NatsOptions::default()
        };
        assert!(
            missing
                .load_context()
                .unwrap_err()
                .to_string()
                .contains("none.json")
        );
    }
}
