//! Scratch folders in a data folder: what a verification or a backup needs while it works and nobody needs afterwards.
//!
//! Invariant: each belongs to one living process, which holds the lock in it; one whose lock nobody holds was left by
//! a process that was killed, and is removed by the next one that makes one, and at the start of `serve`.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Their folder in the data folder.
const FOLDER: &str = "scratch";
/// The file that its owner has locked.
const LOCK: &str = "lock";
/// How the name of one begins that is not locked yet.
const NEW: &str = "new-";
/// How long one may be without its lock.
const LOCKED_WITHIN: Duration = Duration::from_secs(10);

/// A scratch folder could not be made or removed.
#[derive(Debug, thiserror::Error)]
#[error("scratch folder {path}: {source}")]
pub struct ScratchError {
    /// The folder or file.
    pub path: PathBuf,
    /// The system's error.
    pub source: io::Error,
}

fn io_at(path: &Path) -> impl FnOnce(io::Error) -> ScratchError {
    let path = path.to_path_buf();
    move |source| ScratchError { path, source }
}

/// A folder for the time of one piece of work; dropped, it goes away with all that is in it.
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
    _lock: File,
}

impl Scratch {
    /// Makes one in a data folder, and removes those that nobody has any more.
    ///
    /// # Errors
    /// [`ScratchError`] when the system refuses.
    pub fn make(data_dir: &Path) -> Result<Self, ScratchError> {
        remove_abandoned(data_dir)?;
        Self::make_in(&data_dir.join(FOLDER))
    }

    /// Makes one in any folder, which is made when it is missing.
    ///
    /// # Errors
    /// [`ScratchError`] when the system refuses.
    pub fn make_in(folder: &Path) -> Result<Self, ScratchError> {
        let name = uuid::Uuid::now_v7().to_string();
        let (new, path) = (folder.join(format!("{NEW}{name}")), folder.join(name));
        let make = || {
            fs::create_dir_all(&new)?;
            let lock = File::create(new.join(LOCK))?;
            lock.lock()?;
            // Under its own name it is never without a lock that is held.
            fs::rename(&new, &path)?;
            Ok(lock)
        };
        let lock = make().map_err(io_at(&path))?;
        Ok(Self { path, _lock: lock })
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.path) {
            tracing::warn!(folder = %self.path.display(), %error, "a scratch folder stays behind; the next one removes it");
        }
    }
}

/// Whether a folder lies in a data folder's place for scratch, one level down.
pub fn is_of(folder: &Path, data_dir: &Path) -> bool {
    let parent = folder.parent().and_then(|p| p.canonicalize().ok());
    parent.is_some() && parent == data_dir.join(FOLDER).canonicalize().ok()
}

/// Removes those of a data folder that nobody has any more; answers which.
///
/// # Errors
/// [`ScratchError`] when the system refuses.
pub fn remove_abandoned(data_dir: &Path) -> Result<Vec<PathBuf>, ScratchError> {
    let folder = data_dir.join(FOLDER);
    let entries = match fs::read_dir(&folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(io_at(&folder)(error)),
    };
    let mut removed = Vec::new();
    for entry in entries {
        let path = entry.map_err(io_at(&folder))?.path();
        if has_owner(&path).map_err(io_at(&path))? {
            continue;
        }
        match fs::remove_dir_all(&path) {
            // Its owner was just removing it.
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(io_at(&path)(error));
            }
            _ => removed.push(path),
        }
    }
    Ok(removed)
}

fn has_owner(path: &Path) -> io::Result<bool> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    if name.starts_with(NEW) {
        let made = fs::metadata(path).and_then(|m| m.modified());
        let age = made.ok().and_then(|at| at.elapsed().ok());
        return Ok(age.is_some_and(|age| age < LOCKED_WITHIN));
    }
    match File::open(path.join(LOCK)) {
        Ok(lock) => match lock.try_lock() {
            Ok(()) => Ok(false),
            Err(TryLockError::WouldBlock) => Ok(true),
            Err(TryLockError::Error(error)) => Err(error),
        },
        // Its owner is removing it.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn it_goes_with_its_owner_and_an_abandoned_one_with_the_next() {
        let data = tempfile::tempdir().unwrap();
        let first = Scratch::make(data.path()).unwrap();
        fs::write(first.path().join("rows"), "1").unwrap();
        assert!(is_of(first.path(), data.path()));
        assert!(!is_of(data.path(), data.path()));
        let abandoned = data.path().join("scratch/0");
        fs::create_dir_all(&abandoned).unwrap();
        fs::write(abandoned.join(LOCK), "").unwrap();
        let second = Scratch::make(data.path()).unwrap();
        assert!(first.path().exists() && second.path().exists() && !abandoned.exists());
        let gone = first.path().to_path_buf();
        drop(first);
        assert!(!gone.exists());
        assert_eq!(
            remove_abandoned(data.path()).unwrap(),
            Vec::<PathBuf>::new()
        );
    }
}
