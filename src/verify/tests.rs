//! Verification against a real nats-server: each fault that it is there for is made, and found.

#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use adtally_projections::family::{Changes, Family, Target};
use adtally_projections::fold::{Content, Entry};
use adtally_projections::spans::Retention;
use adtally_streams::event::Kind;
use adtally_streams::frame::encode_announcement;
use adtally_streams::watermark::Watermark;
use async_nats::jetstream::stream::Config;
use async_nats::{Client, jetstream};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{Job, Verdict, VerifyError};
use crate::archive;
use crate::frozen;
use crate::log::connect::{NatsOptions, connect};
use crate::log::embedded::NatsServer;
use crate::log::publisher::{Outcome, Publisher};
use crate::projector::Projector;
use crate::projector::figures::{self, Load};
use crate::replay::range::From;
use crate::store::{self, Limits, Shard, Shards, checkpoints};

const PATIENCE: Duration = Duration::from_secs(60);

/// A data folder that has folded 2,000 clicks in 40 frames and their producer's word that they are all, and the broker
/// that has them.
struct World {
    nats: tempfile::TempDir,
    data: tempfile::TempDir,
    server: NatsServer,
    client: Client,
}

impl World {
    /// The stream lets single messages be deleted, which those of `streams apply` do not.
    async fn new() -> Self {
        let (nats, data) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let server = NatsServer::start(nats.path()).await.unwrap();
        let client = connect(&NatsOptions::of_url(server.url()), "test")
            .await
            .unwrap();
        let config = Config {
            name: "EVENTS_0".into(),
            subjects: vec!["events.0.>".into()],
            ..Config::default()
        };
        let js = jetstream::new(client.clone());
        js.create_stream(config).await.unwrap();
        let world = Self {
            nats,
            data,
            server,
            client,
        };
        world.publish(frames()).await;
        world.publish(vec![announcement(2_000)]).await;
        world.fold(41).await;
        world
    }

    async fn publish(&self, payloads: Vec<Vec<u8>>) {
        let publisher = Publisher::new(self.client.clone());
        for payload in payloads {
            let sent = publisher.publish("events.0.click", None, payload.into());
            assert!(matches!(sent.await, Outcome::Stored { .. }));
        }
    }

