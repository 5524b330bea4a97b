//! The collector's answers, to the letter of the contract, and what each of them leaves in the numbers.

use crate::support::http::{BROWSER, ask, ask_as, wait_totals};
use crate::support::{Options, Server, get, small_catalogue, wait_for};

fn started() -> Server {
    let server = Server::start(Options::default());
    server.apply_catalogue(&small_catalogue());
    server
}

fn now_s() -> i64 {
    chrono::Utc::now().timestamp()
}

#[test]
fn a_click_is_redirected_and_counted() {
    let server = started();
    let answer = ask(
        &server,
        "/click?ad_id=banner&click_id=c-1&user_id=u1&device=ios&geo=us-ca&creative=red",
    );
    assert_eq!(answer.status, 302);
    assert_eq!(answer.header("location"), "https://shop.example/?c=c-1");
    assert_eq!(answer.header("x-click-id"), "c-1");
    assert_eq!(answer.header("cache-control"), "no-store");
    let minted = ask(&server, "/c/banner?device=nonsense");
    assert_eq!(minted.status, 302);
    let id = minted.header("x-click-id").to_owned();
    assert!(
        uuid::Uuid::parse_str(&id).is_ok_and(|u| u.get_version_num() == 7),
        "{id}"
    );
    assert_eq!(
        minted.header("location"),
        format!("https://shop.example/?c={id}")
    );
    // The same id again is redirected again and counted once.
    assert_eq!(
        ask(
            &server,
            "/click?ad_id=banner&click_id=c-1&user_id=u1&device=ios&geo=us-ca&creative=red"
        )
        .status,
        302
    );
    wait_totals(
        &server,
        "spring",
        &[
            ("clicks", 2),
            ("gross_clicks", 2),
            ("cost_micros", 500_000),
            ("late_events", 0),
        ],
    );
    let rows = server.json("/api/v1/analytics?campaign_id=spring&granularity=total&group_by=ad_id,creative,region,device")["rows"].clone();
    assert_eq!(rows.as_array().unwrap().len(), 2, "{rows}");
    let first = rows
        .as_array()
        .unwrap()
        .iter()
        .find(|r| r["creative"] == "red")
        .unwrap();
    assert_eq!(
        (first["region"].as_str(), first["device"].as_str()),
        (Some("US-CA"), Some("ios"))
    );
    let second = rows
        .as_array()
        .unwrap()
        .iter()
        .find(|r| r["creative"] == "")
        .unwrap();
    assert_eq!(
        (second["region"].as_str(), second["device"].as_str()),
        (Some(""), Some("other"))
    );
}

/// The next answer on a connection: status, headers in lower case, body.
fn next_answer(stream: &mut std::net::TcpStream, is_head: bool) -> (u16, String, String) {
    use std::io::Read as _;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).expect("an answer");
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: ")?.parse().ok())
        .filter(|_| !is_head)
        .unwrap_or(0);
    let mut body = vec![0; length];
    stream.read_exact(&mut body).unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, head, String::from_utf8_lossy(&body).into_owned())
}

