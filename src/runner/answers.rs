//! What this process answers to commands that ask a running `serve`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context as _;
use futures_util::FutureExt;
use serde::Serialize;
use serde_json::json;

use crate::config::Config;
use crate::control::{Answerer, Verb};
use crate::frozen;
use crate::incidents;
use crate::listen::Listener;
use crate::outbox::OutboxHandle;
use crate::producers;
use crate::producers::holders::{self, Question};
use crate::projector::ProjectorHandle;
use crate::replay::service::{Question as Replaying, Service};
use crate::store::{Shards, StoreError};

/// Every answer that this process can give.
pub fn all(
    config: &Config,
    listener: &Listener,
    shards: u16,
    projector: Option<(ProjectorHandle, Arc<Service>)>,
    outboxes: Vec<(&'static str, OutboxHandle)>,
) -> BTreeMap<Verb, Answerer> {
    let info = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "process": std::process::id(),
        "roles": config.roles,
        "data_dir": std::path::absolute(&config.data_dir).ok().map(|path| path.display().to_string()),
        "http_url": listener.url(),
        "shards": shards,
    });
    let mut answers: BTreeMap<Verb, Answerer> = BTreeMap::new();
    answers.insert(
        Verb::Info,
        Arc::new(move |_| std::future::ready(Ok(Some(info.clone()))).boxed()),
    );
    if let Some((projector, replays)) = projector {
        answers.insert(Verb::ReplayStatus, replaying(&replays, false));
        answers.insert(Verb::Replay, replaying(&replays, true));
        answers.insert(
            Verb::Checkpoint,
            freezing(&projector, config.data_dir.clone()),
        );
        let handle = projector.clone();
        answers.insert(
            Verb::Positions,
            Arc::new(move |_| {
                let (positions, lag) = (handle.positions(), handle.lag());
                std::future::ready(Ok(Some(json!({"positions": positions, "lag": lag})))).boxed()
            }),
        );
        answers.insert(Verb::Producers, of_state(&projector, producers::list));
        answers.insert(Verb::Conflicts, of_state(&projector, incidents::conflicts));
        answers.insert(Verb::BadFrames, of_state(&projector, incidents::bad_frames));
    }
    if !outboxes.is_empty() {
        let outboxes = Arc::new(outboxes);
        answers.insert(Verb::Outboxes, of_outboxes(outboxes.clone()));
        answers.insert(Verb::Resend, resending(outboxes));
    }
    answers
}

/// What concerns a replay; only who may `act` begins or interrupts one.
fn replaying(replays: &Arc<Service>, act: bool) -> Answerer {
    let replays = replays.clone();
    Arc::new(move |details| {
        let replays = replays.clone();
        async move {
            let question: Replaying = serde_json::from_value(details)?;
            anyhow::ensure!(
                act || matches!(question, Replaying::Status { .. }),
                "only questions are answered here"
            );
            let status = replays.answer(question).await?;
            Ok(status.map(serde_json::to_value).transpose()?)
        }
        .boxed()
    })
}

/// Checkpoints for whoever verifies the state or copies it.
fn freezing(projector: &ProjectorHandle, data_dir: PathBuf) -> Answerer {
    let shards = projector.shards().clone();
    Arc::new(move |details| {
        let (shards, data_dir) = (shards.clone(), data_dir.clone());
        async move {
            let question: frozen::Question = serde_json::from_value(details)?;
            let freeze = move || frozen::answer(&shards, &data_dir, &question);
            let frozen = tokio::task::spawn_blocking(freeze).await;
            let frozen = frozen.context("making checkpoints")??;
            Ok(frozen.map(serde_json::to_value).transpose()?)
        }
        .boxed()
    })
}

type Outboxes = Arc<Vec<(&'static str, OutboxHandle)>>;

/// What the outboxes hold, read off the asynchronous threads.
fn of_outboxes(outboxes: Outboxes) -> Answerer {
    Arc::new(move |details| {
        let outboxes = outboxes.clone();
        async move {
            let question: Question = serde_json::from_value(details)?;
            let answer =
                tokio::task::spawn_blocking(move || holders::answer(&outboxes, &question)).await;
            let answer = answer.context("reading the outboxes")??;
            Ok(Some(serde_json::to_value(answer)?))
        }
        .boxed()
    })
}

fn resending(outboxes: Outboxes) -> Answerer {
    Arc::new(move |details| {
        let outboxes = outboxes.clone();
        async move {
            let question: Question = serde_json::from_value(details)?;
            match holders::resend(&outboxes, &question).await? {
                Some(resent) => Ok(Some(serde_json::to_value(resent)?)),
                None => Ok(None),
            }
        }
        .boxed()
    })
}

/// An answer that is read from the shards, off the asynchronous threads.
fn of_state<T: Serialize + Send + 'static>(
    projector: &ProjectorHandle,
    read: fn(&Shards) -> Result<T, StoreError>,
) -> Answerer {
    let shards = projector.shards().clone();
    Arc::new(move |_| {
        let shards = shards.clone();
        async move {
            let answer = tokio::task::spawn_blocking(move || read(&shards)).await;
            let answer = answer.context("reading the state")??;
            Ok(Some(serde_json::to_value(answer)?))
        }
        .boxed()
    })
}
