//! Keys and tenants: who may ask what, and who may post what.

use serde_json::json;

use crate::support::http::{Answer, ask, send, wait_totals};
use crate::support::{Options, Server, ok, small_catalogue};

fn create(server: &Server, args: &[&str]) -> String {
    let mut all = vec!["keys", "create"];
    all.extend(args);
    ok(&server.cli(&all)).trim().to_owned()
}

fn with_key(
    server: &Server,
    method: &str,
    path: &str,
    key: &str,
    body: &serde_json::Value,
) -> Answer {
    let bearer = format!("Bearer {key}");
    let body = if body.is_null() {
        Vec::new()
    } else {
        body.to_string().into_bytes()
    };
    send(
        server,
        method,
        path,
        &[
            ("authorization", &bearer),
            ("content-type", "application/json"),
        ],
        body,
    )
}

#[test]
fn a_key_opens_what_it_is_for_and_nothing_else() {
    let server = Server::start(Options::default());
    let mut catalogue = small_catalogue();
    catalogue["advertisers"].as_array_mut().unwrap().push(json!({"advertiser_id": "rival", "name": "Rival", "currency_code": "EUR", "time_zone": "UTC"}));
    catalogue["campaigns"].as_array_mut().unwrap().push(json!({
        "campaign_id": "secret", "advertiser_id": "rival", "name": "Secret", "status": "active",
        "pricing": {"model": "cpc", "price_micros": 1_000}, "daily_budget_micros": 1
    }));
    server.apply_catalogue(&catalogue);
    // Without any key, loopback is trusted.
    assert_eq!(
        ask(&server, "/api/v1/analytics?campaign_id=spring").status,
        200
    );

    let admin = create(&server, &["--admin", "--name", "ops"]);
    let acme = create(&server, &["--advertiser", "acme"]);
    let publisher = create(&server, &["--publisher"]);
    crate::support::wait_for("the keys to be in force", || {
        (ask(&server, "/api/v1/analytics?campaign_id=spring").status == 401).then_some(())
    });

    let none = serde_json::Value::Null;
    let refused = ask(&server, "/api/v1/analytics?campaign_id=spring");
    refused.problem();
    assert!(
        refused.header("www-authenticate").starts_with("Bearer"),
        "{:?}",
        refused.headers
    );
    assert_eq!(
        with_key(
            &server,
            "GET",
            "/api/v1/analytics?campaign_id=spring",
            "adt_wrong",
            &none
        )
        .status,
        403
    );
    for (key, path, expected) in [
        (&admin, "/api/v1/analytics?campaign_id=spring", 200),
        (&admin, "/api/v1/analytics?campaign_id=secret", 200),
        (&acme, "/api/v1/analytics?campaign_id=spring", 200),
        (&acme, "/api/v1/analytics?advertiser_id=acme", 200),
        (&acme, "/api/v1/analytics?campaign_id=secret", 403),
        (&acme, "/api/v1/analytics?advertiser_id=rival", 403),
        (
            &acme,
            "/api/v1/analytics?campaign_id=spring&campaign_id=secret",
            403,
        ),
        (&acme, "/api/v1/analytics?ad_id=nobody", 403),
        // Beside what is its own, an ad only narrows: it may be another's by now, or in no catalogue.
        (
            &acme,
            "/api/v1/analytics?ad_id=nobody&campaign_id=spring",
            200,
        ),
        (
            &acme,
            "/api/v1/analytics?ad_id=nobody&campaign_id=secret",
            403,
        ),
        (
            &acme,
            "/api/v1/analytics?ad_id=nobody&advertiser_id=acme",
            200,
        ),
        (&acme, "/api/v1/campaigns/spring/spend", 200),
        (&acme, "/api/v1/campaigns/secret/spend", 403),
        (&acme, "/api/v1/fraud?campaign_id=secret", 403),
        (&acme, "/api/v1/top?advertiser_id=rival", 403),
        (&acme, "/api/v1/rolling?campaign_id=spring", 200),
        (&acme, "/api/v1/rolling?campaign_id=secret", 403),
        (&acme, "/api/v1/trending?advertiser_id=acme", 200),
        (&acme, "/api/v1/trending?advertiser_id=rival", 403),
        (&publisher, "/api/v1/analytics?campaign_id=spring", 403),
    ] {
        let answer = with_key(&server, "GET", path, key, &none);
        assert_eq!(answer.status, expected, "{path}: {}", answer.text());
        if expected >= 400 {
            answer.problem();
        }
    }

    let click = json!([{"kind": "click", "click_id": "k1", "ad_id": "banner"}]);
    let own = json!([{"kind": "conversion", "conversion_id": "k2", "advertiser_id": "acme", "user_id": "u"}]);
    let foreign = json!([{"kind": "conversion", "conversion_id": "k3", "advertiser_id": "rival", "user_id": "u"}]);
    assert_eq!(
        send(
            &server,
            "POST",
            "/api/v1/events",
            &[],
            click.to_string().into_bytes()
        )
        .status,
        401
    );
    assert_eq!(
        with_key(&server, "POST", "/api/v1/events", &acme, &click).status,
        403
    );
    assert_eq!(
        with_key(&server, "POST", "/api/v1/events", &acme, &foreign).status,
        403
    );
    assert_eq!(
        with_key(&server, "POST", "/api/v1/events", &acme, &own).status,
        202
    );
    assert_eq!(
        with_key(&server, "POST", "/api/v1/events", &publisher, &click).status,
        202
    );
    // Browsers have no key.
    assert_eq!(ask(&server, "/click?ad_id=banner").status, 302);

    let ad = json!({"ad_id": "banner", "campaign_id": "spring", "landing_url": "https://new.example/", "status": "active"});
    assert_eq!(
        with_key(&server, "PUT", "/api/v1/catalog/ads/banner", &acme, &ad).status,
        403
    );
    let put = with_key(&server, "PUT", "/api/v1/catalog/ads/banner", &admin, &ad);
    assert!((200..=201).contains(&put.status), "{}", put.text());
    // A PUT counts for every event that arrives after it returned.
    assert_eq!(
        ask(&server, "/click?ad_id=banner").header("location"),
        "https://new.example/"
    );

    let list = ok(&server.cli(&["keys", "list", "--json"]));
    assert!(!list.contains(&admin), "a secret is shown once");
    let keys: serde_json::Value = serde_json::from_str(&list).unwrap();
    let id = keys
        .as_array()
        .unwrap()
        .iter()
        .find(|k| k.to_string().contains("acme"))
        .unwrap()["key_id"]
        .as_str()
        .unwrap()
        .to_owned();
    ok(&server.cli(&["keys", "revoke", &id]));
    let unknown = server.cli(&["keys", "revoke", "key-nope", "--json"]);
    assert_eq!(unknown.status.code(), Some(1));
    let said: serde_json::Value = serde_json::from_slice(&unknown.stderr).unwrap();
    assert!(
        said["error"].as_str().unwrap().contains("key-nope"),
        "{said}"
    );
    crate::support::wait_for("the key to be revoked", || {
        (with_key(
            &server,
            "GET",
            "/api/v1/analytics?campaign_id=spring",
            &acme,
            &none,
        )
        .status
            == 403)
            .then_some(())
    });
}

