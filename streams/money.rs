//! Money: integer micros of one currency. Never a float, never summed across currencies.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Millionths of a currency unit.
pub type Micros = i64;

/// The largest price of one event or value of one conversion, in micros: a billion currency units.
/// 2^63 micros hold nine thousand of them, and sums saturate rather than wrap.
pub const MAX_MICROS: Micros = 1_000_000_000_000_000;

/// An ISO 4217 currency code, three upper-case letters.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Currency([u8; 3]);

/// A text that is not a currency code.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a currency code is three letters of ISO 4217, such as USD")]
pub struct BadCurrency;

impl Currency {
    /// Reads a code; lower-case letters are raised.
    pub fn new(text: &str) -> Result<Self, BadCurrency> {
        let bytes: [u8; 3] = text.as_bytes().try_into().map_err(|_| BadCurrency)?;
        if !bytes.iter().all(u8::is_ascii_alphabetic) {
            return Err(BadCurrency);
        }
        Ok(Self(bytes.map(|b| b.to_ascii_uppercase())))
    }

    /// The currency of exactly that code, in upper case.
    pub fn from_code(code: [u8; 3]) -> Option<Self> {
        code.iter()
            .all(u8::is_ascii_uppercase)
            .then_some(Self(code))
    }

    /// The code.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("a currency holds ASCII letters only")
    }
}

impl fmt::Display for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for Currency {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for Currency {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(d)?;
        Currency::new(&text).map_err(serde::de::Error::custom)
    }
}
