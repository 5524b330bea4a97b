//! Backups of a folder without a broker: what is copied comes back, and what was changed or is in the way does not.

#![allow(clippy::unwrap_used)]

use std::path::Path;

use adtally_projections::dump::dump;
use adtally_projections::fold::Entry;
use adtally_streams::event::Kind;
use tokio_util::sync::CancellationToken;

use super::{BackupError, Meter, Restore, Restored, Written, write};
use crate::data_dir::DataDir;
use crate::frozen;
use crate::projector::figures::{self, Load};
use crate::store::{Limits, Shards};

/// A folder of two shards, of which the first has folded something.
fn folded(data: &Path) {
    let shards = Shards::open(data, 2, Limits::default()).unwrap();
    let frames = figures::frames(Load {
        kind: Kind::Click,
        events: 500,
        frame_events: 50,
        seed: 3,
    });
    let entries: Vec<Entry> = (1..)
        .zip(&frames)
        .map(|(n, f)| Entry::decode(n, 1_700_000_000_000, "events.0.click", f))
        .collect();
    let set = shards.set();
    let shard = set.iter().next().unwrap();
    let mut fold = shard.open_fold(77).unwrap();
    let changed = fold.fold(&entries, |reads| shard.read(reads)).unwrap();
    shard.write(&changed.changes).unwrap();
    std::fs::write(data.join("shards-count"), "2\n").unwrap();
    std::fs::create_dir(data.join("outbox-collector")).unwrap();
    std::fs::write(data.join("outbox-collector/CURRENT"), "x").unwrap();
    // Not closed: as after a kill, the last batch is in the write-ahead log only.
}

fn dumped(data: &Path) -> Vec<String> {
    let shards = Shards::open(data, 2, Limits::default()).unwrap();
    let set = shards.set();
    dump(&set.iter().next().unwrap().snapshot().unwrap()).unwrap()
}

fn back_up(data: &Path, to: &Path) -> Result<Written, BackupError> {
    let frozen = frozen::of_stopped(data, &[0, 1]).unwrap();
    let stop = CancellationToken::new();
    let meter = Meter {
        told: &|_| (),
        stop: &stop,
    };
    write(data, &frozen, to, &|_| (), &meter)
}

fn restore(from: &Path, data: &Path, force: bool) -> Result<Restored, BackupError> {
    let stop = CancellationToken::new();
    let meter = Meter {
        told: &|_| (),
        stop: &stop,
    };
    let restore = Restore::open(from)?;
    let dir = DataDir::take(data)?;
    restore.may_be_put(&dir, force)?;
    restore.verify(&meter)?;
    restore.put(&dir, &meter)
}

#[test]
fn what_was_backed_up_comes_back_and_nothing_else() {
    let home = tempfile::tempdir().unwrap();
    let (data, to) = (home.path().join("data"), home.path().join("backup"));
    folded(&data);
    let written = back_up(&data, &to).unwrap();
    assert!(!home.path().join("backup.partial").exists());
    assert!(!to.join("outbox-collector").exists());
    let sequences: Vec<_> = written
        .manifest
        .shards
        .iter()
        .map(|s| s.record.as_ref().map(|r| r.sequence))
        .collect();
    assert_eq!(sequences, [Some(10), None]);
    let full = back_up(&data, &to).unwrap_err();
    assert!(matches!(full, BackupError::NotEmpty { .. }), "{full}");

    let other = home.path().join("other");
    let restored = restore(&to, &other, false).unwrap();
    assert_eq!(dumped(&other), dumped(&data));
    assert_eq!(
        std::fs::read_to_string(other.join("shards-count")).unwrap(),
        "2\n"
    );
    // Over a state only by force, and beside what was there.
    let refused = restore(&to, &other, false).unwrap_err();
    assert!(
        refused.to_string().contains(&restored.generation),
        "{refused}"
    );
    let again = restore(&to, &other, true).unwrap();
    assert_ne!(again.generation, restored.generation);
    assert!(other.join("shards/0").join(&restored.generation).is_dir());
    assert_eq!(dumped(&other), dumped(&data));
    let _held = DataDir::take(&other).unwrap();
    let in_use = restore(&to, &other, true).unwrap_err();
    assert!(matches!(in_use, BackupError::Folder(_)), "{in_use}");
}

#[test]
fn a_backup_that_was_changed_is_refused_and_touches_nothing() {
    let home = tempfile::tempdir().unwrap();
    let (data, to) = (home.path().join("data"), home.path().join("backup"));
    folded(&data);
    let written = back_up(&data, &to).unwrap();
    let other = home.path().join("other");
    let refused = || {
        let error = restore(&to, &other, false).unwrap_err();
        let left = std::fs::read_dir(other.join("shards/0")).map_or(0, Iterator::count);
        assert_eq!(left, 0, "{error}");
        error
    };
    for file in &written.manifest.files {
        let path = to.join(&file.path);
        let bytes = std::fs::read(&path).unwrap();
        let Some(middle) = bytes.len().checked_div(2).filter(|_| !bytes.is_empty()) else {
            continue;
        };
        let mut flipped = bytes.clone();
        flipped[middle] ^= 1;
        for changed in [&flipped[..], &bytes[..middle]] {
            std::fs::write(&path, changed).unwrap();
            let error = refused();
            assert!(matches!(error, BackupError::Damaged { .. }), "{error}");
        }
        std::fs::remove_file(&path).unwrap();
        assert!(refused().to_string().contains("missing"));
        std::fs::write(&path, bytes).unwrap();
    }
    let manifest = to.join("manifest.json");
    let text = std::fs::read_to_string(&manifest).unwrap();
    for (from, by) in [
        ("\"sequence\": 10", "\"sequence\": 11"),
        (
            "\"path\": \"shards-count\"",
            "\"path\": \"../shards-count\"",
        ),
        ("\"format\": 1", "\"format\": 2"),
        ("{", "["),
    ] {
        assert!(text.contains(from), "{text}");
        std::fs::write(&manifest, text.replacen(from, by, 1)).unwrap();
        refused();
    }
    std::fs::write(&manifest, text).unwrap();
    restore(&to, &other, false).unwrap();
    assert_eq!(dumped(&other), dumped(&data));
}
