//! Every way in, against a real nats-server: what is answered is on the log, what is refused is in QUARANTINE.

#![allow(clippy::unwrap_used)]

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use adtally_streams::catalogue::{CatalogueError, Document, DocumentKind};
use adtally_streams::event::{Body, EdgeReason, Event, Flags};
use adtally_streams::frame::{EventMessage, decode_events};
use adtally_streams::refusal::{QuarantineRecord, Reason};
use async_nats::jetstream;
use axum::body::Body as HttpBody;
use axum::extract::ConnectInfo;
use axum::http::{Request, Response, header};
use axum::{Extension, Router};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use super::facts::FactSource;
use super::keys::{DayKeys, Hashed, day_of};
use super::{Border, now_ms};
use crate::catalogue_feed::{CatalogueHandle, Freshness, PublishError};
use crate::collector::{self, Collector, Signer};
use crate::intake::Intake;
use crate::log::embedded::NatsServer;
use crate::log::publisher::Publisher;
use crate::log::streams::{Limits, ensure};
use crate::outbox::{Outbox, OutboxHandle, OutboxLimits, OutboxOptions, Owner};
use crate::post_events;

const WITHIN: Duration = Duration::from_secs(20);

/// A server, its streams with one shard, and the catalogue of these tests.
struct Ground {
    dir: tempfile::TempDir,
    server: NatsServer,
    client: async_nats::Client,
    broker: jetstream::Context,
    catalogue: CatalogueHandle,
    stop: CancellationToken,
}

fn document(kind: DocumentKind, json: &str) -> Document {
    Document::from_json(kind, None, json.as_bytes()).unwrap()
}

fn documents() -> Vec<Document> {
    vec![
        document(
            DocumentKind::Advertiser,
            r#"{"advertiser_id":"acme","name":"Acme","currency_code":"USD","time_zone":"UTC"}"#,
        ),
        document(
            DocumentKind::Campaign,
            r#"{"campaign_id":"k1","advertiser_id":"acme","name":"K","status":"active","pricing":{"model":"cpc","price_micros":250000}}"#,
        ),
        document(
            DocumentKind::Ad,
            r#"{"ad_id":"ad1","campaign_id":"k1","landing_url":"https://shop.example/?k={click_id}","status":"active"}"#,
        ),
    ]
}

impl Ground {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let server = NatsServer::start(dir.path()).await.unwrap();
        let client = async_nats::connect(server.url()).await.unwrap();
        let broker = jetstream::new(client.clone());
        ensure(
            &broker,
            Some(1),
            &Limits {
                events_max_bytes: Some(64 << 20),
                ..Limits::default()
            },
        )
        .await
        .unwrap();
        let stop = CancellationToken::new();
        let file = dir.path().join("catalogue.snapshot");
        let (catalogue, _) = CatalogueHandle::start(broker.clone(), Some(file), stop.clone());
        assert!(eventually(async || catalogue.barrier().await == Freshness::Current).await);
        catalogue.publish_all(&documents()).await.unwrap();
        Self {
            dir,
            server,
            client,
            broker,
            catalogue,
            stop,
        }
    }

    fn border(&self, owner: Owner) -> (Border, Outbox, OutboxHandle) {
        let options = OutboxOptions {
            dir: self.dir.path().join(format!("outbox-{}", owner.name())),
            owner,
            producer_name: owner.name().to_owned(),
            shards: 1,
            limits: OutboxLimits::default(),
        };
        let outbox = Outbox::open(options, Arc::new(Publisher::new(self.client.clone()))).unwrap();
        let keys =
            DayKeys::open(&self.dir.path().join("day-keys"), Some(self.broker.clone())).unwrap();
        let facts = Arc::new(FactSource::open(keys, None, Vec::new()).unwrap());
        let handle = outbox.handle();
        (
            Border::new(facts, self.catalogue.clone(), handle.clone(), 1),
            outbox,
            handle,
        )
    }

    /// The payloads of a stream.
    async fn payloads(&self, stream: &str) -> Vec<bytes::Bytes> {
        let stream = self.broker.get_stream(stream).await.unwrap();
        let state = &stream.cached_info().state;
        let mut payloads = Vec::new();
        for sequence in state.first_sequence.max(1)..=state.last_sequence {
            payloads.push(stream.get_raw_message(sequence).await.unwrap().payload);
        }
        payloads
    }

    async fn events(&self) -> Vec<Event> {
        let decoded = self
            .payloads("EVENTS_0")
            .await
            .into_iter()
            .map(|payload| decode_events(&payload).unwrap());
        let frames = decoded.filter_map(|message| match message {
            EventMessage::Frame(frame) => Some(frame.events),
            EventMessage::Announcement { .. } => None,
        });
        frames.flatten().collect()
    }

    /// The log, once it holds so many events.
    async fn events_once_there(&self, count: usize) -> Vec<Event> {
        assert!(
            eventually(async || self.events().await.len() >= count).await,
            "{:?}",
            self.events().await
        );
        let events = self.events().await;
        assert_eq!(events.len(), count, "{events:?}");
        events
    }

    async fn quarantined_once_there(&self, count: usize) -> Vec<QuarantineRecord> {
        assert!(eventually(async || self.payloads("QUARANTINE").await.len() >= count).await);
        let records = self.payloads("QUARANTINE").await;
        records
            .iter()
            .map(|payload| serde_json::from_slice(payload).unwrap())
            .collect()
    }

    async fn end(self) {
        self.stop.cancel();
        self.server.stop().await;
    }
}

