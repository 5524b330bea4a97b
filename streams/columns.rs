//! Columns: the bytes below a frame, written without thought and read without trust.
//!
//! A reader never reserves more than it has checked, never reads past its slice, and knows exactly when a column
//! ends. Symbols stand in planes of fixed width rather than in varints, because a plane is checked and widened by
//! the processor's vector unit, and its high bytes compress to nothing.

use std::hash::Hash;
use std::sync::Arc;

use rustc_hash::FxHashMap;

use crate::frame_error::FrameError;

/// The most bytes of a varint: 64 bits by sevens.
const VARINT_MAX_BYTES: usize = 10;

/// Appends an unsigned number, seven bits a byte, least first.
pub(crate) fn put_varint(out: &mut Vec<u8>, mut n: u64) {
    while n >= 0x80 {
        out.push(n as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

/// Small numbers of either sign become small numbers: 0, -1, 1, -2 are 0, 1, 2, 3.
pub(crate) fn zigzag(n: i64) -> u64 {
    ((n << 1) ^ (n >> 63)) as u64
}

/// Undoes [`zigzag`].
fn unzigzag(n: u64) -> i64 {
    (n >> 1) as i64 ^ -((n & 1) as i64)
}

/// Appends a signed number.
pub(crate) fn put_zigzag(out: &mut Vec<u8>, n: i64) {
    put_varint(out, zigzag(n));
}

/// Appends the symbols of a dictionary of `len` entries: nothing for one entry, a byte each up to 256, else the
/// low bytes and then the high ones.
pub(crate) fn put_symbols(out: &mut Vec<u8>, symbols: &[u32], len: usize) {
    if len > 1 {
        out.extend(symbols.iter().map(|s| *s as u8));
    }
    if len > 256 {
        out.extend(symbols.iter().map(|s| (*s >> 8) as u8));
    }
}

/// Appends a column of small numbers: one byte that says whether all are the same, then that one or all of them.
pub(crate) fn put_bytes(out: &mut Vec<u8>, values: &[u8]) {
    let first = values.first().copied().unwrap_or(0);
    if values.iter().all(|v| *v == first) {
        out.extend([0, first]);
    } else {
        out.push(1);
        out.extend_from_slice(values);
    }
}

/// Appends numbers, each as the difference from the one before it; the first from zero.
pub(crate) fn put_deltas(out: &mut Vec<u8>, values: impl Iterator<Item = i64>) {
    let mut before = 0i64;
    for value in values {
        put_zigzag(out, value.wrapping_sub(before));
        before = value;
    }
}

/// Appends texts: their lengths, then their bytes. The reader knows how many there are.
pub(crate) fn put_texts(out: &mut Vec<u8>, texts: &[&str]) {
    for text in texts {
        put_varint(out, text.len() as u64);
    }
    for text in texts {
        out.extend_from_slice(text.as_bytes());
    }
}

/// Distinct values in the order in which they came, and the symbol of each value that came.
pub(crate) struct Dictionary<K> {
    map: FxHashMap<K, u32>,
    /// The distinct values.
    pub(crate) entries: Vec<K>,
    /// One symbol a value.
    pub(crate) symbols: Vec<u32>,
}

impl<K: Copy + Eq + Hash> Dictionary<K> {
    /// An empty dictionary for `count` values to come.
    pub(crate) fn new(count: usize) -> Self {
        Self {
            map: FxHashMap::default(),
            entries: Vec::new(),
            symbols: Vec::with_capacity(count),
        }
    }

    /// The dictionary of all these values.
    pub(crate) fn of(count: usize, values: impl Iterator<Item = K>) -> Self {
        let mut dictionary = Self::new(count);
        values.for_each(|value| dictionary.push(value));
        dictionary
    }

    /// Takes the next value.
    pub(crate) fn push(&mut self, value: K) {
        let next = self.entries.len() as u32;
        let symbol = *self.map.entry(value).or_insert(next);
        if symbol == next {
            self.entries.push(value);
        }
        self.symbols.push(symbol);
    }

    /// Appends how many distinct values there are.
    pub(crate) fn put_len(&self, out: &mut Vec<u8>) {
        put_varint(out, self.entries.len() as u64);
    }

    /// Appends the symbols.
    pub(crate) fn put_symbols(&self, out: &mut Vec<u8>) {
        put_symbols(out, &self.symbols, self.entries.len());
    }
}

/// Reads columns from a slice.
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Reads from the start of `bytes`.
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// The next `n` bytes.
    #[inline]
    pub(crate) fn take(&mut self, n: usize) -> Result<&'a [u8], FrameError> {
        let (taken, rest) = self.rest.split_at_checked(n).ok_or(FrameError::Short)?;
        self.rest = rest;
        Ok(taken)
    }

    /// The next byte.
    #[inline]
    pub(crate) fn byte(&mut self) -> Result<u8, FrameError> {
        let (first, rest) = self.rest.split_first().ok_or(FrameError::Short)?;
        self.rest = rest;
        Ok(*first)
    }

    /// Everything has been read.
    pub(crate) fn end(&self) -> Result<(), FrameError> {
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(FrameError::Trailing)
        }
    }

    /// An unsigned number in its shortest form.
    #[inline]
    pub(crate) fn varint(&mut self) -> Result<u64, FrameError> {
        match self.rest {
            [first, rest @ ..] if *first < 0x80 => {
                self.rest = rest;
                Ok(u64::from(*first))
            }
            _ => self.long_varint(),
        }
    }

    fn long_varint(&mut self) -> Result<u64, FrameError> {
        let mut n = 0u64;
        for i in 0..VARINT_MAX_BYTES {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            if i == VARINT_MAX_BYTES - 1 && bits > 1 {
                return Err(FrameError::BadNumber);
            }
            n |= bits << (7 * i);
            if byte < 0x80 {
                return if byte == 0 && i > 0 {
                    Err(FrameError::BadNumber)
                } else {
                    Ok(n)
                };
            }
        }
        Err(FrameError::BadNumber)
    }

    /// A signed number.
    #[inline]
    pub(crate) fn zigzag(&mut self) -> Result<i64, FrameError> {
        self.varint().map(unzigzag)
    }

    /// How many entries a dictionary has, from `least` to `most`.
    pub(crate) fn len(&mut self, least: usize, most: usize) -> Result<usize, FrameError> {
        match usize::try_from(self.varint()?) {
            Ok(n) if (least..=most).contains(&n) => Ok(n),
            _ => Err(FrameError::BadDictionary),
        }
    }

    /// `count` symbols of a dictionary of `len` entries, each below `len`.
    pub(crate) fn symbols(&mut self, count: usize, len: usize) -> Result<Vec<u32>, FrameError> {
        let symbols: Vec<u32> = match len {
            0 | 1 => vec![0; count],
            2..=256 => self.take(count)?.iter().map(|b| u32::from(*b)).collect(),
            _ => {
                let (low, high) = (self.take(count)?, self.take(count)?);
                low.iter()
                    .zip(high)
                    .map(|(l, h)| u32::from(*l) | u32::from(*h) << 8)
                    .collect()
            }
        };
        match symbols.iter().max() {
            Some(most) if *most as usize >= len => Err(FrameError::BadSymbol),
            _ => Ok(symbols),
        }
    }

    /// `count` small numbers.
    pub(crate) fn bytes(&mut self, count: usize) -> Result<Bytes<'a>, FrameError> {
        match self.byte()? {
            0 => Ok(Bytes::Same(self.byte()?)),
            1 => Ok(Bytes::Each(self.take(count)?)),
            _ => Err(FrameError::BadNumber),
        }
    }

    /// `count` small numbers, each of them translated.
    pub(crate) fn enums<T: Copy>(
        &mut self,
        count: usize,
        of: impl Fn(u8) -> Option<T>,
    ) -> Result<Vec<T>, FrameError> {
        match self.bytes(count)? {
            Bytes::Same(b) => Ok(vec![of(b).ok_or(FrameError::UnknownNumber)?; count]),
            Bytes::Each(bytes) => bytes
                .iter()
                .map(|b| of(*b).ok_or(FrameError::UnknownNumber))
                .collect(),
        }
    }

    /// `count` numbers, each written as the difference from the one before.
    pub(crate) fn deltas(&mut self, count: usize) -> Result<Vec<i64>, FrameError> {
        let mut before = 0i64;
        let mut values = Vec::with_capacity(count);
        for _ in 0..count {
            before = before.wrapping_add(self.zigzag()?);
            values.push(before);
        }
        Ok(values)
    }

    /// `count` byte strings: their lengths, then their bytes.
    pub(crate) fn slices(&mut self, count: usize) -> Result<Vec<&'a [u8]>, FrameError> {
        let mut lengths = Vec::with_capacity(count);
        for _ in 0..count {
            lengths.push(usize::try_from(self.varint()?).map_err(|_| FrameError::BadNumber)?);
        }
        lengths.into_iter().map(|n| self.take(n)).collect()
    }

    /// `count` texts.
    pub(crate) fn texts(&mut self, count: usize) -> Result<Vec<Arc<str>>, FrameError> {
        self.slices(count)?
            .into_iter()
            .map(|b| text(b).map(Arc::from))
            .collect()
    }
}

/// Bytes as text.
pub(crate) fn text(bytes: &[u8]) -> Result<&str, FrameError> {
    std::str::from_utf8(bytes).map_err(|_| FrameError::BadText)
}

/// A column of small numbers.
pub(crate) enum Bytes<'a> {
    /// All are this one.
    Same(u8),
    /// One each.
    Each(&'a [u8]),
}

impl Bytes<'_> {
    /// The number at `i`, which is below the count that was read.
    #[inline]
    pub(crate) fn at(&self, i: usize) -> u8 {
        match self {
            Bytes::Same(b) => *b,
            Bytes::Each(bytes) => bytes[i],
        }
    }
}
