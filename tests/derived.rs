//! Rolling windows, trending and top ads, against what the test counts of the events that it sent.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde_json::{Value, json};

use crate::support::http::{ask, post_json, wait_totals};
use crate::support::{Options, Server, small_catalogue};

const MINUTE: i64 = 60_000;
const HOUR: i64 = 60 * MINUTE;

/// One event that was sent.
struct Sent {
    kind: &'static str,
    ad: &'static str,
    time_ms: i64,
}

/// Impressions of three hours, a steady ad, an ad of four shards that bursts, and a newcomer.
fn traffic(now_ms: i64) -> Vec<Sent> {
    let minute = now_ms - now_ms % MINUTE;
    let at = |kind, ad, time_ms| Sent { kind, ad, time_ms };
    let mut out = Vec::new();
    for i in 0..300 {
        let ad = ["banner", "wide", "fresh"][i as usize % 3];
        let ago = i * 37 % 170 * MINUTE + i * 13 % 60 * 1_000 + 1;
        out.push(at("impression", ad, minute - ago));
    }
    out.extend((1..70).map(|n| at("click", "banner", minute - n * HOUR / 2)));
    out.extend((1..30).map(|n| at("click", "wide", minute - HOUR / 2 - n * HOUR)));
    out.extend((1..40).map(|n| at("click", "wide", minute - n * MINUTE)));
    out.extend((1..50).map(|n| at("click", "fresh", minute - n * MINUTE - 1)));
    out
}

fn send(server: &Server, sent: &[Sent]) {
    let item = |s: &Sent| {
        let ts = DateTime::<Utc>::from_timestamp_millis(s.time_ms)
            .unwrap()
            .to_rfc3339();
        json!({"kind": s.kind, format!("{}_id", s.kind): uuid::Uuid::new_v4().to_string(), "ad_id": s.ad, "ts": ts})
    };
    let items: Vec<Value> = sent.iter().map(item).collect();
    let answer = post_json(server, "/api/v1/events", &json!(items)).json();
    assert_eq!(answer["accepted"], sent.len(), "{answer}");
}

fn count(sent: &[Sent], kind: &str, passes: impl Fn(&Sent) -> bool) -> i64 {
    let counted = sent.iter().filter(|s| s.kind == kind && passes(s));
    counted.count() as i64
}

fn instant(value: &Value) -> i64 {
    DateTime::parse_from_rfc3339(value.as_str().unwrap())
        .unwrap()
        .timestamp_millis()
}

fn rolls(server: &Server, sent: &[Sent], query: &str, window: &str, minutes: i64) {
    let answer = server.json(&format!("/api/v1/rolling?campaign_id=spring{query}"));
    assert_eq!(answer["window"], window);
    assert_eq!(answer["time_zone"], "America/New_York");
    assert!(
        answer["as_of"]["events.0"].is_number() && answer["judged_through"].is_null(),
        "{answer}"
    );
    let rows = answer["rows"].as_array().unwrap();
    assert_eq!(rows.len(), 60);
    let last = instant(&rows[59]["time"]);
    let now = Utc::now().timestamp_millis();
    assert!(last % MINUTE == 0 && last <= now && now - last < 2 * MINUTE);
    for (n, row) in rows.iter().enumerate() {
        let end = last - (59 - n as i64) * MINUTE;
        let within = |s: &Sent| s.time_ms >= end - minutes * MINUTE && s.time_ms < end;
        let (impressions, clicks) = (
            count(sent, "impression", within),
            count(sent, "click", within),
        );
        assert_eq!(instant(&row["time"]), end);
        assert_eq!(row["impressions"], impressions, "{row}");
        assert_eq!(row["clicks"], clicks, "{row}");
        match impressions {
            0 => assert!(row["ctr"].is_null(), "{row}"),
            n => assert!(
                (row["ctr"].as_f64().unwrap() - clicks as f64 / n as f64).abs() < 1e-12,
                "{row}"
            ),
        }
    }
}

