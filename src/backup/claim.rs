//! Whose a backup's folder is while it is written.
//!
//! Invariant: who writes into the folder holds the lock of the mark in it, which comes there first and goes away last.
//! So a mark that nobody has locked says that a backup was killed there, and its files are known to be a backup's: the
//! next one removes them. Nothing else is ever removed, and no backup that is whole.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use super::files;
use super::{BESIDES, BackupError, MANIFEST, SHARDS, io_at};

/// The mark of a folder that is no backup yet.
pub const UNFINISHED: &str = "backup-unfinished";
/// The manifest before it is one.
pub const NEW_MANIFEST: &str = "manifest.json.new";

/// A folder that this process alone writes a backup into. Dropped, nothing is left of what was written.
#[derive(Debug)]
pub struct Claim {
    folder: PathBuf,
    /// It was made for this backup.
    is_new: bool,
    is_whole: bool,
    _lock: File,
}

impl Claim {
    /// Claims a folder that is empty, is not there yet, or holds what a killed backup has left, which is removed.
    ///
    /// # Errors
    /// [`BackupError`] when something else is in it, or another backup is at work there.
    pub fn take(folder: &Path) -> Result<Self, BackupError> {
        let mark = folder.join(UNFINISHED);
        let is_new = !folder.is_dir();
        fs::create_dir_all(folder).map_err(io_at(folder))?;
        let was_marked = mark.is_file();
        if !was_marked && !files::names(folder)?.is_empty() {
            return Err(BackupError::NotEmpty {
                path: folder.to_path_buf(),
            });
        }
        let lock = File::options().create(true).append(true).open(&mark);
        let lock = lock.map_err(io_at(&mark))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(BackupError::AtWork {
                    path: folder.to_path_buf(),
                });
            }
            Err(TryLockError::Error(error)) => return Err(io_at(&mark)(error)),
        }
        if let Err(in_the_way) = clear(folder) {
            // A whole backup needs no mark, nor does what was not ours before.
            if !was_marked || matches!(in_the_way, BackupError::NotEmpty { .. }) {
                remove_mark(folder)?;
            }
            return Err(in_the_way);
        }
        Ok(Self {
            folder: folder.to_path_buf(),
            is_new,
            is_whole: false,
            _lock: lock,
        })
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Ends it with the backup whole, its manifest in its place.
    ///
    /// # Errors
    /// [`BackupError`] when the mark cannot be removed; the backup is whole all the same.
    pub fn finish(mut self) -> Result<(), BackupError> {
        self.is_whole = true;
        remove_mark(&self.folder)
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if self.is_whole {
            return;
        }
        let removed = remove_files(&self.folder).and_then(|()| remove_mark(&self.folder));
        let removed = removed.and_then(|()| match self.is_new {
            true => fs::remove_dir(&self.folder).map_err(io_at(&self.folder)),
            false => Ok(()),
        });
        if let Err(error) = removed {
            tracing::warn!(%error, "an unfinished backup stays behind; the next one into this folder removes it");
        }
    }
}

/// Removes what a killed backup has left in a folder whose mark this process has locked.
fn clear(folder: &Path) -> Result<(), BackupError> {
    let names = files::names(folder)?;
    // Killed after its last step it is whole. So is one that somebody else has finished since it was looked at.
    if names.iter().any(|name| name == MANIFEST) {
        return Err(BackupError::NotEmpty {
            path: folder.to_path_buf(),
        });
    }
    if let Some(found) = names
        .into_iter()
        .find(|name| name != UNFINISHED && !is_part(name))
    {
        return Err(BackupError::Foreign {
            path: folder.to_path_buf(),
            found,
        });
    }
    remove_files(folder)
}

/// Whether a name in the folder of a backup is that of a part of it.
fn is_part(name: &str) -> bool {
    [MANIFEST, NEW_MANIFEST, SHARDS].contains(&name) || BESIDES.contains(&name)
}

/// Removes the parts of a backup, the manifest first: without it the rest is none.
fn remove_files(folder: &Path) -> Result<(), BackupError> {
    let mut names = files::names(folder)?;
    names.sort_by_key(|name| name != MANIFEST);
    for name in names.iter().filter(|name| is_part(name)) {
        let path = folder.join(name);
        let removed = match path.is_dir() {
            true => fs::remove_dir_all(&path),
            false => fs::remove_file(&path),
        };
        removed.map_err(io_at(&path))?;
    }
    Ok(())
}

fn remove_mark(folder: &Path) -> Result<(), BackupError> {
    let mark = folder.join(UNFINISHED);
    match fs::remove_file(&mark) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io_at(&mark)(error)),
        _ => files::sync(folder),
    }
}
