//! A generation that is being built beside the one in use.
//!
//! Invariant: nothing of it is in use before [`Building::switch`], which names it in `CURRENT` only after all of it
//! is on disk. A mark beside its folder says that it is not whole, so that what an interrupted build leaves behind
//! is told from the generations that were once in use.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{Memory, Shard, StoreError, generations};
use crate::fail_points::{Point, pass};

/// A half-built generation of one shard.
#[derive(Debug)]
pub struct Building {
    /// The shard's folder.
    folder: PathBuf,
    shard: Arc<Shard>,
}

impl Building {
    /// Makes and opens an empty generation.
    ///
    /// # Errors
    /// [`StoreError`] when it cannot be made.
    pub fn begin(
        data_dir: &Path,
        number: u16,
        name: &str,
        memory: &Memory,
    ) -> Result<Self, StoreError> {
        let folder = generations::shard_folder(data_dir, number);
        fs::create_dir_all(&folder).map_err(StoreError::io(&folder))?;
        let mark = generations::building_mark(&folder, name);
        let marked = || {
            File::create(&mark)?.sync_all()?;
            File::open(&folder)?.sync_all()
        };
        marked().map_err(StoreError::io(&mark))?;
        let shard = Arc::new(Shard::open(number, name, &folder.join(name), memory)?);
        Ok(Self { folder, shard })
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
        self.shard.flush()?;
        pass(Point::GenerationReplayed);
        generations::set_current(&self.folder, self.shard.generation())?;
        self.unmark()
    }

    /// Keeps it, whole, without putting it into use.
    ///
    /// # Errors
    /// [`StoreError`] when it cannot be flushed.
    pub fn keep(&self) -> Result<(), StoreError> {
        self.shard.flush()?;
        self.unmark()
    }

    /// Removes it, for nobody else may have it open. Best effort: what stays behind bears its mark.
    pub fn discard(self) {
        let (folder, name) = (self.folder, self.shard.generation().to_owned());
        drop(self.shard);
        // A switch that failed in its last step may have named it.
        if generations::current(&folder).is_ok_and(|current| current.as_ref() == Some(&name)) {
            return;
        }
        if let Err(error) = generations::remove(&folder, &name) {
            tracing::warn!(%error, "a half-built generation stays behind; the next replay removes it");
        }
    }

    fn unmark(&self) -> Result<(), StoreError> {
        let mark = generations::building_mark(&self.folder, self.shard.generation());
        match fs::remove_file(&mark) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(StoreError::io(&mark)(error))
            }
            _ => Ok(()),
        }
    }
}