fn trends(server: &Server, sent: &[Sent]) {
    let answer = server.json("/api/v1/trending?advertiser_id=acme");
    let (start, end) = (instant(&answer["start"]), instant(&answer["end"]));
    assert!(end % MINUTE == 0 && end - start == HOUR, "{answer}");
    // New York's hours are hours of UTC.
    let past_end = start - start % HOUR;
    let hour = |ad: &str, from: i64| {
        count(sent, "click", |s| {
            s.ad == ad && (from..from + HOUR).contains(&s.time_ms)
        })
    };
    let past: Vec<f64> = (1..=24)
        .map(|back| hour("wide", past_end - back * HOUR) as f64)
        .collect();
    let mean = past.iter().sum::<f64>() / 24.0;
    let variance = past.iter().map(|n| (n - mean).powi(2)).sum::<f64>() / 23.0;
    let clicks = hour("wide", start);
    let difference = 2.0 * ((clicks as f64 + 0.375).sqrt() - (mean + 0.375).sqrt());
    let score = difference / ((variance / mean).max(1.0) * 25.0 / 24.0).sqrt();
    // The steady one does not stand out, and the newcomer has no past.
    let rows = answer["rows"].as_array().unwrap();
    assert_eq!(rows.len(), 1, "{answer}");
    let row = &rows[0];
    assert_eq!(
        (&row["ad_id"], &row["campaign_id"]),
        (&json!("wide"), &json!("spring"))
    );
    assert_eq!(row["clicks"], clicks);
    let impressions = count(sent, "impression", |s| {
        s.ad == "wide" && (start..end).contains(&s.time_ms)
    });
    assert_eq!(row["impressions"], impressions);
    assert_eq!(row["baseline_hours"], 24);
    let close = |name: &str, want: f64| {
        let got = row[name].as_f64().unwrap();
        assert!((got - want).abs() < 1e-9, "{name}: {got}, not {want}");
    };
    close("baseline_clicks_per_hour", mean);
    close("score", score);
    assert!(score > 3.0, "{score}");
}

fn tops(server: &Server, sent: &[Sent]) {
    let of = |kind: &str| -> BTreeMap<&str, i64> {
        let ads = ["banner", "fresh", "wide"];
        ads.map(|ad| (ad, count(sent, kind, |s| s.ad == ad))).into()
    };
    let (clicks, impressions) = (of("click"), of("impression"));
    for by in ["cost_micros", "clicks", "ctr"] {
        let mut want = ["banner", "fresh", "wide"];
        // Each click costs the same and each ad has impressions.
        let rank = |ad: &str| match by {
            "ctr" => clicks[ad] as f64 / impressions[ad] as f64,
            _ => clicks[ad] as f64,
        };
        want.sort_by(|a, b| rank(b).total_cmp(&rank(a)));
        for limit in [1, 2, 3] {
            let answer = server.json(&format!(
                "/api/v1/top?advertiser_id=acme&start=2001-01-01T00:00Z&end=2100-01-01T00:00Z&by={by}&limit={limit}"
            ));
            let ads: Vec<_> = answer["rows"]
                .as_array()
                .unwrap()
                .iter()
                .map(|r| r["ad_id"].as_str().unwrap())
                .collect();
            assert_eq!(ads, want[..limit], "{by} {limit}: {answer}");
        }
    }
    let by_default = server.json("/api/v1/top?advertiser_id=acme");
    assert_eq!(by_default["by"], "cost_micros");
}

#[test]
fn windows_trends_and_tops_are_those_of_what_was_sent() {
    let server = Server::start(Options::default());
    let mut catalogue = small_catalogue();
    let ads = catalogue["ads"].as_array_mut().unwrap();
    ads.push(json!({"ad_id": "wide", "campaign_id": "spring", "landing_url": "https://shop.example/", "status": "active", "spread": 4}));
    ads.push(json!({"ad_id": "fresh", "campaign_id": "spring", "landing_url": "https://shop.example/", "status": "active"}));
    server.apply_catalogue(&catalogue);
    let sent = traffic(Utc::now().timestamp_millis());
    send(&server, &sent);
    let (clicks, impressions) = (
        count(&sent, "click", |_| true),
        count(&sent, "impression", |_| true),
    );
    wait_totals(
        &server,
        "spring",
        &[("clicks", clicks), ("impressions", impressions)],
    );
    rolls(&server, &sent, "", "60m", 60);
    rolls(&server, &sent, "&window=7m", "7m", 7);
    rolls(&server, &sent, "&window=24h", "1440m", 1_440);
    trends(&server, &sent);
    tops(&server, &sent);
    let utc = server.json("/api/v1/rolling?campaign_id=spring&time_zone=UTC");
    assert!(
        utc["rows"][0]["time"].as_str().unwrap().ends_with(":00Z"),
        "{utc}"
    );
    for (path, parameter) in [
        ("rolling", "campaign_id"),
        ("rolling?campaign_id=spring&window=0m", "window"),
        ("rolling?campaign_id=spring&window=25h", "window"),
        ("rolling?campaign_id=spring&window=90s", "window"),
        ("rolling?campaign_id=spring&windw=60m", "windw"),
        ("trending", "advertiser_id"),
        ("trending?advertiser_id=acme&limit=0", "limit"),
        ("trending?advertiser_id=acme&limit=1001", "limit"),
        ("trending?advertiser_id=acme&limt=1", "limt"),
    ] {
        let answer = ask(&server, &format!("/api/v1/{path}"));
        assert_eq!(answer.status, 400, "{path}: {}", answer.text());
        let problem = answer.problem();
        assert_eq!(problem["parameter"], parameter, "{path}: {problem}");
    }
}

