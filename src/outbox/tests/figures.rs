//! Measurements, not tests: `cargo test --bin adtally outbox::tests::figures -- --ignored --nocapture`.

#![allow(clippy::print_stdout)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use adtally_streams::event::Kind;
use async_nats::jetstream;

use super::broker::FakeBroker;
use super::{event, item, options};
use crate::log::connect::{NatsOptions, connect};
use crate::log::embedded::NatsServer;
use crate::log::publisher::{Broker, Publisher};
use crate::log::streams::{Limits, ensure};
use crate::outbox::{Outbox, OutboxLimits, OutboxOptions, OutboxStatus};

const SHARDS: u16 = 8;
const FOR: Duration = Duration::from_secs(4);

/// Clients that each wait for their answer, at a rate altogether (0: as fast as they can); what came of it.
async fn run(broker: Arc<dyn Broker>, clients: u64, rate: u64) -> (f64, OutboxStatus, Duration) {
    let dir = tempfile::tempdir().unwrap();
    let options = OutboxOptions {
        shards: SHARDS,
        ..options(dir.path(), OutboxLimits::default())
    };
    let outbox = Outbox::open(options, broker).unwrap();
    let began = Instant::now();
    let waited_ns = Arc::new(AtomicU64::new(0));
    let mut running = tokio::task::JoinSet::new();
    for client in 0..clients {
        let (handle, waited_ns) = (outbox.handle(), Arc::clone(&waited_ns));
        running.spawn(async move {
            let mut n = 0_u64;
            while began.elapsed() < FOR {
                if rate > 0 {
                    let due = Duration::from_secs_f64((n * clients + client) as f64 / rate as f64);
                    tokio::time::sleep_until(tokio::time::Instant::from_std(began + due)).await;
                }
                let arrival = handle.arrive();
                let kind = if n.is_multiple_of(50) {
                    Kind::Click
                } else {
                    Kind::Impression
                };
                let event = event(
                    &format!("{client:08x}-0000-7000-8000-{n:012x}"),
                    kind,
                    arrival.ms(),
                );
                let asked = Instant::now();
                handle
                    .accept(vec![item(
                        ((n * 7 + client) % u64::from(SHARDS)) as u16,
                        event,
                    )])
                    .await
                    .unwrap();
                waited_ns.fetch_add(asked.elapsed().as_nanos() as u64, Ordering::Relaxed);
                n += 1;
            }
        });
    }
    while let Some(done) = running.join_next().await {
        done.unwrap();
    }
    let seconds = began.elapsed().as_secs_f64();
    let handle = outbox.handle();
    let status = handle.status();
    let shipping = Instant::now();
    assert!(outbox.drain(Duration::from_secs(60)).await.drained);
    let mean_ns = waited_ns.load(Ordering::Relaxed) / status.accepted_events.max(1);
    println!(
        "{clients:4} clients: {:8.0} events/s, {:6.0} fsyncs/s, {:.4} fsyncs/event, answered in {:.2} ms, frames of {:.1} events and {:.0} bytes, {} left to ship in {:.2} s",
        status.accepted_events as f64 / seconds,
        status.fsyncs as f64 / seconds,
        status.fsyncs as f64 / status.accepted_events as f64,
        mean_ns as f64 / 1e6,
        status.framed_events as f64 / status.frames.max(1) as f64,
        status.framed_bytes as f64 / status.frames.max(1) as f64,
        status.unsent_events,
        shipping.elapsed().as_secs_f64(),
    );
    (seconds, status, shipping.elapsed())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn how_many_events_become_durable() {
    println!("a log that costs nothing:");
    for clients in [1, 16, 64, 256] {
        run(Arc::new(FakeBroker::default()), clients, 0).await;
    }
    let dir = tempfile::tempdir().unwrap();
    let server = NatsServer::start(dir.path()).await.unwrap();
    let client = connect(&NatsOptions::of_url(server.url()), "figures")
        .await
        .unwrap();
    let limits = Limits {
        events_max_bytes: Some(1 << 30),
        ..Limits::default()
    };
    ensure(&jetstream::new(client.clone()), Some(SHARDS), &limits)
        .await
        .unwrap();
    let publisher = Arc::new(Publisher::new(client));
    for (clients, rate) in [(16, 100), (64, 2_000), (256, 50_000), (256, 0)] {
        println!("a nats-server on the same disk, {rate} events/s asked for:");
        run(Arc::clone(&publisher) as Arc<_>, clients, rate).await;
    }
    server.stop().await;
}
