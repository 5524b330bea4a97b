//! A replay against a real nats-server: what it comes to is, row by row, the state that it replaces.

#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use adtally_projections::dump::dump;
use adtally_streams::event::Kind;
use async_nats::{Client, jetstream};
use tokio_util::sync::CancellationToken;

use super::range::{From, Range, To};
use super::{Job, Place, State, Status};
use crate::log::connect::{NatsOptions, connect};
use crate::log::embedded::NatsServer;
use crate::log::publisher::{Outcome, Publisher};
use crate::log::streams;
use crate::projector::Projector;
use crate::projector::figures::{self, Load};
use crate::store::{Limits, Memory, Shard, Shards, prune};

const PATIENCE: Duration = Duration::from_secs(60);
const ALL: Range = Range {
    from: From::Beginning,
    to: None,
};

/// A broker with one shard's stream.
async fn broker(folder: &Path) -> (NatsServer, Client) {
    let server = NatsServer::start(folder).await.unwrap();
    let client = connect(&NatsOptions::of_url(server.url()), "test")
        .await
        .unwrap();
    let limits = streams::Limits {
        events_max_bytes: Some(64 << 20),
        intake_max_bytes: None,
        quarantine_max_bytes: None,
        replicas: None,
    };
    let jetstream = jetstream::new(client.clone());
    streams::ensure(&jetstream, Some(1), &limits).await.unwrap();
    (server, client)
}

fn frames() -> Vec<Vec<u8>> {
    figures::frames(Load {
        kind: Kind::Click,
        events: 4_000,
        frame_events: 50,
        seed: 11,
    })
}

/// Publishes payloads as clicks of the shard; answers the last sequence.
async fn publish(client: &Client, payloads: impl IntoIterator<Item = Vec<u8>>) -> u64 {
    let publisher = Publisher::new(client.clone());
    let mut last = 0;
    for payload in payloads {
        let sent = publisher.publish("events.0.click", None, payload.into());
        match sent.await {
            Outcome::Stored { sequence, .. } => last = sequence,
            other => panic!("{other:?}"),
        }
    }
    last
}

async fn folded(projector: &Projector, sequence: u64) {
    let handle = projector.handle();
    let reached = async {
        while handle.positions() != [sequence] {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, reached).await.unwrap();
}

async fn replay(client: &Client, data: &Path, place: Place, range: Range) -> Status {
    let job = Job {
        client: client.clone(),
        data_dir: data.to_path_buf(),
        place,
        shards: vec![0],
        range,
        stop: CancellationToken::new(),
    };
    let started = job.start().await.unwrap();
    tokio::time::timeout(PATIENCE, started.task)
        .await
        .unwrap()
        .unwrap();
    let status = started.status.borrow().clone();
    assert!(status.finished && status.error.is_none(), "{status:?}");
    status
}

fn lines(shards: &Shards) -> Vec<String> {
    let set = shards.set();
    let snapshot = set.iter().next().unwrap().snapshot().unwrap();
    dump(&snapshot).unwrap()
}

fn memory() -> Memory {
    Memory::new(Limits::default()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replayed_generation_is_the_live_one_row_by_row() {
    let (nats, data) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (server, client) = broker(nats.path()).await;
    // Frames, one that cannot be read, and a quarter of the frames again.
    publish(&client, frames()).await;
    publish(&client, [b"not a frame".to_vec()]).await;
    let last = publish(&client, frames().into_iter().step_by(4)).await;
    let shards = Arc::new(Shards::open(data.path(), 1, Limits::default()).unwrap());
    let projector = Projector::start(Arc::clone(&shards), &client).unwrap();
    folded(&projector, last).await;
    projector.stop().await.unwrap();
    let (live, name) = (lines(&shards), shards.set().generation());
    shards.close().unwrap();
    drop(shards);

    let status = replay(&client, data.path(), Place::Stopped(memory()), ALL).await;
    assert_eq!(status.shards[0].state, State::Switched);
    assert_eq!(status.shards[0].sequence, last);
    let shards = Shards::open(data.path(), 1, Limits::default()).unwrap();
    assert_eq!(shards.set().generation(), status.generation);
    assert_ne!(status.generation, name);
    assert_eq!(lines(&shards), live);
    shards.close().unwrap();
    drop(shards);
    assert_eq!(
        prune(data.path(), 0).unwrap(),
        [data.path().join("shards/0").join(name)]
    );
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_to_a_sequence_is_the_state_of_that_sequence() {
    let (nats, data) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (server, client) = broker(nats.path()).await;
    let half = publish(&client, frames().into_iter().take(37)).await;
    let shards = Arc::new(Shards::open(data.path(), 1, Limits::default()).unwrap());
    let projector = Projector::start(Arc::clone(&shards), &client).unwrap();
    folded(&projector, half).await;
    let then = lines(&shards);
    let last = publish(&client, frames()).await;
    folded(&projector, last).await;
    projector.stop().await.unwrap();
    let name = shards.set().generation();
    shards.close().unwrap();
    drop(shards);

    let range = Range {
        to: Some(To::Sequence(half)),
        ..ALL
    };
    let status = replay(&client, data.path(), Place::Stopped(memory()), range).await;
    assert_eq!(status.shards[0].state, State::Built);
    let built = Shard::open(0, "g-built", &status.shards[0].folder, &memory()).unwrap();
    assert_eq!(dump(&built.snapshot().unwrap()).unwrap(), then);
    let shards = Shards::open(data.path(), 1, Limits::default()).unwrap();
    assert_eq!(shards.set().generation(), name);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_projector_folds_on_in_the_generation_that_is_put_under_it() {
    let (nats, data) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (server, client) = broker(nats.path()).await;
    let shards = Arc::new(Shards::open(data.path(), 1, Limits::default()).unwrap());
    let projector = Projector::start(Arc::clone(&shards), &client).unwrap();
    let name = shards.set().generation();
    folded(
        &projector,
        publish(&client, frames().into_iter().take(40)).await,
    )
    .await;
    // Who asks and goes away leaves it as it was.
    drop(projector.handle().stand_still(0).await.unwrap());
    // Messages come while it replays.
    let publishing = publish(&client, frames());
    let place = Place::Live(projector.handle());
    let replaying = replay(&client, data.path(), place, ALL);
    let (last, status) = tokio::join!(publishing, replaying);
    folded(&projector, last).await;
    assert_eq!(shards.set().generation(), status.generation);
    assert_ne!(status.generation, name);
    projector.stop().await.unwrap();
    let live = lines(&shards);
    shards.close().unwrap();
    drop(shards);

    // The same as a fold that nothing was ever put under.
    let alone = tempfile::tempdir().unwrap();
    replay(&client, alone.path(), Place::Stopped(memory()), ALL).await;
    let shards = Shards::open(alone.path(), 1, Limits::default()).unwrap();
    assert_eq!(lines(&shards), live);
    server.stop().await;
}
