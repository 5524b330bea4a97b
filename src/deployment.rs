//! Finding the deployment that a command is about.
//!
//! NATS options name one by its broker. Without any, the data folder does: the `serve` that holds it is asked, and
//! where none does, the command takes the folder itself and starts the embedded nats-server for as long as it runs.

use std::time::Duration;

use async_nats::jetstream;
use serde_json::Value;

use crate::config::{Bytes, Config, Nats};
use crate::control;
use crate::data_dir::{self, Addresses, DataDir, DataDirError};
use crate::log::connect::{self, ConnectError, NatsOptions};
use crate::log::embedded::{EmbeddedError, NatsServer};
use crate::log::refusals::Refusals;
use crate::log::streams::{self, StreamsError};

/// How long a command waits for the broker and for what it asks of it.
pub const ANSWER_WITHIN: Duration = Duration::from_secs(20);

/// What the broker's list of connections shows for a command.
const CLIENT_NAME: &str = "adtally command";

/// Why there is no deployment to talk to.
#[derive(Debug, thiserror::Error)]
pub enum DeploymentError {
    /// The folder.
    #[error(transparent)]
    Folder(#[from] DataDirError),
    /// The broker cannot be reached.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The embedded server.
    #[error(transparent)]
    Server(#[from] EmbeddedError),
    /// The streams.
    #[error(transparent)]
    Streams(#[from] StreamsError),
    /// The folder is served by a process that uses a NATS of its own choosing.
    #[error(
        "the `serve` that holds {path} uses a NATS that takes more than an address: give this command the same NATS options"
    )]
    Elsewhere {
        /// The folder.
        path: String,
    },
    /// Nothing says where the HTTP API is.
    #[error("nothing says where the API of this deployment is: name it with --url")]
    NoUrl,
}

/// A deployment that can be talked to.
#[derive(Debug)]
pub struct Deployment {
    /// The connection to its broker.
    pub client: async_nats::Client,
    /// What that connection is refused.
    pub refusals: Refusals,
    /// Where its API is, as far as the data folder says.
    pub http_url: Option<String>,
    /// What was started for this command: ended after it.
    own: Option<(NatsServer, DataDir)>,
}

impl Deployment {
    /// Finds it. `create`: a data folder that is not there is made, for commands that write.
    pub async fn find(config: &Config, create: bool) -> Result<Self, DeploymentError> {
        let path = &config.data_dir;
        let addresses = data_dir::addresses(path);
        if let Some(options) = nats_options(&config.nats) {
            let (client, refusals) = connect::connect_telling(&options, CLIENT_NAME).await?;
            return Ok(Self {
                client,
                refusals,
                http_url: addresses.http,
                own: None,
            });
        }
        if !create && !data_dir::exists(path) {
            return Err(DataDirError::Missing { path: path.clone() }.into());
        }
        match DataDir::take(path) {
            Ok(dir) => Self::open(config, dir).await,
            Err(DataDirError::InUse { .. }) => Self::ask(config, addresses).await,
            Err(error) => Err(error.into()),
        }
    }

    /// Talks to the `serve` that holds the folder.
    async fn ask(config: &Config, addresses: Addresses) -> Result<Self, DeploymentError> {
        let Some(url) = addresses.nats else {
            return Err(DeploymentError::Elsewhere {
                path: config.data_dir.display().to_string(),
            });
        };
        let (client, refusals) =
            connect::connect_telling(&NatsOptions::of_url(&url), CLIENT_NAME).await?;
        Ok(Self {
            client,
            refusals,
            http_url: addresses.http,
            own: None,
        })
    }

    /// Opens a stopped one.
    async fn open(config: &Config, dir: DataDir) -> Result<Self, DeploymentError> {
        let server = NatsServer::start(dir.path()).await?;
        let (client, refusals) =
            connect::connect_telling(&NatsOptions::of_url(server.url()), CLIENT_NAME).await?;
        let ensured = streams::ensure_heeding(
            &jetstream::new(client.clone()),
            config.streams.shards,
            &limits(config),
            &refusals,
        )
        .await;
        if let Err(error) = ensured {
            server.stop().await;
            return Err(error.into());
        }
        Ok(Self {
            client,
            refusals,
            http_url: None,
            own: Some((server, dir)),
        })
    }

    /// The data folder, when it is this command that holds it.
    pub fn own_folder(&self) -> Option<&std::path::Path> {
        self.own.as_ref().map(|(_, dir)| dir.path())
    }

    /// JetStream of its broker.
    pub fn jetstream(&self) -> jetstream::Context {
        jetstream::new(self.client.clone())
    }

    /// Where the API is: as the folder says, else as the running `serve` says.
    pub async fn api_url(&self) -> Option<String> {
        if self.http_url.is_some() {
            return self.http_url.clone();
        }
        let info = control::ask(&self.client, control::Verb::Info, &Value::Null)
            .await
            .ok()?;
        info.get("http_url")
            .and_then(|url| url.as_str())
            .map(str::to_string)
    }

    /// Ends what was started for this command.
    pub async fn close(self) {
        if let Err(error) = self.client.drain().await {
            tracing::debug!(%error, "the NATS connection did not drain");
        }
        if let Some((server, _dir)) = self.own {
            server.stop().await;
        }
    }
}

/// What the configuration says of the streams.
pub fn limits(config: &Config) -> streams::Limits {
    let bytes = |size: Option<Bytes>| size.map(|b| b.0);
    streams::Limits {
        events_max_bytes: bytes(config.streams.events_max_bytes),
        intake_max_bytes: bytes(config.streams.intake_max_bytes),
        quarantine_max_bytes: bytes(config.streams.quarantine_max_bytes),
        replicas: config.streams.replicas.map(usize::from),
    }
}

/// The NATS that the configuration names; none: a server of one's own.
pub fn nats_options(nats: &Nats) -> Option<NatsOptions> {
    let options = NatsOptions {
        context: nats.context.clone(),
        server: nats.url.clone(),
        creds: nats.creds.clone(),
        user: nats.user.clone(),
        password: nats.password.clone(),
        tlsca: nats.tlsca.clone(),
        tlscert: nats.tlscert.clone(),
        tlskey: nats.tlskey.clone(),
    };
    options.is_given().then_some(options)
}