async fn eventually(mut is_so: impl AsyncFnMut() -> bool) -> bool {
    let until = tokio::time::Instant::now() + WITHIN;
    while tokio::time::Instant::now() < until {
        if is_so().await {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    false
}

fn served(router: Router) -> Router {
    let peer: SocketAddr = "127.0.0.1:4711".parse().unwrap();
    router.layer(Extension(ConnectInfo(peer)))
}

async fn ask(router: &Router, method: &str, target: &str, body: &str) -> Response<HttpBody> {
    let request = Request::builder()
        .method(method)
        .uri(target)
        .header(header::USER_AGENT, "curl/8.5.0");
    router
        .clone()
        .oneshot(request.body(HttpBody::from(body.to_owned())).unwrap())
        .await
        .unwrap()
}

fn is_in_force(ground: &Ground, id: &str) -> bool {
    ground
        .catalogue
        .read()
        .document(DocumentKind::Ad, id)
        .is_some()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_catalogue_is_current_after_a_barrier_and_survives_on_disk() {
    let ground = Ground::new().await;
    let revision = ground.catalogue.revision();
    assert_eq!(
        ground.catalogue.publish_all(&documents()).await.unwrap(),
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
        assert_eq!(ground.catalogue.barrier().await, Freshness::Current);
        assert!(is_in_force(&ground, &format!("x{n}")), "{n}");
    }
    let moved = document(
        DocumentKind::Advertiser,
        r#"{"advertiser_id":"acme","name":"Acme","currency_code":"EUR","time_zone":"UTC"}"#,
    );
    let refused = ground.catalogue.publish(moved).await;
    assert!(
        matches!(
            refused,
            Err(PublishError::Refused(CatalogueError::Immutable { .. }))
        ),
        "{refused:?}"
    );
    // Two writers at once: all of it is in force in the end.
    let ad = |n: u32| {
        document(
            DocumentKind::Ad,
            &format!(
                r#"{{"ad_id":"y{n}","campaign_id":"k1","landing_url":"https://e.com/","status":"active"}}"#
            ),
        )
    };
    let writers: Vec<_> = (0..8).map(|n| ground.catalogue.publish(ad(n))).collect();
    for written in futures_util::future::join_all(writers).await {
        written.unwrap();
    }
    let many: Vec<Document> = (100..700).map(ad).collect();
    ground.catalogue.publish_all(&many).await.unwrap();
    assert!(
        (0..8)
            .chain(100..700)
            .all(|n| is_in_force(&ground, &format!("y{n}")))
    );

    // Without the broker: the copy on disk, and an honest word about it.
    ground.stop.cancel();
    let copy = ground.dir.path().join("catalogue.snapshot");
    assert!(eventually(async || copy.exists()).await);
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
    let ground = Ground::new().await;
    ground.stop.cancel();
    let copy = ground.dir.path().join("catalogue.snapshot");
    assert!(eventually(async || copy.exists()).await);
    ground.broker.delete_stream("CATALOG").await.unwrap();
    ensure(&ground.broker, Some(1), &Limits::default())
        .await
        .unwrap();
    let stop = CancellationToken::new();
    let (catalogue, _) = CatalogueHandle::start(ground.broker.clone(), Some(copy), stop.clone());
    assert!(catalogue.is_warm() && catalogue.revision() > 0);
    assert!(
        eventually(
            async || catalogue.barrier().await == Freshness::Current && catalogue.revision() == 0
        )
        .await
    );
    assert!(catalogue.read().ad("ad1").is_none());
    // And when it is replaced while it is being followed.
    catalogue.publish_all(&documents()).await.unwrap();
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
    let (now, what) = (now_ms(), Hashed::Given("x"));
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
    let old = super::keys_file::day_name(today - 31);
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

#[tokio::test(flavor = "multi_thread")]
async fn the_collector_answers_after_the_event_is_durable() {
    let ground = Ground::new().await;
    let (border, outbox, _) = ground.border(Owner::Collector);
    let signer = Some(Signer::new(b"s3cret"));
    let router = served(collector::router(Collector {
        border,
        signer,
        max_age: collector::DEFAULT_MAX_AGE,
    }));
    let click = ask(&router, "GET", "/click?ad_id=ad1&click_id=c1", "").await;
    assert_eq!(
        (click.status().as_u16(), &click.headers()["location"]),
        (302, &"https://shop.example/?k=c1".parse().unwrap())
    );
    assert_eq!(click.headers()["x-click-id"], "c1");
    let by_path = ask(&router, "GET", "/c/ad1?ts=nonsense", "").await;
    assert_eq!(by_path.status(), 302);
    let head = ask(&router, "HEAD", "/click?ad_id=ad1&click_id=c2", "").await;
    assert_eq!(
        (head.status().as_u16(), &head.headers()["x-click-id"]),
        (302, &"c2".parse().unwrap())
    );
    assert_eq!(
        ask(&router, "HEAD", "/click?ad_id=nobody", "")
            .await
            .status(),
        404
    );
    assert_eq!(
        ask(&router, "GET", "/i?ad_id=ad1", "").await.headers()["content-type"],
        "image/gif"
    );
    assert_eq!(
        ask(
            &router,
            "GET",
            "/conversion?advertiser_id=acme&click_id=c1",
            ""
        )
        .await
        .status(),
        204
    );
    assert_eq!(
        ask(
            &router,
            "POST",
            "/conversion?advertiser_id=acme",
            "click_id=c1&conversion_id=v1"
        )
        .await
        .status(),
        204
    );
    for (target, status) in [
        ("/click", 400),
        ("/click?ad_id=nobody", 404),
        ("/c/%FF", 400),
        ("/click?ad_id=ad1&url=https://e.com&exp=1&sig=00", 400),
        ("/i?ad_id=nobody", 404),
        ("/conversion?advertiser_id=acme", 400),
    ] {
        let answer = ask(&router, "GET", target, "").await;
        assert_eq!(answer.status().as_u16(), status, "{target}");
        assert_eq!(
            answer.headers()["content-type"],
            "application/problem+json",
            "{target}"
        );
    }
    assert_eq!(
        ask(&router, "DELETE", "/click?ad_id=ad1", "")
            .await
            .status(),
        405
    );
    let signature = Signer::new(b"s3cret").sign("nobody", "https://e.com/", 9_999_999_999);
    let signed = format!("/click?ad_id=nobody&url=https://e.com/&exp=9999999999&sig={signature}");
    assert_eq!(
        ask(&router, "GET", &signed, "").await.headers()["location"],
        "https://e.com/"
    );

    let events = ground.events_once_there(5).await;
    let c1 = events
        .iter()
        .find(|event| event.id.as_str() == "c1")
        .unwrap();
    let Body::Click(placement, detail) = &c1.body else {
        panic!("{c1:?}")
    };
    assert_eq!(
        (placement.verdict, placement.cost_micros),
        (Some(EdgeReason::KnownBot), 250_000)
    );
    assert_eq!(
        detail.landing_url.as_deref(),
        Some("https://shop.example/?k=c1")
    );
    assert!(
        c1.address_hash.is_some()
            && !c1.flags.has(Flags::NO_ADDRESS_KEY)
            && !c1.flags.has(Flags::MINTED_ID)
    );
    assert_eq!(
        events
            .iter()
            .filter(|event| event.flags.has(Flags::BAD_TIME))
            .count(),
        1
    );
    assert_eq!(
        events
            .iter()
            .filter(|event| event.flags.has(Flags::MINTED_ID))
            .count(),
        3
    );
    let records = ground.quarantined_once_there(6).await;
    let mut reasons: Vec<Reason> = records.iter().map(|record| record.reason).collect();
    reasons.sort_unstable();
    let mut expected = [
        Reason::UnknownAd,
        Reason::BadId,
        Reason::BadSignature,
        Reason::UnknownAd,
        Reason::MissingClickOrUser,
        Reason::UnknownAd,
    ];
    expected.sort_unstable();
    assert_eq!(reasons, expected, "no ad_id at all is no event");
    let c = records
        .iter()
        .find(|record| record.reason == Reason::BadId)
        .unwrap();
    assert_eq!(
        (c.subject.as_str(), c.payload.as_deref()),
        ("http:GET /c/%FF", Some("/c/%FF"))
    );
    assert!(outbox.drain(WITHIN).await.drained);
    ground.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn posted_events_each_have_an_outcome() {
    let ground = Ground::new().await;
    let (border, outbox, _) = ground.border(Owner::Collector);
    let router = served(post_events::router(border));
    let body = r#"[{"kind":"click","click_id":"c1","ad_id":"ad1","ip":"192.0.2.1"},{"kind":"click","ad_id":"ad1"},
        {"kind":"impression","impression_id":"i1","ad_id":"nobody"},{"kind":"impression","impression_id":"i1","ad_id":"ad1"}, 7]"#;
    let answer = ask(&router, "POST", "/api/v1/events", body).await;
    assert_eq!(answer.status(), 202);
    let bytes = axum::body::to_bytes(answer.into_body(), 10_000)
        .await
        .unwrap();
    let posted: post_events::Posted = serde_json::from_slice(&bytes).unwrap();
    let rejected: Vec<_> = posted
        .rejected
        .iter()
        .map(|r| (r.index, r.reason.as_str()))
        .collect();
    assert_eq!(
        (posted.accepted, rejected),
        (
            2,
            vec![
                (1, "missing_event_id"),
                (2, "unknown_ad"),
                (4, "invalid_payload")
            ]
        )
    );
    assert_eq!(
        ask(&router, "POST", "/api/v1/events", "hello")
            .await
            .status(),
        400
    );
    assert_eq!(
        ask(&router, "GET", "/api/v1/events", "").await.status(),
        405
    );
    let events = ground.events_once_there(2).await;
    assert!(events.iter().any(|event| event.address_hash.is_some()));
    let records = ground.quarantined_once_there(3).await;
    assert!(
        records
            .iter()
            .all(|record| record.subject == "http:POST /api/v1/events")
    );
    assert!(
        records
            .iter()
            .any(|record| record.payload.as_deref() == Some("7"))
    );
    assert!(outbox.drain(WITHIN).await.drained);
    ground.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_intake_empties_its_stream_into_the_log() {
    let ground = Ground::new().await;
    let (border, outbox, handle) = ground.border(Owner::Intake);
    let stop = CancellationToken::new();
    let intake = Intake {
        border,
        outbox: handle,
        broker: ground.broker.clone(),
    };
    let running = tokio::spawn(intake.run(stop.clone()));
    for n in 0..500 {
        let payload = format!(r#"{{"click_id":"c{n}"}}"#);
        ground
            .broker
            .publish("ads.click.ad1", payload.into())
            .await
            .unwrap()
            .await
            .unwrap();
    }
    ground
        .broker
        .publish("ads.click.ad1", "nonsense".into())
        .await
        .unwrap()
        .await
        .unwrap();
    ground
        .broker
        .publish("ads.click.nobody", r#"{"click_id":"z"}"#.into())
        .await
        .unwrap()
        .await
        .unwrap();
    // Published, and then its ad, and then a click: never "unknown ad".
    let ad =
        r#"{"ad_id":"fresh","campaign_id":"k1","landing_url":"https://e.com/","status":"active"}"#;
    ground
        .broker
        .publish("catalog.ad.fresh", ad.into())
        .await
        .unwrap()
        .await
        .unwrap();
    ground
        .broker
        .publish("ads.click.fresh", r#"{"click_id":"f"}"#.into())
        .await
        .unwrap()
        .await
        .unwrap();
    let events = ground.events_once_there(501).await;
    assert!(events.iter().any(|event| event.id.as_str() == "f"));
    let records = ground.quarantined_once_there(2).await;
    let stored: Vec<_> = records
        .iter()
        .map(|r| (r.reason.name(), r.stream.as_deref(), r.sequence))
        .collect();
    assert!(
        stored.contains(&("invalid_payload", Some("INTAKE"), Some(501))),
        "{stored:?}"
    );
    assert!(
        stored.contains(&("unknown_ad", Some("INTAKE"), Some(502))),
        "{stored:?}"
    );
    assert!(
        eventually(async || ground.payloads("INTAKE").await.is_empty()).await,
        "all is acknowledged"
    );
    stop.cancel();
    running.await.unwrap();
    assert!(outbox.drain(WITHIN).await.drained);
    ground.end().await;
}
