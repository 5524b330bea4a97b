//! Columns: the bytes below a frame, written without thought and read without trust.
//!
//! A reader never reserves more than it has checked, never reads past its slice, and knows exactly when a column
//! ends. Symbols stand in planes of fixed width rather than in varints, because a plane is checked and widened by
//! the processor's vector unit, and its high bytes compress to nothing.

use std::hash::{BuildHasher, Hash};

use rustc_hash::FxBuildHasher;

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
pub(crate) fn put_texts<'a>(out: &mut Vec<u8>, texts: impl Iterator<Item = &'a str> + Clone) {
    for text in texts.clone() {
        put_varint(out, text.len() as u64);
    }
    for text in texts {
        out.extend_from_slice(text.as_bytes());
    }
}

/// Distinct values in the order in which they came, and the symbol of each value that came.
///
/// An open table of its own, because the values of a frame are few and known in number: it never grows, and a
/// value may be hashed by what tells it apart soonest and compared by all of it. Whoever picks ids so that they
/// collide makes a frame slower by at most the comparisons of its few thousand values with one another.
pub(crate) struct Dictionary<K> {
    /// Symbols plus one, by hash; zero is a free slot.
    slots: Vec<u16>,
    /// The distinct values.
    pub(crate) entries: Vec<K>,
    /// One symbol a value.
    pub(crate) symbols: Vec<u32>,
}

impl<K: Copy + Eq + Hash> Dictionary<K> {
    /// The dictionary of those values, of which there are `count`.
    pub(crate) fn of(count: usize, values: impl Iterator<Item = K>) -> Self {
        Self::by(count, values, |value| *value)
    }
}

impl<K: Copy + Eq> Dictionary<K> {
    /// The dictionary of those values, hashed by a part of them.
    pub(crate) fn by<P: Hash>(
        count: usize,
        values: impl Iterator<Item = K>,
        part: impl Fn(&K) -> P,
    ) -> Self {
        let mut dictionary = Self::with_room(count);
        for value in values {
            dictionary.add(value, part(&value));
        }
        dictionary
    }

    /// An empty dictionary with room for `count` values, which are all that may be added.
    pub(crate) fn with_room(count: usize) -> Self {
        Self {
            slots: vec![0; (count * 2).next_power_of_two().max(2)],
            entries: Vec::new(),
            symbols: Vec::with_capacity(count),
        }
    }

    /// Adds a value, hashed by that part of it.
    #[inline]
    pub(crate) fn add(&mut self, value: K, part: impl Hash) {
        let slot = FxBuildHasher.hash_one(part) as usize & (self.slots.len() - 1);
        let symbol = self.symbol(slot, value);
        self.symbols.push(symbol);
    }

