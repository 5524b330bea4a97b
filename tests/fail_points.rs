//! Fail points: each is really passed by a deployment at work, a kill there is a kill, and a misspelt one is no start.

use std::collections::BTreeSet;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::Command;

use serde_json::json;

use crate::support::http::{ask, post_json, send, wait_totals};
use crate::support::{ADTALLY, Folder, Options, Server, get, small_catalogue, wait_for};

const VARIABLE: &str = "ADTALLY_FAIL_POINTS";

/// How the points begin that a first run of `serve` by itself does not pass.
const LATER: [&str; 8] = [
    "archive.",
    "backup.",
    "restore.",
    "epoch.told-drained",
    "epoch.drained",
    "epoch.forgotten",
    "fold.flushed",
    "generation.replayed",
];

/// The names in the documentation, which a unit test holds against the code.
fn documented() -> BTreeSet<String> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/fail-points.md");
    let text = std::fs::read_to_string(file).unwrap();
    let rows = text.lines().filter_map(|l| l.strip_prefix("| `"));
    rows.map(|row| row.split('`').next().unwrap().to_owned())
        .collect()
}

/// The points that a server says it has passed.
fn passed(server: &Server) -> BTreeSet<String> {
    told(&server.log())
}

/// The points that a command passes.
fn passed_by(data_dir: &Path, args: &[&str]) -> BTreeSet<String> {
    let output = Command::new(ADTALLY)
        .args(args)
        .arg("--data-dir")
        .arg(data_dir)
        .env_remove("NATS_URL")
        .env(VARIABLE, "every=log@1")
        .output()
        .unwrap();
    crate::support::ok(&output);
    told(&String::from_utf8_lossy(&output.stderr))
}

fn told(log: &str) -> BTreeSet<String> {
    let lines = log.lines().filter_map(|l| l.strip_prefix("fail point "));
    lines
        .filter_map(|l| Some(l.split_once(" passed")?.0.to_owned()))
        .collect()
}

#[test]
fn each_is_passed_by_a_deployment_at_work() {
    let folder = Folder::new();
    let options = || {
        Options::default()
            .data_dir(&folder)
            .env(VARIABLE, "every=log@1")
            .env("ADTALLY_OUTBOX_KEEP_SENT", "1B")
            .env("ADTALLY_ARCHIVE_KEEP_IN_STREAM", "0s")
            .env("ADTALLY_SEALING_MINUTES_AFTER", "0s")
    };
    let server = Server::start(options());
    server.apply_catalogue(&small_catalogue());
    let ad = json!({"ad_id": "late", "campaign_id": "spring", "landing_url": "https://shop.example/", "status": "active"});
    let json_type = [("content-type", "application/json")];
    let body = ad.to_string().into_bytes();
    let put = send(&server, "PUT", "/api/v1/catalog/ads/late", &json_type, body);
    assert!(put.status < 300, "{}", put.text());
    assert_eq!(ask(&server, "/click?ad_id=late").status, 302);
    // Of an hour that is over, so that it is sealed.
    let old = json!([{"kind": "click", "click_id": "old", "ad_id": "banner", "ts": "2024-02-10T12:00:00Z"}]);
    assert_eq!(post_json(&server, "/api/v1/events", &old).status, 202);
    let posted = post_json(&server, "/api/v1/events", &json!([{"kind": "click"}]));
    assert_eq!(posted.status, 202, "{}", posted.text());
    crate::support::block_on(async {
        let client = async_nats::connect(server.nats_url()).await.unwrap();
        let js = async_nats::jetstream::new(client);
        let payload = r#"{"click_id":"n1"}"#.into();
        let sent = js.publish("ads.click.banner", payload).await.unwrap();
        sent.await.unwrap();
    });
    wait_totals(&server, "spring", &[("clicks", 3)]);
    let mut lacking = documented();
    wait_for("the points of a first opening", || {
        lacking = &documented() - &passed(&server);
        lacking.retain(|point| !LATER.iter().any(|later| point.starts_with(later)));
        lacking.is_empty().then_some(())
    });
    crate::support::ok(&server.cli(&["replay", "--from", "beginning"]));
    let home = Folder::bare();
    let backup = home.path().join("backup").display().to_string();
    let backing_up = passed_by(&server.data_dir, &["backup", &backup]);
    assert_eq!(backing_up.len(), 2, "{backing_up:?}");
    let restoring = passed_by(&home.path().join("other"), &["restore", &backup]);
    assert_eq!(restoring.len(), 3, "{restoring:?}");
    // By hand, since the hour is not over; what is archived the role then purges by itself.
    let archiving = passed_by(&server.data_dir, &["archive", "run", "--open-hour"]);
    assert_eq!(archiving.len(), 4, "{archiving:?}");
    wait_for("what is archived to be purged", || {
        passed(&server).contains("archive.purged").then_some(())
    });
    // A kill leaves an epoch to recover, which is announced as drained and forgotten; a stop flushes.
    let mut server = server;
    server.kill();
    let mut server = Server::start(options());
    wait_for("an epoch to be forgotten", || {
        passed(&server).contains("epoch.forgotten").then_some(())
    });
    assert_eq!(server.stop(), Some(0));
    let by_commands = &(&archiving | &backing_up) | &restoring;
    assert_eq!(&passed(&server) | &by_commands, documented());
}

