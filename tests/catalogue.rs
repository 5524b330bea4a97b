//! The catalogue over HTTP: what a PUT answers is what is in force.

use serde_json::{Value, json};

use crate::support::http::{Answer, ask, send};
use crate::support::{Options, Server, small_catalogue};

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
