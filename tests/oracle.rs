//! The count from outside: `tests/oracle/exact.py` sends, counts for itself, and compares every cell; `kills.py` does
//! so while every process is killed at each of its steps, `faults.py` while disks and clocks fail, and `cluster.py`
//! with each role in a process of its own on three servers, of which it loses one after the other.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::support::{ADTALLY, nats_server};

/// Runs an oracle; panics with what it found where anything differs.
fn oracle(script: &str, args: &[&str]) -> Value {
    let python = std::env::var("ADTALLY_TEST_PYTHON").unwrap_or_else(|_| "python3".into());
    let script = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/oracle")
        .join(script);
    let output = Command::new(python)
        .env("PYTHONHASHSEED", "0")
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .arg(script)
        .args(["--adtally", ADTALLY, "--nats-server"])
        .arg(nats_server())
        .args(args)
        .output()
        .expect("the oracle needs python3 with nats-py and msgpack: `make test` brings them");
    let (out, err) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(output.status.success(), "{}\n{out}\n{err}", output.status);
    eprintln!("{out}");
    serde_json::from_str(
        out.lines()
            .last()
            .expect("the oracle ends with a line of JSON"),
    )
    .unwrap()
}

#[test]
fn every_cell_of_every_grouping_is_what_was_sent() {
    let report = oracle(
        "exact.py",
        &["--events", "20000", "--seed", "7", "--restart"],
    );
    assert_eq!(report["differences"], 0);
    assert!(
        report["cells_compared"].as_u64().unwrap() > 10_000,
        "{report}"
    );
    assert_eq!(report["refused"], report["found_in_quarantine"], "{report}");
}

#[test]
fn killed_at_its_steps_and_at_random_nothing_answered_is_lost_or_counted_twice() {
    let report = oracle("kills.py", &["--kills", "12", "--seed", "11"]);
    assert_eq!(report["differences"], 0);
    assert_eq!(report["kills"], 12, "{report}");
}

#[test]
fn a_cloned_outbox_counts_once() {
    let report = oracle("faults.py", &["outbox-cloned"]);
    assert_eq!(report["differences"], 0, "{report}");
}

#[test]
fn a_lost_outbox_is_named_to_the_last_event() {
    let report = oracle("faults.py", &["outbox-lost"]);
    assert_eq!(report["differences"], 0, "{report}");
}

#[test]
fn roles_apart_on_a_cluster_lose_nothing_when_a_leader_dies() {
    let report = oracle("cluster.py", &["--network", "loopback", "leader-killed"]);
    assert_eq!(report["differences"], 0);
    let scenario = &report["scenarios"][0];
    assert!(
        scenario["elections_streams"].as_u64().unwrap() > 0,
        "{report}"
    );
    assert!(
        scenario["counted"]["click"].as_u64().unwrap() > 100,
        "{report}"
    );
}
