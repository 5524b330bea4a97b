//! A generation that is being built beside the one in use.
//!
//! Invariant: nothing of it is in use before [`Building::switch`], which names it in `CURRENT` only after all of it
//! is on disk. A mark beside its folder says that it is not whole, so that what an interrupted build leaves behind
//! is told from the generations that were once in use, and removed. So until it is whole it is written without a
//! write-ahead log.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{Checkpoint, Memory, Shard, StoreError, checkpoints, generations};
use crate::fail_points::{Point, pass};

/// A half-built generation of one shard.
#[derive(Debug)]
pub struct Building {
    /// The shard's folder.
    folder: PathBuf,
    shard: Arc<Shard>,
}

impl Building {
    /// Makes and opens a generation that begins as `from`, which stays as it is; none: an empty one.
    ///
    /// # Errors
    /// [`StoreError`] when it cannot be made.
    pub fn begin(
        data_dir: &Path,
        number: u16,
        name: &str,
        from: Option<&Checkpoint>,
        memory: &Memory,
    ) -> Result<Self, StoreError> {
        let folder = generations::shard_folder(data_dir, number);
        mark(&folder, name)?;
        let path = folder.join(name);
        let opened = match from {
            Some(checkpoint) => checkpoints::fork(&checkpoint.state(), &path),
            None => Ok(()),
        }
        .and_then(|()| Shard::open(number, name, &path, memory));
        match opened {
            Ok(shard) => {
                shard.write_unlogged();
                Ok(Self {
                    folder,
                    shard: Arc::new(shard),
                })
            }
            Err(error) => {
                discard(&folder, name);
                Err(error)
            }
        }
    }

    /// The generation, to be written by one fold.
    pub fn shard(&self) -> &Arc<Shard> {
        &self.shard
    }

    /// Puts it into use for whoever opens the shard from now on. What is open stays open.
    ///
    /// # Errors
    /// [`StoreError`] when it cannot be flushed or named; the old one is then still in use, unless naming the new
    /// one failed at the very last step, the sync of the folder: after a power cut it is one or the other, whole.
    pub fn switch(&self) -> Result<(), StoreError> {
        self.shard.make_whole()?;
        pass(Point::GenerationReplayed);
        generations::set_current(&self.folder, self.shard.generation())?;
        self.unmark()
    }

    /// Keeps it, whole, without putting it into use.
    ///
    /// # Errors
    /// [`StoreError`] when it cannot be flushed.
    pub fn keep(&self) -> Result<(), StoreError> {
        self.shard.make_whole()?;
        self.unmark()
    }

    /// Removes it, for nobody else may have it open. Best effort: what stays behind bears its mark.
    pub fn discard(self) {
        let (folder, name) = (self.folder, self.shard.generation().to_owned());
        // A switch that failed in its last step may have named it.
        if generations::current(&folder).is_ok_and(|current| current.as_ref() == Some(&name)) {
            return;
        }
        drop(self.shard);
        discard(&folder, &name);
    }

    fn unmark(&self) -> Result<(), StoreError> {
        unmark(&self.folder, self.shard.generation())
    }
}

fn discard(folder: &Path, name: &str) {
    if let Err(error) = generations::remove(folder, name) {
        tracing::warn!(%error, "a half-built generation stays behind; the next replay removes it");
    }
}

/// A generation of one shard whose files come from elsewhere, as from a backup.
#[derive(Debug)]
pub struct Installing {
    folder: PathBuf,
    name: String,
}

impl Installing {
    /// Makes its folder, empty, with the mark beside it.
    ///
    /// # Errors
    /// [`StoreError`] when it cannot be made.
    pub fn begin(data_dir: &Path, number: u16, name: &str) -> Result<Self, StoreError> {
        let folder = generations::shard_folder(data_dir, number);
        mark(&folder, name)?;
        let path = folder.join(name);
        fs::create_dir_all(&path).map_err(StoreError::io(&path))?;
        Ok(Self {
            folder,
            name: name.to_owned(),
        })
    }

    /// Its folder, in which all that is there must be synced before it is switched to.
    pub fn folder(&self) -> PathBuf {
        self.folder.join(&self.name)
    }

    /// Puts it into use for whoever opens the shard from now on.
    ///
    /// # Errors
    /// [`StoreError`] when it cannot be named.
    pub fn switch(&self) -> Result<(), StoreError> {
        generations::set_current(&self.folder, &self.name)?;
        unmark(&self.folder, &self.name)
    }

    /// Removes it, unless it is in use.
    pub fn discard(self) {
        let current = generations::current(&self.folder);
        if !current.is_ok_and(|current| current.as_ref() == Some(&self.name)) {
            discard(&self.folder, &self.name);
        }
    }
}

/// Says beside a generation's folder, before there is one, that it is not whole.
fn mark(folder: &Path, name: &str) -> Result<(), StoreError> {
    fs::create_dir_all(folder).map_err(StoreError::io(folder))?;
    let mark = generations::building_mark(folder, name);
    let marked = || {
        File::create(&mark)?.sync_all()?;
        File::open(folder)?.sync_all()
    };
    marked().map_err(StoreError::io(&mark))
}

fn unmark(folder: &Path, name: &str) -> Result<(), StoreError> {
    let mark = generations::building_mark(folder, name);
    match fs::remove_file(&mark) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(StoreError::io(&mark)(error)),
        _ => Ok(()),
    }
}
