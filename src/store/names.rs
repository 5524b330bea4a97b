//! Names of a generation's numbers that were read before: an answer has the same few regions and ads as the one before,
//! and to look each of them up in RocksDB takes longer than to sum it.
//!
//! Invariant: a number keeps its name as long as the generation is open, so what is kept is what any snapshot that has
//! the number would read.

use std::sync::{Arc, PoisonError, RwLock};

use adtally_projections::symbols::{Space, Symbol};
use rustc_hash::FxHashMap;

/// The most names that are kept of a shard; past it all are forgotten. They take about a hundred bytes each.
const MAX_NAMES: usize = 1 << 15;

/// The names.
#[derive(Debug, Default)]
pub struct Names(RwLock<FxHashMap<(u8, Symbol), Arc<str>>>);

impl Names {
    /// The name of a number, where it is kept.
    pub fn get(&self, space: Space, symbol: Symbol) -> Option<Arc<str>> {
        let names = self.0.read().unwrap_or_else(PoisonError::into_inner);
        names.get(&(space as u8, symbol)).cloned()
    }

    /// Keeps the name of a number.
    pub fn keep(&self, space: Space, symbol: Symbol, name: &Arc<str>) {
        let mut names = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if names.len() >= MAX_NAMES {
            names.clear();
        }
        names.insert((space as u8, symbol), Arc::clone(name));
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn names_are_kept_by_space_and_forgotten_when_they_are_too_many() {
        let names = Names::default();
        let name = |n: u32| -> Arc<str> { n.to_string().into() };
        names.keep(Space::Ad, 7, &name(7));
        names.keep(Space::Region, 7, &name(8));
        assert_eq!(names.get(Space::Ad, 7).unwrap(), name(7));
        assert_eq!(names.get(Space::Region, 7).unwrap(), name(8));
        assert_eq!(names.get(Space::Campaign, 7), None);
        (0..MAX_NAMES as u32).for_each(|n| names.keep(Space::Ad, 100 + n, &name(n)));
        assert_eq!(names.get(Space::Region, 7), None);
        assert!(names.0.read().unwrap().len() <= MAX_NAMES);
    }
}
