//! The facts behind `/readyz`, gathered from what runs; what they mean is decided in `http::health`.

use std::sync::Arc;

use adtally_streams::time::to_rfc3339;
use tokio::sync::watch;

use super::streams_watch::Seen;

use crate::catalogue_feed::CatalogueHandle;
use crate::http::health::{Facts, FillFacts, Readiness, ShardFacts, VerifyFacts};
use crate::log::connect::is_connected;
use crate::outbox::OutboxHandle;
use crate::projector::ProjectorHandle;
use crate::verify::last::Run;

/// What this process has to show; what it does not have is left out.
#[derive(Default)]
pub struct Shown {
    /// A role of this process is not up yet, so that this is not all that it will serve.
    pub starting: bool,
    /// The catalogue.
    pub catalogue: Option<CatalogueHandle>,
    /// The projector.
    pub projector: Option<ProjectorHandle>,
    /// What was last seen of the streams.
    pub streams: Option<watch::Receiver<Seen>>,
    /// The shards elsewhere for which nobody answered last.
    pub shards_away: Option<watch::Receiver<Vec<u16>>>,
}

/// Where facts come from.
pub struct Sources {
    /// What has been brought up.
    pub shown: Shown,
    /// The broker.
    pub client: async_nats::Client,
    /// What the last verification found.
    pub verified: watch::Receiver<Option<Run>>,
    /// The outboxes, with the names of their owners.
    pub outboxes: Vec<(&'static str, OutboxHandle)>,
}

/// What `/readyz` asks.
pub fn of(sources: Sources) -> Readiness {
    Arc::new(move || {
        let streams = sources.shown.streams.as_ref();
        let seen = streams.map(|seen| seen.borrow().clone());
        facts(&sources, seen.unwrap_or_default())
    })
}

fn facts(sources: &Sources, seen: Seen) -> Facts {
    let shown = &sources.shown;
    let away = shown.shards_away.as_ref();
    Facts {
        starting: shown.starting,
        has_catalogue: shown
            .catalogue
            .as_ref()
            .is_some_and(CatalogueHandle::is_warm),
        broker_connected: is_connected(&sources.client),
        shards: shown.projector.as_ref().map(shards).unwrap_or_default(),
        shards_away: away.map(|away| away.borrow().clone()).unwrap_or_default(),
        streams: seen.fills,
        streams_silent: seen.silent,
        stream_missing: seen.missing,
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
        waiting_seconds: sources
            .outboxes
            .iter()
            .filter_map(|(name, outbox)| {
                let since_ms = outbox.status().oldest_unacked_ms?;
                let waits_ms = chrono::Utc::now().timestamp_millis() - since_ms;
                Some(((*name).to_owned(), u64::try_from(waits_ms).ok()? / 1_000))
            })
            .collect(),
        verified: sources.verified.borrow().as_ref().map(verified),
        full_disks: sources
            .outboxes
            .iter()
            .filter(|(_, outbox)| outbox.status().disk_full)
            .map(|(name, _)| (*name).to_owned())
            .collect(),
    }
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

fn verified(run: &Run) -> VerifyFacts {
    VerifyFacts {
        at: to_rfc3339(run.at_ms),
        error: run.error.clone(),
        equal: run.equal,
        differences: run.differences,
        lost_events: run.lost_events,
    }
}

fn fill(name: &str, outbox: &OutboxHandle) -> FillFacts {
    let status = outbox.status();
    FillFacts {
        name: name.into(),
        bytes: status.unsent_bytes,
        max_bytes: status.capacity_bytes,
    }
}
