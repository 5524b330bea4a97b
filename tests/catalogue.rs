//! The catalogue: what a PUT answers is what is in force, and what is mistyped in a document is told.

use serde_json::{Value, json};

use crate::support::http::{Answer, ask, send};
use crate::support::{Options, Server, block_on, ok, small_catalogue, wait_for};

fn put(server: &Server, path: &str, document: &Value) -> Answer {
    let headers = [("content-type", "application/json")];
    let body = document.to_string().into_bytes();
    send(server, "PUT", path, &headers, body)
}

#[test]
fn a_put_answers_with_what_is_in_force() {
    let server = Server::start(Options::default());
    server.apply_catalogue(&small_catalogue());
    let ad = |id: &str| json!({"ad_id": id, "campaign_id": "spring", "landing_url": "https://shop.example/"});
    let mut spread = ad("wide");
    spread["spread"] = json!(4);
    for (document, status, expected) in [
        (ad("narrow"), 201, 1),
        (spread, 201, 4),
        // Left out, it stays what it was at creation.
        (ad("wide"), 200, 4),
    ] {
        let path = format!(
            "/api/v1/catalog/ads/{}",
            document["ad_id"].as_str().unwrap()
        );
        let answer = put(&server, &path, &document);
        assert_eq!(answer.status, status, "{}", answer.text());
        assert_eq!(answer.json()["spread"], expected, "{document}");
        assert_eq!(answer.json(), server.json(&path));
    }
    let list = put(
        &server,
        "/api/v1/catalog/ads",
        &json!([ad("wide"), ad("third")]),
    );
    assert_eq!(list.status, 200, "{}", list.text());
    let ads = list.json()["ads"].clone();
    assert_eq!(
        (&ads[0]["spread"], &ads[1]["spread"]),
        (&json!(4), &json!(1))
    );
    // One bad document, and none of the list is in force.
    let bad = json!([ad("fourth"), {"ad_id": "fifth"}]);
    assert_eq!(put(&server, "/api/v1/catalog/ads", &bad).status, 422);
    assert_eq!(ask(&server, "/api/v1/catalog/ads/fourth").status, 404);
}

/// A budget that is lost without a word is money: whoever puts, applies or publishes it hears of it, and what is right
/// in the document is in force all the same.
#[test]
fn a_key_that_is_no_field_is_told_on_every_way() {
    const UNKNOWN: &str = "x-adtally-unknown-fields";
    let server = Server::start(Options::default());
    server.apply_catalogue(&small_catalogue());
    let right = json!({"advertiser_id": "acme", "pricing": {"model": "cpc", "price_micros": 1}});
    let path = "/api/v1/catalog/campaigns/autumn";
    assert_eq!(put(&server, path, &right).header(UNKNOWN), "");
    let mut mistyped = right.clone();
    mistyped["daily_budget_micro"] = json!(5);
    let answer = put(&server, path, &mistyped);
    assert_eq!(
        (answer.status, &answer.json()["daily_budget_micros"]),
        (200, &Value::Null)
    );
    let told = "daily_budget_micro (did you mean daily_budget_micros?)";
    assert_eq!(answer.header(UNKNOWN), told);
    mistyped["campaign_id"] = json!("autumn");
    let list = put(&server, "/api/v1/catalog/campaigns", &json!([mistyped]));
    assert_eq!(list.header(UNKNOWN), format!("[0].{told}"));

    let file = server.data_dir.join("mistyped.json");
    std::fs::write(&file, json!({"campaigns": [mistyped]}).to_string()).unwrap();
    let applied = server.cli(&["catalog", "apply", file.to_str().unwrap()]);
    ok(&applied);
    let stderr = String::from_utf8_lossy(&applied.stderr).into_owned();
    assert!(stderr.contains(&format!("campaigns[0].{told}")), "{stderr}");

    assert!(!server.log().contains("is no field"), "{}", server.log());
    block_on(async {
        let client = async_nats::connect(server.nats_url()).await.unwrap();
        let js = async_nats::jetstream::new(client);
        let payload = mistyped.to_string();
        let stored = js.publish("catalog.campaign.autumn", payload.into());
        stored.await.unwrap().await.unwrap();
    });
    wait_for("the key in the log", || {
        server.log().contains(told).then_some(())
    });
}

/// What `catalog list --json` prints is a file that `catalog apply` takes, and puts nothing else in force.
#[test]
fn a_listed_catalogue_can_be_applied() {
    let server = Server::start(Options::default());
    server.apply_catalogue(&small_catalogue());
    let listed = ok(&server.cli(&["catalog", "list", "--json"]));
    let catalogue: Value = serde_json::from_str(&listed).unwrap();
    for (list, id) in [
        ("advertisers", "acme"),
        ("campaigns", "spring"),
        ("ads", "banner"),
    ] {
        let documents = catalogue[list].as_array().unwrap();
        assert_eq!(documents.len(), 1, "{catalogue}");
        assert_eq!(
            documents[0],
            server.json(&format!("/api/v1/catalog/{list}/{id}"))
        );
    }
    server.apply_catalogue(&catalogue);
    assert_eq!(ok(&server.cli(&["catalog", "list", "--json"])), listed);
    let table = ok(&server.cli(&["catalog", "list"]));
    assert!(
        ["acme", "spring", "banner"]
            .iter()
            .all(|id| table.contains(id)),
        "{table}"
    );
}
