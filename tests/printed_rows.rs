//! Texts of rows that are kept, from outside: each answer is byte for byte what a server prints that keeps none.

use std::collections::BTreeMap;

use chrono::{DateTime, Duration, DurationRound, Utc};
use serde_json::{Value, json};

use crate::support::http::{ask_as, gunzip, metric, post_json, wait_totals};
use crate::support::{Folder, Options, Server, get, small_catalogue};

const REGIONS: [&str; 12] = [
    "DE", "FR", "JP", "IT", "ES", "PL", "SE", "NO", "FI", "BR", "IN", "AU",
];
const BATCH: usize = 1_000;

fn midnight() -> DateTime<Utc> {
    Utc::now().duration_trunc(Duration::days(1)).unwrap() - Duration::days(2)
}

/// Posts so many clicks all over a day, of two ads that may stand in different shards.
fn post(server: &Server, from: usize, many: usize) {
    let items: Vec<Value> = (from..from + many)
        .map(|n| {
            let at = midnight() + Duration::seconds(n as i64 * 7_919 % 86_400);
            let region = REGIONS[n * n / 7 % REGIONS.len()];
            let ad = ["banner", "tower"][n % 2];
            json!({"kind": "click", "ad_id": ad, "geo": region, "device": "ios", "ts": at.to_rfc3339(), "click_id": format!("c-{n}")})
        })
        .collect();
    for some in items.chunks(BATCH) {
        let answer = post_json(server, "/api/v1/events", &json!(some));
        assert_eq!(answer.json()["accepted"], some.len(), "{}", answer.text());
    }
}

/// Large questions about the day, of every form, and of ranges that move on.
fn questions() -> Vec<String> {
    let mut out = Vec::new();
    for (moved, form) in [
        (0, "&granularity=minute"),
        (1, "&granularity=minute"),
        (7, "&granularity=minute"),
        (0, "&granularity=minute&fill=none"),
        (0, "&granularity=minute&format=csv"),
        (3, "&granularity=minute&format=ndjson"),
        (0, "&granularity=minute&metrics=clicks,cost_micros"),
        (0, "&granularity=minute&time_zone=Asia/Kolkata"),
        (60, "&granularity=minute&time_zone=Asia/Kolkata&format=csv"),
        (0, "&granularity=minute&time_zone=Australia/Lord_Howe"),
        // So many hours around it that they are many rows too.
        (0, "&granularity=hour&pad=15"),
        (1_440, "&granularity=hour&pad=15"),
    ] {
        let (form, pad) = match form.split_once("&pad=") {
            Some((form, days)) => (form, Duration::days(days.parse().unwrap())),
            None => (form, Duration::zero()),
        };
        let text = |at: DateTime<Utc>| at.format("%Y-%m-%dT%H:%M:%SZ");
        let from = midnight() + Duration::minutes(moved);
        out.push(format!(
            "/api/v1/analytics?campaign_id=spring&group_by=region,device&start={}&end={}{form}",
            text(from - pad),
            text(from + Duration::days(1) + pad)
        ));
    }
    out
}

/// The rows as they are printed: what stands around them says when it was asked.
fn rows(server: &Server, path: &str) -> String {
    let (status, body) = get(&format!("{}{path}", server.url));
    assert_eq!(status, 200, "{path}: {body}");
    rows_of(body)
}

/// The same as they are sent to who takes gzip.
fn packed_rows(server: &Server, path: &str) -> String {
    let answer = ask_as(server, "GET", path, &[("accept-encoding", "gzip, br")]);
    let body = String::from_utf8(gunzip(&answer)).unwrap();
    assert!(
        answer.body.len() * 2 < body.len(),
        "{path}: {} of {}",
        answer.body.len(),
        body.len()
    );
    rows_of(body)
}

fn rows_of(body: String) -> String {
    match body.split_once("\"rows\":") {
        Some((_, rest)) => {
            serde_json::from_str::<Value>(&body).unwrap();
            rest.rsplit_once(",\"as_of\"").unwrap().0.to_owned()
        }
        None => body,
    }
}

const HITS: &str = "adtally_printed_rows_hits_total";

