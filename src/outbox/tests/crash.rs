//! Openings that end as a kill would end them, over a log on a bad day.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use adtally_streams::event::Kind;

use super::broker::FakeBroker;
use super::{Item, SHARDS, SOON, event, item, open, refused};
use crate::outbox::{OutboxHandle, OutboxLimits};

/// Sends from a few tasks until the outbox is gone; returns the ids that were answered, and all that were sent.
async fn traffic(
    handle: OutboxHandle,
    opening: usize,
    events: usize,
) -> (BTreeSet<String>, BTreeSet<String>) {
    let mut senders = tokio::task::JoinSet::new();
    for sender in 0..8_usize {
        let handle = handle.clone();
        senders.spawn(async move {
            let (mut answered, mut sent) = (Vec::new(), Vec::new());
            for n in 0..events {
                let id = format!("o{opening}-s{sender}-{n}");
                let kind = Kind::ALL[n % 3];
                let arrival = handle.arrive();
                let mut items = vec![item(
                    (n + sender) as u16 % SHARDS,
                    event(&id, kind, arrival.ms()),
                )];
                if n % 10 == 0 {
                    items.push(Item::Refused(refused(n)));
                }
                sent.push(id.clone());
                match handle.accept(items).await {
                    Ok(()) => answered.push(id),
                    Err(_) => break,
                }
            }
            (answered, sent)
        });
    }
    let (mut answered, mut sent) = (BTreeSet::new(), BTreeSet::new());
    while let Some(done) = senders.join_next().await {
        let (a, s) = done.unwrap();
        answered.extend(a);
        sent.extend(s);
    }
    (answered, sent)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn crashes_losses_and_a_forgetful_broker_leave_every_answered_event_once() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Arc::new(FakeBroker::default());
    broker.set_bad(40, 40, 0x9e37_79b9_7f4a_7c15);
    let (mut answered, mut sent) = (BTreeSet::new(), BTreeSet::new());
    let mut epochs = BTreeSet::new();
    let mut opened = BTreeMap::new();
    for opening in 0..6 {
        let outbox = open(dir.path(), OutboxLimits::default(), &broker).await;
        let handle = outbox.handle();
        epochs.insert(handle.status().epoch);
        opened.insert(handle.status().epoch, opening);
        let sending = tokio::spawn(traffic(handle, opening, 400));
        tokio::time::sleep(Duration::from_millis(60 + 37 * opening as u64)).await;
        while outbox.handle().status().accepted_events < 25 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        if opening % 2 == 1 {
            broker.forget_ids();
        }
        // Not drained: what is under way is given up where it stands.
        drop(outbox);
        let (a, s) = sending.await.unwrap();
        answered.extend(a);
        sent.extend(s);
    }
    broker.set_bad(0, 0, 1);
    let outbox = open(dir.path(), OutboxLimits::default(), &broker).await;
    let last = outbox.handle().status().epoch;
    epochs.insert(last);
    opened.insert(last, 6);
    let report = outbox.drain(SOON).await;
    assert!(report.drained, "{report:?}");
    let log = broker.read();
    let found = log.ids();
    assert!(
        answered.len() > 100,
        "the test sent something: {}",
        answered.len()
    );
    assert_eq!(
        answered.difference(&found).next(),
        None,
        "answered and lost"
    );
    assert_eq!(found.difference(&sent).next(), None, "nobody sent this");
    assert_eq!(
        log.once.len(),
        found.len(),
        "no event stands under two counters"
    );
    log.check_announcements();
    let wanted = epochs
        .iter()
        .flat_map(|epoch| (0..SHARDS).map(|shard| (*epoch, shard)))
        .collect::<BTreeSet<_>>();
    assert_eq!(log.drained, wanted, "every epoch ended, for every shard");
    for (epoch, shard, heard) in &log.ended {
        let is_last = *epoch == last;
        assert!(
            is_last || heard.iter().any(|h| opened[h] > opened[epoch]),
            "epoch {epoch} ended in shard {shard}, where no later one was known: {heard:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_announced_that_is_not_stored_while_traffic_flows() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Arc::new(FakeBroker::default());
    broker.set_bad(30, 30, 77);
    let outbox = open(dir.path(), OutboxLimits::default(), &broker).await;
    let (answered, _) = traffic(outbox.handle(), 0, 300).await;
    assert_eq!(answered.len(), 2_400);
    assert!(outbox.drain(SOON).await.drained);
    let log = broker.read();
    assert_eq!(log.ids().symmetric_difference(&answered).count(), 0);
    log.check_announcements();
    // Heads and acknowledged positions of the last word are the numbers of events.
    let (_, last) = log.watermarks.last().unwrap();
    assert_eq!(last.acked, last.heads);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backlog_is_shipped_in_full_frames() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Arc::new(FakeBroker::default());
    broker.set_down(true);
    let outbox = open(dir.path(), OutboxLimits::default(), &broker).await;
    let handle = outbox.handle();
    for chunk in 0..50 {
        let events = (0..200).map(|n| {
            item(
                0,
                event(&format!("e{chunk}-{n}"), Kind::Click, handle.arrive().ms()),
            )
        });
        handle.accept(events).await.unwrap();
    }
    broker.set_down(false);
    assert!(outbox.drain(SOON).await.drained);
    assert_eq!(broker.read().ids().len(), 10_000);
    let frames = broker
        .messages()
        .iter()
        .filter(|m| m.subject == "events.0.click")
        .count();
    // The first frame was cut from what waited then; the rest of 10,000 by 1,024.
    assert!(frames <= 12, "{frames}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cloned_disk_speaks_under_an_epoch_of_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Arc::new(FakeBroker::default());
    broker.set_down(true);
    let outbox = open(dir.path(), OutboxLimits::default(), &broker).await;
    let handle = outbox.handle();
    handle
        .accept(vec![item(0, event("a", Kind::Click, handle.arrive().ms()))])
        .await
        .unwrap();
    let first = handle.status();
    outbox.drain(Duration::from_millis(10)).await;
    drop(handle);
    let clone = tempfile::tempdir().unwrap();
    for file in std::fs::read_dir(dir.path()).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), clone.path().join(file.file_name())).unwrap();
    }
    broker.set_down(false);
    let left = open(dir.path(), OutboxLimits::default(), &broker).await;
    let right = open(clone.path(), OutboxLimits::default(), &broker).await;
    let (l, r) = (left.handle().status(), right.handle().status());
    assert_eq!(l.producer, first.producer);
    assert!(l.epoch != r.epoch && l.epoch != first.epoch && r.epoch != first.epoch);
    left.handle()
        .accept(vec![item(0, event("l", Kind::Click, 1))])
        .await
        .unwrap();
    right
        .handle()
        .accept(vec![item(0, event("r", Kind::Click, 1))])
        .await
        .unwrap();
    assert!(left.drain(SOON).await.drained && right.drain(SOON).await.drained);
    let log = broker.read();
    assert_eq!(log.ids().into_iter().collect::<Vec<_>>(), ["a", "l", "r"]);
    assert_eq!(log.once.len(), 3);
}
