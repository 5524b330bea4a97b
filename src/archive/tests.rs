//! The archive against a real nats-server: what leaves a stream is what a replay reads back, to the last row.

#![allow(clippy::unwrap_used)]

mod meanwhile;

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use adtally_archive::chain::Chain;
use adtally_archive::erase::Pseudonym;
use adtally_archive::manifest::{ENTRY_VERSION, FileRef, Hour, SegmentEntry, segment_path};
use adtally_archive::segment::Rows;
use adtally_archive::user_hash;
use adtally_projections::dump::dump;
use adtally_projections::family::Family;
use adtally_projections::spans::{Margins, Retention};
use adtally_streams::event::Kind;
use adtally_streams::frame::{EventMessage, decode_events, encode, encode_announcement};
use adtally_streams::id::{Epoch, Id};
use adtally_streams::watermark::Watermark;
use async_nats::{Client, jetstream};
use tokio_util::sync::CancellationToken;

use super::archiver::created_ns;
use super::{Archiver, Close, EraseRequest, Manifest, Passed, Place, Store, cover, erase};
use crate::log::connect::{NatsOptions, connect};
use crate::log::embedded::NatsServer;
use crate::log::publisher::{Outcome, Publisher};
use crate::log::streams;
use crate::projector::Until;
use crate::projector::figures::{self, Load};
use crate::projector::rebuild::{Ended, Rebuild};
use crate::replay::range::{From, Range};
use crate::replay::{Job, Place as State, Status};
use crate::store::{Building, Limits, Memory, Shards};

const PATIENCE: Duration = Duration::from_secs(60);

/// The traffic of the tests is of a month that is over: all of it is sealed as it is folded.
const AT_ONCE: Limits = Limits {
    block_cache_bytes: 16 << 20,
    write_buffer_bytes: 64 << 20,
    retention: Retention::ALL,
    margins: Margins { after_ms: [0; 3] },
};

/// An entry of those sequences whose last message has that log time.
pub fn entry(first: u64, last: u64, log_time_to_ms: i64) -> SegmentEntry {
    SegmentEntry {
        version: ENTRY_VERSION,
        shard: 0,
        stream_created_ns: 7,
        first,
        last,
        revision: 0,
        messages: last - first + 1,
        rows: Rows::default(),
        log_time_from_ms: log_time_to_ms,
        log_time_to_ms,
        file: FileRef {
            path: segment_path(0, Hour::of(log_time_to_ms), first, 0, "0"),
            bytes: 0,
            sha256: String::new(),
        },
        written_at: String::new(),
        archiver: String::new(),
        erasures: Vec::new(),
    }
}

/// A broker with one shard's stream, and an empty archive.
struct World {
    folder: tempfile::TempDir,
    server: NatsServer,
    client: Client,
}

