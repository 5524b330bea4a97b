//! Checkpoints of a running deployment, and replays from them: whatever interrupts either, the count stays.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::replay::{answers, generations, send, settled, start, text};
use crate::support::http::wait_totals;
use crate::support::{ADTALLY, Folder, Options, Server, cli, get, ok, small_catalogue, wait_for};

/// A deployment of three shards that makes a checkpoint every so often, and keeps three.
fn with(folder: &Folder, every: &str, points: &str) -> Server {
    keeping(folder, every, "3", points)
}

fn keeping(folder: &Folder, every: &str, keep: &str, points: &str) -> Server {
    let options = Options::default()
        .data_dir(folder)
        .arg("--shards")
        .arg("3")
        .env("ADTALLY_CHECKPOINTS_EVERY", every)
        .env("ADTALLY_CHECKPOINTS_KEEP", keep)
        .env("ADTALLY_FAIL_POINTS", points);
    Server::spawn(options)
}

/// Sequences of a shard's whole checkpoints, ascending, and how many folders there are.
fn checkpoints(folder: &Path, shard: u16) -> (Vec<u64>, usize) {
    let parent = folder.join(format!("shards/{shard}/checkpoints"));
    let folders: Vec<_> = std::fs::read_dir(parent)
        .into_iter()
        .flatten()
        .map(|e| e.unwrap().path())
        .collect();
    let sequence = |path: &std::path::PathBuf| -> Option<u64> {
        let text = std::fs::read(path.join("position.json")).ok()?;
        let record: Value = serde_json::from_slice(&text).ok()?;
        record["sequence"].as_u64()
    };
    let mut whole: Vec<u64> = folders.iter().filter_map(sequence).collect();
    whole.sort_unstable();
    (whole, folders.len())
}

fn metric(server: &Server, name: &str) -> f64 {
    let (_, page) = get(&format!("{}/metrics", server.url));
    let lines = page.lines().filter(|l| l.starts_with(name));
    let values = lines.filter_map(|l| l.rsplit(' ').next()?.parse::<f64>().ok());
    values.sum()
}

#[test]
fn a_kill_while_one_is_made_leaves_the_state_and_no_half_of_one() {
    let folder = Folder::new();
    // The first three are of the shards as they begin, so this is the second of one of them.
    let mut server = with(&folder, "1s", "checkpoint.linked=kill@5");
    server.wait_ready();
    server.apply_catalogue(&small_catalogue());
    wait_for("its end", || server.ended());
    let whole: usize = (0..3).map(|s| checkpoints(folder.path(), s).0.len()).sum();
    let there: usize = (0..3).map(|s| checkpoints(folder.path(), s).1).sum();
    assert_eq!((whole, there), (4, 5));
    let mut server = with(&folder, "1h", "");
    server.wait_ready();
    send(&server, "a");
    wait_totals(&server, "spring", &[("gross_clicks", 30)]);
    for shard in 0..3 {
        let (whole, there) = checkpoints(folder.path(), shard);
        assert_eq!(whole.len(), there);
    }
    assert_eq!(server.stop(), Some(0));
}

#[test]
fn one_that_cannot_be_made_is_counted_and_the_fold_goes_on() {
    let folder = Folder::new();
    let mut server = with(&folder, "1s", "checkpoint.linked=error");
    server.wait_ready();
    server.apply_catalogue(&small_catalogue());
    send(&server, "a");
    wait_totals(&server, "spring", &[("gross_clicks", 30)]);
    wait_for("failures", || {
        (metric(&server, "adtally_checkpoint_failures_total") >= 3.0).then_some(())
    });
    assert!(
        server.log().contains("no checkpoint was made"),
        "{}",
        server.log()
    );
    send(&server, "b");
    wait_totals(&server, "spring", &[("gross_clicks", 60)]);
    assert_eq!(checkpoints(folder.path(), 0).1, 0);
}

#[test]
fn a_replay_from_one_answers_as_before_and_a_kill_in_it_leaves_everything() {
    let folder = Folder::new();
    // So many that one from before the last burst is there however long this takes.
    let mut server = keeping(&folder, "1s", "1000", "");
    server.wait_ready();
    server.apply_catalogue(&small_catalogue());
    for (clicks, burst) in [(30, "a"), (60, "b")] {
        send(&server, burst);
        wait_totals(&server, "spring", &[("gross_clicks", clicks)]);
        settled(&server);
        let before = metric(&server, "adtally_checkpoints_total");
        wait_for("another checkpoint of each", || {
            (metric(&server, "adtally_checkpoints_total") >= before + 6.0).then_some(())
        });
    }
    send(&server, "c");
    wait_totals(&server, "spring", &[("gross_clicks", 90)]);
    settled(&server);
    let before = answers(&server);
    // Beside the running service, from before the last burst: what came again since is known from the checkpoint.
    let replayed = ok(&server.cli(&["replay", "--from", "2s", "--json"]));
    let report: Value = serde_json::from_str(replayed.lines().last().unwrap()).unwrap();
    for shard in report["shards"].as_array().unwrap() {
        assert!(shard["from_sequence"].as_u64().unwrap() > 0, "{shard}");
        assert_eq!(shard["state"], "switched", "{shard}");
    }
    assert_eq!(answers(&server), before);
    send(&server, "c");
    settled(&server);
    assert_eq!(answers(&server), before);
    assert!(metric(&server, "adtally_checkpoint_timestamp_seconds") > 1.7e9);
    assert_eq!(server.stop(), Some(0));
    // Who keeps fewer removes those that are too many with the next one that it makes.
    let mut server = with(&folder, "1s", "");
    wait_for("three of each", || {
        let left = (0..3).map(|shard| checkpoints(folder.path(), shard).1);
        left.into_iter().all(|left| left == 3).then_some(())
    });
    assert_eq!(server.stop(), Some(0));

    let kept = checkpoints(folder.path(), 1);
    let in_use = generations(folder.path(), 1);
    let killed = Command::new(ADTALLY)
        .args(["replay", "--from", "1s", "--data-dir"])
        .arg(folder.path())
        .env_remove("NATS_URL")
        .envs(folder.broker_env())
        .env("ADTALLY_FAIL_POINTS", "generation.replayed=kill@1")
        .output()
        .unwrap();
    assert_eq!(killed.status.code(), None, "{}", text(&killed));
    assert_eq!(checkpoints(folder.path(), 1), kept);
    let mut server = start(&folder);
    assert_eq!(answers(&server), before);
    assert_eq!(generations(folder.path(), 1), in_use);
    assert_eq!(server.stop(), Some(0));
    ok(&cli(&folder, &["replay", "--from", "1s"]));
    assert_eq!(answers(&start(&folder)), before);
}
