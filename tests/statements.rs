//! Statements: what was sent, summed by the test; the same bytes for ever; closed months and what comes after.

use std::collections::BTreeMap;

use chrono::{DateTime, Datelike, Utc};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::support::http::{ask, post_json};
use crate::support::{Options, Server, ok, wait_for};

const MINUTE_MS: i64 = 60_000;
/// A cpm price of 3.335 a thousand: micros that no cent divides.
const IMPRESSION_MICROS: i64 = 3_335;
const CLICK_MICROS: i64 = 250_000;
const BUDGET_MICROS: i64 = 1_000_000;

fn catalogue() -> Value {
    let ad = |ad: &str, campaign: &str| json!({"ad_id": ad, "campaign_id": campaign, "landing_url": "https://shop.example/", "status": "active"});
    json!({
        "advertisers": [{"advertiser_id": "acme", "name": "Acme", "currency_code": "USD", "time_zone": "America/New_York"}],
        "campaigns": [
            {"campaign_id": "spring", "advertiser_id": "acme", "name": "Spring", "status": "active",
             "pricing": {"model": "cpc", "price_micros": CLICK_MICROS}, "daily_budget_micros": BUDGET_MICROS},
            {"campaign_id": "reach", "advertiser_id": "acme", "name": "Reach", "status": "active",
             "pricing": {"model": "cpm", "price_micros": IMPRESSION_MICROS * 1_000}},
        ],
        "ads": [ad("banner", "spring"), ad("poster", "reach")],
    })
}

#[derive(Clone)]
struct Sent {
    kind: &'static str,
    ad: &'static str,
    time: DateTime<Utc>,
    cost_micros: Option<i64>,
    is_bot: bool,
}

impl Sent {
    fn campaign(&self) -> &'static str {
        if self.ad == "banner" {
            "spring"
        } else {
            "reach"
        }
    }

    fn cost(&self) -> i64 {
        let billed = match self.ad {
            "banner" if self.kind == "click" => CLICK_MICROS,
            "poster" if self.kind == "impression" => IMPRESSION_MICROS,
            _ => 0,
        };
        self.cost_micros.unwrap_or(billed)
    }

    /// The civil day in New York, whose clock was five hours behind until the second Sunday of March 2026.
    fn day(&self) -> chrono::NaiveDate {
        let spring = "2026-03-08T07:00:00Z".parse::<DateTime<Utc>>().unwrap();
        let hours = if self.time < spring { 5 } else { 4 };
        (self.time - chrono::Duration::hours(hours)).date_naive()
    }
}

/// Clicks and impressions from the last evening of December to the first morning of March, in New York.
fn traffic() -> Vec<Sent> {
    let begin = "2026-01-01T04:00:00Z".parse::<DateTime<Utc>>().unwrap();
    let mut out = Vec::new();
    for n in 0..600i64 {
        let time = begin + chrono::Duration::milliseconds(n * 142 * MINUTE_MS);
        let (kind, ad) = [
            ("click", "banner"),
            ("impression", "poster"),
            ("impression", "banner"),
            ("click", "poster"),
        ][n as usize % 4];
        out.push(Sent {
            kind,
            ad,
            time,
            cost_micros: (n % 12 == 0).then_some(333_333),
            is_bot: n % 20 == 0,
        });
    }
    // A day over its budget, and the edges of February.
    for n in 0..9 {
        let time =
            "2026-01-20T18:00:00Z".parse::<DateTime<Utc>>().unwrap() + chrono::Duration::minutes(n);
        out.push(Sent {
            kind: "click",
            ad: "banner",
            time,
            cost_micros: None,
            is_bot: false,
        });
    }
    for edge in [
        "2026-02-01T04:59:59.999Z",
        "2026-02-01T05:00:00Z",
        "2026-03-01T04:59:59.999Z",
        "2026-03-01T05:00:00Z",
    ] {
        out.push(Sent {
            kind: "click",
            ad: "banner",
            time: edge.parse().unwrap(),
            cost_micros: None,
            is_bot: false,
        });
    }
    out
}