    /// Folds on up to a sequence, and stops.
    async fn fold(&self, last: u64) {
        let shards = Arc::new(Shards::open(self.data.path(), 1, Limits::default()).unwrap());
        let projector = Projector::start(Arc::clone(&shards), &self.client).unwrap();
        let handle = projector.handle();
        let reached = async {
            while handle.positions() != [last] {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(PATIENCE, reached).await.unwrap();
        projector.stop().await.unwrap();
        shards.close().unwrap();
    }

    fn state(&self) -> PathBuf {
        let name = store::in_use(self.data.path(), 0).unwrap().unwrap();
        store::shard_folder(self.data.path(), 0).join(name)
    }

    /// Changes the state behind adtally's back.
    fn alter(&self, change: impl FnOnce(&Shard, &mut Changes)) {
        let memory = store::Memory::new(Limits::default()).unwrap();
        let shard = Shard::open(0, "g-altered", &self.state(), &memory).unwrap();
        let mut changes = Changes::default();
        change(&shard, &mut changes);
        assert!(!changes.is_empty());
        shard.write(&changes).unwrap();
        shard.close().unwrap();
    }

    async fn try_verify(&self, from: From) -> Result<Verdict, VerifyError> {
        let scratch = tempfile::tempdir().unwrap();
        let job = Job {
            client: self.client.clone(),
            data_dir: self.data.path().to_path_buf(),
            archive: archive::Place::Folder(self.data.path().join("archive")),
            frozen: frozen::of_stopped(self.data.path(), &[0]).unwrap(),
            scratch: scratch.path().to_path_buf(),
            from,
            retention: Retention::default(),
            at_once: 2,
            stop: CancellationToken::new(),
        };
        let verdict = tokio::time::timeout(PATIENCE, job.run(watch::Sender::default()));
        let verdict = verdict.await.unwrap();
        let left = std::fs::read_dir(scratch.path().join("shards/0"));
        assert_eq!(left.map_or(0, Iterator::count), 0, "scratch is left");
        verdict
    }

    async fn verify(&self) -> Verdict {
        self.try_verify(From::Beginning).await.unwrap()
    }
}

fn frames() -> Vec<Vec<u8>> {
    figures::frames(Load {
        kind: Kind::Click,
        events: 2_000,
        frame_events: 50,
        seed: 5,
    })
}

/// Their producer's word that the broker has acknowledged so many.
fn announcement(acked: u64) -> Vec<u8> {
    let Content::Frame(frame) = Entry::decode(1, 0, "events.0.click", &frames()[0]).content else {
        panic!("a frame");
    };
    let watermark = Watermark {
        acked: [0, acked, 0],
        heads: [0, acked, 0],
        ..Watermark::default()
    };
    encode_announcement(&frame.header.producer, frame.header.epoch, &watermark)
}

/// The sections that differ, each once.
fn sections(verdict: &Verdict) -> Vec<&'static str> {
    let mut all: Vec<_> = verdict.shards[0]
        .differences
        .iter()
        .map(|d| d.section)
        .collect();
    all.sort_unstable();
    all.dedup();
    all
}

/// The first row of a family.
fn first_row(shard: &Shard, family: Family) -> (Vec<u8>, Vec<u8>) {
    let mut first = None;
    let snapshot = shard.snapshot().unwrap();
    let row = |key: &[u8], value: &[u8]| {
        first = Some((key.to_vec(), value.to_vec()));
        std::ops::ControlFlow::Break(())
    };
    snapshot.scan(family, &[], None, row).unwrap();
    first.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_untouched_state_is_equal_and_frames_that_came_twice_count_once() {
    let world = World::new().await;
    let verdict = world.verify().await;
    assert!(verdict.equal, "{verdict:?}");
    let shard = &verdict.shards[0];
    assert_eq!((shard.sequence, shard.messages), (41, 41));
    assert_eq!(shard.events["click"], 2_000);
    assert!(shard.lines > 2_000 && shard.live_hash == shard.again_hash);
    // The same events under other message ids: the ledger drops them, in both folds.
    world.publish(frames()[..10].to_vec()).await;
    world.fold(51).await;
    let verdict = world.verify().await;
    assert!(verdict.equal, "{verdict:?}");
    assert_eq!(verdict.shards[0].events["click"], 2_500);
    // What is past the position is no part of it.
    world.publish(frames()[..3].to_vec()).await;
    assert_eq!(world.verify().await.shards[0].messages, 51);
    world.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_altered_cell_and_one_that_counts_double_are_found() {
    let world = World::new().await;
    let (mut key, mut value) = Default::default();
    world.alter(|shard, changes| {
        (key, value) = first_row(shard, Family::CellsDay);
        // The row is a list of sums; merged with itself it counts twice.
        changes.push_with(
            Target::Family(Family::CellsDay),
            adtally_projections::family::Op::Merge,
            |k| k.extend_from_slice(&key),
            |v| v.extend_from_slice(&value),
        );
    });
    let verdict = world.verify().await;
    assert!(!verdict.equal && verdict.lost_events == 0);
    assert_eq!(sections(&verdict), ["cells_day"]);
    let told = &verdict.shards[0].differences;
    assert!(!verdict.shards[0].more_differences);
    for difference in told {
        assert!(difference.campaign.is_some() && difference.day.is_some());
        let clicks = |value: &Option<String>| -> i64 {
            let text = value.as_ref().unwrap().split("clicks: ").nth(1).unwrap();
            text.split(|c: char| !c.is_ascii_digit())
                .next()
                .unwrap()
                .parse()
                .unwrap()
        };
        assert_eq!(
            clicks(&difference.live),
            2 * clicks(&difference.again),
            "{difference:?}"
        );
    }
    // Put right again, it is equal; without the row, it is named as missing.
    world.alter(|_, changes| {
        changes.put(
            Family::CellsDay,
            |k| k.extend_from_slice(&key),
            |v| v.extend_from_slice(&value),
        );
    });
    assert!(world.verify().await.equal);
    world.alter(|_, changes| changes.delete(Family::CellsDay, |k| k.extend_from_slice(&key)));
    let verdict = world.verify().await;
    assert!(!verdict.equal);
    assert!(
        verdict.shards[0]
            .differences
            .iter()
            .all(|d| d.live.is_none())
    );
    world.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frame_that_the_log_has_lost_is_found_before_and_after_it_was_folded() {
    let world = World::new().await;
    let js = jetstream::new(world.client.clone());
    let stream = js.get_stream("EVENTS_0").await.unwrap();
    world.publish(frames()[..1].to_vec()).await;
    world.fold(42).await;
    // One in the middle, and the one at the position itself.
    stream.delete_message(17).await.unwrap();
    stream.delete_message(42).await.unwrap();
    let verdict = world.verify().await;
    let shard = &verdict.shards[0];
    assert!(!verdict.equal);
    assert_eq!(
        (shard.missing.clone(), shard.missing_messages),
        (vec![(17, 17), (42, 42)], 2)
    );
    assert!(
        sections(&verdict).contains(&"cells_day"),
        "{:?}",
        sections(&verdict)
    );
    // Who folds from there has the same, and the ledger names what the producer was told is there.
    std::fs::remove_dir_all(world.data.path().join("shards")).unwrap();
    world.fold(41).await;
    let verdict = world.verify().await;
    assert_eq!(verdict.shards[0].differences, []);
    assert_eq!(verdict.lost_events, 50, "{:?}", verdict.lost);
    assert!(!verdict.equal);
    let lost: Vec<_> = verdict.lost[0].lost().map(|s| (s.first, s.last)).collect();
    assert_eq!(lost, [(800, 849)]);
    world.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_byte_in_the_streams_file_is_found() {
    let world = World::new().await;
    let blocks = find(world.nats.path(), "msgs");
    world.server.stop().await;
    let block = find_file(&blocks, ".blk");
    let mut bytes = std::fs::read(&block).unwrap();
    let payload = &frames()[20];
    let at = bytes.windows(64).position(|w| w == &payload[..64]).unwrap();
    bytes[at + 40] ^= 1;
    std::fs::write(&block, bytes).unwrap();
    let server = NatsServer::start(world.nats.path()).await.unwrap();
    let client = connect(&NatsOptions::of_url(server.url()), "test")
        .await
        .unwrap();
    let world = World {
        server,
        client,
        nats: world.nats,
        data: world.data,
    };
    let verdict = world.verify().await;
    assert!(!verdict.equal, "{verdict:?}");
    let shard = &verdict.shards[0];
    assert!(
        shard.missing.contains(&(21, 21)) || shard.stream_ends_at.is_some(),
        "{:?} {:?}",
        shard.missing,
        shard.stream_ends_at
    );
    assert!(sections(&verdict).contains(&"cells_day"));
    world.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_cannot_be_read_is_told_and_what_it_held_is_lost() {
    let world = World::new().await;
    let mut more = figures::frames(Load {
        kind: Kind::Click,
        events: 2_200,
        frame_events: 50,
        seed: 5,
    })
    .split_off(40);
    more[1][60] ^= 1;
    world.publish(more).await;
    world.publish(vec![announcement(2_200)]).await;
    world.fold(46).await;
    let verdict = world.verify().await;
    let bad = &verdict.shards[0].bad_frames;
    assert_eq!((bad.len(), bad[0].sequence), (1, 43));
    assert_eq!(bad[0].error, "bad_checksum");
    assert_eq!(verdict.shards[0].differences, []);
    assert!(
        !verdict.equal && verdict.lost_events == 50,
        "{:?}",
        verdict.lost
    );
    world.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn from_a_checkpoint_only_the_rest_is_read_and_another_log_is_refused() {
    let world = World::new().await;
    {
        let shards = Shards::open(world.data.path(), 1, Limits::default()).unwrap();
        let set = shards.set();
        let folder = checkpoints::folder_of(world.data.path(), 0);
        checkpoints::make(set.iter().next().unwrap(), &folder, 1)
            .unwrap()
            .unwrap();
        shards.close().unwrap();
    }
    world.publish(frames()[..5].to_vec()).await;
    world.fold(46).await;
    let verdict = world.try_verify(From::Sequence(46)).await.unwrap();
    assert!(verdict.equal, "{verdict:?}");
    let shard = &verdict.shards[0];
    assert_eq!((shard.from_sequence, shard.messages), (41, 5));
    // Damage from before the checkpoint shows all the same: the state in use is compared whole.
    world.alter(|shard, changes| {
        let (key, _) = first_row(shard, Family::Spend);
        changes.add(Family::Spend, |k| k.extend_from_slice(&key), &[1, 0]);
    });
    let verdict = world.try_verify(From::Sequence(46)).await.unwrap();
    assert_eq!(sections(&verdict), ["spend"]);

    let js = jetstream::new(world.client.clone());
    js.delete_stream("EVENTS_0").await.unwrap();
    let config = Config {
        name: "EVENTS_0".into(),
        subjects: vec!["events.0.>".into()],
        ..Config::default()
    };
    js.create_stream(config).await.unwrap();
    let refused = world.try_verify(From::Beginning).await.unwrap_err();
    assert!(
        matches!(refused, VerifyError::OtherStream { .. }),
        "{refused}"
    );
    world.server.stop().await;
}

/// A folder of that name below another.
fn find(below: &Path, name: &str) -> PathBuf {
    let mut waiting = vec![below.to_path_buf()];
    while let Some(folder) = waiting.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                if path.ends_with(name) && path.to_string_lossy().contains("EVENTS_0") {
                    return path;
                }
                waiting.push(path);
            }
        }
    }
    panic!("no {name} below {}", below.display())
}

fn find_file(folder: &Path, ending: &str) -> PathBuf {
    let files = std::fs::read_dir(folder)
        .unwrap()
        .map(|f| f.unwrap().path());
    let mut files = files.filter(|f| f.to_string_lossy().ends_with(ending));
    files.next().unwrap()
}