/// Impressions and clicks of 1,000 and 60 users by POST, each twice on different days, and clicks of two addresses.
#[test]
fn uniques_are_the_distinct_visitors_that_were_sent() {
    let server = Server::start(Options::default());
    server.apply_catalogue(&small_catalogue());
    let mut items = Vec::new();
    for user in 0..1_000 {
        for day in ["2026-03-03T12:00:00-05:00", "2026-03-04T23:59:00-05:00"] {
            let kinds: &[&str] = if user < 60 {
                &["impression", "click"]
            } else {
                &["impression"]
            };
            for kind in kinds {
                // Every second user is named by a UUID.
                let user = match user % 2 {
                    0 => format!("user-{user}"),
                    _ => format!("018f0203-0405-7607-8809-{user:012x}"),
                };
                items.push(
                    json!({"kind": kind, format!("{kind}_id"): uuid::Uuid::new_v4().to_string(),
                    "ad_id": "banner", "ts": day, "user_id": user}),
                );
            }
        }
    }
    // A crawler's click counts nobody.
    items.push(json!({"kind": "click", "click_id": "bot", "ad_id": "banner", "ts": "2026-03-03T12:00:00-05:00",
        "user_id": "crawler", "user_agent": "Googlebot/2.1 (+http://www.google.com/bot.html)"}));
    let answer = post_json(&server, "/api/v1/events", &json!(items)).json();
    assert_eq!(answer["accepted"], items.len(), "{answer}");
    wait_totals(
        &server,
        "spring",
        &[("impressions", 2_000), ("gross_clicks", 121)],
    );

    let of = |range: &str| server.json(&format!("/api/v1/uniques?campaign_id=spring{range}"));
    let both = of("&start=2026-03-03&end=2026-03-05");
    assert_eq!(
        both["unique_clickers"],
        json!({"estimate": 60, "lower": 60, "upper": 60})
    );
    let reached = &both["users_reached"];
    let number = |name: &str| reached[name].as_u64().unwrap();
    assert!(
        number("lower") <= 1_000 && 1_000 <= number("upper"),
        "{reached}"
    );
    let error = both["relative_standard_error"].as_f64().unwrap();
    let off = (number("estimate") as f64 - 1_000.0).abs() / 1_000.0;
    assert!((0.01..0.02).contains(&error) && off < 3.0 * error, "{both}");
    assert_eq!(both["campaign_id"], "spring");
    assert_eq!(both["start"], "2026-03-03T00:00:00-05:00");
    assert_eq!(both["end"], "2026-03-05T00:00:00-05:00");
    // The same users on either day; the same estimate, since a sketch is a function of its set.
    for range in [
        "&start=2026-03-03T10:00&end=2026-03-03T11:00",
        "&start=2026-03-05T04:00Z&end=2026-03-05T04:01Z",
    ] {
        assert_eq!(of(range)["users_reached"], *reached, "{range}");
    }
    let nobody = of("&start=2026-03-06&end=2026-03-07");
    assert_eq!(
        nobody["users_reached"],
        json!({"estimate": 0, "lower": 0, "upper": 0})
    );
    // Without a user, the address.
    for _ in 0..3 {
        assert_eq!(ask(&server, "/click?ad_id=banner&geo=DE").status, 302);
    }
    wait_totals(&server, "spring", &[("gross_clicks", 124)]);
    assert_eq!(of("")["unique_clickers"]["estimate"], 1);
    for (query, blamed) in [
        ("", "campaign_id"),
        ("?campaign_id=spring&start=x", "start"),
        ("?campaign_id=spring&time_zone=UTC", "time_zone"),
    ] {
        let refused = ask(&server, &format!("/api/v1/uniques{query}"));
        assert_eq!(
            (refused.status, &refused.json()["parameter"]),
            (400, &json!(blamed))
        );
    }
}