impl World {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let server = NatsServer::start(&folder.path().join("nats"))
            .await
            .unwrap();
        let options = NatsOptions::of_url(server.url());
        let client = connect(&options, "test").await.unwrap();
        let limits = streams::Limits {
            events_max_bytes: Some(64 << 20),
            intake_max_bytes: None,
            quarantine_max_bytes: None,
            replicas: None,
        };
        let jetstream = jetstream::new(client.clone());
        streams::ensure(&jetstream, Some(1), &limits).await.unwrap();
        Self {
            folder,
            server,
            client,
        }
    }

    fn place(&self) -> Place {
        Place::Folder(self.folder.path().join("archive"))
    }

    fn store(&self) -> Store {
        Store::open(&self.place()).unwrap()
    }

    fn archiver(&self) -> Archiver {
        let stop = CancellationToken::new();
        Archiver::new(self.store(), self.client.clone(), 0, stop)
    }

    async fn archive(&self) -> Passed {
        let mut archiver = self.archiver();
        tokio::task::spawn_blocking(move || archiver.pass(Close::Everything))
            .await
            .unwrap()
            .unwrap()
    }

    async fn chain(&self) -> Chain {
        Manifest::new(self.store(), 0).read().await.unwrap()
    }

    async fn purge(&self) -> Option<u64> {
        let mut archiver = self.archiver();
        archiver.manifest.read().await.unwrap();
        // Nothing is older than no time at all, before the clock has moved.
        tokio::time::sleep(Duration::from_millis(5)).await;
        archiver.purge(Duration::ZERO).await.unwrap()
    }

    async fn publish(&self, subject: &str, payloads: impl IntoIterator<Item = Vec<u8>>) -> u64 {
        let publisher = Publisher::new(self.client.clone());
        let mut last = 0;
        for payload in payloads {
            match publisher.publish(subject, None, payload.into()).await {
                Outcome::Stored { sequence, .. } => last = sequence,
                other => panic!("{other:?}"),
            }
        }
        last
    }

    /// Clicks and impressions of users, announcements, a frame that cannot be read, and a part of it all again.
    async fn publish_mixed(&self, seed: u64) {
        for kind in [Kind::Click, Kind::Impression] {
            let subject = format!("events.0.{kind}");
            let frames = frames(kind, seed);
            self.publish(&subject, frames.clone()).await;
            self.publish(&subject, frames.into_iter().step_by(4)).await;
        }
        let producer = Id::new("collector").unwrap();
        let told = encode_announcement(&producer, Epoch(seed), &Watermark::default());
        self.publish("events.0.watermark", [told]).await;
        self.publish("events.0.click", [b"not a frame".to_vec()])
            .await;
    }

    /// The canonical dump of what a replay into an empty folder comes to, or why it does not.
    async fn replayed(&self) -> Result<Vec<String>, String> {
        let data = tempfile::tempdir().unwrap();
        let status = self.replay(data.path()).await?;
        if let Some(error) = status.error {
            assert!(!data.path().join("shards/0/CURRENT").exists(), "{error}");
            return Err(error);
        }
        let shards = Shards::open(data.path(), 1, Limits::default()).unwrap();
        let lines = lines(&shards);
        assert_eq!(open_spans(&shards), 0, "all that is over is sealed");
        shards.close().unwrap();
        Ok(lines)
    }

    async fn replay(&self, data: &Path) -> Result<Status, String> {
        let job = Job {
            client: self.client.clone(),
            data_dir: data.to_path_buf(),
            place: State::Stopped(Memory::new(AT_ONCE).unwrap()),
            shards: vec![0],
            range: Range {
                from: From::Beginning,
                to: None,
            },
            archive: self.place(),
            stop: CancellationToken::new(),
        };
        let started = job.start().await.map_err(|error| error.to_string())?;
        tokio::time::timeout(PATIENCE, started.task)
            .await
            .unwrap()
            .unwrap();
        let status = started.status.borrow().clone();
        assert!(status.finished);
        Ok(status)
    }

    fn path_of(&self, entry: &SegmentEntry) -> PathBuf {
        self.folder.path().join("archive").join(&entry.file.path)
    }
}

/// How many spans have rows that are not sealed.
fn open_spans(shards: &Shards) -> usize {
    let set = shards.set();
    let snapshot = set.iter().next().unwrap().snapshot().unwrap();
    let mut open = 0;
    let each = |_: &[u8], _: &[u8]| {
        open += 1;
        ControlFlow::Continue(())
    };
    snapshot.scan(Family::OpenSpans, &[], None, each).unwrap();
    open
}

fn lines(shards: &Shards) -> Vec<String> {
    let set = shards.set();
    let snapshot = set.iter().next().unwrap().snapshot().unwrap();
    dump(&snapshot).unwrap()
}

