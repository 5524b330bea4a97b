//! What the disk keeps, what it deletes, and what it makes of damage.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use adtally_streams::event::Kind;
use adtally_streams::id::Epoch;
use adtally_streams::row::{RunBuilder, RunInfo};
use rocksdb::WriteBatch;

use super::broker::FakeBroker;
use super::{SOON, event, item, open, options};
use crate::outbox::disk::{Disk, EpochRecord, LaneKey};
use crate::outbox::{Outbox, OutboxError, OutboxLimits};

const LANE: LaneKey = LaneKey::QUARANTINE;

fn put(disk: &Disk, epoch: Epoch, lane: LaneKey, first: u64, rows: &[&[u8]]) {
    let mut run = RunBuilder::default();
    for (n, row) in rows.iter().enumerate() {
        run.push(row, 100 - n as i64);
    }
    let mut batch = WriteBatch::default();
    disk.put_run(&mut batch, epoch, lane, first, run.finish());
    disk.write(batch, true).unwrap();
}

fn read(
    disk: &Disk,
    epoch: Epoch,
    lane: LaneKey,
    from: u64,
    until: u64,
) -> Result<Vec<Vec<u8>>, OutboxError> {
    let mut rows = Vec::new();
    disk.rows(epoch, lane, from, until, |row| {
        rows.push(row.to_vec());
        Ok(true)
    })?;
    Ok(rows)
}

#[test]
fn rows_are_read_from_anywhere_within_their_runs() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Disk::open(dir.path()).unwrap();
    let other = LaneKey::events(0, Kind::Click);
    put(&disk, Epoch(7), LANE, 0, &[b"a", b"bb", b"ccc"]);
    put(&disk, Epoch(7), LANE, 3, &[b"d"]);
    put(&disk, Epoch(7), other, 0, &[b"other"]);
    put(&disk, Epoch(8), LANE, 0, &[b"later"]);
    assert_eq!(
        read(&disk, Epoch(7), LANE, 0, 9).unwrap(),
        [&b"a"[..], b"bb", b"ccc", b"d"]
    );
    assert_eq!(
        read(&disk, Epoch(7), LANE, 1, 3).unwrap(),
        [&b"bb"[..], b"ccc"]
    );
    assert_eq!(read(&disk, Epoch(7), LANE, 3, 4).unwrap(), [b"d"]);
    assert_eq!(
        read(&disk, Epoch(7), LANE, 4, 9).unwrap(),
        Vec::<Vec<u8>>::new()
    );
    assert_eq!(read(&disk, Epoch(7), other, 0, 9).unwrap(), [b"other"]);
    // 2 bytes and 3 bytes, each with a length of 4.
    let rest = RunInfo {
        first: 1,
        count: 2,
        oldest_ms: 98,
        bytes: 13,
    };
    assert_eq!(disk.runs(Epoch(7), LANE, 1).unwrap()[0], rest);
    put(&disk, Epoch(9), LANE, 5, &[b"x"]);
    let error = read(&disk, Epoch(9), LANE, 3, 6).unwrap_err();
    assert!(matches!(error, OutboxError::Damaged { .. }), "{error}");
}

#[test]
fn eviction_spares_every_run_that_is_not_wholly_below() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Disk::open(dir.path()).unwrap();
    for first in [0, 3, 6] {
        put(&disk, Epoch(1), LANE, first, &[b"a", b"b", b"c"]);
    }
    put(&disk, Epoch(2), LANE, 0, &[b"z"]);
    let firsts = || {
        disk.runs(Epoch(1), LANE, 0)
            .unwrap()
            .iter()
            .map(|r| r.first)
            .collect::<Vec<_>>()
    };
    disk.evict(Epoch(1), LANE, 0).unwrap();
    assert_eq!(firsts(), [0, 3, 6]);
    disk.evict(Epoch(1), LANE, 5).unwrap();
    assert_eq!(
        firsts(),
        [3, 6],
        "the run from 3 to 5 holds 5, which is not sent"
    );
    disk.evict(Epoch(1), LANE, 6).unwrap();
    assert_eq!(firsts(), [6]);
    disk.evict(Epoch(1), LANE, 9).unwrap();
    assert_eq!(
        disk.acked(Epoch(1), LANE).unwrap(),
        9,
        "a lane without runs still knows its counters"
    );
    assert!(!disk.has_runs(Epoch(1)).unwrap() && disk.has_runs(Epoch(2)).unwrap());
    disk.put_epoch(&EpochRecord {
        epoch: Epoch(1),
        shards: 2,
        opened_ms: 5,
        drained: true,
        lost: Vec::new(),
    })
    .unwrap();
    assert_eq!(disk.epochs().unwrap().len(), 1);
    disk.forget_epoch(Epoch(1)).unwrap();
    assert_eq!(disk.epochs().unwrap(), []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sent_events_are_deleted_past_the_cap_and_unsent_ones_never() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Arc::new(FakeBroker::default());
    let limits = OutboxLimits {
        sent_max_bytes: 1,
        ..OutboxLimits::default()
    };
    let outbox = open(dir.path(), limits.clone(), &broker).await;
    let handle = outbox.handle();
    for n in 0..100 {
        handle
            .accept(vec![item(0, event(&format!("a{n}"), Kind::Click, 1))])
            .await
            .unwrap();
    }
    while handle.status().unsent_events > 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    broker.set_down(true);
    for n in 0..100 {
        handle
            .accept(vec![item(0, event(&format!("b{n}"), Kind::Click, 1))])
            .await
            .unwrap();
    }
    while handle.status().sent_bytes > 1 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // As a kill would: the unsent ones are all that the next opening finds.
    drop((handle, outbox));
    let outbox = open(dir.path(), limits, &broker).await;
    assert_eq!(outbox.handle().status().unsent_events, 100);
    broker.set_down(false);
    assert!(outbox.drain(SOON).await.drained);
    assert_eq!((broker.read().ids().len(), broker.read().again), (200, 0));
}

