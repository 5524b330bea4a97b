//! What others do to the archive and the stream while somebody reads or purges them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use adtally_archive::erase::Pseudonym;
use adtally_archive::user_hash;
use adtally_projections::fold::Entry;
use futures_util::FutureExt as _;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::World;
use crate::archive::{EraseRequest, cover, erase};
use crate::control::{self, Answerer, Verb};
use crate::projector::rebuild::Earlier;

/// The events of what is left to be read. Blocks.
fn rest_of(mut reading: impl Earlier) -> usize {
    let mut events = 0;
    while let Some(entries) = reading.next().unwrap() {
        events += entries.iter().map(Entry::events).sum::<usize>();
    }
    events
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_is_erased_under_a_replay_that_goes_on_with_the_new_files() {
    let world = World::new().await;
    world.publish_mixed(1).await;
    world.archive().await;
    world.publish_mixed(2).await;
    world.archive().await;
    let chain = world.chain().await;
    assert_eq!(chain.entries().len(), 2);
    let (created_ns, last) = (chain.stream_created_ns().unwrap(), chain.last().unwrap());
    let covered = cover(&world.place(), 0, created_ns, last + 1).await;
    let reading = covered.unwrap().unwrap().after(0);
    let request = EraseRequest {
        user: user_hash("user-4"),
        by: "the privacy officer".to_owned(),
    };
    let erased = erase(&world.store(), 0, &request, &Pseudonym::of([7; 32])).await;
    assert_eq!(erased.unwrap().len(), 2);
    assert!(chain.entries().iter().all(|e| !world.path_of(e).exists()));
    let rest = tokio::task::spawn_blocking(move || rest_of(reading)).await;
    assert_eq!(rest.unwrap(), 2 * 2 * (1_000 + 280));
    world.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn projectors_that_are_far_behind_are_asked_once_in_a_while() {
    let world = World::new().await;
    world.publish_mixed(1).await;
    world.archive().await;
    let asked = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&asked);
    let answerer: Answerer = Arc::new(move |_| {
        counted.fetch_add(1, Ordering::Relaxed);
        std::future::ready(Ok(Some(json!({"positions": [3]})))).boxed()
    });
    let stop = CancellationToken::new();
    let answers = [(Verb::Positions, answerer)].into();
    let serving = tokio::spawn(control::serve(world.client.clone(), answers, stop.clone()));
    world.client.flush().await.unwrap();
    let mut archiver = world.archiver();
    archiver.manifest.read().await.unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    for _ in 0..3 {
        assert_eq!(archiver.purge(Duration::ZERO).await.unwrap(), None);
    }
    assert_eq!(asked.load(Ordering::Relaxed), 1);
    assert!(archiver.held.is_some());
    // Once it is time again and they have folded everything, it goes.
    stop.cancel();
    serving.await.unwrap();
    archiver.held = Instant::now().checked_sub(Duration::from_secs(3_600));
    let last = world.chain().await.last();
    assert_eq!(archiver.purge(Duration::ZERO).await.unwrap(), last);
    assert!(archiver.held.is_none());
    world.server.stop().await;
}
