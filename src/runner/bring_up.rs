//! Bringing the roles up, each as soon as what it needs is there.
//!
//! A collector that has run here before serves from its disk while the broker is away; everything else waits for
//! the broker. Only what waiting cannot mend (another number of shards, a store of another log, a damaged outbox)
//! ends the process.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use async_nats::jetstream;
use axum::Router;
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::sync::{Mutex, watch};
use tokio_util::sync::CancellationToken;

use super::readiness::{self, Shown};
use super::roles::Roles;
use super::streams_watch::Seen;
use super::{Phase, shards_file};
use crate::archive;
use crate::border::Border;
use crate::border::facts::FactSource;
use crate::border::keys::DayKeys;
use crate::catalogue_feed::CatalogueHandle;
use crate::collector::{self, Collector, Desk, Signer};
use crate::config::{Config, QueryShards, Role};
use crate::deployment;
use crate::http::{self, AppState};
use crate::intake::Intake;
use crate::listen::{self, Listener};
use crate::log::publisher::Publisher;
use crate::log::refusals::Refusals;
use crate::log::streams;
use crate::outbox::{Outbox, OutboxLimits, OutboxOptions, Owner};
use crate::post_events;
use crate::projector::checkpoints::Keeper;
use crate::projector::{Projector, ProjectorHandle};
use crate::query::Engine;
use crate::query::remote::Remote;
use crate::query::stored::Stored;
use crate::scratch;
use crate::statement;
use crate::store::{self, Shards};
use crate::verify::last::Run;
use crate::verify::schedule::Schedule;

/// How long a collector that could serve from its disk waits for the broker first.
const BROKER_FIRST: Duration = Duration::from_secs(2);
/// The pause between two attempts to find the streams.
const AGAIN_AFTER: Duration = Duration::from_millis(500);
/// File of the catalogue's copy in the data folder.
const CATALOGUE_FILE: &str = "catalogue.snapshot";
/// File of the keys that hash addresses.
const DAY_KEYS_FILE: &str = "day-keys";

/// What the start needs.
pub struct BringUp {
    /// The configuration.
    pub config: Config,
    /// The connection to the broker, which may still be away.
    pub client: async_nats::Client,
    /// What that connection is refused.
    pub refusals: Refusals,
    /// The bound HTTP address.
    pub listener: Arc<Listener>,
    /// Where what runs is put.
    pub roles: Arc<Mutex<Roles>>,
    /// Ends the start, and the tasks.
    pub stop: CancellationToken,
    /// Where the outcome is told.
    pub phase: watch::Sender<Phase>,
    /// Renders `/metrics`.
    pub prometheus: PrometheusHandle,
    /// What the last verification found.
    pub verified: watch::Sender<Option<Run>>,
}

/// What the roles share.
pub(super) struct Shared {
    pub(super) shards: u16,
    pub(super) archive: archive::Place,
    catalogue: CatalogueHandle,
    facts: Arc<FactSource>,
    publisher: Publisher,
}

impl BringUp {
    /// Brings everything up and tells how that went.
    pub async fn run(self) {
        let stop = self.stop.clone();
        let outcome = tokio::select! {
            outcome = self.bring_up() => outcome,
            () = stop.cancelled() => return,
        };
        let outcome = match outcome {
            Ok(()) => Phase::Running,
            Err(error) => Phase::Failed(format!("{error:#}")),
        };
        // What a role has said meanwhile stands: a shard may have failed before the last role was up.
        self.phase.send_if_modified(|phase| {
            let starts = *phase == Phase::Starting;
            if starts {
                *phase = outcome;
            }
            starts
        });
    }

    fn is_collector_only(&self) -> bool {
        self.config.roles.iter().all(|r| *r == Role::Collector)
    }

    pub(super) fn has(&self, role: Role) -> bool {
        self.config.roles.contains(&role)
    }

