//! Names and their numbers: every name that stands in many keys is a 32-bit symbol within its shard.
//!
//! Invariant: symbols are numbered in log order, so the numbers are a function of the log; they never leave the
//! shard, and nothing outside compares them across shards. Both directions are rows, written together.

use crate::codec::put_u32;

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
