//! The outbox on a real disk, against a log that loses, repeats, forgets and refuses.
//!
//! The oracle is the set of answered events: after dropping counters that came twice, the log holds each of them
//! once, and whatever was announced was stored before.

#![allow(clippy::unwrap_used)]

mod broker;
mod crash;
mod disk;
mod failing_disk;
mod figures;
mod live;
mod salvage;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use adtally_streams::event::{Body, ConversionDetail, Event, Flags, Kind, Placement};
use adtally_streams::id::Id;
use adtally_streams::refusal::{QuarantineRecord, Reason, Refusal};

use super::{Item, Outbox, OutboxError, OutboxLimits, OutboxOptions, Owner};
use broker::FakeBroker;

const SHARDS: u16 = 2;
const SOON: Duration = Duration::from_secs(20);

fn options(dir: &Path, limits: OutboxLimits) -> OutboxOptions {
    let (owner, producer_name) = (Owner::Collector, "edge".to_owned());
    OutboxOptions {
        dir: dir.to_owned(),
        owner,
        producer_name,
        shards: SHARDS,
        limits,
    }
}

/// Opens, waiting for an opening that was dropped a moment ago to let go of the folder.
async fn open(dir: &Path, limits: OutboxLimits, broker: &Arc<FakeBroker>) -> Outbox {
    for _ in 0..500 {
        match Outbox::open(options(dir, limits.clone()), Arc::clone(broker) as Arc<_>) {
            Ok(outbox) => return outbox,
            Err(OutboxError::Disk { .. }) => tokio::time::sleep(Duration::from_millis(10)).await,
            Err(other) => panic!("{other}"),
        }
    }
    panic!("the folder was not let go");
}

fn event(id: &str, kind: Kind, arrival_ms: i64) -> Event {
    let placement = Placement {
        ad_id: Id::new("ad-1").unwrap(),
        campaign_id: Id::new("camp-1").unwrap(),
        creative: "".into(),
        region: "DE".into(),
        device: Default::default(),
        cost_micros: Default::default(),
        verdict: None,
    };
    Event {
        id: Id::new(id).unwrap(),
        event_time_ms: arrival_ms,
        arrival_ms,
        advertiser_id: Some(Id::new("adv-1").unwrap()),
        currency: None,
        utc_offset_s: 3_600,
        catalogue_revision: 7,
        content_hash: 42,
        flags: Flags::default(),
        address_hash: Some(9),
        user_id: None,
        user_agent: Some("Mozilla/5.0 (X11; Linux x86_64)".into()),
        referrer: None,
        body: match kind {
            Kind::Impression => Body::Impression(placement),
            Kind::Click => Body::Click(placement, Default::default()),
            Kind::Conversion => Body::Conversion(ConversionDetail {
                click_id: Some(Id::new("c").unwrap()),
                order_id: None,
                value_micros: Default::default(),
            }),
        },
    }
}

fn item(shard: u16, event: Event) -> Item {
    Item::Event { shard, event }
}

