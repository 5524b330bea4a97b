//! `adtally verify` on a running and on a stopped deployment, and the verifications that `serve` makes by itself.

use serde_json::Value;

use crate::replay::{answers, send, settled, start, stopped, text};
use crate::support::http::{ask, wait_totals};
use crate::support::{Folder, Options, Server, block_on, cli, get, ok, small_catalogue, wait_for};

fn json(text: &str) -> Value {
    serde_json::from_str(text.lines().last().unwrap()).unwrap()
}

#[test]
fn a_running_deployment_is_verified_while_it_counts_and_a_stopped_one_too() {
    let folder = Folder::new();
    let mut server = start(&folder);
    server.apply_catalogue(&small_catalogue());
    send(&server, "a");
    wait_totals(&server, "spring", &[("gross_clicks", 30)]);
    // Clicks go on coming meanwhile.
    let verdict = std::thread::scope(|scope| {
        let verify = scope.spawn(|| server.cli(&["verify", "--json"]));
        let mut sent = 0;
        while !verify.is_finished() {
            let click = format!("/click?ad_id=banner&click_id=n{sent}");
            assert_eq!(ask(&server, &click).status, 302);
            sent += 1;
        }
        verify.join().unwrap()
    });
    let verdict = json(&ok(&verdict));
    assert_eq!(verdict["equal"], true, "{verdict}");
    let shards = verdict["shards"].as_array().unwrap();
    assert_eq!(shards.len(), 3);
    assert!(shards.iter().all(|s| s["live_hash"] == s["again_hash"]));
    settled(&server);
    let told = ok(&server.cli(&["verify", "--from", "1h", "--shard", "1"]));
    assert!(told.contains("Equal"), "{told}");
    let scratch = folder.path().join("scratch");
    assert_eq!(std::fs::read_dir(scratch).unwrap().count(), 0);
    assert_eq!(server.stop(), Some(0));
    let before = std::fs::read_dir(folder.path().join("shards/0"))
        .unwrap()
        .count();
    assert!(ok(&cli(&folder, &["verify"])).contains("Equal"));
    let after = std::fs::read_dir(folder.path().join("shards/0"))
        .unwrap()
        .count();
    assert_eq!(before, after);
    // The past: what was at the newest checkpoint until now, and one that there is not.
    let now = chrono::Utc::now().to_rfc3339();
    let told = json(&ok(&cli(&folder, &["verify", "--to", &now, "--json"])));
    assert_eq!(told["equal"], true, "{told}");
    let early = cli(&folder, &["verify", "--to", "2020-01-01T00:00:00Z"]);
    assert_eq!(early.status.code(), Some(3), "{}", text(&early));
    assert!(
        text(&early).contains("no checkpoint of shard 0"),
        "{}",
        text(&early)
    );
}

#[test]
fn what_the_log_has_lost_is_an_exit_of_1_and_shown_by_serve() {
    let (folder, before, _) = stopped();
    let options = Options::default()
        .data_dir(&folder)
        .env("ADTALLY_VERIFY_EVERY", "1s")
        .env("ADTALLY_VERIFY_FROM", "0s");
    let mut server = Server::start(options);
    let seen = |server: &Server, line: &str| {
        let (_, page) = get(&format!("{}/metrics", server.url));
        page.lines().any(|l| l == line)
    };
    wait_for("a verification by itself", || {
        seen(&server, r#"adtally_verify_differences{sort="state"} 0"#).then_some(())
    });
    let lost = block_on(async {
        let client = async_nats::connect(server.nats_url()).await.unwrap();
        let jetstream = async_nats::jetstream::new(client);
        let mut lost = 0;
        for shard in 0..3 {
            let stream = jetstream
                .get_stream(format!("EVENTS_{shard}"))
                .await
                .unwrap();
            let purged = stream.purge().filter(format!("events.{shard}.click")).await;
            lost += purged.unwrap().purged;
        }
        lost
    });
    assert!(lost > 0);
    wait_for("the loss to be seen", || {
        let (_, page) = get(&format!("{}/metrics", server.url));
        let line = page
            .lines()
            .find(|l| l.starts_with(r#"adtally_verify_differences{sort="lost"}"#));
        let lost: f64 = line?.rsplit(' ').next()?.parse().ok()?;
        (lost >= 30.0).then_some(())
    });
    let (status, ready) = get(&format!("{}/readyz", server.url));
    assert_eq!(status, 200, "{ready}");
    assert!(ready.contains("the state differs from the log"), "{ready}");
    assert_eq!(answers(&server), before);
    let told = server.cli(&["verify"]);
    assert_eq!(told.status.code(), Some(1), "{}", text(&told));
    for word in [
        "NOT EQUAL",
        "spring",
        "cells_day",
        "2026-06-01",
        "does not hold",
    ] {
        assert!(text(&told).contains(word), "{word}: {}", text(&told));
    }
    assert_eq!(server.stop(), Some(0));
    let told = cli(&folder, &["verify", "--json"]);
    assert_eq!(told.status.code(), Some(1), "{}", text(&told));
    let verdict = json(std::str::from_utf8(&told.stdout).unwrap());
    assert!(verdict["lost_events"].as_u64().unwrap() >= 30, "{verdict}");
}

#[test]
fn what_cannot_be_verified_is_an_exit_of_3() {
    let folder = Folder::bare();
    let missing = cli(&folder, &["verify"]);
    assert_eq!(missing.status.code(), Some(3), "{}", text(&missing));
    let usage = cli(&folder, &["verify", "--from", "yesterday"]);
    assert_eq!(usage.status.code(), Some(2), "{}", text(&usage));
    let (stopped, ..) = stopped();
    let other = Server::start(Options::default().arg("--shards").arg("3"));
    let refused = cli(&stopped, &["verify", "--server", &other.nats_url()]);
    assert_eq!(refused.status.code(), Some(3), "{}", text(&refused));
    assert!(
        text(&refused).contains("is not the stream"),
        "{}",
        text(&refused)
    );
}