#[test]
fn kept_texts_of_rows_change_no_byte_of_an_answer() {
    let folder = Folder::new();
    let options = || {
        Options::default()
            .data_dir(&folder)
            .env("ADTALLY_STREAMS_SHARDS", "2")
    };
    let mut server = Server::start(options());
    let mut catalogue = small_catalogue();
    catalogue["advertisers"][0]["time_zone"] = "UTC".into();
    let tower = json!({"ad_id": "tower", "campaign_id": "spring", "landing_url": "https://s.example/", "status": "active"});
    catalogue["ads"].as_array_mut().unwrap().push(tower);
    server.apply_catalogue(&catalogue);

    let mut counted = 0;
    let mut last = BTreeMap::new();
    // A second time, when some of it has changed.
    for many in [4_000, 30] {
        post(&server, counted, many);
        counted += many;
        wait_totals(&server, "spring", &[("clicks", counted as i64)]);
        let hits = metric(&server, HITS, "");
        for path in questions() {
            let first = rows(&server, &path);
            assert!(first.len() > 256 << 10, "{path}: {} bytes", first.len());
            for _ in 0..3 {
                assert!(rows(&server, &path) == first, "{path}");
                assert!(packed_rows(&server, &path) == first, "{path}");
            }
            if let Some(before) = last.insert(path, first.clone()) {
                assert!(before != first);
            }
        }
        assert!(metric(&server, HITS, "") > hits);
    }
    assert!(metric(&server, "adtally_printed_rows_misses_total", "") > 0.0);
    let used = metric(&server, "adtally_printed_rows_bytes", "");
    assert!(used > 0.0 && used <= f64::from(32 << 20), "{used}");
    assert_eq!(server.stop(), Some(0));

    let server = Server::start(options().env("ADTALLY_QUERY_BLOCK_CACHE", "0B"));
    wait_totals(&server, "spring", &[("clicks", counted as i64)]);
    for (path, kept) in &last {
        assert!(rows(&server, path) == *kept, "{path}");
        assert!(packed_rows(&server, path) == *kept, "{path}");
    }
    assert_eq!(metric(&server, HITS, ""), 0.0);
}

#[test]
fn every_answer_that_is_not_short_is_packed_for_who_takes_gzip_and_for_nobody_else() {
    let server = Server::start(Options::default());
    server.apply_catalogue(&small_catalogue());
    let minutes = "/api/v1/analytics?campaign_id=spring&granularity=minute&start=2026-01-01T00:00:00Z&end=2026-01-01T02:00:00Z";
    let ask = |path: &str, takes| ask_as(&server, "GET", path, &[("accept-encoding", takes)]);
    // What is not printed as rows is said of the same state in any coding; the gauges are not.
    for (path, is_constant) in [
        ("/api/openapi.json", true),
        (minutes, false),
        ("/metrics", false),
    ] {
        let plain = ask(path, "br");
        assert_eq!(
            (plain.status, plain.header("content-encoding")),
            (200, ""),
            "{path}"
        );
        let packed = ask(path, "gzip");
        let unpacked = gunzip(&packed);
        assert_eq!(packed.header("content-type"), plain.header("content-type"));
        assert!(packed.body.len() * 2 < unpacked.len(), "{path}");
        assert!(!is_constant || unpacked == plain.body, "{path}");
    }
    let of = |body: &[u8]| rows_of(String::from_utf8(body.to_vec()).unwrap());
    assert_eq!(
        of(&gunzip(&ask(minutes, "gzip"))),
        of(&ask(minutes, "identity").body)
    );
    // Who takes nothing at all is sent plain text, and an error stays the one that it is.
    for nothing in ["*;q=0", "identity;q=0", "gzip;q=0, identity;q=0"] {
        let plain = ask("/api/openapi.json", nothing);
        assert_eq!(
            (plain.status, plain.header("content-encoding")),
            (200, ""),
            "{nothing}"
        );
        let refused = ask(
            "/api/v1/analytics?campaign_id=spring&granularity=week",
            nothing,
        );
        assert_eq!(refused.problem()["status"], 400, "{nothing}");
    }
    for short in ["/healthz", "/api/v1/catalog/ads/banner", "/nothing"] {
        assert_eq!(ask(short, "gzip").header("content-encoding"), "", "{short}");
    }
}
