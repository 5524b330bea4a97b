//! Whatever comes in: a clear 4xx problem document, a counter, no panic, no 5xx but 503, and no neighbour lost.

use serde_json::json;

use crate::support::http::{ask, ask_as, metric, post_json, send, wait_totals};
use crate::support::{Options, Server, get, small_catalogue};

fn started() -> Server {
    let server = Server::start(Options::default());
    server.apply_catalogue(&small_catalogue());
    server
}

fn still_whole(server: &Server) {
    let (status, body) = get(&format!("{}/healthz", server.url));
    assert_eq!(status, 200, "{body}");
    assert!(!server.log().contains("panicked"), "{}", server.log());
}

#[test]
fn bad_questions_are_answered_with_what_is_wrong() {
    let server = started();
    let long = "x".repeat(10_000);
    for (parameter, query) in [
        ("campaign_id", "".to_owned()),
        ("campaign_id", "campaign_id=has%20space".to_owned()),
        ("campaign_id", format!("campaign_id={long}")),
        ("campaign_id", "campaign_id=%ff%fe".to_owned()),
        (
            "start",
            "campaign_id=spring&start=yesterday&end=2026-01-01T00:00Z".to_owned(),
        ),
        (
            "end",
            "campaign_id=spring&start=2026-01-02T00:00Z&end=2026-01-01T00:00Z".to_owned(),
        ),
        (
            "granularity",
            "campaign_id=spring&granularity=second".to_owned(),
        ),
        ("group_by", "campaign_id=spring&group_by=colour".to_owned()),
        (
            "time_zone",
            "campaign_id=spring&time_zone=Mars/Olympus".to_owned(),
        ),
        ("fill", "campaign_id=spring&fill=maybe".to_owned()),
        ("format", "campaign_id=spring&format=xml".to_owned()),
        (
            "campain_id",
            "campain_id=spring&campaign_id=spring".to_owned(),
        ),
        (
            "",
            "campaign_id=spring&granularity=minute&start=1926-01-01T00:00Z&end=2026-01-01T00:00Z"
                .to_owned(),
        ),
    ] {
        let answer = ask(&server, &format!("/api/v1/analytics?{query}"));
        assert_eq!(answer.status, 400, "{query}: {}", answer.text());
        let problem = answer.problem();
        if !parameter.is_empty() {
            assert_eq!(problem["parameter"], parameter, "{query}: {problem}");
        }
    }
    assert_eq!(ask(&server, "/api/v1/nothing-such").status, 404);
    ask(&server, "/api/v1/nothing-such").problem();
    let wrong_method = ask_as(&server, "DELETE", "/api/v1/analytics", &[]);
    assert_eq!(wrong_method.status, 405);
    wrong_method.problem();
    still_whole(&server);
}

#[test]
fn bad_items_do_not_lose_their_neighbours() {
    let server = started();
    let now = chrono::Utc::now().timestamp();
    let items = json!([
        {"kind": "click", "click_id": "a", "ad_id": "banner", "ts": now},
        {"kind": "click", "ad_id": "banner"},
        {"kind": "view", "click_id": "b", "ad_id": "banner"},
        {"kind": "click", "click_id": "c", "ad_id": "nobody"},
        {"kind": "click", "click_id": "d", "ad_id": "banner", "ts": now + 3600},
        {"kind": "click", "click_id": "e", "ad_id": "banner", "cost_micros": -1},
        "not an object",
        {"kind": "click", "click_id": "f f", "ad_id": "banner"},
        {"kind": "conversion", "conversion_id": "g", "advertiser_id": "acme"},
        {"kind": "impression", "impression_id": "h", "ad_id": "banner", "ts": now, "nested": {"deep": [1, 2, {"x": null}]}},
        {"click_id": "i", "ad_id": "banner"},
    ]);
    let posted = |reason: &str| format!("reason=\"{reason}\",way=\"post\"");
    let refused = |reason| metric(&server, "adtally_events_refused_total", &posted(reason));
    // A series is there before its first increase, which an alert would not see otherwise.
    let (_, page) = get(&format!("{}/metrics", server.url));
    for series in [
        "adtally_events_refused_total{reason=\"unknown_ad\",way=\"collector\"}",
        "adtally_events_refused_total{reason=\"unknown_ad\",way=\"post\"}",
        "adtally_events_refused_total{reason=\"unknown_ad\",way=\"nats\"}",
        "adtally_events_accepted_total{kind=\"conversion\",way=\"nats\"}",
        "adtally_publish_retries_total{why=\"refused\"}",
    ] {
        let none_yet = format!("{series} 0");
        assert!(
            page.lines().any(|line| line == none_yet),
            "{series}: {page}"
        );
    }
    let answer = post_json(&server, "/api/v1/events", &items);
    assert_eq!(answer.status, 202, "{}", answer.text());
    let answer = answer.json();
    assert_eq!(answer["accepted"], 2);
    let reasons: Vec<_> = answer["rejected"]
        .as_array()
        .unwrap()
        .iter()
        .map(|r| (r["index"].as_u64().unwrap(), r["reason"].as_str().unwrap()))
        .collect();
    assert_eq!(
        reasons,
        [
            (1, "missing_event_id"),
            (2, "unknown_kind"),
            (3, "unknown_ad"),
            (4, "ts_in_future"),
            (5, "bad_amount"),
            (6, "invalid_payload"),
            (7, "bad_id"),
            (8, "missing_click_or_user"),
            (10, "unknown_kind"),
        ]
    );
    wait_totals(&server, "spring", &[("clicks", 1), ("impressions", 1)]);
    for reason in reasons.iter().map(|(_, reason)| *reason) {
        let times = reasons.iter().filter(|(_, other)| *other == reason).count();
        assert_eq!(refused(reason), times as f64, "{reason}");
    }
    still_whole(&server);
}

