//! Backups of a folder without a broker: what is copied comes back, and what was changed or is in the way does not.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use adtally_projections::dump::dump;
use adtally_projections::fold::Entry;
use adtally_streams::event::Kind;
use tokio_util::sync::CancellationToken;

use super::{BackupError, Claim, Meter, Restore, Restored, Written, write};
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
    write(data, &frozen, Claim::take(to)?, &|_| (), &meter)
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
    assert!(!to.join("backup-unfinished").exists());
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

/// What is in a folder, by paths and bytes.
fn contents(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                found.insert(path.clone(), std::fs::read(&path).unwrap());
            }
        }
    }
    found
}

#[test]
fn what_a_killed_backup_leaves_is_no_backup_and_the_next_one_removes_it() {
    let home = tempfile::tempdir().unwrap();
    let (data, to) = (home.path().join("data"), home.path().join("backup"));
    folded(&data);
    // As a process at work has it, and as one that was killed leaves it: the lock goes with the process.
    let claim = Claim::take(&to).unwrap();
    let at_work = back_up(&data, &to).unwrap_err();
    assert!(matches!(at_work, BackupError::AtWork { .. }), "{at_work}");
    std::fs::create_dir_all(to.join("shards/0")).unwrap();
    std::fs::write(to.join("shards/0/000009.sst"), "half").unwrap();
    std::fs::write(to.join("manifest.json.new"), "{").unwrap();
    let half = contents(&to);
    let none = Restore::open(&to).unwrap_err();
    assert!(none.to_string().contains("is being written"), "{none}");
    // Given up, nothing is left, not even the folder that was made for it.
    drop(claim);
    assert!(!to.exists());

    for (path, bytes) in &half {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }
    // Something of somebody else's is named, and nothing is touched.
    std::fs::write(to.join("letters"), "dear").unwrap();
    let before = contents(&to);
    let foreign = back_up(&data, &to).unwrap_err();
    assert!(foreign.to_string().contains("letters"), "{foreign}");
    assert_eq!(contents(&to), before);
    std::fs::remove_file(to.join("letters")).unwrap();
    let written = back_up(&data, &to).unwrap();
    assert!(!to.join("shards/0/000009.sst").exists());
    assert_eq!(written.manifest.shards.len(), 2);
    let other = home.path().join("other");
    restore(&to, &other, false).unwrap();
    assert_eq!(dumped(&other), dumped(&data));

    // Killed after its manifest was in its place it is whole, and nobody's to remove.
    std::fs::write(to.join("backup-unfinished"), "").unwrap();
    let whole = contents(&to).len() - 1;
    let full = back_up(&data, &to).unwrap_err();
    assert!(matches!(full, BackupError::NotEmpty { .. }), "{full}");
    assert_eq!(contents(&to).len(), whole);
    restore(&to, &home.path().join("third"), false).unwrap();

    // It is written where it stays, so a mount point, onto which nothing can be renamed, is as good as any folder.
    let there = home.path().join("there");
    std::fs::create_dir(&there).unwrap();
    let inode = std::fs::metadata(&there).unwrap().ino();
    drop(Claim::take(&there).unwrap());
    assert_eq!(contents(&there).len(), 0);
    back_up(&data, &there).unwrap();
    assert_eq!(std::fs::metadata(&there).unwrap().ino(), inode);

    // A folder that is not ours is neither filled nor marked.
    let letters = home.path().join("desk");
    std::fs::create_dir(&letters).unwrap();
    std::fs::write(letters.join("letter"), "dear").unwrap();
    let full = back_up(&data, &letters).unwrap_err();
    assert!(matches!(full, BackupError::NotEmpty { .. }), "{full}");
    assert_eq!(contents(&letters).len(), 1);
}
