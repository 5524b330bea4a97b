//! What a process does at the word of others, and by itself besides its ways in and its answers over HTTP: it answers
//! commands and APIs elsewhere, replays, archives, and keeps looking at what it depends on.

use std::sync::Arc;

use tokio::sync::watch;

use super::answers;
use super::bring_up::{BringUp, Shared};
use super::streams_watch::{self, Seen};
use crate::archive;
use crate::config::Role;
use crate::control;
use crate::projector::ProjectorHandle;
use crate::query::block_cache::{BlockCache, Room};
use crate::query::printed_rows::PrintedRows;
use crate::query::remote::{self, Remote};
use crate::query::stored::Stored;
use crate::replay::service::Service;

/// Folder of unpacked blocks in the data folder.
const CACHE_FOLDER: &str = "cache";

impl BringUp {
    /// What answers read of this process's own shards, with a cache of their blocks, which ends after the answers.
    pub(super) async fn open_stored(&self, projector: &ProjectorHandle) -> Arc<Stored> {
        let settings = &self.config.query;
        let room = Room {
            memory_bytes: settings.block_cache.0 as usize,
            printed_bytes: self.printed_bytes(),
            disk_bytes: settings.block_cache_disk.0 as usize,
        };
        let folder = self.config.data_dir.join(CACHE_FOLDER);
        let cache = BlockCache::open(room, &folder).await;
        if let Some(cache) = cache.clone() {
            let mut roles = self.roles.lock().await;
            let stop = roles.late_stop.clone();
            let closing = async move {
                stop.cancelled().await;
                cache.close().await;
            };
            roles
                .late_tasks
                .push(("block cache", tokio::spawn(closing)));
        }
        Arc::new(Stored::new(projector.shards().clone(), cache))
    }

    /// Memory of texts of rows: none where nobody is answered over HTTP.
    fn printed_bytes(&self) -> usize {
        match self.has(Role::Api) {
            true => PrintedRows::share(self.config.query.block_cache.0 as usize),
            false => 0,
        }
    }

    /// What is kept of the texts of answers over HTTP.
    pub(super) fn printed_rows(&self) -> Option<PrintedRows> {
        PrintedRows::new(self.printed_bytes())
    }

    /// Answers for the shards that an API elsewhere asks about.
    pub(super) async fn answer_for_shards(&self, shared: &Shared, stored: Arc<Stored>) {
        let serving = remote::serve(
            self.client.clone(),
            stored,
            shared.shards,
            self.stop.clone(),
        );
        self.roles
            .lock()
            .await
            .tasks
            .push(("query service", tokio::spawn(serving)));
    }

    /// Answers commands that ask this process.
    pub(super) async fn answer_questions(
        &self,
        shared: &Shared,
        projector: Option<ProjectorHandle>,
    ) {
        let outboxes = self.roles.lock().await.outbox_handles();
        let projector = match projector {
            Some(projector) => {
                let replays = self.replays(shared, projector.clone()).await;
                Some((projector, replays))
            }
            None => None,
        };
        let answerers = answers::all(
            &self.config,
            &self.listener,
            shared.shards,
            projector,
            outboxes,
        );
        let serving = control::serve(self.client.clone(), answerers, self.stop.clone());
        self.roles
            .lock()
            .await
            .tasks
            .push(("control", tokio::spawn(serving)));
    }

    /// Keeps looking at the streams.
    pub(super) async fn watch_streams(&self, shards: u16) -> watch::Receiver<Seen> {
        let (told, seen) = watch::channel(Seen::default());
        let watching = streams_watch::watch(self.client.clone(), shards, told, self.stop.clone());
        self.roles
            .lock()
            .await
            .tasks
            .push(("streams", tokio::spawn(watching)));
        seen
    }

    /// Keeps looking whether somebody answers for each shard that is elsewhere.
    pub(super) async fn watch_shards(&self, remote: Arc<Remote>) -> watch::Receiver<Vec<u16>> {
        let (told, away) = watch::channel(remote.shards().collect());
        let watching = remote::watch(remote, told, self.stop.clone());
        let mut roles = self.roles.lock().await;
        roles.tasks.push(("shards", tokio::spawn(watching)));
        away
    }

    /// Archives, and purges what is archived.
    pub(super) async fn start_archiver(&self, shared: &Shared) {
        let archiving = archive::serve(
            shared.archive.clone(),
            self.client.clone(),
            shared.shards,
            self.config.archive.keep_in_stream.0,
            self.stop.clone(),
        );
        let mut roles = self.roles.lock().await;
        roles.tasks.push(("archiver", tokio::spawn(archiving)));
    }

    /// Replays at an operator's word, which end before the state is closed.
    async fn replays(&self, shared: &Shared, projector: ProjectorHandle) -> Arc<Service> {
        let replays = Service::new(
            self.client.clone(),
            self.config.data_dir.clone(),
            shared.archive.clone(),
            projector,
            self.stop.clone(),
        );
        let ended = tokio::spawn(replays.clone().ended());
        self.roles.lock().await.tasks.push(("replays", ended));
        replays
    }
}
