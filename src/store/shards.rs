//! All shards of a deployment, opened together.
//!
//! Invariant: the set is immutable once open; questions hold it by `Arc`, and it is closed explicitly, when nobody
//! writes any more.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use super::{Limits, Memory, Shard, StoreError, generations};
use crate::fail_points::{Point, pass};

/// The open generations of all shards.
#[derive(Debug)]
pub struct Shards {
    shards: Vec<Arc<Shard>>,
}

impl Shards {
    /// Opens shards 0 to `count` under `<data_dir>/shards`, each at the generation that its `CURRENT` names. A
    /// shard without one begins with an empty generation, and all that begin together share its name.
    ///
    /// # Errors
    /// [`StoreError`] when one cannot be opened; those that were are closed again.
    pub fn open(data_dir: &Path, count: u16, limits: Limits) -> Result<Self, StoreError> {
        let memory = Memory::new(limits).map_err(|source| StoreError::Rocks {
            path: data_dir.to_path_buf(),
            action: "start",
            source,
        })?;
        let new = generations::new_name();
        let mut shards = Vec::with_capacity(usize::from(count));
        for number in 0..count {
            let folder = generations::shard_folder(data_dir, number);
            fs::create_dir_all(&folder).map_err(StoreError::io(&folder))?;
            let current = generations::current(&folder)?;
            let name = current.as_deref().unwrap_or(&new);
            shards.push(Arc::new(Shard::open(
                number,
                name,
                &folder.join(name),
                &memory,
            )?));
            if current.is_none() {
                pass(Point::GenerationMade);
                generations::set_current(&folder, name)?;
            }
        }
        Ok(Self { shards })
    }

    /// How many there are.
    pub fn count(&self) -> u16 {
        self.shards.len() as u16
    }

    /// All of them, in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Arc<Shard>> {
        self.shards.iter()
    }

    /// The names of the generations in use, each once, joined by commas: one name unless a shard was rebuilt.
    pub fn generation(&self) -> String {
        let mut names: Vec<&str> = Vec::new();
        for shard in &self.shards {
            if !names.contains(&shard.generation()) {
                names.push(shard.generation());
            }
        }
        names.join(",")
    }

    /// Closes all of them; the first error is told, after all were tried.
    ///
    /// # Errors
    /// [`StoreError`] when one could not be flushed.
    pub fn close(&self) -> Result<(), StoreError> {
        let mut first = Ok(());
        for shard in &self.shards {
            let closed = shard.close();
            first = first.and(closed);
        }
        first
    }
}
