//! The outbox against a real nats-server that is killed while traffic flows.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use adtally_streams::event::Kind;
use adtally_streams::frame::{EventMessage, decode_events};
use async_nats::jetstream;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{SHARDS, SOON, event, item, options};
use crate::log::connect::{NatsOptions, connect};
use crate::log::embedded::NatsServer;
use crate::log::publisher::Publisher;
use crate::log::reader::ShardReader;
use crate::log::streams::{Limits, ensure};
use crate::outbox::{Outbox, OutboxLimits};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_answered_event_is_on_the_log_once_though_the_broker_is_killed() {
    let dir = tempfile::tempdir().unwrap();
    let server = NatsServer::start(dir.path()).await.unwrap();
    let client = connect(&NatsOptions::of_url(server.url()), "test")
        .await
        .unwrap();
    let limits = Limits {
        events_max_bytes: Some(64 << 20),
        ..Limits::default()
    };
    ensure(&jetstream::new(client.clone()), Some(SHARDS), &limits)
        .await
        .unwrap();
    let place = dir.path().join("outbox");
    let publisher = Arc::new(Publisher::new(client.clone()));
    let outbox = Outbox::open(options(&place, OutboxLimits::default()), publisher).unwrap();
    let mut senders = tokio::task::JoinSet::new();
    for sender in 0..16_u16 {
        let handle = outbox.handle();
        senders.spawn(async move {
            for n in 0..250_u16 {
                let arrival = handle.arrive();
                let event = event(
                    &format!("s{sender}-{n}"),
                    Kind::ALL[usize::from(n) % 3],
                    arrival.ms(),
                );
                handle.accept(vec![item(n % SHARDS, event)]).await.unwrap();
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        });
    }
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_millis(150)).await;
        if let Some(pid) = server.pid() {
            kill(Pid::from_raw(pid as i32), Signal::SIGKILL).unwrap();
        }
    }
    while let Some(done) = senders.join_next().await {
        done.unwrap();
    }
    assert!(outbox.drain(SOON).await.drained);
    let mut found = BTreeSet::new();
    let mut counters = BTreeSet::new();
    for shard in 0..SHARDS {
        let mut reader = ShardReader::open(client.clone(), &format!("EVENTS_{shard}"), 0, None);
        loop {
            let message = tokio::time::timeout(SOON, reader.next())
                .await
                .unwrap()
                .unwrap();
            match decode_events(&message.payload).unwrap() {
                EventMessage::Announcement { watermark, .. } if watermark.drained => {
                    assert_eq!(watermark.acked, watermark.heads);
                    break;
                }
                EventMessage::Announcement { .. } => {}
                EventMessage::Frame(frame) => {
                    for (n, event) in frame.events.iter().enumerate() {
                        if counters.insert((
                            shard,
                            frame.header.kind,
                            frame.header.first + n as u64,
                        )) {
                            assert!(
                                found.insert(event.id.to_string()),
                                "{} stands under two counters",
                                event.id
                            );
                        }
                    }
                }
            }
        }
    }
    assert_eq!(found.len(), 4_000);
    server.stop().await;
}
