//! Names and their numbers: every name that stands in many keys is a 32-bit symbol within its shard.
//!
//! Invariant: symbols are numbered in log order, so the numbers are a function of the log; they never leave the
//! shard, and nothing outside compares them across shards. Both directions are rows, written together.

use rustc_hash::FxHashMap;

use crate::codec::{Damaged, put_u32};
use crate::family::{Changes, Family, Reads};

/// The number of a name in one [`Space`] of one shard.
pub type Symbol = u32;

/// The symbol of the empty name: no creative, no region, no advertiser.
pub const NONE: Symbol = 0;
/// The symbol of [`adtally_streams::names::OTHER`].
pub const OTHER: Symbol = 1;
/// The first symbol that is given to a name.
pub const FIRST: Symbol = 2;
/// The most names of a space in a shard; events with names past it are refused by the fold, with a record.
pub const MAX_SYMBOLS: Symbol = 1 << 30;

/// What kind of name a symbol stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Space {
    /// Campaign ids.
    Campaign = 1,
    /// Ad ids.
    Ad = 2,
    /// Advertiser ids.
    Advertiser = 3,
    /// Creative variants, of all ads.
    Creative = 4,
    /// Regions.
    Region = 5,
}

impl Space {
    /// Every space.
    pub const ALL: [Space; 5] = [
        Space::Campaign,
        Space::Ad,
        Space::Advertiser,
        Space::Creative,
        Space::Region,
    ];

    pub(crate) fn place(self) -> usize {
        self as usize - 1
    }

    /// The space's name, as a dump writes it.
    pub fn name(self) -> &'static str {
        match self {
            Space::Campaign => "campaign",
            Space::Ad => "ad",
            Space::Advertiser => "advertiser",
            Space::Creative => "creative",
            Space::Region => "region",
        }
    }
}

const BY_NAME: u8 = 0;
const BY_SYMBOL: u8 = 1;
const NEXT: u8 = 2;

/// Row in [`crate::family::Family::Symbols`]: name -> symbol (four bytes, big-endian).
///
/// The fixed names `""` and `other` have no rows: see [`fixed`].
pub fn name_key(out: &mut Vec<u8>, space: Space, name: &str) {
    out.extend_from_slice(&[space as u8, BY_NAME]);
    out.extend_from_slice(name.as_bytes());
}

/// Row: symbol -> name.
pub fn symbol_key(out: &mut Vec<u8>, space: Space, symbol: Symbol) {
    out.extend_from_slice(&[space as u8, BY_SYMBOL]);
    put_u32(out, symbol);
}

/// Row: the next symbol that the space will give (four bytes, big-endian).
pub fn next_key(out: &mut Vec<u8>, space: Space) {
    out.extend_from_slice(&[space as u8, NEXT]);
}

/// Prefix of all rows symbol -> name of a space, sorted by symbol.
pub fn symbols_prefix(space: Space) -> [u8; 2] {
    [space as u8, BY_SYMBOL]
}

/// The symbol in a key of [`symbol_key`]'s form.
pub fn symbol_of_key(key: &[u8]) -> Option<Symbol> {
    key.get(2..).and_then(decode)
}

/// A stored symbol.
pub fn decode(value: &[u8]) -> Option<Symbol> {
    value.try_into().ok().map(u32::from_be_bytes)
}

/// The symbol of a name that has one without a row. In the spaces of ids only `other` could be such a name, and
/// there it is a name as any other.
pub fn fixed(space: Space, name: &str) -> Option<Symbol> {
    match (space, name) {
        (_, "") => Some(NONE),
        (Space::Creative | Space::Region, adtally_streams::names::OTHER) => Some(OTHER),
        _ => None,
    }
}

/// The name of a symbol that has no row.
pub fn fixed_name(symbol: Symbol) -> Option<&'static str> {
    match symbol {
        NONE => Some(""),
        OTHER => Some(adtally_streams::names::OTHER),
        _ => None,
    }
}

/// Names that a fold keeps in memory, all spaces together; past it they are forgotten between batches and read
/// again when they come.
pub const MAX_CACHED_NAMES: usize = 1 << 20;

/// The names that a fold knows, and the numbers that it gives.
#[derive(Debug, Default)]
pub struct Names {
    known: [FxHashMap<Box<str>, Symbol>; Space::ALL.len()],
    next: [Symbol; Space::ALL.len()],
    new: Vec<(Space, Symbol, Box<str>)>,
}

impl Names {
    /// Asks for what [`Names::open`] needs.
    pub fn open_reads(reads: &mut Reads) {
        for space in Space::ALL {
            reads.want(Family::Symbols, |k| next_key(k, space));
        }
    }

    /// Goes on numbering where the state left off; `values` are those asked for by [`Names::open_reads`].
    pub fn open(values: &[Option<Vec<u8>>]) -> Result<Self, Damaged> {
        let mut names = Self {
            next: [FIRST; Space::ALL.len()],
            ..Self::default()
        };
        for (next, value) in names.next.iter_mut().zip(values) {
            if let Some(value) = value {
                *next = decode(value).ok_or(Damaged { what: "symbol" })?;
            }
        }
        Ok(names)
    }

    /// Forgets names when there are too many of them. Between batches only.
    pub fn trim(&mut self) {
        if self.known.iter().map(FxHashMap::len).sum::<usize>() > MAX_CACHED_NAMES {
            self.known.iter_mut().for_each(FxHashMap::clear);
        }
    }

    /// The symbol of a name that is in memory.
    pub fn known(&self, space: Space, name: &str) -> Option<Symbol> {
        fixed(space, name).or_else(|| self.known[space.place()].get(name).copied())
    }

    /// Remembers a name as it is stored.
    pub fn learn(&mut self, space: Space, name: &str, symbol: Symbol) {
        self.known[space.place()].insert(name.into(), symbol);
    }

    /// The next symbol that the space will give.
    pub fn next(&self, space: Space) -> Symbol {
        self.next[space.place()]
    }

    /// The symbol of a name, which gets the next one when it has none; none past [`MAX_SYMBOLS`].
    ///
    /// Every stored name among those asked for must have been learnt before.
    pub fn number(&mut self, space: Space, name: &str) -> Option<Symbol> {
        if let Some(symbol) = self.known(space, name) {
            return Some(symbol);
        }
        let symbol = self.next[space.place()];
        if symbol >= MAX_SYMBOLS {
            return None;
        }
        self.next[space.place()] = symbol + 1;
        self.learn(space, name, symbol);
        self.new.push((space, symbol, name.into()));
        Some(symbol)
    }

    /// Writes the names that are new since the last time.
    pub fn write(&mut self, out: &mut Changes) {
        let mut grown = [false; Space::ALL.len()];
        for (space, symbol, name) in self.new.drain(..) {
            grown[space.place()] = true;
            let number = |v: &mut Vec<u8>| put_u32(v, symbol);
            out.put(Family::Symbols, |k| name_key(k, space, &name), number);
            out.put(
                Family::Symbols,
                |k| symbol_key(k, space, symbol),
                |v| v.extend_from_slice(name.as_bytes()),
            );
        }
        for space in Space::ALL.into_iter().filter(|s| grown[s.place()]) {
            let next = self.next[space.place()];
            out.put(
                Family::Symbols,
                |k| next_key(k, space),
                |v| put_u32(v, next),
            );
        }
    }
}
