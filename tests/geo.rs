//! The region of an event that names none: from the address, by the GeoIP database that is configured.

use std::collections::BTreeMap;

use serde_json::json;

use crate::support::http::{BROWSER, ask_as, post_json, wait_totals};
use crate::support::{Options, Server, small_catalogue};

#[test]
fn an_event_without_geo_is_placed_by_its_address() {
    // tests/fixtures/make_geo.py says what stands in it.
    let database = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/geo.mmdb");
    let options = Options::default()
        .env("ADTALLY_COLLECTOR_GEOIP_DATABASE", database)
        .env("ADTALLY_COLLECTOR_TRUSTED_PROXIES", "127.0.0.0/8");
    let server = Server::start(options);
    server.apply_catalogue(&small_catalogue());
    for (query, address) in [
        ("ad_id=banner", "192.0.2.1"),
        ("ad_id=banner", "2001:db8::1"),
        ("ad_id=banner", "203.0.113.1"),
        ("ad_id=banner&geo=jp", "192.0.2.1"),
        ("ad_id=banner&geo=nowhere", "192.0.2.1"),
    ] {
        let headers = [("user-agent", BROWSER), ("x-forwarded-for", address)];
        let answer = ask_as(&server, "GET", &format!("/click?{query}"), &headers);
        assert_eq!(answer.status, 302, "{query} from {address}");
    }
    // The address that a publisher names counts, and never the publisher's own.
    let posted = json!([
        {"kind": "click", "click_id": "p1", "ad_id": "banner", "ip": "192.0.2.200"},
        {"kind": "click", "click_id": "p2", "ad_id": "banner", "ip": "::ffff:192.0.2.200"},
        {"kind": "click", "click_id": "p3", "ad_id": "banner"},
    ]);
    assert_eq!(
        post_json(&server, "/api/v1/events", &posted).json()["accepted"],
        3
    );
    wait_totals(&server, "spring", &[("clicks", 8)]);
    let answer =
        server.json("/api/v1/analytics?campaign_id=spring&granularity=total&group_by=region");
    let found: BTreeMap<_, _> = answer["rows"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| {
            (
                row["region"].as_str().unwrap(),
                row["clicks"].as_i64().unwrap(),
            )
        })
        .collect();
    let expected = [
        ("", 2),
        ("DE", 2),
        ("JP", 1),
        ("US-CA", 1),
        ("US-NY", 1),
        ("other", 1),
    ];
    assert_eq!(found, BTreeMap::from(expected));
}
