//! The ways in: collector, POST and intake.

use adtally_streams::event::{Body, EdgeReason, Flags};
use adtally_streams::refusal::Reason;

use super::*;
use crate::collector::{self, Collector, Desk, Signer};
use crate::intake::Intake;
use crate::post_events;

#[tokio::test(flavor = "multi_thread")]
async fn the_collector_answers_after_the_event_is_durable() {
    let ground = Ground::new().await;
    let (border, outbox, _) = ground.border(Owner::Collector);
    let signer = Some(Signer::new(b"s3cret"));
    let router = served(collector::router(Desk::open(Collector {
        border,
        signer,
        max_age: Duration::from_secs(7 * 86_400),
    })));
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
