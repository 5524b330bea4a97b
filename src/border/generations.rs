//! A bounded map in two generations: what is used stays, what is not falls out with its generation.
//!
//! Invariant: it never holds more than twice `limit` entries. A list of every entry by age would forget more
//! precisely, and would cost two pointers an entry and a write on every read; a cache and a rate limit need no
//! more than that the oldest go first.
//!
//! The keys are what strangers send. So they are hashed under a secret of this process: nobody can choose keys that all fall
//! into one place and make each look at the map as long as the map is large.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::Hash;

/// The map. `limit` counts one generation.
#[derive(Debug)]
pub struct Generations<K, V> {
    current: HashMap<K, V>,
    previous: HashMap<K, V>,
    limit: usize,
}

impl<K: Eq + Hash, V> Generations<K, V> {
    /// An empty map of at most `limit` entries a generation.
    pub fn new(limit: usize) -> Self {
        Self {
            current: HashMap::default(),
            previous: HashMap::default(),
            limit: limit.max(1),
        }
    }

    /// What `look` says of the value of `key`, which thereby counts as used.
    pub fn with<Q, R>(&mut self, key: &Q, look: impl FnOnce(&mut V) -> R) -> Option<R>
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        // A key is hashed once where it was used lately, which is what this map is for.
        if let Some(value) = self.current.get_mut(key) {
            return Some(look(value));
        }
        let (key, value) = self.previous.remove_entry(key)?;
        Some(look(self.current.entry(key).or_insert(value)))
    }

    /// Whether one more key would start a new generation.
    pub fn is_full(&self) -> bool {
        self.current.len() >= self.limit
    }

    /// Puts a key that [`Generations::with`] has not found. In a full map it starts a new generation, and the
    /// values of the dropped one come back, so that the caller can count what was forgotten.
    pub fn insert(&mut self, key: K, value: V) -> Option<impl Iterator<Item = V> + use<K, V>> {
        let dropped = if self.is_full() {
            Some(self.turn())
        } else {
            None
        };
        self.current.insert(key, value);
        dropped
    }

    /// Starts a new generation and gives back the values of the dropped one.
    pub fn turn(&mut self) -> impl Iterator<Item = V> + use<K, V> {
        let emptied = std::mem::take(&mut self.current);
        std::mem::replace(&mut self.previous, emptied).into_values()
    }

    /// Entries held.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.current.len() + self.previous.len()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_is_used_stays_and_the_rest_falls_out() {
        let mut map: Generations<u32, u32> = Generations::new(2);
        assert!(map.insert(1, 10).is_none());
        assert!(map.insert(2, 20).is_none());
        assert_eq!(
            map.insert(3, 30).unwrap().count(),
            0,
            "the first generation is kept as the previous one"
        );
        assert_eq!(
            map.with(&1, |value| *value),
            Some(10),
            "used again, so it moves to the current one"
        );
        let dropped: Vec<u32> = map.insert(4, 40).unwrap().collect();
        assert_eq!(dropped, [20]);
        assert_eq!(map.with(&1, |value| *value), Some(10));
        assert_eq!(map.with(&2, |value| *value), None);
    }

    #[test]
    fn it_never_grows_past_two_generations() {
        let mut map: Generations<u32, ()> = Generations::new(8);
        for key in 0..1_000 {
            if map.with(&key, |_| ()).is_none() {
                map.insert(key, ());
            }
            assert!(map.len() <= 16);
        }
    }
}
