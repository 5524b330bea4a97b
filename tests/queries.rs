//! Questions and answers, by hand: half hours, forms of time, fill, formats, order.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use serde_json::{Value, json};

use crate::support::http::{ask, metric, post_json, wait_totals};
use crate::support::{Options, Server, small_catalogue, wait_for};

fn started() -> Server {
    let server = Server::start(Options::default());
    let mut catalogue = small_catalogue();
    catalogue["advertisers"].as_array_mut().unwrap().push(json!({"advertiser_id": "island", "name": "Island", "currency_code": "AUD", "time_zone": "Australia/Lord_Howe"}));
    catalogue["campaigns"].as_array_mut().unwrap().push(json!({
        "campaign_id": "surf", "advertiser_id": "island", "name": "Surf", "status": "active",
        "pricing": {"model": "cpm", "price_micros": 2_000_000}, "daily_budget_micros": 1_000_000
    }));
    catalogue["ads"].as_array_mut().unwrap().push(json!({"ad_id": "board", "campaign_id": "surf", "landing_url": "https://s.example/", "status": "active"}));
    server.apply_catalogue(&catalogue);
    server
}

fn events(server: &Server, ad: &str, kind: &str, times: &[&str]) {
    let items: Vec<_> = times
        .iter()
        .map(|ts| json!({"kind": kind, format!("{kind}_id"): uuid::Uuid::new_v4().to_string(), "ad_id": ad, "ts": ts, "device": "ios"}))
        .collect();
    assert_eq!(
        post_json(server, "/api/v1/events", &json!(items)).json()["accepted"],
        times.len()
    );
}

fn column(answer: &Value, name: &str) -> Vec<Value> {
    answer["rows"]
        .as_array()
        .unwrap()
        .iter()
        .map(|r| r[name].clone())
        .collect()
}

#[test]
fn half_an_hour_stands_under_its_own_label() {
    let server = started();
    // Lord Howe, 2026-10-04: at 02:00+10:30 the clock goes to 02:30+11:00. 2026-04-05: at 02:00+11:00 back to 01:30+10:30.
    events(
        &server,
        "board",
        "impression",
        &[
            "2026-10-03T15:15:00Z", // 01:45+10:30
            "2026-10-03T15:45:00Z", // 02:45+11:00
            "2026-10-03T16:15:00Z", // 03:15+11:00
            "2026-04-04T14:45:00Z", // 01:45+11:00
            "2026-04-04T15:10:00Z", // 01:40+10:30
            "2026-04-04T15:45:00Z", // 02:15+10:30
        ],
    );
    wait_totals(
        &server,
        "surf",
        &[("impressions", 6), ("cost_micros", 12_000)],
    );
    let spring = server.json("/api/v1/analytics?campaign_id=surf&start=2026-10-04T00:00&end=2026-10-05T00:00&granularity=hour&fill=none");
    assert_eq!(
        column(&spring, "time"),
        [
            "2026-10-04T01:00:00+10:30",
            "2026-10-04T02:00:00+11:00",
            "2026-10-04T03:00:00+11:00"
        ]
    );
    assert_eq!(column(&spring, "impressions"), [1, 1, 1]);
    assert_eq!(spring["time_zone"], "Australia/Lord_Howe");
    assert_eq!(spring["currency_code"], "AUD");
    let autumn = server.json("/api/v1/analytics?campaign_id=surf&start=2026-04-05T00:00&end=2026-04-06T00:00&granularity=hour&fill=none");
    assert_eq!(
        column(&autumn, "time"),
        [
            "2026-04-05T01:00:00+11:00",
            "2026-04-05T01:00:00+10:30",
            "2026-04-05T02:00:00+10:30"
        ]
    );
    let days = server.json("/api/v1/analytics?campaign_id=surf&start=2026-04-05T00:00&end=2026-04-06T00:00&granularity=day");
    assert_eq!(column(&days, "time"), ["2026-04-05T00:00:00+11:00"]);
    assert_eq!(column(&days, "impressions"), [3]);
    // The same in another zone, from minutes.
    let utc = server.json("/api/v1/analytics?campaign_id=surf&start=2026-04-04T00:00Z&end=2026-04-05T00:00Z&granularity=hour&time_zone=UTC&fill=none");
    assert_eq!(
        column(&utc, "time"),
        ["2026-04-04T14:00:00Z", "2026-04-04T15:00:00Z"]
    );
    assert_eq!(column(&utc, "impressions"), [1, 2]);
}

