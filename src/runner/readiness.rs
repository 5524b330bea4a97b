//! The facts behind `/readyz`, gathered from what runs; what they mean is decided in `http::health`.

use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::catalogue_feed::CatalogueHandle;
use crate::http::health::{Facts, FillFacts, Readiness, ShardFacts};
use crate::log::connect::is_connected;
use crate::log::streams::{self, WARN_AT};
use crate::outbox::OutboxHandle;
use crate::projector::ProjectorHandle;

/// How often the streams' fill is asked for.
const USAGE_EVERY: Duration = Duration::from_secs(2);

/// Where facts come from. What this process does not have is left out.
pub struct Sources {
    /// The catalogue.
    pub catalogue: Option<CatalogueHandle>,
    /// The broker.
    pub client: async_nats::Client,
    /// The projector.
    pub projector: Option<ProjectorHandle>,
    /// How full the streams are.
    pub usage: Option<watch::Receiver<Vec<FillFacts>>>,
    /// The outboxes, with the names of their owners.
    pub outboxes: Vec<(&'static str, OutboxHandle)>,
}

/// What `/readyz` asks.
pub fn of(sources: Sources) -> Readiness {
    Arc::new(move || Facts {
        has_catalogue: sources
            .catalogue
            .as_ref()
            .is_some_and(CatalogueHandle::is_warm),
        broker_connected: is_connected(&sources.client),
        shards: sources.projector.as_ref().map(shards).unwrap_or_default(),
        streams: sources
            .usage
            .as_ref()
            .map(|usage| usage.borrow().clone())
            .unwrap_or_default(),
        outboxes: sources
            .outboxes
            .iter()
            .map(|(name, outbox)| fill(name, outbox))
            .collect(),
        refused_lanes: sources
            .outboxes
            .iter()
            .map(|(name, outbox)| ((*name).to_owned(), outbox.status().full_lanes))
            .filter(|(_, lanes)| *lanes > 0)
            .collect(),
    })
}

fn shards(projector: &ProjectorHandle) -> Vec<ShardFacts> {
    let states = projector.progress().into_iter().zip(projector.lag());
    (0..)
        .zip(states)
        .map(|(shard, (progress, lag))| ShardFacts {
            shard,
            lag_messages: progress.verified.then_some(lag),
            stopped: None,
        })
        .collect()
}

fn fill(name: &str, outbox: &OutboxHandle) -> FillFacts {
    let status = outbox.status();
    FillFacts {
        name: name.into(),
        bytes: status.unsent_bytes,
        max_bytes: status.capacity_bytes,
    }
}

/// Tells how full the EVENTS streams are, again and again; warns of one that is filling up.
pub async fn watch_usage(
    jetstream: jetstream::Context,
    shards: u16,
    told: watch::Sender<Vec<FillFacts>>,
    stop: CancellationToken,
) {
    let mut warned = false;
    loop {
        match streams::usage(&jetstream, shards).await {
            Ok(usage) => {
                let fullest = usage.iter().max_by(|a, b| a.share().total_cmp(&b.share()));
                let full = fullest.filter(|u| u.share() >= WARN_AT);
                if let Some(full) = full.filter(|_| !warned) {
                    let (stream, percent) = (&full.stream, full.share() * 100.0);
                    tracing::warn!(
                        stream,
                        percent,
                        "a stream fills up: give it a larger max_bytes, or archive"
                    );
                }
                warned = full.is_some();
                for stream in &usage {
                    let labels = [("stream", stream.stream.clone())];
                    metrics::gauge!("adtally_stream_bytes", &labels).set(stream.bytes as f64);
                    metrics::gauge!("adtally_stream_max_bytes", &labels)
                        .set(stream.max_bytes.unwrap_or(0) as f64);
                }
                told.send_replace(
                    usage
                        .into_iter()
                        .map(|u| FillFacts {
                            name: u.stream,
                            bytes: u.bytes,
                            max_bytes: u.max_bytes.unwrap_or(0),
                        })
                        .collect(),
                );
            }
            Err(error) => tracing::debug!(%error, "how full the streams are is not known"),
        }
        tokio::select! {
            () = tokio::time::sleep(USAGE_EVERY) => {}
            () = stop.cancelled() => return,
        }
    }
}