/// The write-ahead log that holds something.
fn write_ahead_log(dir: &Path) -> PathBuf {
    let logs = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().path());
    let mut logs: Vec<_> = logs
        .filter(|p| p.extension().is_some_and(|e| e == "log"))
        .collect();
    logs.sort_by_key(|p| std::fs::metadata(p).unwrap().len());
    logs.pop().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_torn_tail_loses_only_the_tail_and_a_flipped_bit_is_seen() {
    let broker = Arc::new(FakeBroker::default());
    for tear in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        killed_without_flush(dir.path(), &broker).await;
        let log = write_ahead_log(dir.path());
        let mut bytes = std::fs::read(&log).unwrap();
        if tear {
            bytes.truncate(bytes.len() - 3);
        } else {
            let middle = bytes.len() / 2;
            bytes[middle] ^= 0x40;
        }
        std::fs::write(&log, bytes).unwrap();
        let opened = Outbox::open(
            options(dir.path(), OutboxLimits::default()),
            Arc::clone(&broker) as Arc<_>,
        );
        match (tear, opened) {
            (true, Ok(outbox)) => assert_eq!(outbox.handle().status().unsent_events, 19),
            (false, Err(OutboxError::Disk { source, .. })) => {
                assert!(source.to_string().contains("orrupt"), "{source}");
            }
            (_, other) => panic!("tear {tear}: {:?}", other.map(|o| o.handle().status())),
        }
    }
}

/// Copies the folder while the outbox still runs: what a kill at that moment would leave.
async fn killed_without_flush(dir: &Path, broker: &Arc<FakeBroker>) {
    let live = tempfile::tempdir().unwrap();
    broker.set_down(true);
    let outbox = open(live.path(), OutboxLimits::default(), broker).await;
    let handle = outbox.handle();
    for n in 0..20 {
        handle
            .accept(vec![item(0, event(&format!("e{n:02}"), Kind::Click, 1))])
            .await
            .unwrap();
    }
    for file in std::fs::read_dir(live.path()).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), dir.join(file.file_name())).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_earlier_program_left_is_shipped_under_its_epoch() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Arc::new(FakeBroker::default());
    let (epoch, lane) = (Epoch(0xea), LaneKey::events(1, Kind::Click));
    let disk = Disk::open(dir.path()).unwrap();
    disk.put_epoch(&EpochRecord {
        epoch,
        shards: super::SHARDS,
        opened_ms: 5,
        drained: false,
        lost: Vec::new(),
    })
    .unwrap();
    // Its rows were MessagePack maps.
    let rows: Vec<Vec<u8>> = (0..3)
        .map(|n| rmp_serde::to_vec_named(&event(&format!("old{n}"), Kind::Click, 7)).unwrap())
        .collect();
    put(
        &disk,
        epoch,
        lane,
        0,
        &rows.iter().map(Vec::as_slice).collect::<Vec<_>>(),
    );
    disk.close();
    drop(disk);
    let outbox = open(dir.path(), OutboxLimits::default(), &broker).await;
    assert!(outbox.drain(SOON).await.drained);
    let log = broker.read();
    let found: Vec<_> = log
        .once
        .iter()
        .map(|((epoch, kind, shard, counter), (event, _))| {
            (*epoch, *kind, *shard, *counter, event.id.to_string())
        })
        .collect();
    let of = |n: u64| (epoch, Kind::Click, 1, n, format!("old{n}"));
    assert_eq!(found, [of(0), of(1), of(2)]);
}
