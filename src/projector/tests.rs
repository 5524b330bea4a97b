//! Whether a stream is taken for the one that was folded, that a load is folded whole, and a shard against a real
//! nats-server.

#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use adtally_projections::dump::dump;
use adtally_projections::position::Position;
use adtally_streams::event::Kind;
use async_nats::jetstream;

use super::check::{Facts, check};
use super::figures::{self, Load};
use super::reports;
use super::{Projector, ProjectorError};
use crate::log::connect::{NatsOptions, connect};
use crate::log::embedded::NatsServer;
use crate::log::publisher::{Outcome, Publisher};
use crate::log::streams;
use crate::store::{Limits, Memory, Shard, ShardSnapshot, Shards};

const GOOD: Facts = Facts {
    replicas: 1,
    created_ns: 5,
    first: 1,
    last: 20,
    crc: Some(9),
};

fn at(sequence: u64) -> Option<Position> {
    Some(Position {
        sequence,
        stream_created_ns: 5,
        crc: 9,
        log_time_ms: 0,
    })
}

#[test]
fn only_the_stream_that_was_folded_is_folded_on() {
    assert!(check(3, at(10), &GOOD).is_ok());
    assert!(check(3, at(20), &GOOD).is_ok());
    assert!(check(3, None, &GOOD).is_ok());
    assert!(
        check(
            3,
            None,
            &Facts {
                first: 1,
                last: 0,
                crc: None,
                ..GOOD
            }
        )
        .is_ok()
    );
    // All of it purged, up to the position: nothing is missing.
    assert!(
        check(
            3,
            at(20),
            &Facts {
                first: 21,
                crc: None,
                ..GOOD
            }
        )
        .is_ok()
    );
    let refused = |position, facts: Facts| check(3, position, &facts).unwrap_err();
    assert!(matches!(
        refused(
            at(10),
            Facts {
                created_ns: 6,
                ..GOOD
            }
        ),
        ProjectorError::OtherStream { .. }
    ));
    assert!(matches!(
        refused(at(21), Facts { crc: None, ..GOOD }),
        ProjectorError::Shorter { .. }
    ));
    assert!(matches!(
        refused(
            at(10),
            Facts {
                crc: Some(8),
                ..GOOD
            }
        ),
        ProjectorError::OtherMessage { .. }
    ));
    assert!(matches!(
        refused(
            at(10),
            Facts {
                first: 12,
                crc: None,
                ..GOOD
            }
        ),
        ProjectorError::Purged { .. }
    ));
    assert!(matches!(
        refused(None, Facts { first: 2, ..GOOD }),
        ProjectorError::Purged { before: 1, .. }
    ));
}

#[test]
fn a_measured_load_is_folded_whole() {
    let folder = tempfile::tempdir().unwrap();
    let load = Load {
        kind: Kind::Click,
        events: 5_000,
        frame_events: 256,
        seed: 1,
    };
    let figures = figures::measure(folder.path(), load).unwrap();
    assert!(figures.folded_per_s() > 0.0 && figures.rows > 5_000);
    for grain in figures.stored.grains {
        assert!(grain.events == 5_000 && grain.squares >= 5_000 && grain.cells <= 5_000);
    }
    let shard = Shard::open(
        0,
        "g-figures",
        folder.path(),
        &Memory::new(Limits::default()).unwrap(),
    )
    .unwrap();
    let snapshot = shard.snapshot().unwrap();
    let clicks = reports::totals(&snapshot).unwrap()[Kind::Click as usize];
    assert_eq!(
        (clicks.frames, clicks.events, clicks.applied),
        (20, 5_000, 5_000)
    );
    let producers = reports::producers(&snapshot).unwrap();
    assert_eq!(
        (producers.len(), producers[0].applied[Kind::Click as usize]),
        (1, 5_000)
    );
    assert_eq!(bad_frames(&snapshot), 0);
}

fn bad_frames(snapshot: &ShardSnapshot<'_>) -> usize {
    dump(snapshot)
        .unwrap()
        .iter()
        .filter(|line| line.starts_with("bad_frame "))
        .count()
}

const PATIENCE: Duration = Duration::from_secs(30);

/// Publishes payloads as clicks of shard 0; answers the last sequence.
async fn publish(publisher: &Publisher, payloads: impl IntoIterator<Item = Vec<u8>>) -> u64 {
    let mut last = 0;
    for payload in payloads {
        match publisher
            .publish("events.0.click", None, payload.into())
            .await
        {
            Outcome::Stored { sequence, .. } => last = sequence,
            other => panic!("{other:?}"),
        }
    }
    last
}

/// Runs the projector until it has folded a sequence, and answers how many clicks count and how many messages
/// were bad.
async fn fold_up_to(data: &Path, client: &async_nats::Client, sequence: u64) -> (i64, usize) {
    let shards = Arc::new(Shards::open(data, 1, Limits::default()).unwrap());
    let projector = Projector::start(Arc::clone(&shards), client).unwrap();
    let handle = projector.handle();
    let reached = async {
        while handle.positions() != [sequence] || handle.lag() != [0] {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let reached = tokio::time::timeout(PATIENCE, reached).await;
    assert!(reached.is_ok(), "{:?}", handle.progress());
    assert!(handle.progress()[0].verified);
    projector.stop().await.unwrap();
    let found = {
        let set = shards.set();
        let snapshot = set.iter().next().unwrap().snapshot().unwrap();
        let clicks = reports::totals(&snapshot).unwrap()[Kind::Click as usize];
        (clicks.applied, bad_frames(&snapshot))
    };
    shards.close().unwrap();
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shard_is_folded_through_restarts_and_never_from_another_stream() {
    let (nats, data) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let server = NatsServer::start(nats.path()).await.unwrap();
    let client = connect(&NatsOptions::of_url(server.url()), "test")
        .await
        .unwrap();
    let jetstream = jetstream::new(client.clone());
    let limits = streams::Limits {
        events_max_bytes: Some(64 << 20),
        intake_max_bytes: None,
        quarantine_max_bytes: None,
        replicas: None,
    };
    streams::ensure(&jetstream, Some(1), &limits).await.unwrap();
    let publisher = Publisher::new(client.clone());
    let load = Load {
        kind: Kind::Click,
        events: 3_000,
        frame_events: 100,
        seed: 3,
    };
    let frames = figures::frames(load);

    publish(&publisher, frames[..10].to_vec()).await;
    let last = publish(&publisher, [b"not a frame".to_vec()]).await;
    assert_eq!(fold_up_to(data.path(), &client, last).await, (1_000, 1));
    // Everything again from the start, and the rest: what was there before does not count twice.
    let last = publish(&publisher, frames.clone()).await;
    assert_eq!(fold_up_to(data.path(), &client, last).await, (3_000, 1));

    jetstream.delete_stream("EVENTS_0").await.unwrap();
    streams::ensure(&jetstream, Some(1), &limits).await.unwrap();
    publish(&publisher, frames.iter().cycle().take(60).cloned()).await;
    let shards = Arc::new(Shards::open(data.path(), 1, Limits::default()).unwrap());
    let mut projector = Projector::start(shards, &client).unwrap();
    let error = tokio::time::timeout(PATIENCE, projector.failed())
        .await
        .unwrap();
    assert!(
        matches!(error, ProjectorError::OtherStream { shard: 0, .. }),
        "{error}"
    );
    assert!(error.to_string().contains("shards/0"), "{error}");
    projector.stop().await.unwrap();
    server.stop().await;
}