#[test]
fn a_price_counts_from_the_moment_it_was_put() {
    let server = Server::start(Options::default());
    server.apply_catalogue(&small_catalogue());
    let mut total = 0;
    for n in 1..=20_i64 {
        let campaign = json!({
            "campaign_id": "spring", "advertiser_id": "acme", "name": "Spring", "status": "active",
            "pricing": {"model": "cpc", "price_micros": n * 1_000}, "daily_budget_micros": 10_000_000
        });
        let put = send(
            &server,
            "PUT",
            "/api/v1/catalog/campaigns/spring",
            &[("content-type", "application/json")],
            campaign.to_string().into_bytes(),
        );
        assert!((200..=201).contains(&put.status), "{}", put.text());
        assert_eq!(ask(&server, "/click?ad_id=banner").status, 302);
        total += n * 1_000;
    }
    wait_totals(&server, "spring", &[("clicks", 20), ("cost_micros", total)]);
    let other_advertiser = json!({"campaign_id": "spring", "advertiser_id": "rival", "name": "x", "status": "active", "pricing": {"model": "cpc", "price_micros": 1}});
    let refused = send(
        &server,
        "PUT",
        "/api/v1/catalog/campaigns/spring",
        &[("content-type", "application/json")],
        other_advertiser.to_string().into_bytes(),
    );
    assert_eq!(refused.status, 422, "{}", refused.text());
    refused.problem();
}