    async fn bring_up(&self) -> anyhow::Result<()> {
        let jetstream = jetstream::new(self.client.clone());
        let shown = Shown {
            starting: true,
            ..Shown::default()
        };
        self.serve((listen::starting(), None), shown).await;
        let known = shards_file::read(&self.config.data_dir);
        // With a broker that answers, the streams are there before anything reads them; without one, a collector
        // that has run here before goes on from its disk.
        let on_disk = known.filter(|_| self.has(Role::Collector));
        let finding = self.find_streams(&jetstream, on_disk.is_some());
        let (shards, found) = match on_disk {
            None => (finding.await?, true),
            Some(known) => match tokio::time::timeout(BROKER_FIRST, finding).await {
                Ok(found) => (found?, true),
                Err(_) => (known, false),
            },
        };
        let shared = Shared {
            shards,
            archive: archive::Place::of(&self.config)?,
            catalogue: self.start_catalogue(&jetstream).await,
            facts: self.start_facts(&jetstream).await?,
            publisher: Publisher::new(self.client.clone()),
        };
        let (collector, desk) = match self.has(Role::Collector) {
            true => self.start_collector(&shared).await?,
            false => (Router::new(), None),
        };
        let seen = self.watch_streams(shards).await;
        if !found {
            // What other roles will answer is not unknown, and the process is not ready for them.
            let router = match self.is_collector_only() {
                true => http::finish(collector.clone()),
                false => collector.clone().merge(listen::starting()),
            };
            let shown = Shown {
                starting: !self.is_collector_only(),
                catalogue: Some(shared.catalogue.clone()),
                streams: Some(seen.clone()),
                ..Shown::default()
            };
            self.serve((router, desk.clone()), shown).await;
            self.same_deployment(shards, self.find_streams(&jetstream, true).await?)?;
        }
        shards_file::write(&self.config.data_dir, shards).context("noting the number of shards")?;
        if self.has(Role::Intake) {
            self.start_intake(&shared, jetstream).await?;
        }
        let folds_for_api = self.has(Role::Api) && self.config.query.shards == QueryShards::Local;
        let projector = match self.has(Role::Projector) || folds_for_api {
            true => Some(self.start_projector(&shared).await?),
            false => None,
        };
        let stored = match &projector {
            Some(projector) => Some(self.open_stored(projector).await),
            None => None,
        };
        if let (true, Some(stored)) = (self.has(Role::Projector), &stored) {
            self.answer_for_shards(&shared, stored.clone()).await;
        }
        self.answer_questions(&shared, projector.clone()).await;
        if self.has(Role::Archiver) {
            self.start_archiver(&shared).await;
        }
        self.serve_all(&shared, (collector, desk), (projector, stored), seen)
            .await;
        Ok(())
    }

    fn same_deployment(&self, known: u16, found: u16) -> anyhow::Result<()> {
        anyhow::ensure!(
            known == found,
            "{} was used with {known} shards and this NATS has {found}: they belong to different deployments",
            self.config.data_dir.display()
        );
        Ok(())
    }

    async fn start_catalogue(&self, jetstream: &jetstream::Context) -> CatalogueHandle {
        let mut roles = self.roles.lock().await;
        let file = self.config.data_dir.join(CATALOGUE_FILE);
        let (catalogue, task) =
            CatalogueHandle::start(jetstream.clone(), Some(file), roles.late_stop.clone());
        roles.late_tasks.push(("catalogue", task));
        roles.catalogue = Some(catalogue.clone());
        catalogue
    }

    async fn start_facts(&self, jetstream: &jetstream::Context) -> anyhow::Result<Arc<FactSource>> {
        let file = self.config.data_dir.join(DAY_KEYS_FILE);
        let keys = DayKeys::open(&file, Some(jetstream.clone()))
            .with_context(|| format!("reading the day keys in {}", file.display()))?;
        if self.has(Role::Collector) || self.has(Role::Intake) {
            let mut roles = self.roles.lock().await;
            let upkeep = keys.clone().upkeep(now_ms, roles.late_stop.clone());
            roles.late_tasks.push(("day keys", tokio::spawn(upkeep)));
        }
        let rules = &self.config.collector;
        let facts = FactSource::open(
            keys,
            rules.geoip_database.as_deref(),
            rules.trusted_proxies.clone(),
        )?;
        Ok(Arc::new(facts))
    }