#[test]
fn bodies_that_are_no_events_are_refused_whole() {
    let server = started();
    let deep = "[".repeat(100_000);
    for (what, headers, body, expected) in [
        ("nothing", vec![], Vec::new(), vec![400]),
        (
            "no JSON",
            vec![("content-type", "application/json")],
            b"hello".to_vec(),
            vec![400, 422],
        ),
        (
            "cut off",
            vec![("content-type", "application/json")],
            b"[{\"kind\":\"click\"".to_vec(),
            vec![400, 422],
        ),
        (
            "not UTF-8",
            vec![("content-type", "application/json")],
            vec![b'[', 0xff, 0xfe, b']'],
            vec![400, 422],
        ),
        (
            "deeply nested",
            vec![("content-type", "application/json")],
            deep.into_bytes(),
            vec![400, 422],
        ),
        (
            "10 MB",
            vec![("content-type", "application/json")],
            vec![b' '; 10 << 20],
            vec![413],
        ),
    ] {
        let answer = send(&server, "POST", "/api/v1/events", &headers, body);
        assert!(
            expected.contains(&answer.status),
            "{what}: {} {}",
            answer.status,
            answer.text()
        );
        answer.problem();
    }
    let lines = "{\"kind\":\"click\",\"click_id\":\"n1\",\"ad_id\":\"banner\"}\n\nnonsense\n{\"kind\":\"click\",\"click_id\":\"n2\",\"ad_id\":\"banner\"}\n";
    let answer = send(
        &server,
        "POST",
        "/api/v1/events",
        &[("content-type", "application/x-ndjson")],
        lines.into(),
    );
    assert_eq!(answer.status, 202, "{}", answer.text());
    assert_eq!(
        (
            answer.json()["accepted"].as_u64(),
            answer.json()["rejected"].as_array().unwrap().len()
        ),
        (Some(2), 1)
    );
    wait_totals(&server, "spring", &[("clicks", 2)]);
    still_whole(&server);
}

#[test]
fn random_requests_never_make_a_5xx() {
    let server = started();
    // A small linear congruential generator: the bytes are arbitrary, and the same at every run.
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut next = move || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as u8
    };
    let names = [
        "ad_id",
        "ts",
        "click_id",
        "url",
        "sig",
        "exp",
        "campaign_id",
        "start",
        "end",
        "group_by",
        "limit",
        "cursor",
        "window",
        "value_micros",
    ];
    let paths = [
        "/click",
        "/i",
        "/conversion",
        "/c/banner",
        "/api/v1/analytics",
        "/api/v1/top",
        "/api/v1/rolling",
        "/api/v1/trending",
        "/api/v1/fraud",
        "/api/v1/fraud/clicks",
        "/api/v1/catalog/ads/banner",
    ];
    for n in 0..400 {
        let mut query = String::from("ad_id=banner");
        for _ in 0..next() % 5 {
            let value: String = (0..next() % 24)
                .map(|_| format!("%{:02x}", next()))
                .collect();
            query.push_str(&format!(
                "&{}={value}",
                names[usize::from(next()) % names.len()]
            ));
        }
        let answer = ask(&server, &format!("{}?{query}", paths[n % paths.len()]));
        assert!(
            answer.status < 500 || answer.status == 503,
            "{} {query}",
            answer.status
        );
    }
    for _ in 0..100 {
        let body: Vec<u8> = (0..next()).map(|_| next()).collect();
        let answer = send(&server, "POST", "/api/v1/events", &[], body);
        assert!(answer.status < 500, "{} {}", answer.status, answer.text());
    }
    still_whole(&server);
}
