//! The count from outside: `tests/oracle/exact.py` sends, counts for itself, and compares every cell.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::support::{ADTALLY, nats_server};

/// Runs the oracle; panics with what it found where anything differs.
fn oracle(args: &[&str]) -> Value {
    let python = std::env::var("ADTALLY_TEST_PYTHON").unwrap_or_else(|_| "python3".into());
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/oracle/exact.py");
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
    let report = oracle(&["--events", "20000", "--seed", "7", "--restart"]);
    assert_eq!(report["differences"], 0);
    assert!(
        report["cells_compared"].as_u64().unwrap() > 10_000,
        "{report}"
    );
    assert_eq!(report["refused"], report["found_in_quarantine"], "{report}");
}

#[test]
fn killed_at_random_nothing_answered_is_lost_or_counted_twice() {
    let report = oracle(&[
        "--events", "10000", "--batch", "1000", "--seed", "11", "--kills", "6",
    ]);
    assert_eq!(report["differences"], 0);
}
