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
use crate::archive;
use crate::log::connect::{NatsOptions, connect};
use crate::log::embedded::NatsServer;
use crate::log::publisher::{Outcome, Publisher};
use crate::log::streams;
use crate::projector::Projector;
use crate::projector::figures::{self, Load};
use crate::store::{Checkpoint, Limits, Memory, Shard, Shards, checkpoints, prune};

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
        archive: archive::Place::Folder(data.join("archive")),
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

/// A stopped folder whose projector has folded a load in bursts, with a checkpoint made after each while the next was
/// under way; with the dump of its end.
async fn with_checkpoints(client: &Client, data: &Path) -> (Vec<Checkpoint>, Vec<String>, u64) {
    let shards = Arc::new(Shards::open(data, 1, Limits::default()).unwrap());
    let projector = Projector::start(Arc::clone(&shards), client).unwrap();
    let mut made = Vec::new();
    let mut last = 0;
    for (n, burst) in frames().chunks(16).enumerate() {
        // Every third burst is the one before again, and after some there is a message that cannot be read.
        let again = (n % 3 == 2).then(|| frames()[..8].to_vec());
        let publishing = publish(
            client,
            burst.iter().cloned().chain(again.into_iter().flatten()),
        );
        let shards = Arc::clone(&shards);
        let folder = checkpoints::folder_of(data, 0);
        let before = made.last().map_or(0, |c: &Checkpoint| c.record.sequence);
        let making = tokio::task::spawn_blocking(move || {
            let set = shards.set();
            let shard = set.iter().next().unwrap();
            // In the middle of the burst, and each at a sequence of its own.
            let is_further = || {
                let position = shard.snapshot().unwrap().position();
                position.is_some_and(|p| p.sequence > before)
            };
            while !is_further() {
                std::thread::sleep(Duration::from_millis(1));
            }
            checkpoints::make(shard, &folder, n as i64).unwrap()
        });
        let (sequence, checkpoint) = tokio::join!(publishing, making);
        made.extend(checkpoint.unwrap());
        last = match n % 2 {
            0 => publish(client, [b"not a frame".to_vec()]).await,
            _ => sequence,
        };
    }
    folded(&projector, last).await;
    projector.stop().await.unwrap();
    let live = lines(&shards);
    shards.close().unwrap();
    (made, live, last)
}

/// The dump of what is in use in a folder.
fn dump_of(data: &Path) -> Vec<String> {
    let shards = Shards::open(data, 1, Limits::default()).unwrap();
    let dumped = lines(&shards);
    shards.close().unwrap();
    dumped
}

#[tokio::test(flavor = "multi_thread")]
async fn from_any_checkpoint_is_as_from_the_beginning() {
    let (nats, data) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (server, client) = broker(nats.path()).await;
    let (made, live, last) = with_checkpoints(&client, data.path()).await;
    assert!(made.len() >= 3, "{made:?}");
    assert_eq!(
        checkpoints::list(data.path(), 0).unwrap().last(),
        made.last()
    );
    let place = || Place::Stopped(memory());
    replay(&client, data.path(), place(), ALL).await;
    assert_eq!(dump_of(data.path()), live);
    for checkpoint in &made {
        let at = checkpoint.record.sequence;
        let range = Range {
            from: From::Sequence(at + 1),
            to: None,
        };
        let status = replay(&client, data.path(), place(), range).await;
        assert_eq!(status.shards[0].from_sequence, at);
        assert_eq!(status.shards[0].sequence, last);
        assert_eq!(dump_of(data.path()), live, "from {at}");
    }
    // It stays as it was made: what was begun with it is another folder.
    let state = made[0].state();
    let there = checkpoints::position_in(0, "g-made", &state).unwrap();
    assert_eq!(there, Some(made[0].record.position()));
    let early = Range {
        from: From::Sequence(made[0].record.sequence),
        to: Some(To::Sequence(made[1].record.sequence)),
    };
    let status = replay(&client, data.path(), place(), early).await;
    assert_eq!(status.shards[0].from_sequence, 0);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_checkpoint_that_is_not_of_this_log_is_passed_over() {
    let (nats, data) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (server, client) = broker(nats.path()).await;
    let (made, live, last) = with_checkpoints(&client, data.path()).await;
    let change = |checkpoint: &Checkpoint, name: &str, value: serde_json::Value| {
        let path = checkpoint.folder.join("position.json");
        let text = std::fs::read(&path).unwrap();
        let mut record: serde_json::Value = serde_json::from_slice(&text).unwrap();
        record[name] = value;
        std::fs::write(&path, record.to_string()).unwrap();
    };
    let newest = |n: usize| made[made.len() - 1 - n].clone();
    change(&newest(0), "crc", 7.into());
    change(&newest(1), "stream_created_ns", 7.into());
    let range = Range {
        from: From::Sequence(last),
        to: None,
    };
    let status = replay(&client, data.path(), Place::Stopped(memory()), range).await;
    assert_eq!(status.shards[0].from_sequence, newest(2).record.sequence);
    assert_eq!(dump_of(data.path()), live);

    // A stream that has lost its beginning is read from a checkpoint only.
    let jetstream = jetstream::new(client.clone());
    let stream = jetstream.get_stream("EVENTS_0").await.unwrap();
    let covered = newest(2).record.sequence;
    stream.purge().sequence(covered + 1).await.unwrap();
    let job = |range| Job {
        client: client.clone(),
        data_dir: data.path().to_path_buf(),
        place: Place::Stopped(memory()),
        shards: vec![0],
        range,
        archive: archive::Place::Folder(data.path().join("archive")),
        stop: CancellationToken::new(),
    };
    let error = job(ALL).start().await.unwrap_err().to_string();
    assert!(
        error.contains(&format!("sequence {covered} of ")),
        "{error}"
    );
    let status = replay(&client, data.path(), Place::Stopped(memory()), range).await;
    assert_eq!(status.shards[0].from_sequence, covered);
    assert_eq!(dump_of(data.path()), live);
    stream.purge().sequence(covered + 3).await.unwrap();
    let error = job(range).start().await.unwrap_err().to_string();
    assert!(error.contains("does not begin at its first"), "{error}");
    server.stop().await;
}
