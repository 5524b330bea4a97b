//! Backup and restore: a copy that is made while the service runs becomes a replica that answers the same.

use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::replay::{answers, send, settled, stopped, text};
use crate::support::http::{ask, wait_totals};
use crate::support::{ADTALLY, Folder, Options, Server, cli, cli_on_disk, ok, small_catalogue};

fn at(folder: &Folder, name: &str) -> String {
    folder.path().join(name).display().to_string()
}

#[test]
fn a_replica_begins_with_a_backup_and_catches_up() {
    let home = Folder::bare();
    let to = at(&home, "backup");
    let first = Server::start(Options::default().arg("--shards").arg("3"));
    first.apply_catalogue(&small_catalogue());
    send(&first, "a");
    wait_totals(&first, "spring", &[("gross_clicks", 30)]);
    settled(&first);
    let made: Value = serde_json::from_str(&ok(&first.cli(&["backup", &to, "--json"]))).unwrap();
    assert_eq!(made["shards"].as_array().unwrap().len(), 3);
    assert!(made["shards"][0]["record"]["sequence"].as_u64().unwrap() > 0);
    let again = first.cli(&["backup", &to]);
    assert_eq!(again.status.code(), Some(3), "{}", text(&again));
    // What comes after it is in the log.
    send(&first, "b");
    wait_totals(&first, "spring", &[("gross_clicks", 60)]);
    settled(&first);
    // Nothing of it stays in the folder that was copied.
    let scratch = first.data_dir.join("scratch");
    assert_eq!(std::fs::read_dir(scratch).unwrap().count(), 0);

    let replica = Folder::bare();
    let nats = first.nats_url();
    ok(&cli_on_disk(&replica, &["restore", &to, "--server", &nats]));
    assert!(!replica.path().join("outbox-collector").exists());
    let options = Options::default().data_dir(&replica);
    let options = options.arg("--server").arg(&nats);
    let mut second = Server::start(options.arg("--roles").arg("projector,api"));
    settled(&second);
    assert_eq!(answers(&second), answers(&first));
    let as_of = |server: &Server| {
        let answer = server.json("/api/v1/analytics?campaign_id=spring&granularity=total");
        answer["as_of"]["generation"].as_str().unwrap().to_owned()
    };
    assert_ne!(as_of(&first), as_of(&second));
    // Both fold on, and what comes again counts in neither.
    send(&first, "b");
    assert_eq!(ask(&first, "/click?ad_id=banner&click_id=last").status, 302);
    for server in [&first, &second] {
        wait_totals(server, "spring", &[("gross_clicks", 61)]);
    }
    settled(&first);
    assert_eq!(answers(&second), answers(&first));
    // A folder in use is left alone.
    let refused = second.cli(&["restore", &to, "--force", "--server", &nats]);
    assert_eq!(refused.status.code(), Some(3), "{}", text(&refused));
    assert_eq!(second.stop(), Some(0));
    let refused = cli_on_disk(&replica, &["restore", &to, "--server", &nats]);
    assert_eq!(refused.status.code(), Some(3), "{}", text(&refused));
    assert!(text(&refused).contains("has a state"), "{}", text(&refused));
}

#[test]
fn a_stopped_folder_is_backed_up_and_comes_back_over_a_damaged_one() {
    let (folder, before, name) = stopped();
    let to = at(&folder, "backup");
    ok(&cli(&folder, &["backup", &to]));
    // Of another log it is refused, and nothing is touched.
    let other = Server::start(Options::default().arg("--shards").arg("3"));
    let empty = Folder::bare();
    let refused = cli_on_disk(&empty, &["restore", &to, "--server", &other.nats_url()]);
    assert_eq!(refused.status.code(), Some(3), "{}", text(&refused));
    assert!(
        text(&refused).contains("is not the stream"),
        "{}",
        text(&refused)
    );
    assert!(!empty.path().join("shards").exists());
    drop(other);

    let current = Path::new("shards/1").join(name).join("CURRENT");
    std::fs::write(folder.path().join(current), "nonsense\n").unwrap();
    ok(&cli(&folder, &["restore", &to, "--force"]));
    let server = crate::replay::start(&folder);
    assert_eq!(answers(&server), before);
}

/// Runs a command that is killed at a fail point.
fn killed_at(point: &str, folder: &Folder, args: &[&str]) {
    let output = Command::new(ADTALLY)
        .args(args)
        .arg("--data-dir")
        .arg(folder.path())
        .env_remove("NATS_URL")
        .envs(folder.broker_env())
        .env("ADTALLY_FAIL_POINTS", format!("{point}=kill@1"))
        .output()
        .unwrap();
    assert_eq!(output.status.signal(), Some(9), "{}", text(&output));
}

#[test]
fn a_kill_in_a_backup_or_a_restore_leaves_the_source_and_no_half_of_anything() {
    let (folder, before, name) = stopped();
    let to = at(&folder, "backup");
    let one = Folder::bare();
    killed_at("backup.copied", &folder, &["backup", &to]);
    let refused = cli_on_disk(&one, &["restore", &to]);
    assert_eq!(refused.status.code(), Some(3), "{}", text(&refused));
    assert!(
        text(&refused).contains("is no backup"),
        "{}",
        text(&refused)
    );
    assert!(!one.path().join("shards").exists());

    // The next one into the same place, of the service at work: what is left of the first is gone.
    let mut server = crate::replay::start(&folder);
    assert_eq!(answers(&server), before);
    killed_at("backup.copied", &folder, &["backup", &to]);
    ok(&server.cli(&["backup", &to]));
    settled(&server);
    assert_eq!(answers(&server), before);
    assert_eq!(server.stop(), Some(0));
    assert_eq!(crate::replay::generations(folder.path(), 1), [name]);
    // A backup that was killed when its manifest was there is whole.
    let whole = at(&folder, "whole");
    killed_at("backup.named", &folder, &["backup", &whole]);

    let first = crate::replay::start(&folder);
    for (from, point) in [
        (&to, "restore.copied"),
        (&whole, "generation.written"),
        (&to, "generation.named"),
    ] {
        let there = Folder::bare();
        killed_at(point, &there, &["restore", from]);
        // A shard that is in use is a whole one; what is not in use is removed by the next attempt.
        let again = cli_on_disk(&there, &["restore", from]);
        if point == "generation.named" {
            assert_eq!(again.status.code(), Some(3), "{}", text(&again));
            assert!(text(&again).contains("--force"), "{}", text(&again));
            ok(&cli_on_disk(&there, &["restore", from, "--force"]));
        } else {
            ok(&again);
        }
        let left = (0..3).map(|shard| crate::replay::generations(there.path(), shard).len());
        let in_use = if point == "generation.named" { 4 } else { 3 };
        assert_eq!(left.sum::<usize>(), in_use, "{point}");
        let options = Options::default().data_dir(&there);
        let options = options.arg("--server").arg(first.nats_url());
        let server = Server::start(options.arg("--roles").arg("projector,api"));
        settled(&server);
        assert_eq!(answers(&server), before, "{point}");
    }
    assert_eq!(answers(&first), before);
}