/// Frames of which every other event is of one of ten users.
fn frames(kind: Kind, seed: u64) -> Vec<Vec<u8>> {
    let frames = figures::frames(Load {
        kind,
        events: 1_000,
        frame_events: 40,
        seed,
    });
    let with_users = frames.into_iter().map(|payload| {
        let Ok(EventMessage::Frame(mut frame)) = decode_events(&payload) else {
            panic!("the figures make frames");
        };
        frame.header.epoch = Epoch(seed * 10 + kind as u64);
        for (n, event) in frame.events.iter_mut().enumerate().step_by(2) {
            event.user_id = Some(Id::new(&format!("user-{}", n % 20)).unwrap());
        }
        encode(&frame.header, &frame.events)
    });
    with_users.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn archive_and_stream_are_the_stream_alone() {
    let world = World::new().await;
    world.publish_mixed(1).await;
    let first = world.archive().await;
    assert_eq!(first.events, 2 * (1_000 + 280));
    world.publish_mixed(2).await;
    world.archive().await;
    // The second segment stays in the stream too, and a third part is in the stream alone.
    let purged = world.chain().await.entries()[0].last;
    world.publish_mixed(3).await;
    let alone = world.replayed().await.unwrap();
    assert!(alone.len() > 1_000, "{}", alone.len());
    let jetstream = jetstream::new(world.client.clone());
    let stream = jetstream.get_stream("EVENTS_0").await.unwrap();
    stream.purge().sequence(purged + 1).await.unwrap();
    assert_eq!(world.replayed().await.unwrap(), alone);
    // All that is archived is gone from the stream, and then all there is.
    assert_eq!(
        world.purge().await,
        Some(world.chain().await.last().unwrap())
    );
    assert_eq!(world.replayed().await.unwrap(), alone);
    world.archive().await;
    world.purge().await.unwrap();
    assert_eq!(world.replayed().await.unwrap(), alone);
    world.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_or_missing_file_keeps_the_stream_and_stops_a_replay_by_its_name() {
    let world = World::new().await;
    world.publish_mixed(1).await;
    world.archive().await;
    let entry = world.chain().await.entries()[0].clone();
    let path = world.path_of(&entry);
    let whole = std::fs::read(&path).unwrap();
    let mut flipped = whole.clone();
    flipped[whole.len() / 2] ^= 1;
    std::fs::write(&path, &flipped).unwrap();
    let mut archiver = world.archiver();
    archiver.manifest.read().await.unwrap();
    let error = archiver
        .purge(Duration::ZERO)
        .await
        .unwrap_err()
        .to_string();
    assert!(
        error.contains(&entry.file.path) && error.contains("SHA-256"),
        "{error}"
    );
    std::fs::write(&path, &whole).unwrap();
    world.purge().await.unwrap();
    assert!(world.replayed().await.is_ok());
    std::fs::write(&path, &flipped).unwrap();
    let error = world.replayed().await.unwrap_err();
    assert!(
        error.contains(&entry.file.path) && error.contains("SHA-256"),
        "{error}"
    );
    std::fs::remove_file(&path).unwrap();
    let error = world.replayed().await.unwrap_err();
    assert!(
        error.contains(&entry.file.path) && error.contains("is missing"),
        "{error}"
    );
    // Without its entry there is no archive that reaches up to the stream.
    std::fs::remove_file(world.folder.path().join("archive").join(entry.path())).unwrap();
    let error = world.replayed().await.unwrap_err();
    assert!(
        error.contains("Neither the archive nor a checkpoint holds it"),
        "{error}"
    );
    world.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_archivers_make_one_truth() {
    let world = World::new().await;
    let mut events = 0;
    for seed in 1..4 {
        world.publish_mixed(seed).await;
        let passes = [world.archive(), world.archive(), world.archive()];
        let passes = futures_util::future::join_all(passes).await;
        events += passes.iter().map(|passed| passed.events).sum::<u64>();
    }
    assert_eq!(events, 3 * 2 * (1_000 + 280));
    let chain = world.chain().await;
    let rows: u64 = chain
        .entries()
        .iter()
        .map(|entry| entry.rows.events())
        .sum();
    assert_eq!((chain.first(), rows), (Some(1), events));
    for entry in chain.entries() {
        world.store().get_verified(&entry.file).await.unwrap();
    }
    // What lost the race is gone by itself.
    let files = world.store().list("log").await.unwrap();
    assert_eq!(files.len(), chain.entries().len());
    world.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_no_entry_names_is_ignored_and_removed_once_none_can_name_it() {
    let world = World::new().await;
    world.publish_mixed(1).await;
    let store = world.store();
    // A crash between the file and its entry.
    let orphan = segment_path(0, Hour::of(0), 1, 0, "crashed");
    store.put_new(&orphan, "half".into()).await.unwrap();
    assert_eq!(world.archiver().sweep().await.unwrap(), 0);
    world.archive().await;
    let ahead = segment_path(0, Hour::of(0), 999_999, 0, "ahead");
    store
        .put_new(&ahead, "of another archiver".into())
        .await
        .unwrap();
    assert_eq!(world.archiver().sweep().await.unwrap(), 1);
    assert!(store.get(&orphan).await.unwrap().is_none());
    assert!(store.get(&ahead).await.unwrap().is_some());
    world.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_erased_user_is_nowhere_and_no_total_changes() {
    let world = World::new().await;
    world.publish_mixed(1).await;
    world.archive().await;
    world.purge().await.unwrap();
    let before = world.replayed().await.unwrap();
    let old = world.chain().await.entries()[0].clone();
    let request = EraseRequest {
        user: user_hash("user-4"),
        by: "the privacy officer".to_owned(),
    };
    let pseudonym = Pseudonym::of([7; 32]);
    let erased = erase(&world.store(), 0, &request, &pseudonym)
        .await
        .unwrap();
    let chain = world.chain().await;
    let new = &chain.entries()[0];
    assert_eq!(new.erasures, erased);
    let [record] = &erased[..] else {
        panic!("{erased:?}")
    };
    // Two kinds, 25 frames of each and 7 again, two events of 40 each.
    assert_eq!(record.rows, 2 * (25 + 7) * 2);
    assert_eq!(record.by, "the privacy officer");
    assert_eq!((&record.before, &record.after), (&old.file, &new.file));
    assert!(!world.path_of(&old).exists());
    assert_eq!(
        (new.rows, new.messages, new.revision),
        (old.rows, old.messages, 1)
    );
    // A sketch holds another visitor in the place of the one, so its bytes differ, and not how many there are.
    let told = |lines: Vec<String>| -> Vec<String> {
        let cut = |line: String| match line.starts_with("uniques ") {
            true => line.rsplit_once(' ').unwrap().0.to_owned(),
            false => line,
        };
        lines.into_iter().map(cut).collect()
    };
    let after = world.replayed().await.unwrap();
    assert_ne!(after, before);
    assert_eq!(told(after), told(before));
    // The same once more finds nobody.
    let again = erase(&world.store(), 0, &request, &pseudonym)
        .await
        .unwrap();
    assert_eq!((again, world.chain().await), (Vec::new(), chain));
    world.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archive_of_another_stream_is_refused() {
    let world = World::new().await;
    world.publish_mixed(1).await;
    world.archive().await;
    let other = World::new().await;
    other.publish_mixed(1).await;
    let stop = CancellationToken::new();
    let mut archiver = Archiver::new(world.store(), other.client.clone(), 0, stop);
    let pass = tokio::task::spawn_blocking(move || archiver.pass(Close::Everything));
    let error = pass.await.unwrap().unwrap_err().to_string();
    assert!(
        error.contains("give this deployment another archive.url"),
        "{error}"
    );
    world.server.stop().await;
    other.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_purged_under_a_replay_it_reads_from_the_archive() {
    let world = World::new().await;
    world.publish_mixed(1).await;
    let alone = world.replayed().await.unwrap();
    world.archive().await;
    let last = world.chain().await.last().unwrap();
    // The replay is begun while the stream is whole, and reads it when that is gone.
    let data = tempfile::tempdir().unwrap();
    let memory = Memory::new(Limits::default()).unwrap();
    let building = Building::begin(data.path(), 0, "g-test", None, &memory).unwrap();
    let jetstream = jetstream::new(world.client.clone());
    let stream = jetstream.get_stream("EVENTS_0").await.unwrap();
    let created_ns = created_ns(stream.cached_info());
    stream.purge().sequence(last / 2).await.unwrap();
    let (client, place) = (world.client.clone(), world.place());
    let shard = Arc::clone(building.shard());
    let folding = tokio::task::spawn_blocking(move || {
        let stop = CancellationToken::new();
        let mut rebuild =
            Rebuild::begin(&shard, &client, created_ns, Until::default(), stop).unwrap();
        let Ended::Purged(first) = rebuild.fold_to(last, &mut |_| {}).unwrap() else {
            panic!("its first message is gone")
        };
        let runtime = tokio::runtime::Handle::current();
        let covered = runtime
            .block_on(cover(&place, 0, created_ns, first))
            .unwrap();
        rebuild.after(covered.unwrap().after(rebuild.sequence()));
        assert_eq!(rebuild.fold_to(last, &mut |_| {}).unwrap(), Ended::There);
    });
    folding.await.unwrap();
    let lines = dump(&building.shard().snapshot().unwrap()).unwrap();
    assert_eq!(lines, alone);
    building.shard().close().unwrap();
    world.server.stop().await;
}