    /// The number of shards of the running streams, made where they are missing; waits for the broker, and for the
    /// servers of its cluster. Who `goes_on` meanwhile waits also for somebody who may make what is missing.
    async fn find_streams(
        &self,
        jetstream: &jetstream::Context,
        goes_on: bool,
    ) -> anyhow::Result<u16> {
        let limits = deployment::limits(&self.config);
        let wanted = self.config.streams.shards;
        let mut told = String::new();
        loop {
            match streams::ensure_heeding(jetstream, wanted, &limits, &self.refusals).await {
                Ok(ensured) => {
                    for difference in &ensured.differences {
                        tracing::warn!(%difference, "a stream differs from its definition");
                    }
                    return Ok(ensured.shards);
                }
                Err(error) if error.passes() || (goes_on && error.is_forbidden()) => {
                    let why = error.to_string();
                    if why != told {
                        tracing::warn!(error = %why, "waiting for the broker");
                        told = why;
                    }
                    tokio::time::sleep(AGAIN_AFTER).await;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    async fn open_outbox(&self, shared: &Shared, owner: Owner) -> anyhow::Result<Border> {
        let options = OutboxOptions {
            dir: self
                .config
                .data_dir
                .join(format!("outbox-{}", owner.name())),
            owner,
            producer_name: owner.name().into(),
            shards: shared.shards,
            limits: OutboxLimits {
                unsent_max_bytes: self.config.outbox.capacity.0,
                sent_max_bytes: self.config.outbox.keep_sent.0,
                ..OutboxLimits::default()
            },
        };
        let broker = Arc::new(shared.publisher.clone());
        // RocksDB recovers in the calling thread.
        let outbox = tokio::task::block_in_place(|| Outbox::open(options, broker))?;
        let border = Border::new(
            shared.facts.clone(),
            shared.catalogue.clone(),
            outbox.handle(),
            shared.shards,
        );
        self.roles
            .lock()
            .await
            .outboxes
            .push((owner.name(), outbox));
        Ok(border)
    }

    async fn start_collector(&self, shared: &Shared) -> anyhow::Result<(Router, Option<Desk>)> {
        let border = self.open_outbox(shared, Owner::Collector).await?;
        let collector = Collector {
            border: border.clone(),
            signer: self
                .config
                .collector
                .signing_secret
                .as_ref()
                .map(|s| Signer::new(s.as_bytes())),
            max_age: self.config.collector.oldest_event.0,
        };
        let desk = Desk::open(collector);
        let router = collector::router(desk.clone()).merge(post_events::router(border));
        Ok((router, Some(desk)))
    }

    async fn start_intake(
        &self,
        shared: &Shared,
        broker: jetstream::Context,
    ) -> anyhow::Result<()> {
        let border = self.open_outbox(shared, Owner::Intake).await?;
        let mut roles = self.roles.lock().await;
        let outbox = roles
            .outboxes
            .iter()
            .rev()
            .find(|(name, _)| *name == Owner::Intake.name())
            .map(|(_, outbox)| outbox.handle())
            .context("the intake's outbox was just opened")?;
        let intake = Intake {
            border,
            outbox,
            broker,
        };
        roles
            .tasks
            .push(("intake", tokio::spawn(intake.run(self.stop.clone()))));
        Ok(())
    }
}

impl BringUp {
    async fn start_projector(&self, shared: &Shared) -> anyhow::Result<ProjectorHandle> {
        let limits = store::Limits {
            block_cache_bytes: self.config.store.cache.0 as usize,
            write_buffer_bytes: self.config.store.write_buffers.0 as usize,
            retention: self.config.kept(),
            margins: self.config.sealed_after(),
        };
        let (data_dir, count) = (&self.config.data_dir, shared.shards);
        let shards = Arc::new(tokio::task::block_in_place(|| {
            Shards::open(data_dir, count, limits)
        })?);
        tokio::task::block_in_place(|| remove_leftovers(data_dir, count))?;
        let projector = Projector::start(shards.clone(), &self.client)?;
        let handle = projector.handle();
        let settings = &self.config.checkpoints;
        let retention = store::Retention {
            newest: settings.keep,
            days: settings.keep_days,
        };
        let keeper = Keeper::new(
            shards.clone(),
            data_dir.clone(),
            settings.every.0,
            retention,
        );
        let keeping = tokio::spawn(keeper.run(self.stop.clone()));
        let mut roles = self.roles.lock().await;
        roles.tasks.push(("checkpoints", keeping));
        let schedule = Schedule {
            client: self.client.clone(),
            data_dir: data_dir.clone(),
            archive: shared.archive.clone(),
            shards: shards.clone(),
            every: self.config.verify.every.0,
            from: self.config.verify.from.0,
        };
        let verifying = tokio::spawn(schedule.run(self.verified.clone(), self.stop.clone()));
        roles.tasks.push(("verify", verifying));
        let task = fold_until_stopped(
            projector,
            shards,
            roles.late_stop.clone(),
            self.phase.clone(),
        );
        roles.late_tasks.push(("projector", tokio::spawn(task)));
        Ok(handle)
    }

    async fn serve_all(
        &self,
        shared: &Shared,
        (mut router, desk): (Router, Option<Desk>),
        (projector, stored): (Option<ProjectorHandle>, Option<Arc<Stored>>),
        seen: watch::Receiver<Seen>,
    ) {
        let mut shards_away = None;
        if self.has(Role::Api) {
            let engine = match (self.config.query.shards, stored) {
                (QueryShards::Local, Some(stored)) => Engine::new(stored),
                _ => {
                    let remote = Arc::new(Remote::new(self.client.clone(), shared.shards));
                    shards_away = Some(self.watch_shards(remote.clone()).await);
                    Engine::new(remote)
                }
            };
            let engine = engine.with_printed_rows(self.printed_rows());
            let (statements, tidying) = statement::Desk::start(
                self.client.clone(),
                engine.clone(),
                shared.shards,
                (self.config.data_dir.clone(), shared.archive.clone()),
                self.stop.clone(),
            );
            self.roles.lock().await.tasks.push(("statements", tidying));
            let state = AppState {
                catalogue: shared.catalogue.clone(),
                engine,
                statements,
            };
            router = router.merge(http::api_router(state));
        }
        let shown = Shown {
            starting: false,
            catalogue: Some(shared.catalogue.clone()),
            projector,
            streams: Some(seen),
            shards_away,
        };
        self.serve((http::finish(router), desk), shown).await;
    }

    /// Serves `router` and the paths that every role has.
    async fn serve(&self, (router, desk): (Router, Option<Desk>), shown: Shown) {
        let readiness = readiness::of(readiness::Sources {
            shown,
            client: self.client.clone(),
            verified: self.verified.subscribe(),
            outboxes: self.roles.lock().await.outbox_handles(),
        });
        let operations = http::operations_router(readiness, self.prometheus.clone());
        self.listener.serve(router.merge(operations), desk);
    }
}

/// Removes what an end in the middle of making a checkpoint, a generation or a copy of the state has left behind.
fn remove_leftovers(data_dir: &Path, shards: u16) -> anyhow::Result<()> {
    let mut removed = scratch::remove_abandoned(data_dir)?;
    for shard in 0..shards {
        removed.extend(store::remove_unfinished(data_dir, shard)?);
        removed.extend(store::checkpoints::remove_half_made(data_dir, shard)?);
    }
    for folder in removed {
        tracing::info!(folder = %folder.display(), "removed what was left half done");
    }
    Ok(())
}

/// Folds until it is told to stop, or cannot go on: then the process must end, since its answers would be of a state
/// that stands still.
async fn fold_until_stopped(
    mut projector: Projector,
    shards: Arc<Shards>,
    stop: CancellationToken,
    phase: watch::Sender<Phase>,
) {
    tokio::select! {
        error = projector.failed() => {
            phase.send_replace(Phase::Failed(format!("{error:#}")));
            stop.cancelled().await;
        }
        () = stop.cancelled() => {}
    }
    if let Err(error) = projector.stop().await {
        tracing::error!(%error, "the projector did not end well");
    }
    match tokio::task::spawn_blocking(move || shards.close()).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => {
            tracing::error!(%error, "the state was not flushed: what it lacks is folded again")
        }
        Err(error) => tracing::error!(%error, "closing the state panicked"),
    }
}

fn now_ms() -> i64 {
    chrono::Utc::now().timestamp_millis()
}
