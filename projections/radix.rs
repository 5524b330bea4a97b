//! Sorting many numbers of few bits, digit by digit: a batch of a fold has a hundred thousand of some forty bits, which
//! a sort by comparison takes twice as long for.

/// Bits of a digit at most: so many places to write to at once stay in a processor's cache.
const DIGIT_BITS: u32 = 11;
/// Numbers below which a sort by comparison is quicker.
const FEW: usize = 1_024;

/// Sorts numbers that are in the order of their bits below `from`, and equal from bit `to` on.
pub(crate) fn sort(numbers: &mut Vec<u64>, from: u32, to: u32) {
    debug_assert!(from <= to && to <= u64::BITS);
    if numbers.len() < FEW {
        numbers.sort_unstable();
        return;
    }
    let digits = (to - from).div_ceil(DIGIT_BITS);
    if digits == 0 {
        return;
    }
    let bits = (to - from).div_ceil(digits);
    let mut other = vec![0; numbers.len()];
    let mut ends = vec![0u32; 1 << bits];
    for digit in 0..digits {
        let shift = from + digit * bits;
        by_digit(numbers, &mut other, shift, &mut ends);
        std::mem::swap(numbers, &mut other);
    }
}

/// Writes the numbers in the order of a digit; those of one digit stay in their order.
fn by_digit(numbers: &[u64], out: &mut [u64], shift: u32, places: &mut [u32]) {
    let mask = places.len() as u64 - 1;
    let digit = |number: u64| ((number >> shift) & mask) as usize;
    places.fill(0);
    numbers.iter().for_each(|n| places[digit(*n)] += 1);
    let mut next = 0;
    for place in &mut *places {
        next += std::mem::replace(place, next);
    }
    for number in numbers {
        let place = &mut places[digit(*number)];
        out[*place as usize] = *number;
        *place += 1;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_is_the_order_of_the_numbers(
            mut keys in proptest::collection::vec(any::<u64>(), 0..4 * FEW),
            bits in 0u32..53,
        ) {
            let mask = (1u64 << bits) - 1;
            // The lowest bits are the place where each stands.
            let mut have: Vec<u64> = (0..).zip(&keys).map(|(at, key)| (key & mask) << 12 | at).collect();
            sort(&mut have, 12, 12 + bits);
            keys.iter_mut().for_each(|key| *key &= mask);
            let mut want: Vec<(u64, u64)> = keys.into_iter().zip(0..).collect();
            want.sort_unstable();
            let want: Vec<u64> = want.into_iter().map(|(key, at)| key << 12 | at).collect();
            prop_assert_eq!(have, want);
        }
    }
}
