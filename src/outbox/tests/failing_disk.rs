//! A disk that fails under the writer: the process ends, and what it had answered is there.

use std::process::Command;
use std::sync::Arc;

use adtally_streams::event::Kind;

use super::broker::FakeBroker;
use super::{SOON, event, item, open};
use crate::outbox::OutboxLimits;

const FOLDER: &str = "ADTALLY_TEST_OUTBOX";

/// Not a test by itself: writes until the disk fails, and says what was answered.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "run by the test below, in a process of its own"]
async fn writes_until_the_disk_fails() {
    let Some(dir) = std::env::var_os(FOLDER) else {
        return;
    };
    let broker = Arc::new(FakeBroker::default());
    broker.set_down(true);
    let outbox = open(dir.as_ref(), OutboxLimits::default(), &broker).await;
    let handle = outbox.handle();
    for n in 0..u64::MAX {
        let events = (0..20).map(|i| item(0, event(&format!("e{n}-{i}"), Kind::Click, 1)));
        handle.accept(events).await.unwrap();
        eprintln!("answered {n}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_write_ends_the_process_and_nothing_answered_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    // A file may grow to a few hundred kilobytes; the write past that fails, since the signal is ignored.
    let limited = "trap '' XFSZ; ulimit -f 600; exec \"$0\" --exact --ignored --nocapture \
                   outbox::tests::failing_disk::writes_until_the_disk_fails";
    let ended = Command::new("sh")
        .args(["-c", limited])
        .arg(std::env::current_exe().unwrap())
        .env(FOLDER, dir.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.code(), Some(3), "{said}");
    let answered = said
        .lines()
        .filter_map(|l| l.strip_prefix("answered "))
        .count();
    assert!(answered > 10, "{said}");
    let broker = Arc::new(FakeBroker::default());
    let outbox = open(dir.path(), OutboxLimits::default(), &broker).await;
    assert!(outbox.drain(SOON).await.drained);
    let found = broker.read().ids();
    for n in 0..answered {
        assert!(
            (0..20).all(|i| found.contains(&format!("e{n}-{i}"))),
            "answered and lost: {n}"
        );
    }
}
