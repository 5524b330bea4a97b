//! The log against a real nats-server, which is killed on the way.

#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::time::Duration;

use adtally_streams::names::events_stream;
use async_nats::Client;
use async_nats::jetstream::stream::{Config, DiscardPolicy};
use async_nats::jetstream::{self, Context};
use bytes::Bytes;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::LogError;
use super::connect::{NatsOptions, connect, is_connected};
use super::embedded::NatsServer;
use super::publisher::{Outcome, Publisher};
use super::reader::{ShardReader, message_at};
use super::streams::{Limits, StreamsError, check, ensure, info_of, shards_of_running, usage};

const SMALL: Limits = Limits {
    events_max_bytes: Some(64 << 20),
    intake_max_bytes: None,
    quarantine_max_bytes: None,
    replicas: None,
};

async fn start(dir: &Path) -> (NatsServer, Client, Context) {
    let server = NatsServer::start(dir).await.unwrap();
    let client = connect(&NatsOptions::of_url(server.url()), "test")
        .await
        .unwrap();
    let jetstream = jetstream::new(client.clone());
    (server, client, jetstream)
}

/// Kills the server as a power cut would, and waits until another one runs.
async fn kill_nine(server: &NatsServer) {
    let before = server.pid().unwrap();
    kill(Pid::from_raw(before as i32), Signal::SIGKILL).unwrap();
    while server.pid().is_none_or(|pid| pid == before) {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Publishes until it is stored, as a shipper does.
async fn store(publisher: &Publisher, subject: &str, id: &str, payload: &str) -> u64 {
    for _ in 0..600 {
        match publisher
            .publish(subject, Some(id), Bytes::from(payload.to_owned()))
            .await
        {
            Outcome::Stored { sequence, .. } => return sequence,
            Outcome::Unknown(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            other => panic!("{other:?}"),
        }
    }
    panic!("the broker did not come back");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_of_ones_own_keeps_its_port_and_its_messages() {
    let dir = tempfile::tempdir().unwrap();
    let (server, client, jetstream) = start(dir.path()).await;
    let url = server.url().to_owned();
    assert_eq!(
        std::fs::read_to_string(dir.path().join("nats-url")).unwrap(),
        format!("{url}\n")
    );
    ensure(&jetstream, Some(1), &SMALL).await.unwrap();
    let publisher = Publisher::new(client.clone());
    store(&publisher, "events.0.click", "a", "one").await;
    kill_nine(&server).await;
    store(&publisher, "events.0.click", "b", "two").await;
    assert!(is_connected(&client));
    assert_eq!(
        info_of(&jetstream, "EVENTS_0")
            .await
            .unwrap()
            .state
            .last_sequence,
        2
    );
    let pid = server.pid().unwrap();
    server.stop().await;
    assert!(
        kill(Pid::from_raw(pid as i32), None).is_err(),
        "it has ended"
    );

    // A server that was left behind: the next start ends it and takes its store and its port.
    let orphan = std::process::Command::new(
        std::env::var_os("ADTALLY_NATS_SERVER").unwrap_or("nats-server".into()),
    )
    .arg("-c")
    .arg(dir.path().canonicalize().unwrap().join("nats/nats.conf"))
    .stdout(std::process::Stdio::null())
    .stderr(std::process::Stdio::null())
    .spawn();
    let Ok(mut orphan) = orphan else {
        eprintln!("skipped: no nats-server to leave behind, set ADTALLY_NATS_SERVER");
        return;
    };
    let pid_file = dir.path().join("nats/nats.pid");
    while std::fs::read_to_string(&pid_file)
        .ok()
        .is_none_or(|pid| pid.trim() != orphan.id().to_string())
    {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let reaper = std::thread::spawn(move || orphan.wait());
    let (server, _, jetstream) = start(dir.path()).await;
    reaper.join().unwrap().unwrap();
    assert_eq!(server.url(), url);
    assert_eq!(
        info_of(&jetstream, "EVENTS_0")
            .await
            .unwrap()
            .state
            .last_sequence,
        2
    );
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_are_made_once_and_never_changed() {
    let dir = tempfile::tempdir().unwrap();
    let (server, _, jetstream) = start(dir.path()).await;
    assert_eq!(shards_of_running(&jetstream).await.unwrap(), None);
    assert_eq!(
        check(&jetstream, Some(3), &SMALL).await.unwrap().len(),
        7,
        "none is there"
    );
    let made = ensure(&jetstream, Some(3), &SMALL).await.unwrap();
    assert_eq!(
        (made.shards, made.created.len(), made.differences.len()),
        (3, 7, 0)
    );
    let again = ensure(&jetstream, None, &SMALL).await.unwrap();
    assert_eq!(
        (again.shards, again.created.len(), again.differences.len()),
        (3, 0, 0)
    );
    assert_eq!(check(&jetstream, None, &SMALL).await.unwrap(), []);

    let refused = ensure(&jetstream, Some(8), &SMALL).await.unwrap_err();
    let StreamsError::Shards {
        wanted: 8,
        found: 3,
        streams,
    } = refused
    else {
        panic!("{refused}")
    };
    assert_eq!(streams, "EVENTS_0, EVENTS_1, EVENTS_2");
    // Whoever made them was interrupted: the number is remembered, and the missing one is made.
    jetstream.delete_stream("EVENTS_2").await.unwrap();
    assert_eq!(
        ensure(&jetstream, None, &SMALL).await.unwrap().created,
        ["EVENTS_2"]
    );

    // The operator may give a stream more room, but not make it forget.
    let info = info_of(&jetstream, "EVENTS_1").await.unwrap();
    jetstream
        .update_stream(Config {
            max_bytes: 128 << 20,
            ..info.config.clone()
        })
        .await
        .unwrap();
    let differs = ensure(&jetstream, None, &SMALL).await.unwrap().differences;
    assert_eq!(
        differs
            .iter()
            .map(|d| (d.stream.as_str(), d.field))
            .collect::<Vec<_>>(),
        [("EVENTS_1", "max_bytes")]
    );
    jetstream
        .update_stream(Config {
            max_age: Duration::from_secs(3_600),
            ..info.config
        })
        .await
        .unwrap();
    let broken = ensure(&jetstream, None, &SMALL).await.unwrap_err();
    assert!(broken.to_string().contains("EVENTS_1 max_age"), "{broken}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_outcome_of_publishing_is_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    let (server, client, jetstream) = start(dir.path()).await;
    let tight = Config {
        name: "EVENTS_0".to_owned(),
        subjects: vec!["events.0.>".to_owned()],
        max_bytes: 4_096,
        max_message_size: 2_048,
        discard: DiscardPolicy::New,
        ..Config::default()
    };
    jetstream.create_stream(tight).await.unwrap();
    let publisher = Publisher::new(client.clone());
    let send = async |id: &str, bytes: usize| {
        publisher
            .publish("events.0.x", Some(id), Bytes::from(vec![7; bytes]))
            .await
    };
    let stored = |sequence, duplicate| Outcome::Stored {
        stream: "EVENTS_0".to_owned(),
        sequence,
        duplicate,
    };
    assert_eq!(send("a", 1_500).await, stored(1, false));
    assert_eq!(send("a", 1_500).await, stored(1, true));
    assert!(matches!(send("b", 3_000).await, Outcome::TooLarge(_)));
    assert!(
        matches!(send("b", 2 << 20).await, Outcome::TooLarge(_)),
        "the library itself refuses it"
    );
    assert_eq!(send("b", 1_500).await, stored(2, false));
    assert!(matches!(send("c", 1_500).await, Outcome::Full(_)));
    let used = usage(&jetstream, 1).await.unwrap();
    assert!(
        used[0].share() < 0.95 && used[0].share() > 0.5 && used[0].messages == 2,
        "{used:?}"
    );
    let small = Bytes::from_static(b"x");
    assert!(matches!(
        publisher
            .publish("nobody.listens", None, small.clone())
            .await,
        Outcome::Unknown(_)
    ));
    server.stop().await;
    // Nothing is handed to a connection that is down, once that is seen: it says so, and waits for nothing.
    for attempt in 0.. {
        match publisher
            .publish("events.0.z", Some("z"), small.clone())
            .await
        {
            Outcome::Unknown(why) if why.contains("is not connected") => break,
            Outcome::Unknown(why) => assert!(attempt < 600, "{why}"),
            other => panic!("{other:?}"),
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_sees_every_message_once_and_in_order_through_kills() {
    let dir = tempfile::tempdir().unwrap();
    let (server, client, jetstream) = start(dir.path()).await;
    let mut early = ShardReader::open(client.clone(), &events_stream(0), 0, None);
    ensure(&jetstream, Some(1), &SMALL).await.unwrap();
    let publisher = Publisher::new(client.clone());
    for n in 1..=150_u64 {
        assert_eq!(
            store(
                &publisher,
                "events.0.click",
                &format!("m{n}"),
                &n.to_string()
            )
            .await,
            n
        );
        if n % 50 == 0 {
            kill_nine(&server).await;
        }
    }
    for n in 1..=150_u64 {
        let message = tokio::time::timeout(Duration::from_secs(30), early.next())
            .await
            .unwrap()
            .unwrap();
        assert_eq!(
            (message.sequence, &message.payload[..]),
            (n, n.to_string().as_bytes())
        );
        assert_eq!(message.subject, "events.0.click");
        assert!(message.broker_ms > 1_700_000_000_000);
    }
    assert_eq!(early.progress().last_sequence(), 150);
    assert!(early.try_next().is_none());
    let mut late = ShardReader::open(client.clone(), "EVENTS_0", 149, None);
    assert_eq!(late.next().await.unwrap().sequence, 149);

    let at = message_at(&jetstream, "EVENTS_0", 77)
        .await
        .unwrap()
        .unwrap();
    assert_eq!((at.sequence, &at.payload[..]), (77, &b"77"[..]));
    assert!(
        message_at(&jetstream, "EVENTS_0", 151)
            .await
            .unwrap()
            .is_none()
    );
    assert!(matches!(
        message_at(&jetstream, "NONE", 1).await,
        Err(LogError::NoStream(_))
    ));
    server.stop().await;
}