#[test]
fn one_connection_takes_every_sort_of_request_in_its_order() {
    use std::io::{Read as _, Write as _};
    let server = started();
    let address = server.url.strip_prefix("http://").unwrap();
    let mut stream = std::net::TcpStream::connect(address).unwrap();
    let agent = format!("host: h\r\nuser-agent: {BROWSER}\r\n");
    // Two in one packet, and the beginning of a third.
    let pair = format!(
        "GET /click?ad_id=banner&click_id=k-1 HTTP/1.1\r\n{agent}\r\nGET /i?ad_id=banner HTTP/1.1\r\n{agent}\r\nGET /c/ban"
    );
    stream.write_all(pair.as_bytes()).unwrap();
    let (status, head, body) = next_answer(&mut stream, false);
    assert_eq!((status, body.as_str()), (302, ""));
    for line in [
        "location: https://shop.example/?c=k-1\r\n",
        "x-click-id: k-1\r\n",
        "cache-control: no-store\r\n",
        "\r\ndate: ",
    ] {
        assert!(head.contains(line), "{line:?} in {head}");
    }
    assert_eq!(next_answer(&mut stream, false).0, 200);
    write!(stream, "ner?click_id=k-2 HTTP/1.1\r\n{agent}\r\n").unwrap();
    assert!(
        next_answer(&mut stream, false)
            .1
            .contains("x-click-id: k-2\r\n")
    );
    write!(stream, "GET /click?ad_id=nobody HTTP/1.1\r\n{agent}\r\n").unwrap();
    let (status, head, body) = next_answer(&mut stream, false);
    assert_eq!(status, 404);
    assert!(
        head.contains("content-type: application/problem+json\r\n"),
        "{head}"
    );
    assert!(body.contains(r#""parameter":"ad_id""#), "{body}");
    // From here on hyper answers.
    write!(
        stream,
        "HEAD /click?ad_id=banner&click_id=k-3 HTTP/1.1\r\n{agent}\r\n"
    )
    .unwrap();
    assert_eq!(next_answer(&mut stream, true).0, 302);
    write!(stream, "GET /healthz HTTP/1.1\r\n{agent}\r\n").unwrap();
    assert_eq!(next_answer(&mut stream, false).0, 200);
    write!(
        stream,
        "GET /click?ad_id=banner&click_id=k-4 HTTP/1.1\r\n{agent}Connection: close\r\n\r\n"
    )
    .unwrap();
    assert!(
        next_answer(&mut stream, false)
            .1
            .contains("x-click-id: k-4\r\n")
    );
    assert_eq!(stream.read(&mut [0]).unwrap(), 0, "closed");
    wait_totals(&server, "spring", &[("clicks", 3), ("impressions", 1)]);
}

#[test]
fn a_pixel_is_the_43_byte_gif() {
    let server = started();
    let answer = ask(&server, "/i?ad_id=banner");
    assert_eq!(
        (
            answer.status,
            answer.header("content-type"),
            answer.body.len()
        ),
        (200, "image/gif", 43)
    );
    assert!(answer.body.starts_with(b"GIF89a"));
    assert_eq!(answer.header("cache-control"), "no-store");
    wait_totals(&server, "spring", &[("impressions", 1), ("cost_micros", 0)]);
    assert_eq!(ask(&server, "/i?ad_id=nobody-knows").status, 404);
    assert_eq!(ask(&server, "/i").status, 400);
}

#[test]
fn a_conversion_answers_204_or_a_gif() {
    let server = started();
    let path = "/conversion?advertiser_id=acme&click_id=c-1&value_micros=5000000&currency_code=USD&conversion_id=v-1";
    assert_eq!(ask(&server, path).status, 204);
    assert_eq!(ask_as(&server, "POST", path, &[]).status, 204);
    let gif = ask_as(
        &server,
        "GET",
        path,
        &[("accept", "image/avif,image/webp,*/*;q=0.8")],
    );
    assert_eq!((gif.status, gif.body.len()), (200, 43));
    assert_eq!(ask(&server, "/conversion?advertiser_id=acme").status, 400);
    assert_eq!(ask(&server, "/conversion?click_id=c-1").status, 400);
    assert_eq!(
        ask(
            &server,
            "/conversion?advertiser_id=acme&click_id=c-1&value_micros=many"
        )
        .status,
        400
    );
    // Three deliveries of one conversion are one.
    wait_for("the conversion to be folded once", || {
        let (_, text) = get(&format!("{}/metrics", server.url));
        let sum: f64 = text
            .lines()
            .filter(|l| {
                l.starts_with("adtally_events_folded_total{") && l.contains("kind=\"conversion\"")
            })
            .filter_map(|l| l.rsplit(' ').next()?.parse::<f64>().ok())
            .sum();
        (sum == 1.0).then_some(())
    });
}

#[test]
fn what_the_border_judges_is_redirected_and_not_billed() {
    let server = started();
    let mut catalogue = small_catalogue();
    catalogue["campaigns"]
        .as_array_mut()
        .unwrap()
        .push(serde_json::json!({
            "campaign_id": "asleep", "advertiser_id": "acme", "name": "Asleep", "status": "paused",
            "pricing": {"model": "cpc", "price_micros": 100_000}, "daily_budget_micros": 1_000_000
        }));
    catalogue["ads"].as_array_mut().unwrap().push(serde_json::json!({
        "ad_id": "sleepy", "campaign_id": "asleep", "landing_url": "https://shop.example/asleep", "status": "active"
    }));
    server.apply_catalogue(&catalogue);
    let bot = "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)";
    assert_eq!(
        ask_as(
            &server,
            "GET",
            "/click?ad_id=banner",
            &[("user-agent", bot)]
        )
        .status,
        302
    );
    assert_eq!(
        ask_as(
            &server,
            "GET",
            "/click?ad_id=banner",
            &[
                ("user-agent", BROWSER),
                ("sec-purpose", "prefetch;prerender")
            ]
        )
        .status,
        302
    );
    assert_eq!(
        ask_as(&server, "GET", "/i?ad_id=banner", &[("user-agent", bot)]).status,
        200
    );
    assert_eq!(ask(&server, "/click?ad_id=sleepy").status, 302);
    assert_eq!(
        ask_as(
            &server,
            "HEAD",
            "/click?ad_id=banner",
            &[("user-agent", BROWSER)]
        )
        .status,
        302
    );
    wait_totals(
        &server,
        "spring",
        &[
            ("gross_clicks", 2),
            ("clicks", 0),
            ("general_invalid_clicks", 2),
            ("sophisticated_invalid_clicks", 0),
            ("invalid_impressions", 1),
            ("impressions", 0),
            ("cost_micros", 0),
        ],
    );
    wait_totals(
        &server,
        "asleep",
        &[
            ("gross_clicks", 1),
            ("invalid_clicks", 1),
            ("cost_micros", 0),
        ],
    );
    let rows = server.json("/api/v1/fraud?campaign_id=spring")["rows"].clone();
    let got: Vec<_> = rows
        .as_array()
        .unwrap()
        .iter()
        .map(|r| {
            (
                r["reason"].as_str().unwrap(),
                r["invalid_clicks"].as_i64().unwrap(),
                r["cost_micros"].as_i64().unwrap(),
                r["class"].as_str().unwrap(),
            )
        })
        .collect();
    assert!(
        got.contains(&("known_bot", 1, 250_000, "general")),
        "{rows}"
    );
    assert!(got.contains(&("prefetch", 1, 250_000, "general")), "{rows}");
    let clicks = server.json("/api/v1/fraud/clicks?campaign_id=asleep")["rows"].clone();
    assert_eq!(clicks[0]["reason"], "campaign_inactive");
    assert_eq!(clicks[0]["ad_id"], "sleepy");
}

#[test]
fn the_clicks_past_a_hundred_of_one_address_are_not_billed() {
    let server = started();
    for n in 0..130 {
        assert_eq!(
            ask(&server, &format!("/click?ad_id=banner&user_id=u{n}")).status,
            302
        );
    }
    wait_totals(
        &server,
        "spring",
        &[
            ("gross_clicks", 130),
            ("clicks", 100),
            ("invalid_clicks", 30),
        ],
    );
    let rows = server.json("/api/v1/fraud?campaign_id=spring")["rows"].clone();
    assert_eq!(
        (
            rows[0]["reason"].as_str(),
            rows[0]["invalid_clicks"].as_i64()
        ),
        (Some("address_limit"), Some(30)),
        "{rows}"
    );
}

#[test]
fn a_person_who_clicks_on_a_known_ad_always_arrives() {
    let server = started();
    let long = "x".repeat(10_000);
    let cases = [
        "ts=yesterday".to_owned(),
        "ts=1000000000".to_owned(),
        format!("ts={}", now_s() + 3_600),
        "click_id=has%20space".to_owned(),
        "impression_id=%00".to_owned(),
        "user_id=%ff%fe".to_owned(),
        "geo=%0d%0aSet-Cookie:%20a=b".to_owned(),
        format!("user_id={long}"),
        "campaign_id=another".to_owned(),
    ];
    for case in &cases {
        let answer = ask(&server, &format!("/click?ad_id=banner&{case}"));
        assert_eq!(
            answer.status,
            302,
            "{case}: {}",
            String::from_utf8_lossy(&answer.body)
        );
        assert!(answer.headers.get("set-cookie").is_none(), "{case}");
    }
    wait_totals(
        &server,
        "spring",
        &[("clicks", cases.len() as i64), ("late_events", 0)],
    );
    let missing = ask(&server, "/click");
    assert_eq!(missing.status, 400);
    assert_eq!(missing.problem()["parameter"], "ad_id");
    assert_eq!(ask(&server, &format!("/click?ad_id={long}")).status, 400);
    assert_eq!(ask(&server, "/click?ad_id=%ff").status, 400);
    let unknown = ask(&server, "/click?ad_id=nobody");
    assert_eq!(unknown.status, 404);
    unknown.problem();
}

#[test]
fn behind_a_proxy_the_right_most_foreign_hop_is_the_address() {
    let server = Server::start(Options::default().env(
        "ADTALLY_COLLECTOR_TRUSTED_PROXIES",
        "127.0.0.1/32,10.0.0.0/8",
    ));
    server.apply_catalogue(&small_catalogue());
    // The left-most hop is the client's to forge; only 203.0.113.9 stands where a proxy of ours put it.
    for n in 0..110 {
        let forged = format!("198.51.100.{n}, 203.0.113.9, 10.1.2.3");
        let answer = ask_as(
            &server,
            "GET",
            "/click?ad_id=banner",
            &[("user-agent", BROWSER), ("x-forwarded-for", &forged)],
        );
        assert_eq!(answer.status, 302);
    }
    for n in 0..110 {
        let other = format!("203.0.113.9, 192.0.2.{n}");
        assert_eq!(
            ask_as(
                &server,
                "GET",
                "/click?ad_id=banner",
                &[("user-agent", BROWSER), ("x-forwarded-for", &other)]
            )
            .status,
            302
        );
    }
    wait_totals(
        &server,
        "spring",
        &[("gross_clicks", 220), ("invalid_clicks", 10)],
    );
}
