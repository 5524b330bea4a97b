//! Failure by failing: a broker away, a killed process, a stop in the middle, a store under a foreign log.

use std::time::Duration;

use serde_json::json;

use crate::support::http::{ask, post_json, wait_totals};
use crate::support::{
    Broker, Folder, Options, Server, block_on, cli, ok, small_catalogue, wait_for,
};

#[test]
fn a_broker_away_for_thirty_seconds_loses_nothing_answered() {
    let mut broker = Broker::start();
    let server = Server::start(Options::default().arg("--server").arg(broker.url()));
    server.apply_catalogue(&small_catalogue());
    assert_eq!(
        ask(&server, "/click?ad_id=banner&click_id=before").status,
        302
    );
    wait_totals(&server, "spring", &[("clicks", 1)]);
    broker.kill();
    let began = std::time::Instant::now();
    let mut answered = 1;
    while began.elapsed() < Duration::from_secs(30) {
        let click = ask(
            &server,
            &format!("/click?ad_id=banner&click_id=away-{answered}"),
        );
        assert_eq!(click.status, 302, "{}", click.text());
        let post = post_json(
            &server,
            "/api/v1/events",
            &json!([{"kind": "click", "click_id": format!("posted-{answered}"), "ad_id": "banner", "ip": format!("10.0.0.{}", answered % 250)}]),
        );
        assert_eq!(post.status, 202, "{}", post.text());
        answered += 2;
        std::thread::sleep(Duration::from_millis(1_000));
    }
    let (status, body) = crate::support::get(&format!("{}/readyz", server.url));
    assert_eq!(status, 503, "{body}");
    broker.run();
    wait_totals(&server, "spring", &[("gross_clicks", answered)]);
    wait_for("readiness", || {
        (crate::support::get(&format!("{}/readyz", server.url)).0 == 200).then_some(())
    });
}

#[test]
fn a_stop_drains_and_a_kill_recovers() {
    let folder = Folder::new();
    let mut server = Server::start(Options::default().data_dir(&folder));
    server.apply_catalogue(&small_catalogue());
    for n in 0..50 {
        assert_eq!(
            ask(&server, &format!("/click?ad_id=banner&click_id=a{n}")).status,
            302
        );
    }
    assert_eq!(server.stop(), Some(0));
    let mut server = Server::start(Options::default().data_dir(&folder));
    wait_totals(&server, "spring", &[("clicks", 50)]);
    for n in 0..30 {
        assert_eq!(
            ask(&server, &format!("/click?ad_id=banner&click_id=b{n}")).status,
            302
        );
    }
    server.kill();
    let server = Server::start(Options::default().data_dir(&folder));
    wait_totals(&server, "spring", &[("gross_clicks", 80)]);
    // The epoch that was killed is recovered and closed: nothing holds completeness back for good.
    let began = chrono::Utc::now();
    wait_for("complete_through to pass the restart", || {
        let through =
            server.json("/api/v1/analytics?campaign_id=spring")["complete_through"].clone();
        let through = chrono::DateTime::parse_from_rfc3339(through.as_str()?).ok()?;
        (through > began).then_some(())
    });
}

#[test]
fn a_store_is_not_folded_on_under_another_log() {
    let folder = Folder::bare();
    let first = Broker::start();
    let mut server = Server::start(
        Options::default()
            .data_dir(&folder)
            .arg("--server")
            .arg(first.url()),
    );
    server.apply_catalogue(&small_catalogue());
    assert_eq!(ask(&server, "/click?ad_id=banner").status, 302);
    wait_totals(&server, "spring", &[("clicks", 1)]);
    assert_eq!(server.stop(), Some(0));
    let second = Broker::start();
    let output = cli(
        &folder,
        &[
            "serve",
            "--listen",
            "127.0.0.1:0",
            "--server",
            &second.url(),
        ],
    );
    assert_eq!(
        output.status.code(),
        Some(3),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(text.contains("EVENTS_"), "{text}");
}

#[test]
fn a_bad_frame_is_recorded_and_passed_over() {
    let server = Server::start(Options::default().arg("--shards").arg("1"));
    server.apply_catalogue(&small_catalogue());
    block_on(async {
        let client = async_nats::connect(server.nats_url()).await.unwrap();
        let js = async_nats::jetstream::new(client);
        js.publish("events.0.click", "not a frame".into())
            .await
            .unwrap()
            .await
            .unwrap();
    });
    assert_eq!(ask(&server, "/click?ad_id=banner").status, 302);
    wait_totals(&server, "spring", &[("clicks", 1)]);
    let (_, metrics) = crate::support::get(&format!("{}/metrics", server.url));
    assert!(
        metrics
            .lines()
            .any(|l| l.starts_with("adtally_frames_bad_total")),
        "{metrics}"
    );
}

#[test]
fn one_folder_is_served_once() {
    let server = Server::start(Options::default());
    let output = server.cli(&["serve", "--listen", "127.0.0.1:0"]);
    assert_eq!(output.status.code(), Some(3));
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        text.contains(&server.data_dir.display().to_string()),
        "{text}"
    );
}

/// Whoever looks at night must not look for servers that are away when somebody has deleted a stream.
#[test]
fn a_deleted_stream_is_named_and_made_by_streams_apply_and_refused_by_its_shard() {
    let mut server = Server::start(Options::default());
    server.apply_catalogue(&small_catalogue());
    block_on(async {
        let client = async_nats::connect(server.nats_url()).await.unwrap();
        let js = async_nats::jetstream::new(client);
        js.delete_stream("EVENTS_3").await.unwrap();
    });
    let detail = wait_for("a process that is not ready", || {
        let answer = ask(&server, "/readyz");
        (answer.status == 503).then(|| answer.problem()["detail"].to_string())
    });
    assert!(
        detail.contains("the stream EVENTS_3 does not exist: `adtally streams apply`")
            && !detail.contains("no leader"),
        "{detail}"
    );
    assert_eq!(ask(&server, "/click?ad_id=banner").status, 302);
    ok(&server.cli(&["streams", "apply"]));
    let ended = wait_for("its end", || server.ended());
    assert_eq!(ended.code(), Some(3), "{}", server.log());
    assert!(
        server
            .log()
            .contains("EVENTS_3 is not the stream that shard 3 was folded from"),
        "{}",
        server.log()
    );
}
