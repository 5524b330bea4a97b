//! The names of a shard's symbols for its dump, each with its hash.
//!
//! Invariant: equal names have equal hashes, whatever their symbols and whichever state they are of, and a symbol
//! without a name has the hash of what is printed for it. So a line can be hashed without its names being looked at
//! again: they are short and few, and stand in millions of lines.

use rustc_hash::FxHashMap;
use twox_hash::XxHash3_128;

use crate::dump::Source;
use crate::family::Family;
use crate::symbols::{self, FIRST, Space, Symbol};

/// A name's hash: 128 bits of XXH3.
pub(crate) type NameHash = u128;

/// What is printed for a symbol that has no name.
const UNNAMED: &str = "(unnamed)";

#[derive(Debug)]
struct Name {
    text: Box<str>,
    hash: NameHash,
}

impl Name {
    fn of(text: &str) -> Self {
        Self {
            text: text.into(),
            hash: XxHash3_128::oneshot(text.as_bytes()),
        }
    }
}

/// The names.
#[derive(Debug)]
pub(crate) struct Names {
    /// By space and symbol, for symbols are given one after the other.
    spaces: [Vec<Name>; Space::ALL.len()],
    /// Symbols past a gap, as only damage makes one.
    others: FxHashMap<(Space, Symbol), Name>,
    unnamed: Name,
}

impl Default for Names {
    fn default() -> Self {
        let fixed = || (0..FIRST).filter_map(symbols::fixed_name).map(Name::of);
        Self {
            spaces: Space::ALL.map(|_| fixed().collect()),
            others: FxHashMap::default(),
            unnamed: Name::of(UNNAMED),
        }
    }
}

impl Names {
    /// Those of a state.
    pub(crate) fn read<S: Source>(source: &S) -> Result<Self, S::Error> {
        let mut names = Self::default();
        source.scan(Family::Symbols, &mut |key, value| names.take(key, value))?;
        Ok(names)
    }

    /// Takes in a row of the symbols; one that gives no symbol its name is passed over.
    pub(crate) fn take(&mut self, key: &[u8], value: &[u8]) {
        let named = |space: &Space| key.starts_with(&symbols::symbols_prefix(*space));
        let Some(space) = Space::ALL.into_iter().find(named) else {
            return;
        };
        let (Some(symbol), Ok(text)) = (symbols::symbol_of_key(key), std::str::from_utf8(value))
        else {
            return;
        };
        let all = &mut self.spaces[space.place()];
        match all.len() == symbol as usize {
            true => all.push(Name::of(text)),
            false => drop(self.others.insert((space, symbol), Name::of(text))),
        }
    }

    fn get(&self, space: Space, symbol: Symbol) -> &Name {
        self.spaces[space.place()]
            .get(symbol as usize)
            .or_else(|| self.others.get(&(space, symbol)))
            .unwrap_or(&self.unnamed)
    }

    /// A symbol's name.
    pub(crate) fn of(&self, space: Space, symbol: Symbol) -> &str {
        &self.get(space, symbol).text
    }

    /// Its hash.
    pub(crate) fn hash(&self, space: Space, symbol: Symbol) -> NameHash {
        self.get(space, symbol).hash
    }
}
