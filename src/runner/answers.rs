//! What this process answers to commands that ask a running `serve`.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::Context as _;
use futures_util::FutureExt;
use serde_json::json;

use crate::config::Config;
use crate::control::{Answerer, Verb};
use crate::listen::Listener;
use crate::producers;
use crate::projector::ProjectorHandle;

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
        answers.insert(
            Verb::Producers,
            Arc::new(move || {
                let shards = projector.shards().clone();
                async move {
                    let rows = tokio::task::spawn_blocking(move || producers::list(&shards)).await;
                    Ok(serde_json::to_value(rows.context("reading the state")??)?)
                }
                .boxed()
            }),
        );
    }
    answers
}
