//! The catalogue and the day keys against a real broker: never behind, and never of another stream.

use std::path::Path;

use adtally_streams::catalogue::{CatalogueError, Document, DocumentKind};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::border::keys::{Hashed, day_of};
use crate::border::keys_file;
use crate::catalogue_feed::PublishError;

fn is_in_force(ground: &Ground, id: &str) -> bool {
    ground
        .catalogue
        .read()
        .document(DocumentKind::Ad, id)
        .is_some()
}

#[tokio::test(flavor = "multi_thread")]
async fn questions_for_many_events_are_apart_and_each_is_of_after_its_events() {
    let ground = Ground::new().await;
    publish_all(&ground.catalogue, &documents()).await;
    let is_current = async || ground.catalogue.barrier_for(500).await == Freshness::Current;
    assert!(eventually(is_current).await);
    // As many as a broker on this machine answers in a tenth of the time, if nobody waits with asking.
    let began = std::time::Instant::now();
    for _ in 0..50 {
        ground.catalogue.barrier_for(500).await;
    }
    assert!(began.elapsed() >= Duration::from_millis(49 * 3));
    for n in 0..20 {
        let ad = format!(
            r#"{{"ad_id":"m{n}","campaign_id":"k1","landing_url":"https://e.com/","status":"active"}}"#
        );
        let subject = format!("catalog.ad.m{n}");
        let published = ground.broker.publish(subject, ad.into()).await.unwrap();
        published.await.unwrap();
        assert!(eventually(is_current).await);
        assert!(is_in_force(&ground, &format!("m{n}")), "{n}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_catalogue_is_current_after_a_barrier_and_survives_on_disk() {
    let mut ground = Ground::new().await;
    let revision = ground.catalogue.revision();
    publish_all(&ground.catalogue, &documents()).await;
    assert_eq!(
        ground.catalogue.revision(),
        revision,
        "nothing is written twice"
    );
    // Another program publishes, with an acknowledgement; the barrier afterwards sees it.
    for n in 0..50 {
        let ad = format!(
            r#"{{"ad_id":"x{n}","campaign_id":"k1","landing_url":"https://e.com/","status":"active"}}"#
        );
        ground
            .broker
            .publish(format!("catalog.ad.x{n}"), ad.into())
            .await
            .unwrap()
            .await
            .unwrap();
        assert!(eventually(async || ground.catalogue.barrier().await == Freshness::Current).await);
        assert!(is_in_force(&ground, &format!("x{n}")), "{n}");
    }
    let moved = document(
        DocumentKind::Advertiser,
        r#"{"advertiser_id":"acme","name":"Acme","currency_code":"EUR","time_zone":"UTC"}"#,
    );
    let is_refused = async || {
        let refused = ground.catalogue.publish(moved.clone()).await;
        matches!(
            refused,
            Err(PublishError::Refused(CatalogueError::Immutable { .. }))
        )
    };
    assert!(eventually(is_refused).await);
    // Two writers at once: all of it is in force in the end.
    let ad = |n: u32| {
        document(
            DocumentKind::Ad,
            &format!(
                r#"{{"ad_id":"y{n}","campaign_id":"k1","landing_url":"https://e.com/","status":"active"}}"#
            ),
        )
    };
    let ads: Vec<[Document; 1]> = (0..8).map(|n| [ad(n)]).collect();
    let writers = ads.iter().map(|ad| publish_all(&ground.catalogue, ad));
    futures_util::future::join_all(writers).await;
    let many: Vec<Document> = (100..700).map(ad).collect();
    publish_all(&ground.catalogue, &many).await;
    assert!(
        (0..8)
            .chain(100..700)
            .all(|n| is_in_force(&ground, &format!("y{n}")))
    );

    // Without the broker: the copy on disk, and an honest word about it.
    let copy = ground.written_copy().await;
    let before = ground.catalogue.read().clone();
    ground.server.stop().await;
    let stop = CancellationToken::new();
    let (cold, _) = CatalogueHandle::start(ground.broker.clone(), None, stop.clone());
    assert_eq!(cold.barrier().await, Freshness::Cold);
    assert!(
        eventually(async || {
            let (warm, _) =
                CatalogueHandle::start(ground.broker.clone(), Some(copy.clone()), stop.clone());
            warm.barrier().await == Freshness::Stale && *warm.read() == before
        })
        .await
    );
    stop.cancel();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_of_another_stream_is_forgotten() {
    let mut ground = Ground::new().await;
    let copy = ground.written_copy().await;
    ground.broker.delete_stream("CATALOG").await.unwrap();
    ensure(&ground.broker, Some(1), &Limits::default())
        .await
        .unwrap();
    // The copy is believed until the broker is heard; one that is told to stop never hears it, however slow we are.
    let deaf = CancellationToken::new();
    deaf.cancel();
    let (known, _) = CatalogueHandle::start(ground.broker.clone(), Some(copy.clone()), deaf);
    assert!(known.is_warm() && known.revision() > 0);
    let stop = CancellationToken::new();
    let (catalogue, _) = CatalogueHandle::start(ground.broker.clone(), Some(copy), stop.clone());
    assert!(
        eventually(
            async || catalogue.barrier().await == Freshness::Current && catalogue.revision() == 0
        )
        .await
    );
    assert!(catalogue.read().ad("ad1").is_none());
    // And when it is replaced while it is being followed.
    publish_all(&catalogue, &documents()).await;
    ground.broker.delete_stream("CATALOG").await.unwrap();
    ensure(&ground.broker, Some(1), &Limits::default())
        .await
        .unwrap();
    assert!(
        eventually(
            async || catalogue.barrier().await == Freshness::Current && catalogue.revision() == 0
        )
        .await
    );
    stop.cancel();
    ground.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn all_processes_agree_on_a_days_key() {
    let ground = Ground::new().await;
    let (now, what) = (chrono::Utc::now().timestamp_millis(), Hashed::Given("x"));
    let today = day_of(now);
    let open = |name: &str| {
        DayKeys::open(&ground.dir.path().join(name), Some(ground.broker.clone())).unwrap()
    };
    let all: Vec<DayKeys> = (0..6).map(|n| open(&format!("keys-{n}"))).collect();
    futures_util::future::join_all(
        all.iter()
            .map(|keys| async { keys.ensure(&[today, today - 30], now).await }),
    )
    .await;
    for day in [today, today - 30] {
        let hash = all[0].hash(day, what);
        assert!(hash.is_some() && all.iter().all(|keys| keys.hash(day, what) == hash));
    }
    let bucket = ground
        .broker
        .get_key_value("ADTALLY_DAY_KEYS")
        .await
        .unwrap();
    let old = keys_file::day_name(today - 31);
    bucket.put(&old, vec![1; 32].into()).await.unwrap();
    let stop = CancellationToken::new();
    let upkeep = tokio::spawn(all[0].clone().upkeep(move || now, stop.clone()));
    assert!(
        eventually(async || bucket.get(&old).await.unwrap().is_none()).await,
        "old keys are deleted"
    );
    assert!(
        eventually(async || all[0].hash(today + 1, what).is_some()).await,
        "tomorrow's is fetched ahead"
    );
    stop.cancel();
    upkeep.await.unwrap();
    ground.end().await;
    let again = DayKeys::open(Path::new("/nonexistent/day-keys"), None).unwrap();
    assert_eq!(again.hash(today, what), None);
}