#[test]
fn a_day_of_new_york_has_23_or_25_hours() {
    let server = started();
    events(
        &server,
        "banner",
        "click",
        &[
            "2026-03-08T12:00:00Z",
            "2026-11-01T05:30:00Z",
            "2026-11-01T06:30:00Z",
        ],
    );
    wait_totals(
        &server,
        "spring",
        &[("clicks", 3), ("late_events", 3), ("cost_micros", 750_000)],
    );
    let spring = server.json(
        "/api/v1/analytics?campaign_id=spring&start=2026-03-08&end=2026-03-09&granularity=hour"
            .replace("2026-03-08&", "2026-03-08T00:00&")
            .replace("end=2026-03-09", "end=2026-03-09T00:00")
            .as_str(),
    );
    assert_eq!(spring["rows"].as_array().unwrap().len(), 23);
    let autumn = server.json("/api/v1/analytics?campaign_id=spring&start=2026-11-01T00:00&end=2026-11-02T00:00&granularity=hour");
    assert_eq!(autumn["rows"].as_array().unwrap().len(), 25);
    let with_clicks: Vec<_> = autumn["rows"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|r| r["clicks"] == 1)
        .map(|r| r["time"].clone())
        .collect();
    assert_eq!(
        with_clicks,
        ["2026-11-01T01:00:00-04:00", "2026-11-01T01:00:00-05:00"]
    );
    assert_eq!(autumn["start"], "2026-11-01T00:00:00-04:00");
    assert_eq!(autumn["end"], "2026-11-02T00:00:00-05:00");
}

#[test]
fn ranges_are_widened_filled_and_printed_as_asked() {
    let server = started();
    events(
        &server,
        "banner",
        "click",
        &["2026-06-01T10:10:10Z", "2026-06-01T12:10:10Z"],
    );
    events(
        &server,
        "banner",
        "impression",
        &["2026-06-01T10:10:10Z"; 3],
    );
    wait_totals(&server, "spring", &[("clicks", 2), ("impressions", 3)]);
    let base = "/api/v1/analytics?campaign_id=spring&start=2026-06-01T10:10:00Z&end=2026-06-01T12:30:00Z&granularity=hour&time_zone=UTC";
    let filled = server.json(base);
    assert_eq!(
        (filled["start"].as_str(), filled["end"].as_str()),
        (Some("2026-06-01T10:00:00Z"), Some("2026-06-01T13:00:00Z"))
    );
    assert_eq!(column(&filled, "clicks"), [1, 0, 1]);
    assert_eq!(
        column(&filled, "ctr"),
        [json!(1.0 / 3.0), Value::Null, Value::Null]
    );
    assert_eq!(
        column(&filled, "average_cpc_micros"),
        [json!(250_000), Value::Null, json!(250_000)]
    );
    assert_eq!(
        column(&filled, "conversions"),
        [Value::Null, Value::Null, Value::Null]
    );
    let grouped = server.json(&format!("{base}&group_by=device"));
    assert_eq!(column(&grouped, "device"), ["ios", "ios", "ios"]);
    assert_eq!(
        server.json(&format!("{base}&fill=none"))["rows"]
            .as_array()
            .unwrap()
            .len(),
        2
    );
    assert_eq!(
        server.json(&format!("{base}&device=android&fill=none"))["rows"]
            .as_array()
            .unwrap()
            .len(),
        0
    );
    assert_eq!(
        server.json(&format!("{base}&device=android&device=ios&fill=none"))["totals"]["clicks"],
        2
    );
    let total = server.json(&base.replace("granularity=hour", "granularity=total"));
    assert_eq!(column(&total, "clicks"), [2]);
    assert_eq!(total["totals"]["clicks"], 2);
    assert!(
        total["as_of"]["generation"].is_string() && total["as_of"]["events.0"].is_number(),
        "{}",
        total["as_of"]
    );
    assert!(total["judged_through"].is_null());
    let csv = ask(&server, &format!("{base}&format=csv"));
    assert!(csv.header("content-type").starts_with("text/csv"));
    assert_eq!(csv.text().lines().count(), 4, "{}", csv.text());
    assert!(csv.text().starts_with("time,"), "{}", csv.text());
    let lines = ask(&server, &format!("{base}&format=ndjson"));
    assert_eq!(
        lines
            .text()
            .lines()
            .map(|l| serde_json::from_str::<Value>(l).unwrap()["clicks"]
                .as_i64()
                .unwrap())
            .collect::<Vec<_>>(),
        [1, 0, 1]
    );
    assert!(server.json(&format!("{base}&explain=true"))["plan"].is_object());
    chosen_metrics_are_those_of_the_whole_answer(&server, base, &filled);
    // Two currencies, or two clocks, in one question.
    assert_eq!(
        ask(
            &server,
            "/api/v1/analytics?campaign_id=spring&campaign_id=surf"
        )
        .status,
        400
    );
}

