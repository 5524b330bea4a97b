//! All shards of a deployment, opened together.
//!
//! Invariant: a set of open generations never changes; a shard's other generation makes another set. Whoever reads
//! holds a set by `Arc`, and a generation that no set has any more is closed by the last who held it.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use adtally_projections::spans::Retention;

use super::{Building, Checkpoint, Limits, Memory, Shard, StoreError, generations};
use crate::fail_points::{Point, pass};

/// The open generations of all shards at one moment.
#[derive(Clone, Debug)]
pub struct OpenSet {
    shards: Vec<Arc<Shard>>,
}

impl OpenSet {
    /// All of them, in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Arc<Shard>> {
        self.shards.iter()
    }

    /// The names of the generations, each once, joined by commas: one name unless a shard was rebuilt by itself.
    pub fn generation(&self) -> String {
        let mut names: Vec<&str> = Vec::new();
        for shard in &self.shards {
            if !names.contains(&shard.generation()) {
                names.push(shard.generation());
            }
        }
        names.join(",")
    }
}

/// The open generations of all shards, whichever they are at the moment.
#[derive(Debug)]
pub struct Shards {
    data_dir: PathBuf,
    memory: Memory,
    open: RwLock<Arc<OpenSet>>,
}

impl Shards {
    /// Opens shards 0 to `count` under `<data_dir>/shards`, each at the generation that its `CURRENT` names. A
    /// shard without one begins with an empty generation, and all that begin together share its name.
    ///
    /// # Errors
    /// [`StoreError`] when one cannot be opened; those that were are closed again.
    pub fn open(data_dir: &Path, count: u16, limits: Limits) -> Result<Self, StoreError> {
        let memory = Memory::start(data_dir, limits)?;
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
        Ok(Self {
            data_dir: data_dir.to_path_buf(),
            memory,
            open: RwLock::new(Arc::new(OpenSet { shards })),
        })
    }

    /// The generations that are open now. Whoever answers a question holds one set for all of it.
    pub fn set(&self) -> Arc<OpenSet> {
        Arc::clone(&self.open.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// How long they keep cells.
    pub fn retention(&self) -> Retention {
        self.memory.retention()
    }

    /// Begins a generation beside the open one of a shard, within the same memory: as `from`, or empty.
    ///
    /// # Errors
    /// [`StoreError`] when it cannot be made.
    pub fn build_beside(
        &self,
        number: u16,
        name: &str,
        from: Option<&Checkpoint>,
    ) -> Result<Building, StoreError> {
        Building::begin(&self.data_dir, number, name, from, &self.memory)
    }

    /// Puts a generation in the place of the one that its shard has open. Questions that hold the old one go on
    /// with it; what comes later sees the new one.
    pub fn replace(&self, new: Arc<Shard>) {
        let mut open = self.open.write().unwrap_or_else(PoisonError::into_inner);
        let mut set = OpenSet::clone(&open);
        if let Some(place) = set.shards.get_mut(usize::from(new.number())) {
            *place = new;
        }
        *open = Arc::new(set);
    }

    /// Closes all of them; the first error is told, after all were tried.
    ///
    /// # Errors
    /// [`StoreError`] when one could not be flushed.
    pub fn close(&self) -> Result<(), StoreError> {
        let mut first = Ok(());
        for shard in self.set().iter() {
            let closed = shard.close();
            first = first.and(closed);
        }
        first
    }
}
