//! Events by NATS: the real `nats` CLI, JSON and MessagePack, redelivery, and QUARANTINE.

use std::process::Command;

use async_nats::HeaderMap;
use futures_util::StreamExt;
use serde_json::{Value, json};

use crate::support::http::{ask, wait_totals};
use crate::support::{Options, Server, block_on, small_catalogue};

fn started() -> Server {
    let server = Server::start(Options::default());
    server.apply_catalogue(&small_catalogue());
    server
}

async fn publish(server: &Server, subject: &str, id: Option<&str>, payload: Vec<u8>) {
    let client = async_nats::connect(server.nats_url()).await.unwrap();
    let mut headers = HeaderMap::new();
    if let Some(id) = id {
        headers.insert("Nats-Msg-Id", id);
    }
    let js = async_nats::jetstream::new(client);
    js.publish_with_headers(subject.to_owned(), headers, payload.into())
        .await
        .unwrap()
        .await
        .unwrap();
}

/// The records of QUARANTINE once there are `count`.
fn quarantined(server: &Server, count: u64) -> Vec<Value> {
    block_on(async {
        let client = async_nats::connect(server.nats_url()).await.unwrap();
        let js = async_nats::jetstream::new(client);
        let mut stream = js.get_stream("QUARANTINE").await.unwrap();
        let began = std::time::Instant::now();
        while stream.info().await.unwrap().state.messages < count {
            assert!(
                began.elapsed().as_secs() < 30,
                "QUARANTINE holds {}",
                stream.cached_info().state.messages
            );
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        let consumer = stream
            .create_consumer(async_nats::jetstream::consumer::pull::OrderedConfig::default())
            .await
            .unwrap();
        let mut messages = consumer.messages().await.unwrap();
        let mut records = Vec::new();
        for _ in 0..stream.cached_info().state.messages {
            records.push(
                serde_json::from_slice(&messages.next().await.unwrap().unwrap().payload).unwrap(),
            );
        }
        records
    })
}

#[test]
fn json_and_messagepack_count_alike_and_once() {
    let server = started();
    let now = chrono::Utc::now();
    block_on(async {
        publish(
            &server,
            "ads.click.banner",
            None,
            json!({"click_id": "c1", "ts": now.to_rfc3339()})
                .to_string()
                .into(),
        )
        .await;
        let packed = rmp_serde::to_vec_named(
            &json!({"click_id": "c2", "ad_id": "banner", "ts": now.timestamp()}),
        )
        .unwrap();
        publish(&server, "ads.click.banner", None, packed).await;
        publish(
            &server,
            "ads.click.banner",
            Some("click:c3"),
            b"{}".to_vec(),
        )
        .await;
        publish(
            &server,
            "ads.impression.banner",
            Some("i1"),
            b"{\"geo\":\"de\"}".to_vec(),
        )
        .await;
        // The same click again under another message id: the broker lets it through, the id index does not.
        publish(
            &server,
            "ads.click.banner",
            Some("again"),
            json!({"click_id": "c1", "ts": now.to_rfc3339()})
                .to_string()
                .into(),
        )
        .await;
    });
    // And once more by HTTP.
    assert_eq!(ask(&server, "/click?ad_id=banner&click_id=c2").status, 302);
    wait_totals(
        &server,
        "spring",
        &[("clicks", 3), ("impressions", 1), ("cost_micros", 750_000)],
    );
    // Lanes keep their order, so with one more by each way everything before it has been folded.
    block_on(publish(
        &server,
        "ads.click.banner",
        Some("click:c4"),
        b"{}".to_vec(),
    ));
    assert_eq!(ask(&server, "/click?ad_id=banner&click_id=c5").status, 302);
    wait_totals(&server, "spring", &[("clicks", 5)]);
    wait_totals(
        &server,
        "spring",
        &[
            ("clicks", 5),
            ("impressions", 1),
            ("cost_micros", 1_250_000),
        ],
    );
}

#[test]
fn what_is_refused_stands_in_quarantine_with_its_reason() {
    let server = started();
    block_on(async {
        publish(
            &server,
            "ads.click.banner",
            None,
            b"{\"ad_id\":\"other\",\"click_id\":\"x\"}".to_vec(),
        )
        .await;
        publish(&server, "ads.click.banner", None, vec![0xff, 0x00, 0xfe]).await;
        let long = format!(
            "{{\"click_id\":\"y\",\"ad_id\":\"nobody\",\"pad\":\"{}\"}}",
            "z".repeat(300 * 1024)
        );
        publish(&server, "ads.click.nobody", None, long.into()).await;
        publish(
            &server,
            "ads.click.banner",
            None,
            b"{\"click_id\":\"good\"}".to_vec(),
        )
        .await;
    });
    wait_totals(&server, "spring", &[("clicks", 1)]);
    let records = quarantined(&server, 3);
    assert_eq!(records.len(), 3);
    let by = |reason: &str| {
        records
            .iter()
            .find(|r| r["reason"] == reason)
            .unwrap_or_else(|| panic!("{reason}: {records:?}"))
    };
    let mismatch = by("subject_mismatch");
    assert_eq!(mismatch["subject"], "ads.click.banner");
    assert_eq!(mismatch["stream"], "INTAKE");
    assert!(
        mismatch["sequence"].as_u64().is_some_and(|s| s >= 1),
        "{mismatch}"
    );
    assert!(mismatch["detail"].as_str().is_some_and(|d| !d.is_empty()));
    assert!(
        chrono::DateTime::parse_from_rfc3339(mismatch["received_at"].as_str().unwrap()).is_ok()
    );
    assert_eq!(
        mismatch["payload"],
        "{\"ad_id\":\"other\",\"click_id\":\"x\"}"
    );
    assert_eq!(by("invalid_payload")["payload_base64"], "/wD+");
    let long = by("unknown_ad");
    assert_eq!(long["truncated"], true);
    assert!(long["payload"].as_str().unwrap().len() <= 256 * 1024);
}

#[test]
fn a_catalogue_document_published_before_an_event_counts_for_it() {
    let server = started();
    for n in 0..20 {
        let ad = format!("fresh-{n}");
        block_on(async {
            let document = json!({"ad_id": ad, "campaign_id": "spring", "landing_url": "https://x.example/", "status": "active"});
            publish(
                &server,
                &format!("catalog.ad.{ad}"),
                None,
                document.to_string().into(),
            )
            .await;
            publish(
                &server,
                &format!("ads.click.{ad}"),
                Some(&format!("f{n}")),
                b"{}".to_vec(),
            )
            .await;
        });
        assert_eq!(
            ask(&server, &format!("/click?ad_id={ad}")).status,
            302,
            "{ad}"
        );
    }
    wait_totals(&server, "spring", &[("clicks", 40)]);
}

#[test]
fn the_nats_cli_publishes_and_reads() {
    let Some(nats) = std::env::var_os("ADTALLY_NATS_CLI") else {
        eprintln!(
            "skipped: the nats CLI is not here (ADTALLY_NATS_CLI is unset; it is built where Go is present)"
        );
        return;
    };
    let server = started();
    let run = |args: &[&str]| {
        let output = Command::new(&nats)
            .args(["--server", &server.nats_url()])
            .args(args)
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{args:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8_lossy(&output.stdout).into_owned()
            + &String::from_utf8_lossy(&output.stderr)
    };
    run(&["pub", "-J", "ads.click.banner", "{\"click_id\":\"cli-1\"}"]);
    run(&[
        "pub",
        "-J",
        "-H",
        "Nats-Msg-Id:cli-2",
        "ads.click.banner",
        "{}",
    ]);
    run(&[
        "pub",
        "catalog.ad.second",
        "{\"ad_id\":\"second\",\"campaign_id\":\"spring\",\"landing_url\":\"https://x.example/\",\"status\":\"active\"}",
    ]);
    run(&["pub", "-J", "ads.click.second", "{\"click_id\":\"cli-3\"}"]);
    run(&[
        "pub",
        "-J",
        "ads.click.second",
        "{\"click_id\":\"not an id\"}",
    ]);
    wait_totals(&server, "spring", &[("clicks", 3)]);
    let records = quarantined(&server, 1);
    assert_eq!(records[0]["reason"], "bad_id");
    assert!(run(&["stream", "ls", "--all"]).contains("EVENTS_0"));
}