fn refused(n: usize) -> QuarantineRecord {
    let refusal = Refusal::new(Reason::BadId, format!("number {n}"));
    QuarantineRecord::new(refusal, "ads.click.x", 5, b"{}")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_answered_reaches_the_log_once_and_the_end_is_announced() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Arc::new(FakeBroker::default());
    let outbox = open(dir.path(), OutboxLimits::default(), &broker).await;
    let handle = outbox.handle();
    for n in 0..300_u16 {
        let arrival = handle.arrive();
        let kind = Kind::ALL[usize::from(n) % 3];
        let items = vec![
            item(n % SHARDS, event(&format!("e{n}"), kind, arrival.ms())),
            Item::Refused(refused(usize::from(n))),
        ];
        handle.accept(items).await.unwrap();
    }
    let report = outbox.drain(SOON).await;
    assert!(report.drained && report.left_events == 0, "{report:?}");
    let log = broker.read();
    assert_eq!(log.ids().len(), 300);
    assert_eq!((log.once.len(), log.again), (300, 0));
    assert_eq!(
        log.drained
            .iter()
            .map(|(_, shard)| *shard)
            .collect::<Vec<_>>(),
        [0, 1]
    );
    let records: Vec<_> = broker
        .messages()
        .into_iter()
        .filter(|m| m.subject == "quarantine.bad_id")
        .collect();
    assert_eq!(records.len(), 300);
    let epoch = log.drained.iter().next().unwrap().0;
    let mut ids: Vec<_> = records.iter().filter_map(|m| m.id.clone()).collect();
    ids.sort_by_key(|id| id.rsplit('-').next().unwrap().parse::<u64>().unwrap());
    assert_eq!(ids[17], format!("{epoch}-quarantine-17-17"));
    let detail: serde_json::Value = serde_json::from_slice(&records[0].payload).unwrap();
    assert!(detail["detail"].as_str().unwrap().starts_with("number "));
    let error = handle
        .accept(vec![Item::Refused(refused(0))])
        .await
        .unwrap_err();
    assert!(matches!(error, OutboxError::Closed));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_fsync_answers_everybody_who_waits() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Arc::new(FakeBroker::default());
    let outbox = open(dir.path(), OutboxLimits::default(), &broker).await;
    let mut waiting = tokio::task::JoinSet::new();
    for n in 0..512 {
        let handle = outbox.handle();
        waiting.spawn(async move {
            for i in 0..4 {
                let arrival = handle.arrive();
                let event = event(&format!("e{n}-{i}"), Kind::Click, arrival.ms());
                handle.accept(vec![item(0, event)]).await.unwrap();
            }
        });
    }
    while let Some(done) = waiting.join_next().await {
        done.unwrap();
    }
    let status = outbox.handle().status();
    assert_eq!(status.accepted_events, 2_048);
    assert!(status.fsyncs < 1_024, "{status:?}");
    assert!(outbox.drain(SOON).await.drained);
    assert_eq!(broker.read().ids().len(), 2_048);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_outbox_says_so_and_takes_events_again_later() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Arc::new(FakeBroker::default());
    broker.set_down(true);
    let limits = OutboxLimits {
        unsent_max_bytes: 20_000,
        ..OutboxLimits::default()
    };
    let outbox = open(dir.path(), limits, &broker).await;
    let handle = outbox.handle();
    let mut taken = 0;
    let error = loop {
        let event = event(&format!("e{taken}"), Kind::Click, handle.arrive().ms());
        match handle.accept(vec![item(0, event)]).await {
            Ok(()) => taken += 1,
            Err(error) => break error,
        }
    };
    assert!(
        matches!(
            error,
            OutboxError::Full {
                limit_bytes: 20_000,
                ..
            }
        ),
        "{error}"
    );
    assert!(taken > 20 && handle.status().unsent_events == taken);
    assert!(handle.status().oldest_unacked_ms.is_some());
    broker.set_down(false);
    while handle.status().unsent_events > 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(handle.status().unsent_bytes, 0);
    handle
        .accept(vec![item(
            0,
            event("last", Kind::Click, handle.arrive().ms()),
        )])
        .await
        .unwrap();
    assert!(outbox.drain(SOON).await.drained);
    assert_eq!(broker.read().ids().len() as u64, taken + 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_stream_keeps_the_events_and_is_reported() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Arc::new(FakeBroker::default());
    broker.set_full(true);
    let outbox = open(dir.path(), OutboxLimits::default(), &broker).await;
    let handle = outbox.handle();
    handle
        .accept(vec![item(0, event("a", Kind::Click, handle.arrive().ms()))])
        .await
        .unwrap();
    while handle.status().full_lanes == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let report = outbox.drain(Duration::from_millis(100)).await;
    assert_eq!((report.drained, report.left_events), (false, 1));
    drop(handle);
    broker.set_full(false);
    let outbox = open(dir.path(), OutboxLimits::default(), &broker).await;
    assert!(outbox.drain(SOON).await.drained);
    let log = broker.read();
    assert_eq!(log.ids().len(), 1);
    assert_eq!(log.drained.len(), 4, "both epochs, to both shards");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_foreign_message_under_our_id_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Arc::new(FakeBroker::default());
    broker.set_down(true);
    let outbox = open(dir.path(), OutboxLimits::default(), &broker).await;
    let handle = outbox.handle();
    let epoch = handle.status().epoch;
    handle
        .accept(vec![item(
            1,
            event("mine", Kind::Click, handle.arrive().ms()),
        )])
        .await
        .unwrap();
    broker.plant(
        "events.1.click",
        &format!("{epoch}-click-0-0"),
        b"somebody else's",
    );
    broker.set_down(false);
    assert!(outbox.drain(SOON).await.drained);
    assert_eq!(broker.read().ids().len(), 1);
    assert!(
        broker
            .messages()
            .iter()
            .any(|m| m.id.as_deref() == Some(&format!("{epoch}-click-0-0-r1")))
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_intake_announces_nothing_past_its_limit() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Arc::new(FakeBroker::default());
    let options = OutboxOptions {
        owner: Owner::Intake,
        ..options(dir.path(), OutboxLimits::default())
    };
    let outbox = Outbox::open(options, Arc::clone(&broker) as Arc<_>).unwrap();
    let handle = outbox.handle();
    let arrival = handle.arrive_at(1_000);
    handle
        .accept(vec![item(0, event("a", Kind::Click, arrival.ms()))])
        .await
        .unwrap();
    drop(arrival);
    while handle.status().unsent_events > 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let latest = |broker: &FakeBroker| {
        broker
            .read()
            .watermarks
            .iter()
            .map(|(_, w)| w.through_ms)
            .max()
    };
    assert_eq!(
        latest(&broker),
        Some(0),
        "nothing is said before the limit is known"
    );
    handle.limit_arrival(Some(5_000));
    handle
        .accept(vec![item(0, event("b", Kind::Click, 6_000))])
        .await
        .unwrap();
    while handle.status().unsent_events > 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(latest(&broker), Some(4_999));
    assert!(outbox.drain(SOON).await.drained);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shard_that_does_not_exist_is_an_error_of_that_call_only() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Arc::new(FakeBroker::default());
    let outbox = open(dir.path(), OutboxLimits::default(), &broker).await;
    let handle = outbox.handle();
    let bad = handle.accept(vec![
        item(0, event("a", Kind::Click, 1)),
        item(9, event("b", Kind::Click, 1)),
    ]);
    let good = handle.accept(vec![item(0, event("c", Kind::Click, 1))]);
    let (bad, good) = tokio::join!(bad, good);
    assert!(
        matches!(
            bad,
            Err(OutboxError::NoSuchShard {
                shard: 9,
                shards: 2
            })
        ) && good.is_ok()
    );
    assert!(outbox.drain(SOON).await.drained);
    assert_eq!(broker.read().ids().into_iter().collect::<Vec<_>>(), ["c"]);
}
