//! Damaged outboxes: what a start refuses, a salvage reads as far as it can be read, names the rest, and makes an
//! outbox of that ships.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use adtally_streams::event::Kind;
use adtally_streams::id::Epoch;
use rocksdb::{DB, IteratorMode};

use super::broker::FakeBroker;
use super::{SHARDS, SOON, event, item, open, options};
use crate::outbox::disk::{FAMILIES, RUNS};
use crate::outbox::{Outbox, OutboxError, OutboxLimits, SalvageOptions, Salvaged, salvage};
use crate::stretch::Stretch;

/// Events of a damaged outbox, each a run of its own of about a kilobyte that does not compress.
const EVENTS: u64 = 900;

/// Bytes that look random, the same every time.
fn noise(seed: u64) -> String {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut text = String::new();
    while text.len() < 900 {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        text.push_str(&format!("{state:016x}"));
    }
    text
}

/// An outbox of [`EVENTS`] unsent events that nobody has open; `flushed`: in tables, else in the write-ahead log.
async fn unsent(dir: &Path, flushed: bool) -> Epoch {
    let live = tempfile::tempdir().unwrap();
    let broker = Arc::new(FakeBroker::default());
    broker.set_down(true);
    let outbox = open(live.path(), OutboxLimits::default(), &broker).await;
    let handle = outbox.handle();
    for n in 0..EVENTS {
        let mut event = event(&format!("e{n:03}"), Kind::Click, 1);
        event.user_agent = Some(noise(n).into());
        handle.accept(vec![item(0, event)]).await.unwrap();
    }
    let epoch = handle.status().epoch;
    let copy = |from: &Path| {
        for file in std::fs::read_dir(from).unwrap() {
            let file = file.unwrap();
            std::fs::copy(file.path(), dir.join(file.file_name())).unwrap();
        }
    };
    if flushed {
        outbox.drain(std::time::Duration::from_millis(50)).await;
        copy(live.path());
    } else {
        copy(live.path());
        drop((handle, outbox));
    }
    epoch
}

/// The largest file of that sort.
fn largest(dir: &Path, extension: &str) -> PathBuf {
    let files = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().path());
    files
        .filter(|p| p.extension().is_some_and(|e| e == extension))
        .max_by_key(|p| std::fs::metadata(p).unwrap().len())
        .unwrap()
}

fn flip(file: &Path, part: f64) {
    let mut bytes = std::fs::read(file).unwrap();
    let at = (bytes.len() as f64 * part) as usize;
    bytes[at] ^= 0x40;
    std::fs::write(file, bytes).unwrap();
}

fn salvaged(outbox: &Path, to: Option<PathBuf>) -> Salvaged {
    let options = SalvageOptions {
        outbox: outbox.to_owned(),
        to,
        shards: Some(SHARDS),
        producer_name: "edge".to_owned(),
    };
    salvage(&options).unwrap()
}

fn refused(dir: &Path) -> OutboxError {
    let broker = Arc::new(FakeBroker::default());
    Outbox::open(options(dir, OutboxLimits::default()), broker).unwrap_err()
}

/// Salvages, ships the new outbox, and checks that what arrives and what is named as lost are everything up to the
/// last readable counter. Answers how much was lost.
async fn salvage_and_ship(damaged: &Path, epoch: Epoch) -> u64 {
    let before: Vec<_> = files(damaged);
    let folder = tempfile::tempdir().unwrap();
    let to = folder.path().join("new");
    let report = salvaged(damaged, Some(to.clone()));
    assert!(!report.whole && report.to == Some(to.clone()), "{report:?}");
    assert_eq!(files(damaged), before, "the original is untouched");
    let broker = Arc::new(FakeBroker::default());
    broker.set_down(true);
    let outbox = open(&to, OutboxLimits::default(), &broker).await;
    assert_eq!(outbox.handle().status().unsent_events, report.unsent);
    broker.set_down(false);
    assert!(outbox.drain(SOON).await.drained);
    let log = broker.read();
    assert_eq!(log.once.len() as u64, report.unsent);
    assert_eq!(log.again, 0);
    let last = log.once.keys().map(|(_, _, _, counter)| *counter).max();
    assert_eq!(last.unwrap() + 1, report.unsent + report.lost());
    for (_, _, _, counter) in log.once.keys() {
        let named = report.epochs.iter().flat_map(|e| &e.lanes);
        let named = named.flat_map(|l| &l.lost);
        assert!(named.into_iter().all(|(a, b)| counter < a || counter > b));
    }
    // The last word of the epoch says that everything before its head is acknowledged: so the log names what is lost.
    let told = log
        .watermarks
        .iter()
        .map(|(_, w)| w.acked[Kind::Click as usize]);
    assert_eq!(told.max(), Some(last.unwrap() + 1));
    assert!(log.drained.contains(&(epoch, 0)));
    // And the new outbox opens again.
    let again = open(&to, OutboxLimits::default(), &broker).await;
    assert!(again.drain(SOON).await.drained);
    report.lost()
}