/// Sends, and waits until `total` events are counted.
fn send(server: &Server, name: &str, sent: &[Sent], total: i64) {
    let item = |(n, s): (usize, &Sent)| {
        let mut item = json!({"kind": s.kind, format!("{}_id", s.kind): format!("{name}-{n}"), "ad_id": s.ad, "ts": s.time.to_rfc3339()});
        if let Some(cost) = s.cost_micros {
            item["cost_micros"] = json!(cost);
        }
        if s.is_bot {
            item["user_agent"] = json!("Googlebot/2.1 (+http://www.google.com/bot.html)");
        }
        item
    };
    let items: Vec<Value> = sent.iter().enumerate().map(item).collect();
    let answer = post_json(server, "/api/v1/events", &json!(items)).json();
    assert_eq!(answer["accepted"], sent.len(), "{answer}");
    let query = "/api/v1/analytics?advertiser_id=acme&granularity=total&start=2001-01-01T00:00Z&end=2100-01-01T00:00Z";
    let counted = |totals: &Value| {
        ["impressions", "invalid_impressions", "gross_clicks"]
            .iter()
            .map(|n| totals[*n].as_i64().unwrap())
            .sum::<i64>()
    };
    wait_for("everything to be counted", || {
        (counted(&server.json(query)["totals"]) == total).then_some(())
    });
}

/// Hundredths of a dollar, half away from zero.
fn cents(micros: i64) -> i64 {
    (micros.abs() + 5_000) / 10_000 * micros.signum()
}

fn dollars(cents: i64) -> String {
    format!(
        "{}{}.{:02}",
        if cents < 0 { "-" } else { "" },
        cents.abs() / 100,
        cents.abs() % 100
    )
}

/// What a campaign's line must say.
fn line(sent: &[Sent], campaign: &str, month: u32) -> Value {
    let all: Vec<&Sent> = sent
        .iter()
        .filter(|s| s.campaign() == campaign && s.day().month() == month && s.day().year() == 2026)
        .collect();
    let valid = |kind: &str| all.iter().filter(|s| s.kind == kind && !s.is_bot).count();
    let cost: i64 = all.iter().filter(|s| !s.is_bot).map(|s| s.cost()).sum();
    let bots: Vec<&&Sent> = all
        .iter()
        .filter(|s| s.is_bot && s.kind == "click")
        .collect();
    let mut days: BTreeMap<_, i64> = BTreeMap::new();
    all.iter()
        .filter(|s| !s.is_bot)
        .for_each(|s| *days.entry(s.day()).or_default() += s.cost());
    let over: i64 = days
        .values()
        .map(|cost| (cost - BUDGET_MICROS).max(0))
        .sum();
    let reasons = if bots.is_empty() {
        json!([])
    } else {
        json!([{"reason": "known_bot", "invalid_clicks": bots.len(), "cost_micros": bots.iter().map(|s| s.cost()).sum::<i64>()}])
    };
    let is_cpc = campaign == "spring";
    json!({
        "campaign_id": campaign,
        "pricing_model": if is_cpc { "cpc" } else { "cpm" },
        "clicks": valid("click"),
        "impressions": if is_cpc { Value::Null } else { json!(valid("impression")) },
        "cost_micros": cost,
        "amount": dollars(cents(cost)),
        "invalid_clicks": bots.len(),
        "invalid_clicks_by_reason": reasons,
        "over_delivery_micros": if is_cpc { over } else { 0 },
    })
}

fn check(statement: &Value, sent: &[Sent], month: u32) {
    let lines = [line(sent, "reach", month), line(sent, "spring", month)];
    assert_eq!(statement["lines"], json!(lines));
    let cost: i64 = lines
        .iter()
        .map(|l| l["cost_micros"].as_i64().unwrap())
        .sum();
    assert_eq!(statement["totals"]["cost_micros"], cost);
    assert_eq!(statement["currency_code"], "USD");
    assert_eq!(statement["time_zone"], "America/New_York");
}

fn command(server: &Server, month: &str, more: &[&str]) -> std::process::Output {
    let mut args = vec![
        "statement",
        "--advertiser",
        "acme",
        "--month",
        month,
        "--json",
    ];
    args.extend(more);
    server.cli(&args)
}

fn bytes(server: &Server, month: &str, more: &[&str]) -> String {
    ok(&command(server, month, more)).trim_end().to_owned()
}

/// The HTTP twin, once the log has been read.
fn over_http(server: &Server, path: &str) -> String {
    wait_for("the statement", || {
        let answer = ask(server, &format!("/api/v1/statements/acme/{path}"));
        match answer.status {
            200 => Some(answer.text()),
            503 => None,
            status => panic!("{status} {}", answer.text()),
        }
    })
}