#[test]
fn a_kill_at_a_step_is_a_kill_there() {
    let folder = Folder::new();
    let armed = Options::default()
        .data_dir(&folder)
        .env(VARIABLE, "outbox.synced=kill@1");
    let mut server = Server::start(armed);
    assert!(server.log().contains("FAIL POINTS ARE ARMED"));
    server.apply_catalogue(&small_catalogue());
    // Durable and not answered: counted at most once now, and once when the browser asks again.
    let unanswered = get(&format!("{}/click?ad_id=banner&click_id=c1", server.url));
    assert_eq!(unanswered.0, 0, "{}", unanswered.1);
    let status = wait_for("its end", || server.ended());
    assert_eq!(status.signal(), Some(9), "{status}");
    assert!(
        server
            .log()
            .contains("fail point outbox.synced at passing 1: SIGKILL")
    );
    let server = Server::start(Options::default().data_dir(&folder));
    wait_totals(&server, "spring", &[("gross_clicks", 1)]);
    assert_eq!(ask(&server, "/click?ad_id=banner&click_id=c1").status, 302);
    assert_eq!(ask(&server, "/click?ad_id=banner&click_id=c2").status, 302);
    wait_totals(&server, "spring", &[("gross_clicks", 2)]);
}

#[test]
fn a_failed_fsync_ends_the_process_and_answers_nobody() {
    let folder = Folder::new();
    let armed = Options::default()
        .data_dir(&folder)
        .env(VARIABLE, "outbox.written=error@2");
    let mut server = Server::start(armed);
    server.apply_catalogue(&small_catalogue());
    assert_eq!(ask(&server, "/click?ad_id=banner&click_id=c1").status, 302);
    let unanswered = get(&format!("{}/click?ad_id=banner&click_id=c2", server.url));
    assert_eq!(unanswered.0, 0, "{}", unanswered.1);
    let status = wait_for("its end", || server.ended());
    assert_eq!(status.code(), Some(3), "{}", server.log());
    assert!(server.log().contains("a write of the outbox failed"));
}

#[test]
fn a_misspelt_point_is_no_start() {
    let folder = Folder::new();
    let output = Command::new(ADTALLY)
        .args(["serve", "--listen", "127.0.0.1:0", "--data-dir"])
        .arg(folder.path())
        .env(VARIABLE, "outbox.sinced=kill")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        said.contains("outbox.sinced=kill") && said.contains("docs/fail-points.md"),
        "{said}"
    );
}
