//! What this process answers to commands that ask a running `serve`.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::Context as _;
use futures_util::FutureExt;
use serde::Serialize;
use serde_json::json;

use crate::config::Config;
use crate::control::{Answerer, Verb};
use crate::incidents;
use crate::listen::Listener;
use crate::producers;
use crate::projector::ProjectorHandle;
use crate::store::{Shards, StoreError};

/// Every answer that this process can give.
pub fn all(
    config: &Config,
    listener: &Listener,
    shards: u16,
    projector: Option<ProjectorHandle>,
) -> BTreeMap<Verb, Answerer> {
    let info = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "process": std::process::id(),
        "roles": config.roles,
        "http_url": listener.url(),
        "shards": shards,
    });
    let mut answers: BTreeMap<Verb, Answerer> = BTreeMap::new();
    answers.insert(
        Verb::Info,
        Arc::new(move || std::future::ready(Ok(info.clone())).boxed()),
    );
    if let Some(projector) = projector {
        let handle = projector.clone();
        answers.insert(
            Verb::Positions,
            Arc::new(move || {
                let (positions, lag) = (handle.positions(), handle.lag());
                std::future::ready(Ok(json!({"positions": positions, "lag": lag}))).boxed()
            }),
        );
        answers.insert(Verb::Producers, of_state(&projector, producers::list));
        answers.insert(Verb::Conflicts, of_state(&projector, incidents::conflicts));
        answers.insert(Verb::BadFrames, of_state(&projector, incidents::bad_frames));
    }
    answers
}

/// An answer that is read from the shards, off the asynchronous threads.
fn of_state<T: Serialize + Send + 'static>(
    projector: &ProjectorHandle,
    read: fn(&Shards) -> Result<T, StoreError>,
) -> Answerer {
    let shards = projector.shards().clone();
    Arc::new(move || {
        let shards = shards.clone();
        async move {
            let answer = tokio::task::spawn_blocking(move || read(&shards)).await;
            Ok(serde_json::to_value(answer.context("reading the state")??)?)
        }
        .boxed()
    })
}