/// `whole` is the answer to `base` with all metrics.
fn chosen_metrics_are_those_of_the_whole_answer(server: &Server, base: &str, whole: &Value) {
    const CHOSEN: [&str; 3] = ["clicks", "ctr", "cost_micros"];
    let cut = |row: &Value| {
        let mut row = row.as_object().unwrap().clone();
        row.retain(|name, _| name == "time" || CHOSEN.contains(&name.as_str()));
        Value::Object(row)
    };
    let rows: Vec<Value> = whole["rows"].as_array().unwrap().iter().map(cut).collect();
    let base = format!("{base}&metrics=cost_micros,clicks&metrics=ctr,clicks");
    let some = server.json(&format!("{base}&explain=true"));
    assert_eq!(some["rows"], Value::Array(rows.clone()));
    assert_eq!(some["totals"], cut(&whole["totals"]));
    assert_eq!(some["plan"]["metrics"], json!(CHOSEN));
    let lines = ask(server, &format!("{base}&format=ndjson")).text();
    let lines: Vec<Value> = lines
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(lines, rows);
    let csv = ask(server, &format!("{base}&format=csv")).text();
    assert_eq!(csv.lines().next(), Some("time,clicks,ctr,cost_micros"));
    assert_eq!(csv.lines().nth(2), Some("2026-06-01T11:00:00Z,0,,0"));
    let unknown = ask(server, &base.replace("ctr,clicks", "click"));
    let problem = unknown.problem();
    assert_eq!(
        (unknown.status, problem["parameter"].as_str()),
        (400, Some("metrics"))
    );
    let detail = problem["detail"].as_str().unwrap();
    assert!(detail.contains("did you mean `clicks`?"), "{detail}");
}

#[test]
fn spend_and_top_are_what_was_billed() {
    let server = started();
    let now = chrono::Utc::now().to_rfc3339();
    events(&server, "banner", "click", &[&now, &now]);
    events(&server, "banner", "click", &["2026-06-01T10:10:10Z"]);
    wait_totals(&server, "spring", &[("clicks", 3)]);
    let spend = server.json("/api/v1/campaigns/spring/spend");
    let text = spend.to_string();
    assert!(
        text.contains("500000") && text.contains("750000") && text.contains("10000000"),
        "{spend}"
    );
    assert_eq!(ask(&server, "/api/v1/campaigns/none/spend").status, 404);
    let top = server.json(
        "/api/v1/top?advertiser_id=acme&start=2026-01-01T00:00Z&end=2027-01-01T00:00Z&by=clicks",
    );
    assert_eq!(top["rows"][0]["ad_id"], "banner", "{top}");
    assert_eq!(top["rows"][0]["clicks"], 3);
    let by_ad = server.json("/api/v1/analytics?ad_id=banner&start=2026-01-01T00:00Z&end=2027-01-01T00:00Z&granularity=total");
    assert_eq!(by_ad["totals"]["clicks"], 3);
}

#[test]
fn a_large_answer_has_its_rows_counted_until_it_is_read_or_its_client_goes() {
    let server = started();
    let unread = || metric(&server, "adtally_query_unread_rows", "");
    let regions = ["AU", "DE", "FR", "IT", "JP", "US-CA"];
    let impression = |geo: &&str| json!({"kind": "impression", "impression_id": format!("i-{geo}"), "ad_id": "board", "ts": "2026-10-03T15:15:00Z", "geo": geo});
    let all: Vec<Value> = regions.iter().map(impression).collect();
    post_json(&server, "/api/v1/events", &json!(all));
    wait_totals(&server, "surf", &[("impressions", 6)]);
    let minutes = |count: u32| {
        let day = chrono::NaiveDate::from_ymd_opt(2026, 10, 3).unwrap();
        let start = day.and_hms_opt(0, 0, 0).unwrap();
        let end = start + chrono::Duration::minutes(count.into());
        let [start, end] = [start, end].map(|at| at.format("%Y-%m-%dT%H:%M:%SZ"));
        format!(
            "/api/v1/analytics?campaign_id=surf&granularity=minute&group_by=region&start={start}&end={end}"
        )
    };
    // A client that reads a little of 60,000 rows, 25 MB, which is more than sockets hold.
    let address = server.url.strip_prefix("http://").unwrap();
    let mut client = TcpStream::connect(address).unwrap();
    let request = format!(
        "GET {} HTTP/1.1\r\nHost: {address}\r\n\r\n",
        minutes(10_000)
    );
    client.write_all(request.as_bytes()).unwrap();
    let mut head = [0; 15];
    client.read_exact(&mut head).unwrap();
    assert_eq!(&head, b"HTTP/1.1 200 OK");
    assert_eq!(unread(), 60_000.0);
    drop(client);
    wait_for("the rows to be let go", || (unread() == 0.0).then_some(()));
    // One that reads all of it.
    let answer = ask(&server, &minutes(10_000)).json();
    assert_eq!(answer["rows"].as_array().unwrap().len(), 60_000);
    wait_for("the rows to be let go", || (unread() == 0.0).then_some(()));
}