fn files(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut files: Vec<_> = std::fs::read_dir(dir)
        .unwrap()
        .map(|e| e.unwrap().path())
        .map(|path| (path.clone(), std::fs::read(path).unwrap()))
        .collect();
    files.sort();
    files
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_whole_outbox_is_called_whole_and_nothing_is_written() {
    for flushed in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        unsent(dir.path(), flushed).await;
        let to = dir.path().join("../never-made");
        let report = salvaged(dir.path(), Some(to.clone()));
        assert!(report.whole, "{report:?}");
        assert_eq!((report.unsent, report.lost()), (EVENTS, 0));
        assert!(report.to.is_none() && !to.exists());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flipped_bit_in_the_write_ahead_log_loses_a_stretch_and_not_what_follows() {
    let dir = tempfile::tempdir().unwrap();
    let epoch = unsent(dir.path(), false).await;
    flip(&largest(dir.path(), "log"), 0.5);
    assert!(matches!(refused(dir.path()), OutboxError::Disk { .. }));
    assert!(salvaged(dir.path(), None).tail_unknown);
    let lost = salvage_and_ship(dir.path(), epoch).await;
    assert!((1..100).contains(&lost), "{lost} lost of {EVENTS}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flipped_bit_in_a_table_loses_a_block() {
    for at in [0.05, 0.2, 0.4, 0.6] {
        let dir = tempfile::tempdir().unwrap();
        let epoch = unsent(dir.path(), true).await;
        // The tables hold everything, so the log is needless; it would give back what the table loses.
        while let Some(log) = files(dir.path())
            .into_iter()
            .map(|(path, _)| path)
            .find(|path| path.extension().is_some_and(|e| e == "log"))
        {
            std::fs::remove_file(log).unwrap();
        }
        flip(&largest(dir.path(), "sst"), at);
        assert!(matches!(refused(dir.path()), OutboxError::Disk { .. }));
        let lost = salvage_and_ship(dir.path(), epoch).await;
        assert!((1..=160).contains(&lost), "{lost} lost of {EVENTS} at {at}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_its_list_of_files_everything_is_read_from_the_files() {
    for flushed in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let epoch = unsent(dir.path(), flushed).await;
        for file in std::fs::read_dir(dir.path()).unwrap() {
            let path = file.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if name.starts_with("MANIFEST") {
                std::fs::write(path, b"nonsense").unwrap();
            }
        }
        assert!(matches!(refused(dir.path()), OutboxError::Disk { .. }));
        assert_eq!(salvage_and_ship(dir.path(), epoch).await, 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hole_in_the_counters_is_a_refusal_with_a_way_out() {
    let dir = tempfile::tempdir().unwrap();
    let epoch = unsent(dir.path(), true).await;
    {
        let db = DB::open_cf(&rocksdb::Options::default(), dir.path(), FAMILIES).unwrap();
        let runs = db.cf_handle(RUNS).unwrap();
        let keys: Vec<_> = db
            .iterator_cf(runs, IteratorMode::Start)
            .map(|row| row.unwrap().0)
            .collect();
        for n in [100, 101, 500] {
            db.delete_cf(runs, &keys[n]).unwrap();
        }
    }
    let error = refused(dir.path());
    assert!(matches!(error, OutboxError::Damaged { .. }), "{error}");
    assert!(error.to_string().contains("producers salvage"), "{error}");
    let report = salvaged(dir.path(), None);
    assert_eq!(report.epochs[0].lanes[0].lost, [(100, 101), (500, 500)]);
    assert_eq!(salvage_and_ship(dir.path(), epoch).await, 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_log_lost_is_sent_again_though_it_remembers_the_id() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Arc::new(FakeBroker::default());
    let outbox = open(dir.path(), OutboxLimits::default(), &broker).await;
    let handle = outbox.handle();
    for n in 0..10 {
        let event = event(&format!("e{n}"), Kind::Click, handle.arrive().ms());
        handle.accept(vec![item(1, event)]).await.unwrap();
        while handle.status().unsent_events > 0 {
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        }
    }
    broker.spoil("-click-4-4");
    assert_eq!(broker.read().ids().len(), 9);
    let stretch = Stretch {
        epoch: handle.status().epoch,
        shard: 1,
        kind: Kind::Click,
        first: 3,
        last: 6,
    };
    let beyond = Stretch {
        first: 8,
        last: 99,
        ..stretch
    };
    let held = handle.holds(&[stretch, beyond]).unwrap();
    assert_eq!(held, [stretch, Stretch { last: 9, ..beyond }]);
    let elsewhere = Stretch {
        shard: 0,
        ..stretch
    };
    assert_eq!(handle.holds(&[elsewhere]).unwrap(), []);
    for round in 1..3 {
        let resent = handle.resend(&[stretch]).await.unwrap();
        assert_eq!((&resent.sent[..], resent.frames), (&[stretch][..], 1));
        let log = broker.read();
        assert_eq!(log.ids().len(), 10);
        assert_eq!(log.again, round * 4 - 1, "the ledger drops what is there");
    }
    assert!(outbox.drain(SOON).await.drained);
}
