//! The runner: starts the roles of one process in the order in which they need each other, and ends them in the
//! order in which nothing that was answered is lost.
//!
//! The HTTP address is bound first and answers 503 until there is more. What needs the broker waits for it for as
//! long as it takes; only what waiting cannot mend ends the process.

mod answers;
mod bring_up;
mod readiness;
mod roles;
mod services;
mod shards_file;
mod streams_watch;

pub use shards_file::read as known_shards;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::sync::{Mutex, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::clock_watch;
use crate::config::Config;
use crate::data_dir::DataDir;
use crate::deployment;
use crate::listen::Listener;
use crate::log::connect::{self, NatsOptions};
use crate::log::embedded::NatsServer;
use crate::log::refusals::Refusals;
use crate::outbox::OutboxHandle;
use bring_up::BringUp;
use roles::Roles;

/// What the broker's list of connections shows.
const CLIENT_NAME: &str = "adtally serve";
/// How often metrics that are computed are brought up to date.
const UPKEEP_EVERY: Duration = Duration::from_secs(5);

/// How far the start has come.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Phase {
    Starting,
    Running,
    /// It cannot run, and waiting would not help.
    Failed(String),
}

/// The roles of one process, and what they stand on.
#[derive(Debug)]
pub struct Runner {
    dir: DataDir,
    listener: Arc<Listener>,
    client: async_nats::Client,
    refusals: Refusals,
    server: Option<NatsServer>,
    drain_within: Duration,
    stop: CancellationToken,
    phase: watch::Sender<Phase>,
    roles: Arc<Mutex<Roles>>,
    starting: JoinHandle<()>,
    upkeep: JoinHandle<()>,
}

impl Runner {
    /// Takes the data folder, binds the HTTP address, starts or reaches the broker, and begins to start the roles.
    ///
    /// Returns before they run: [`Runner::ready`] waits for that.
    pub async fn start(config: &Config) -> anyhow::Result<Self> {
        let dir = DataDir::take(&config.data_dir)?;
        let prometheus = crate::telemetry::metrics()?;
        let listener = Listener::bind(config.listen, config.http.max_connections)
            .await
            .with_context(|| {
                format!(
                    "listening on {}: choose another address with --listen",
                    config.listen
                )
            })?;
        let (options, server) = match deployment::nats_options(&config.nats) {
            Some(options) => {
                if let Some(url) = options.without_secrets() {
                    dir.write_nats_url(url)?;
                }
                (options, None)
            }
            None => {
                let server = NatsServer::start(dir.path()).await?;
                (NatsOptions::of_url(server.url()), Some(server))
            }
        };
        let (client, refusals) = connect::connect_in_time(&options, CLIENT_NAME).await?;
        dir.write_http_url(&listener.url())?;
        let (listener, roles) = (Arc::new(listener), Arc::new(Mutex::new(Roles::default())));
        let (stop, phase) = (
            CancellationToken::new(),
            watch::Sender::new(Phase::Starting),
        );
        let bring_up = BringUp {
            config: config.clone(),
            client: client.clone(),
            refusals: refusals.clone(),
            listener: listener.clone(),
            roles: roles.clone(),
            stop: stop.clone(),
            phase: phase.clone(),
            prometheus: prometheus.clone(),
            verified: watch::Sender::default(),
        };
        let starting = tokio::spawn(bring_up.run());
        let upkeep = tokio::spawn(async move {
            loop {
                tokio::time::sleep(UPKEEP_EVERY).await;
                prometheus.run_upkeep();
            }
        });
        tokio::spawn(clock_watch::watch(stop.clone()));
        let drain_within = config.drain_timeout.0;
        Ok(Self {
            dir,
            listener,
            client,
            refusals,
            server,
            drain_within,
            stop,
            phase,
            roles,
            starting,
            upkeep,
        })
    }

    /// Where the HTTP server is.
    pub fn http_url(&self) -> String {
        self.listener.url()
    }

    /// Where the embedded nats-server is, when there is one.
    pub fn nats_url(&self) -> Option<&str> {
        self.server.as_ref().map(NatsServer::url)
    }

    /// The connection to the broker.
    pub fn client(&self) -> &async_nats::Client {
        &self.client
    }

    /// What that connection is refused.
    pub fn refusals(&self) -> &Refusals {
        &self.refusals
    }

    /// The way into the outbox of that owner, once it is open.
    pub async fn outbox(&self, owner: &str) -> Option<OutboxHandle> {
        let handles = self.roles.lock().await.outbox_handles();
        handles
            .into_iter()
            .find(|(name, _)| *name == owner)
            .map(|(_, handle)| handle)
    }

    /// Waits until every role runs, or cannot.
    pub async fn ready(&self) -> anyhow::Result<()> {
        let mut phase = self.phase.subscribe();
        match &*phase.wait_for(|p| *p != Phase::Starting).await? {
            Phase::Failed(why) => Err(anyhow::anyhow!(why.clone())),
            Phase::Starting | Phase::Running => Ok(()),
        }
    }

    /// Waits until something fails for good, and says what.
    pub async fn failed(&self) -> anyhow::Error {
        let mut phase = self.phase.subscribe();
        match phase.wait_for(|p| matches!(p, Phase::Failed(_))).await {
            Ok(failed) => match &*failed {
                Phase::Failed(why) => anyhow::anyhow!(why.clone()),
                Phase::Starting | Phase::Running => anyhow::anyhow!("the roles ended"),
            },
            Err(_) => anyhow::anyhow!("the roles ended"),
        }
    }

    /// Ends everything, the broker last: whatever was answered is on the log, or on disk for the next start.
    pub async fn stop(self) {
        // No new requests; those under way are answered.
        self.listener.close().await;
        self.stop.cancel();
        if self.starting.await.is_err() {
            tracing::error!("the start of the roles had panicked");
        }
        let roles = std::mem::take(&mut *self.roles.lock().await);
        roles.stop(self.drain_within).await;
        self.upkeep.abort();
        if let Err(error) = self.client.drain().await {
            tracing::debug!(%error, "the NATS connection did not drain");
        }
        if let Some(server) = self.server {
            server.stop().await;
        }
        drop(self.dir);
    }
}
