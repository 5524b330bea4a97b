//! Bytes of keys and values: numbers whose bytes sort as the numbers do, and varints for values.
//!
//! Invariant: a key's order as bytes is its order as fields, negative times included, so that every question is
//! one range scan. Reading never panics: a value that does not end where it should is [`Damaged`].

/// A stored key or value that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a stored {what} cannot be read; stop adtally, remove the folder of the shard under `shards`, and start again: its state is rebuilt from the log"
)]
pub struct Damaged {
    /// Which kind of row.
    pub what: &'static str,
}

/// Appends a signed number so that bytes sort as numbers: big-endian with the sign flipped.
pub fn put_i64(out: &mut Vec<u8>, n: i64) {
    out.extend_from_slice(&((n as u64) ^ (1 << 63)).to_be_bytes());
}

/// Appends a signed number likewise, in four bytes.
pub fn put_i32(out: &mut Vec<u8>, n: i32) {
    out.extend_from_slice(&((n as u32) ^ (1 << 31)).to_be_bytes());
}

/// Appends a number in big-endian.
pub fn put_u32(out: &mut Vec<u8>, n: u32) {
    out.extend_from_slice(&n.to_be_bytes());
}

/// Appends a number in big-endian.
pub fn put_u64(out: &mut Vec<u8>, n: u64) {
    out.extend_from_slice(&n.to_be_bytes());
}

/// Appends a LEB128 varint: seven bits a byte, least first.
pub fn put_varint(out: &mut Vec<u8>, mut n: u64) {
    while n >= 0x80 {
        out.push(n as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

/// Appends a signed varint by zigzag, so that small negative numbers stay short.
pub fn put_signed(out: &mut Vec<u8>, n: i64) {
    put_varint(out, ((n << 1) ^ (n >> 63)) as u64);
}

/// Appends a text or bytes after their length.
pub fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Reads what the functions above wrote, from the front of a slice.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
    what: &'static str,
}

impl<'a> Reader<'a> {
    /// A reader of `bytes`, which are a row of the kind `what`.
    pub fn new(bytes: &'a [u8], what: &'static str) -> Self {
        Self { rest: bytes, what }
    }

    /// The error of this row.
    pub fn damaged(&self) -> Damaged {
        Damaged { what: self.what }
    }

    /// Everything that has not been read.
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// The next `n` bytes.
    pub fn take(&mut self, n: usize) -> Result<&'a [u8], Damaged> {
        let (head, tail) = self.rest.split_at_checked(n).ok_or(self.damaged())?;
        self.rest = tail;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Damaged> {
        let (head, tail) = self.rest.split_first_chunk::<N>().ok_or(self.damaged())?;
        self.rest = tail;
        Ok(*head)
    }

    /// The next byte.
    pub fn u8(&mut self) -> Result<u8, Damaged> {
        Ok(self.array::<1>()?[0])
    }

    /// A number in big-endian.
    pub fn u32(&mut self) -> Result<u32, Damaged> {
        self.array().map(u32::from_be_bytes)
    }

    /// A number in big-endian.
    pub fn u64(&mut self) -> Result<u64, Damaged> {
        self.array().map(u64::from_be_bytes)
    }

    /// A number that [`put_i32`] wrote.
    pub fn i32(&mut self) -> Result<i32, Damaged> {
        Ok((self.u32()? ^ (1 << 31)) as i32)
    }

    /// A number that [`put_i64`] wrote.
    pub fn i64(&mut self) -> Result<i64, Damaged> {
        Ok((self.u64()? ^ (1 << 63)) as i64)
    }

    /// A varint, of which most are one byte.
    #[inline]
    pub fn varint(&mut self) -> Result<u64, Damaged> {
        match self.rest {
            [byte, rest @ ..] if *byte < 0x80 => {
                self.rest = rest;
                Ok(u64::from(*byte))
            }
            _ => self.long_varint(),
        }
    }

    fn long_varint(&mut self) -> Result<u64, Damaged> {
        let mut n = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.u8()?;
            if shift == 63 && byte > 1 {
                return Err(self.damaged());
            }
            n |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(n);
            }
        }
        Err(self.damaged())
    }

    /// Passes over `n` varints, whatever their values.
    pub fn skip_varints(&mut self, n: u32) -> Result<(), Damaged> {
        let mut left = n;
        let mut at = 0;
        while left > 0 {
            left -= u32::from(*self.rest.get(at).ok_or(self.damaged())? < 0x80);
            at += 1;
        }
        self.rest = &self.rest[at..];
        Ok(())
    }

    /// A varint that fits 32 bits.
    pub fn varint32(&mut self) -> Result<u32, Damaged> {
        u32::try_from(self.varint()?).map_err(|_| self.damaged())
    }

    /// A signed varint.
    #[inline]
    pub fn signed(&mut self) -> Result<i64, Damaged> {
        let n = self.varint()?;
        Ok((n >> 1) as i64 ^ -((n & 1) as i64))
    }

    /// Bytes after their length.
    pub fn bytes(&mut self) -> Result<&'a [u8], Damaged> {
        let n = usize::try_from(self.varint()?).map_err(|_| self.damaged())?;
        self.take(n)
    }

    /// A text after its length.
    pub fn text(&mut self) -> Result<&'a str, Damaged> {
        std::str::from_utf8(self.bytes()?).map_err(|_| self.damaged())
    }

    /// That nothing is left.
    pub fn end(self) -> Result<(), Damaged> {
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(self.damaged())
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn bytes_sort_as_numbers(a: i64, b: i64, c: i32, d: i32) {
            let key = |n, m| { let mut k = Vec::new(); put_i64(&mut k, n); put_i32(&mut k, m); k };
            prop_assert_eq!(key(a, c).cmp(&key(b, d)), (a, c).cmp(&(b, d)));
        }

        #[test]
        fn numbers_return(a: u64, b: i64, c: i32, text in ".{0,20}") {
            let mut out = Vec::new();
            put_varint(&mut out, a);
            put_signed(&mut out, b);
            put_i32(&mut out, c);
            put_i64(&mut out, b);
            put_bytes(&mut out, text.as_bytes());
            let mut r = Reader::new(&out, "test");
            prop_assert_eq!((r.varint().unwrap(), r.signed().unwrap(), r.i32().unwrap(), r.i64().unwrap()), (a, b, c, b));
            prop_assert_eq!(r.text().unwrap(), text.as_str());
            prop_assert!(r.end().is_ok());
        }

        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            let mut r = Reader::new(&bytes, "test");
            let _ = r.varint();
            let _ = r.text();
            let _ = r.signed();
            let _ = r.i64();
        }
    }

    #[test]
    fn varint_bytes_are_leb128() {
        let mut out = Vec::new();
        put_varint(&mut out, 624_485);
        assert_eq!(out, [0xe5, 0x8e, 0x26]);
    }
}