fn parsed(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

/// The hash, computed from the text that it is of.
fn check_hash(text: &str) {
    let (head, tail) = text.split_once(",\"sha256\":\"").unwrap();
    let digest = Sha256::digest(format!("{head}}}"));
    let digest: String = digest.iter().map(|b| format!("{b:02x}")).collect();
    assert_eq!(tail[..64], digest);
}

/// What stands before `closed`.
fn sealed(text: &str) -> &str {
    text.split_once(",\"closed\":").unwrap().0
}

#[test]
fn a_month_is_what_was_sent_and_stays_what_it_was_closed_as() {
    let server = Server::start(Options::default());
    server.apply_catalogue(&catalogue());
    let sent = traffic();
    send(&server, "first", &sent, sent.len() as i64);

    // An intake that has just started has announced nothing yet, and a month may not be closed before it has.
    wait_for("every producer's word", || {
        let answer = server.json("/api/v1/analytics?campaign_id=spring");
        (!answer["complete_through"].is_null()).then_some(())
    });

    // The command reads the log, the API its state; both say what the test sums up.
    let january = bytes(&server, "2026-01", &[]);
    check(&parsed(&january), &sent, 1);
    check_hash(&january);
    assert!(
        parsed(&january)["lines"][1]["over_delivery_micros"]
            .as_i64()
            .unwrap()
            >= 1_250_000
    );
    for (path, month) in [("2026-01", 1), ("2026-02", 2)] {
        let text = over_http(&server, path);
        check(&parsed(&text), &sent, month);
        check_hash(&text);
    }
    let as_of = parsed(&january)["as_of"].as_str().unwrap().to_owned();
    assert_eq!(bytes(&server, "2026-01", &["--as-of", &as_of]), january);

    // Late clicks change what is owed now, and not what was owed then.
    let late: Vec<Sent> = (0..7)
        .map(|n| Sent {
            kind: "click",
            ad: "banner",
            cost_micros: Some(111_111),
            is_bot: n == 0,
            time: "2026-01-31T22:00:00Z".parse::<DateTime<Utc>>().unwrap()
                + chrono::Duration::minutes(n),
        })
        .collect();
    send(&server, "late", &late, (sent.len() + late.len()) as i64);
    let all = [sent.clone(), late.clone()].concat();
    check(&parsed(&over_http(&server, "2026-01")), &all, 1);
    assert_eq!(bytes(&server, "2026-01", &["--as-of", &as_of]), january);
    assert_eq!(
        over_http(&server, &format!("2026-01?as_of={as_of}")),
        january
    );

    // Closed as of then: the same statement, for ever, and for whoever asks from now on.
    let closed = bytes(&server, "2026-01", &["--as-of", &as_of, "--close"]);
    assert_eq!(sealed(&closed), sealed(&january));
    assert_eq!(parsed(&closed)["closed"]["sequence"], 1);
    assert_eq!(over_http(&server, "2026-01"), closed);
    assert_eq!(bytes(&server, "2026-01", &[]), closed);
    assert_eq!(
        over_http(&server, &format!("2026-01?as_of={as_of}")),
        january,
        "it was not closed then"
    );
    let again = command(&server, "2026-01", &["--close"]);
    assert_eq!(again.status.code(), Some(1));
    assert_eq!(String::from_utf8_lossy(&again.stdout).trim_end(), closed);

    // The late clicks are a charge on the next statement, once.
    let february = parsed(&over_http(&server, "2026-02"));
    check(&february, &all, 2);
    let adjustment = json!([{"month": "2026-01", "campaign_id": "spring", "clicks": 6, "impressions": 0,
        "cost_micros": 666_666, "amount": "0.67"}]);
    assert_eq!(february["adjustments"], adjustment);
    let lines: i64 = february["lines"]
        .as_array()
        .unwrap()
        .iter()
        .map(|l| cents(l["cost_micros"].as_i64().unwrap()))
        .sum();
    assert_eq!(february["totals"]["amount"], dollars(lines + 67));
    let february = bytes(&server, "2026-02", &["--close"]);
    assert_eq!(parsed(&february)["adjustments"], adjustment);
    let march = parsed(&over_http(&server, "2026-03"));
    assert_eq!(march["adjustments"], json!([]), "it is on February's");
    let owed: i64 = [&closed, &february]
        .iter()
        .map(|text| {
            let totals = parsed(text)["totals"].clone();
            totals["cost_micros"].as_i64().unwrap() + totals["adjustments_micros"].as_i64().unwrap()
        })
        .sum();
    let counted: i64 = all
        .iter()
        .filter(|s| !s.is_bot && s.day().year() == 2026 && s.day().month() < 3)
        .map(Sent::cost)
        .sum();
    assert_eq!(owed, counted);
}

/// More than a message of the broker holds (1 MiB), at some 190 bytes a line.
const MANY_CAMPAIGNS: i64 = 6_000;

#[test]
fn a_month_of_more_lines_than_a_message_holds_is_closed_all_the_same() {
    let server = Server::start(Options::default());
    let campaign = |n| {
        json!({"campaign_id": format!("campaign-{n:05}"), "advertiser_id": "acme", "name": "One of many", "status": "active",
               "pricing": {"model": "cpc", "price_micros": CLICK_MICROS}})
    };
    let mut catalogue = catalogue();
    catalogue["campaigns"] = (0..MANY_CAMPAIGNS).map(campaign).collect();
    catalogue["ads"] = json!([]);
    server.apply_catalogue(&catalogue);
    let click = |n| {
        json!({"kind": "click", "click_id": format!("many-{n}"), "ad_id": format!("ad-{n}"), "campaign_id": format!("campaign-{n:05}"),
               "cost_micros": 10_000 * (n + 1), "ts": "2026-01-15T12:00:00Z"})
    };
    let clicks: Value = (0..MANY_CAMPAIGNS).map(click).collect();
    let answer = post_json(&server, "/api/v1/events", &clicks).json();
    assert_eq!(answer["accepted"], MANY_CAMPAIGNS, "{answer}");
    wait_for("everything to be counted and every producer's word", || {
        let query = "/api/v1/analytics?advertiser_id=acme&granularity=total&start=2026-01-01T00:00Z&end=2026-02-01T00:00Z";
        let answer = server.json(query);
        (answer["totals"]["clicks"] == MANY_CAMPAIGNS && !answer["complete_through"].is_null())
            .then_some(())
    });

    let closed = bytes(&server, "2026-01", &["--close"]);
    assert!(closed.len() > 1 << 20, "{} bytes", closed.len());
    check_hash(&closed);
    let lines = parsed(&closed)["lines"].clone();
    let costs: Vec<i64> = lines
        .as_array()
        .unwrap()
        .iter()
        .map(|line| line["cost_micros"].as_i64().unwrap())
        .collect();
    let expected: Vec<i64> = (1..=MANY_CAMPAIGNS).map(|n| 10_000 * n).collect();
    assert_eq!(costs, expected);
    assert_eq!(parsed(&closed)["closed"]["sequence"], 1);
    assert_eq!(over_http(&server, "2026-01"), closed);
    let again = command(&server, "2026-01", &["--close"]);
    assert_eq!(again.status.code(), Some(1), "it is closed already");
    assert_eq!(String::from_utf8_lossy(&again.stdout).trim_end(), closed);
}

#[test]
fn what_is_no_statement_is_refused_by_name() {
    let server = Server::start(Options::default());
    server.apply_catalogue(&catalogue());
    let next = (Utc::now() + chrono::Duration::days(40))
        .format("%Y-%m")
        .to_string();
    let early = command(&server, &next, &["--close"]);
    assert_eq!(early.status.code(), Some(3));
    assert!(
        String::from_utf8_lossy(&early.stderr).contains("is not over before"),
        "{early:?}"
    );
    let usage = server.cli(&["statement", "--advertiser", "acme", "--month", "2026-13"]);
    assert_eq!(usage.status.code(), Some(2));
    for (path, status, blamed) in [
        ("nobody/2026-01", 404, None),
        ("acme/2026-1", 400, Some("month")),
        ("acme/2026-01?as_of=soon", 400, Some("as_of")),
        (
            "acme/2026-01?as_of=2999-01-01T00:00:00Z",
            400,
            Some("as_of"),
        ),
        ("acme/2026-01?asof=2026-01-01T00:00:00Z", 400, Some("asof")),
    ] {
        let answer = ask(&server, &format!("/api/v1/statements/{path}"));
        assert_eq!(answer.status, status, "{path}: {}", answer.text());
        assert_eq!(
            answer.problem().get("parameter").and_then(Value::as_str),
            blamed,
            "{path}"
        );
    }
    // A month of which nothing was counted is a statement of nothing.
    let empty = parsed(&over_http(&server, "2026-01"));
    assert_eq!(
        (&empty["lines"], &empty["totals"]["amount"]),
        (&json!([]), &json!("0.00"))
    );
    let text = String::from_utf8(
        server
            .cli(&["statement", "--advertiser", "acme", "--month", "2026-01"])
            .stdout,
    )
    .unwrap();
    assert!(
        text.contains("total 0.00 USD") && text.contains("not closed"),
        "{text}"
    );
}
