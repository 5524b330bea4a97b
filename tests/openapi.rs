//! The OpenAPI document is served, and the running service does what it says.

use std::collections::BTreeSet;

use crate::support::http::{ask, ask_as};
use crate::support::{Options, Server, small_catalogue};

#[test]
fn every_documented_path_answers_and_every_answer_is_documented() {
    let server = Server::start(Options::default());
    server.apply_catalogue(&small_catalogue());
    let document = server.json("/api/openapi.json");
    assert!(document["openapi"].as_str().unwrap().starts_with("3."));
    let paths = document["paths"].as_object().unwrap();
    for expected in [
        "/click",
        "/c/{ad_id}",
        "/i",
        "/conversion",
        "/api/v1/events",
        "/api/v1/analytics",
        "/api/v1/campaigns/{id}/spend",
        "/api/v1/top",
        "/api/v1/rolling",
        "/api/v1/trending",
        "/api/v1/uniques",
        "/api/v1/statements/{advertiser_id}/{month}",
        "/api/v1/fraud",
        "/api/v1/fraud/clicks",
        "/api/v1/catalog/ads",
        "/api/v1/catalog/ads/{id}",
        "/api/v1/catalog/campaigns",
        "/api/v1/catalog/campaigns/{id}",
        "/api/v1/catalog/advertisers",
        "/api/v1/catalog/advertisers/{id}",
        "/healthz",
        "/readyz",
        "/metrics",
    ] {
        assert!(
            paths.contains_key(expected),
            "{expected} is not documented: {:?}",
            paths.keys()
        );
    }
    for (path, item) in paths {
        let Some(operation) = item.get("get") else {
            continue;
        };
        let path = path.replace("{advertiser_id}", "acme");
        let path = path.replace("{month}", "2026-01");
        let concrete = path.replace("{ad_id}", "banner").replace(
            "{id}",
            if path.contains("ads") {
                "banner"
            } else if path.contains("advertisers") {
                "acme"
            } else {
                "spring"
            },
        );
        for query in [
            "",
            "?campaign_id=spring&advertiser_id=acme&ad_id=banner",
            "?no_such_parameter=1",
        ] {
            let answer = ask(&server, &format!("{concrete}{query}"));
            let documented: BTreeSet<_> = operation["responses"]
                .as_object()
                .unwrap()
                .keys()
                .map(String::as_str)
                .collect();
            let status = answer.status.to_string();
            assert!(
                documented.contains(status.as_str()),
                "GET {concrete}{query} answered {status}, documented {documented:?}: {}",
                answer.text()
            );
        }
    }
    let parameters: BTreeSet<_> = paths["/api/v1/analytics"]["get"]["parameters"]
        .as_array()
        .unwrap()
        .iter()
        .map(|p| p["name"].as_str().unwrap())
        .collect();
    for name in [
        "campaign_id",
        "ad_id",
        "advertiser_id",
        "start",
        "end",
        "granularity",
        "group_by",
        "region",
        "device",
        "creative",
        "time_zone",
        "fill",
        "format",
        "explain",
    ] {
        assert!(
            parameters.contains(name),
            "{name} is not documented: {parameters:?}"
        );
    }
    assert_eq!(ask_as(&server, "GET", "/healthz", &[]).status, 200);
}