    fn symbol(&mut self, mut slot: usize, value: K) -> u32 {
        loop {
            match self.slots[slot].checked_sub(1) {
                Some(symbol) if self.entries[usize::from(symbol)] == value => {
                    return u32::from(symbol);
                }
                Some(_) => slot = (slot + 1) & (self.slots.len() - 1),
                None => {
                    self.entries.push(value);
                    self.slots[slot] = self.entries.len() as u16;
                    return self.entries.len() as u32 - 1;
                }
            }
        }
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

    /// The next `N` bytes.
    #[inline]
    pub(crate) fn array<const N: usize>(&mut self) -> Result<&'a [u8; N], FrameError> {
        let (taken, rest) = self.rest.split_first_chunk().ok_or(FrameError::Short)?;
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

    /// What has not been read.
    pub(crate) fn rest(&self) -> &'a [u8] {
        self.rest
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

    /// Passes over `count` numbers, whatever they are.
    pub(crate) fn skip_varints(&mut self, count: usize) -> Result<(), FrameError> {
        let mut left = count;
        let mut at = 0;
        while left > 0 {
            left -= usize::from(*self.rest.get(at).ok_or(FrameError::Short)? < 0x80);
            at += 1;
        }
        self.rest = &self.rest[at..];
        Ok(())
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
        match len {
            0 | 1 => Ok(vec![0; count]),
            2..=256 => {
                let bytes = self.take(count)?;
                let most = bytes.iter().copied().max().unwrap_or(0);
                below(u32::from(most), len)?;
                Ok(bytes.iter().map(|b| u32::from(*b)).collect())
            }
            _ => {
                let (low, high) = (self.take(count)?, self.take(count)?);
                let wide = |(low, high): (&u8, &u8)| u32::from(*low) | u32::from(*high) << 8;
                let symbols: Vec<u32> = low.iter().zip(high).map(wide).collect();
                below(symbols.iter().copied().fold(0, u32::max), len)?;
                Ok(symbols)
            }
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

    /// `count` texts: their lengths, then their bytes.
    pub(crate) fn texts(&mut self, count: usize) -> Result<Vec<&'a str>, FrameError> {
        let mut lengths = Vec::with_capacity(count);
        for _ in 0..count {
            lengths.push(self.varint()?);
        }
        self.split(lengths.into_iter())
    }

    /// Texts of those lengths, which stand one behind the other.
    pub(crate) fn split(
        &mut self,
        lengths: impl ExactSizeIterator<Item = u64> + Clone,
    ) -> Result<Vec<&'a str>, FrameError> {
        let all = lengths
            .clone()
            .try_fold(0u64, u64::checked_add)
            .ok_or(FrameError::BadNumber)?;
        let all = self.take(usize::try_from(all).map_err(|_| FrameError::BadNumber)?)?;
        let mut rest = std::str::from_utf8(all).map_err(|_| FrameError::BadText)?;
        let mut texts = Vec::with_capacity(lengths.len());
        for length in lengths {
            // Their sum was read, so each of them is a length in memory; it may still cut a character in two.
            let (text, behind) = rest
                .split_at_checked(length as usize)
                .ok_or(FrameError::BadText)?;
            texts.push(text);
            rest = behind;
        }
        Ok(texts)
    }
}

/// The largest symbol is one of the dictionary.
fn below(most: u32, len: usize) -> Result<(), FrameError> {
    if (most as usize) < len {
        Ok(())
    } else {
        Err(FrameError::BadSymbol)
    }
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

    /// How many of the `count` that were read are this one.
    pub(crate) fn count_of(&self, number: u8, count: usize) -> usize {
        match self {
            Bytes::Same(b) => {
                if *b == number {
                    count
                } else {
                    0
                }
            }
            Bytes::Each(bytes) => bytes.iter().filter(|b| **b == number).count(),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// LEB128's own example (DWARF 5, figure 22) and the ends of the range.
    #[test]
    fn numbers_have_one_form() {
        let mut out = Vec::new();
        put_varint(&mut out, 12_857);
        assert_eq!(out, [0xb9, 0x64]);
        let most = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01];
        assert_eq!(Reader::new(&most).varint(), Ok(u64::MAX));
        for bad in [
            &[0x80, 0x00][..],
            &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02],
            &[
                0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x01,
            ],
        ] {
            assert_eq!(
                Reader::new(bad).varint(),
                Err(FrameError::BadNumber),
                "{bad:?}"
            );
        }
        assert_eq!(Reader::new(&[0x80]).varint(), Err(FrameError::Short));
        assert_eq!([0, -1, 1, -2, i64::MIN].map(zigzag), [0, 1, 2, 3, u64::MAX]);
    }

    #[test]
    fn symbols_stay_inside_their_dictionary() {
        assert_eq!(Reader::new(&[0, 2, 1]).symbols(3, 3), Ok(vec![0, 2, 1]));
        assert_eq!(
            Reader::new(&[0, 3, 1]).symbols(3, 3),
            Err(FrameError::BadSymbol)
        );
        assert_eq!(Reader::new(&[]).symbols(2, 1), Ok(vec![0, 0]));
        assert_eq!(
            Reader::new(&[1, 44, 0, 1]).symbols(2, 301),
            Ok(vec![1, 300])
        );
        assert_eq!(
            Reader::new(&[1, 45, 0, 1]).symbols(2, 301),
            Err(FrameError::BadSymbol)
        );
        assert_eq!(
            Reader::new(&[1, 44, 0]).symbols(2, 301),
            Err(FrameError::Short)
        );
    }

    #[test]
    fn a_dictionary_has_between_one_and_as_many_entries_as_events() {
        for (said, read) in [(0, None), (1, Some(1)), (5, Some(5)), (6, None)] {
            assert_eq!(Reader::new(&[said]).len(1, 5).ok(), read, "{said}");
        }
    }

    #[test]
    fn texts_are_cut_at_characters_and_inside_their_bytes() {
        assert_eq!(
            Reader::new(b"\x01\x02a\xc3\xbc").texts(2),
            Ok(vec!["a", "ü"])
        );
        assert_eq!(
            Reader::new(b"\x02\x01a\xc3\xbc").texts(2),
            Err(FrameError::BadText)
        );
        assert_eq!(
            Reader::new(b"\x01\x01a\xff").texts(2),
            Err(FrameError::BadText)
        );
        assert_eq!(Reader::new(b"\x01\x02a").texts(2), Err(FrameError::Short));
        let huge = b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01\x02";
        assert_eq!(Reader::new(huge).texts(2), Err(FrameError::BadNumber));
    }

    proptest! {
        #[test]
        fn a_dictionary_gives_every_value_back(values in proptest::collection::vec(0u16..700, 1..4096)) {
            let dictionary = Dictionary::of(values.len(), values.iter().copied());
            let mut out = Vec::new();
            dictionary.put_symbols(&mut out);
            let symbols = Reader::new(&out).symbols(values.len(), dictionary.entries.len()).unwrap();
            let back: Vec<u16> = symbols.iter().map(|s| dictionary.entries[*s as usize]).collect();
            prop_assert_eq!(back, values);
            let distinct: std::collections::HashSet<u16> = dictionary.entries.iter().copied().collect();
            prop_assert_eq!(distinct.len(), dictionary.entries.len());
        }

        #[test]
        fn numbers_come_back(values in proptest::collection::vec(any::<i64>(), 0..50)) {
            let mut out = Vec::new();
            put_deltas(&mut out, values.iter().copied());
            let mut from = Reader::new(&out);
            prop_assert_eq!(from.deltas(values.len()).unwrap(), values);
            prop_assert_eq!(from.end(), Ok(()));
        }
    }
}
