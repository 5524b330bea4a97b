//! Whole numbers as text, eight digits at a time and without a branch for how many they are: an answer has hundreds of
//! thousands of them, of lengths that no processor guesses.

/// Bytes that are written at a time.
const EIGHT: usize = 8;
/// Bytes that a number may be written into: a sign and 19 digits, and what is written beyond them.
pub const ROOM: usize = 20 + EIGHT;
/// The least number with nine digits.
const NINE_DIGITS: u64 = 100_000_000;
const ZEROS: u64 = u64::from_le_bytes([b'0'; EIGHT]);

/// Writes a number at the beginning of a buffer, and answers how many bytes it takes; what is behind it is of no use.
#[inline]
pub fn write(n: i64, out: &mut [u8; ROOM]) -> usize {
    let mut at = 0;
    if n < 0 {
        out[0] = b'-';
        at = 1;
    }
    let n = n.unsigned_abs();
    if n < NINE_DIGITS {
        return at + first(n, at, out);
    }
    let (before, last) = (n / NINE_DIGITS, n % NINE_DIGITS);
    let (first_of_all, middle) = (before / NINE_DIGITS, before % NINE_DIGITS);
    at += match first_of_all {
        0 => first(middle, at, out),
        _ => {
            let len = first(first_of_all, at, out);
            put(eight(middle) + ZEROS, at + len, out);
            len + EIGHT
        }
    };
    put(eight(last) + ZEROS, at, out);
    at + EIGHT
}

#[inline]
fn put(text: u64, at: usize, out: &mut [u8; ROOM]) {
    out[at..at + EIGHT].copy_from_slice(&text.to_le_bytes());
}

/// Writes a number of at most eight digits without the zeros before it; answers how many are left.
#[inline]
fn first(n: u64, at: usize, out: &mut [u8; ROOM]) -> usize {
    let digits = eight(n);
    // The last digit stays, whatever it is.
    let zeros = (digits | 1 << 56).trailing_zeros() / 8;
    put((digits + ZEROS) >> (8 * zeros), at, out);
    EIGHT - zeros as usize
}

/// The eight digits of a number below [`NINE_DIGITS`], a byte each, the first one in the lowest. Halves, then their
/// quarters, then single digits are divided side by side in one register; the factors are 2^20 / 100 and 2^10 / 10,
/// rounded up, which is exact for what they divide. Nothing overflows, so nothing is looked at.
#[inline]
fn eight(n: u64) -> u64 {
    let (mul, sub) = (u64::wrapping_mul, u64::wrapping_sub);
    let halves = (n / 10_000) | (n % 10_000) << 32;
    let hundreds = (mul(halves, 10_486) >> 20) & 0x7f_0000_007f;
    let pairs = hundreds | sub(halves, mul(100, hundreds)) << 16;
    let tens = (mul(pairs, 103) >> 10) & 0x000f_000f_000f_000f;
    tens | sub(pairs, mul(10, tens)) << 8
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text(n: i64) -> String {
        let mut out = [b'x'; ROOM];
        let len = write(n, &mut out);
        String::from_utf8_lossy(&out[..len]).into_owned()
    }

    #[test]
    fn every_length_and_every_pair_of_digits_is_as_the_standard_library_writes_it() {
        let powers = (0..19).map(|power| 10_i64.pow(power));
        let near = powers.flat_map(|n| [n - 1, n, n + 1, 1 - n, -n, n.saturating_mul(9)]);
        let ends = [i64::MIN, i64::MIN + 1, i64::MAX, i64::MAX - 1];
        for n in near.chain(ends).chain(0..100_000) {
            assert_eq!(text(n), n.to_string());
        }
        for half in 0..10_000 {
            let n = half * 10_000 + 9_999 - half;
            assert_eq!(text(n), n.to_string());
        }
    }

    proptest! {
        #[test]
        fn any_number_is_as_the_standard_library_writes_it(n in any::<i64>(), shift in 0u32..64) {
            prop_assert_eq!(text(n >> shift), (n >> shift).to_string());
        }
    }
}
