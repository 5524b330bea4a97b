//! Identifiers: those that people choose, and those that name a run of a producer's events.
//!
//! An [`Id`] that exists matches the contract's rule, so nothing behind the border checks it again.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::event::Kind;
use crate::uuid_text::{uuid_bytes, uuid_text};

/// The longest identifier, in bytes (contract: `[A-Za-z0-9_:-]{1,64}`).
pub const ID_MAX_BYTES: usize = 64;

/// An identifier as the contract allows it: `[A-Za-z0-9_:-]{1,64}`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Id(Arc<str>);

/// A text that is not an identifier.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("an id is 1 to 64 of A-Z a-z 0-9 _ : -, and this has {length} bytes{}", match .at { Some(at) => format!(", with another byte at {at}"), None => String::new() })]
pub struct BadId {
    /// Bytes of the text.
    pub length: usize,
    /// The first byte outside the alphabet.
    pub at: Option<usize>,
}

impl Id {
    /// Checks a text against the contract's rule.
    pub fn new(text: &str) -> Result<Self, BadId> {
        let bad = |at| BadId {
            length: text.len(),
            at,
        };
        if text.is_empty() || text.len() > ID_MAX_BYTES {
            return Err(bad(None));
        }
        match text
            .bytes()
            .position(|b| !(b.is_ascii_alphanumeric() || matches!(b, b'_' | b':' | b'-')))
        {
            Some(at) => Err(bad(Some(at))),
            None => Ok(Self(Arc::from(text))),
        }
    }

    /// The id that is the canonical text of a UUID of those bytes.
    pub fn from_uuid(bytes: &[u8; 16]) -> Self {
        let text = uuid_text(bytes);
        let text = std::str::from_utf8(&text).expect("digits and hyphens are ASCII");
        Self(Arc::from(text))
    }

    /// The bytes of the UUID whose canonical lower-case text the id is.
    pub fn to_uuid(&self) -> Option<[u8; 16]> {
        uuid_bytes(&self.0)
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

impl std::borrow::Borrow<str> for Id {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl Serialize for Id {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Id {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(d)?;
        Id::new(&text).map_err(serde::de::Error::custom)
    }
}

/// One opening of a producer's outbox: random, so that a cloned disk or a restored backup never speaks under
/// an epoch that somebody else has used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Epoch(pub u64);

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl std::str::FromStr for Epoch {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        u64::from_str_radix(text, 16).map(Epoch)
    }
}

/// The broker's dedup id of a frame: `<epoch>-<kind>-<first>-<last>`.
///
/// A frame that is cut differently after a crash gets another id; the ledger drops what overlaps.
pub fn frame_message_id(epoch: Epoch, kind: Kind, first: u64, last: u64) -> String {
    format!("{epoch}-{}-{first}-{last}", kind.name())
}
