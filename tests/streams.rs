//! The streams: made from their files, checked against a running server, never changed behind one's back.

use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::{
    Broker, Folder, Options, Server, block_on, cli, ok, small_catalogue, wait_for,
};

/// How soon a refusal that stays one ends a start: before the 20 s that a passing one is waited out for.
const FINAL_WITHIN: Duration = Duration::from_secs(15);

#[test]
fn check_says_what_differs_and_apply_makes_what_is_missing() {
    let server = Server::start(Options::default());
    ok(&server.cli(&["streams", "check"]));
    block_on(async {
        let js = async_nats::jetstream::new(async_nats::connect(server.nats_url()).await.unwrap());
        let mut config = js
            .get_stream("QUARANTINE")
            .await
            .unwrap()
            .cached_info()
            .config
            .clone();
        config.max_bytes = 123_456;
        js.update_stream(config).await.unwrap();
    });
    let output = server.cli(&["streams", "check"]);
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        text.contains("QUARANTINE") && text.contains("max_bytes") && text.contains("123456"),
        "{text}"
    );
}

/// A `serve` with as many copies as there are servers.
fn serve_on(broker: &Broker) -> Options {
    Options::default()
        .arg("--server")
        .arg(broker.url())
        .env("ADTALLY_STREAMS_REPLICAS", &broker.replicas().to_string())
}

#[test]
fn a_broker_with_little_room_gives_every_shard_as_much() {
    // INTAKE and QUARANTINE take 1 GiB each, and eight EVENTS streams of 4 GiB do not fit into what is left: six of
    // them do, so whoever takes in order leaves nothing for the last. A cluster counts a second late, and gives more
    // than it has to whoever is quick.
    for servers in [1, 3] {
        let broker = Broker::of_room(servers, "27GB");
        let server = Server::start(serve_on(&broker));
        assert_eq!(maxima(&broker), [2_i64 << 30; 8], "{servers} servers");
        drop(server);
    }
}

#[test]
fn a_start_that_was_interrupted_while_it_looked_for_room_is_made_good() {
    let broker = Broker::of_room(1, "40GB");
    block_on(async {
        let js = async_nats::jetstream::new(async_nats::connect(broker.url()).await.unwrap());
        let definition = include_str!("../streams/definitions/events.json")
            .replace("{p}", "0")
            .replace("{shards}", "8");
        let mut config: async_nats::jetstream::stream::Config =
            serde_json::from_str(&definition).unwrap();
        // What the first stream is made with: all that twelve streams take.
        config.max_bytes = 34 << 30;
        js.create_stream(config).await.unwrap();
    });
    let server = Server::start(serve_on(&broker));
    assert_eq!(maxima(&broker), [4_i64 << 30; 8]);
    drop(server);
}

/// The maxima of the EVENTS streams.
fn maxima(broker: &Broker) -> Vec<i64> {
    block_on(async {
        let js = async_nats::jetstream::new(
            async_nats::connect(broker.url().split(',').collect::<Vec<_>>())
                .await
                .unwrap(),
        );
        let mut sizes = Vec::new();
        for shard in 0..8 {
            let stream = js.get_stream(format!("EVENTS_{shard}")).await.unwrap();
            sizes.push(stream.cached_info().config.max_bytes);
        }
        sizes
    })
}

#[test]
fn a_stream_that_can_never_fit_ends_the_start_at_once() {
    for servers in [1, 3] {
        let broker = Broker::of_room(servers, "500MB");
        let mut server = Server::spawn(serve_on(&broker));
        let began = Instant::now();
        let ended = wait_for("the end", || server.ended());
        assert_eq!(ended.code(), Some(3), "{}", server.log());
        assert!(
            server.log().contains("no room for the 12 streams"),
            "{}",
            server.log()
        );
        assert!(began.elapsed() < FINAL_WITHIN, "{:?}", began.elapsed());
    }
}

/// A broker whose account may have streams of that many bytes each, and as many as it likes.
fn broker_of_streams(max_bytes: u64) -> Broker {
    let account = format!(
        "accounts {{ ADS: {{ jetstream: {{ disk_max_stream_bytes: {max_bytes} }}, users: [{{ user: ads, password: ads }}] }} }}\n\
         no_auth_user: ads\n"
    );
    Broker::of(1, &account)
}

#[test]
fn an_account_that_limits_single_streams_gives_every_shard_the_same() {
    // 4 GiB halved until it is within 1.5 GB.
    let broker = broker_of_streams(1_500_000_000);
    let server = Server::start(serve_on(&broker));
    assert_eq!(maxima(&broker), [1_i64 << 30; 8]);
    drop(server);

    // What has a size of its own is not made smaller behind the operator's back.
    let broker = broker_of_streams(512 << 20);
    let mut server = Server::spawn(serve_on(&broker));
    let ended = wait_for("the end", || server.ended());
    assert_eq!(ended.code(), Some(3), "{}", server.log());
    let says = "may not have a maximum of 1073741824 bytes";
    assert!(server.log().contains(says), "{}", server.log());
}

#[test]
fn another_number_of_shards_is_refused() {
    let folder = Folder::new();
    let mut server = Server::start(
        Options::default()
            .data_dir(&folder)
            .arg("--shards")
            .arg("4"),
    );
    assert_eq!(server.stop(), Some(0));
    let output = cli(
        &folder,
        &["serve", "--listen", "127.0.0.1:0", "--shards", "8"],
    );
    assert!(
        matches!(output.status.code(), Some(2 | 3)),
        "{:?}",
        output.status
    );
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(text.contains('4') && text.contains('8'), "{text}");
    let again = Server::start(Options::default().data_dir(&folder));
    assert_eq!(
        again.json("/api/v1/analytics?campaign_id=x")["as_of"]
            .as_object()
            .unwrap()
            .len(),
        1 + 4
    );
}

#[test]
fn a_full_stream_is_said_and_nothing_answered_is_lost() {
    // The broker refuses at 256 KiB a shard; the outbox keeps what was answered.
    let server = Server::start(
        Options::default()
            .arg("--shards")
            .arg("1")
            .env("ADTALLY_STREAMS_EVENTS_MAX_BYTES", "262144"),
    );
    server.apply_catalogue(&small_catalogue());
    let mut sent = 0;
    wait_for("the stream to fill", || {
        let events: Vec<_> = (0..500)
            .map(|n| json!({"kind": "impression", "impression_id": uuid::Uuid::new_v4().to_string(), "ad_id": "banner", "user_agent": format!("agent {n} {}", uuid::Uuid::new_v4())}))
            .collect();
        let answer = crate::support::http::post_json(&server, "/api/v1/events", &json!(events));
        assert_eq!(answer.status, 202, "{}", answer.text());
        sent += 500;
        let (status, body) = crate::support::get(&format!("{}/readyz", server.url));
        (status == 503 && body.contains("EVENTS")).then_some(())
    });
    block_on(async {
        let js = async_nats::jetstream::new(async_nats::connect(server.nats_url()).await.unwrap());
        let mut config = js
            .get_stream("EVENTS_0")
            .await
            .unwrap()
            .cached_info()
            .config
            .clone();
        config.max_bytes = 64 << 20;
        js.update_stream(config).await.unwrap();
    });
    crate::support::http::wait_totals(&server, "spring", &[("impressions", sent)]);
    let (status, body) = wait_for("readiness", || {
        Some(crate::support::get(&format!("{}/readyz", server.url))).filter(|(s, _)| *s == 200)
    });
    assert_eq!(status, 200, "{body}");
}

#[test]
fn the_nats_configurations_are_accepted_by_the_server() {
    for file in ["nats/single.conf", "nats/accounts.conf"] {
        let output = Command::new(crate::support::nats_server())
            .args(["-t", "-c", file])
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .envs(passwords(file))
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{file}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
}

/// Every variable that a configuration asks for, filled.
fn passwords(file: &str) -> Vec<(String, String)> {
    let text = std::fs::read_to_string(std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(file))
        .unwrap();
    text.split(|c: char| !(c.is_ascii_uppercase() || c == '_' || c == '$' || c.is_ascii_digit()))
        .filter_map(|word| word.strip_prefix('$'))
        .filter(|name| !name.is_empty())
        .map(|name| (name.to_owned(), "a-password-of-the-test".to_owned()))
        .collect()
}
