//! Which blocks were looked for before: one is kept from the second time on.
//!
//! A question that reads a year once would otherwise unpack all of it into memory, columns that it does not need
//! included, and put out what is asked for every minute.

use std::sync::atomic::{AtomicU64, Ordering};

/// How many blocks are remembered; those that come later take the places of earlier ones.
const REMEMBERED: usize = 1 << 14;

/// Marks of blocks, each in the place that its hash gives it.
pub struct Seen(Box<[AtomicU64]>);

impl Seen {
    /// Nothing yet.
    pub fn new() -> Self {
        Self((0..REMEMBERED).map(|_| AtomicU64::new(0)).collect())
    }

    /// Whether a block of that hash was looked for before; it is remembered. Another one in its place makes it
    /// forgotten, and of two with the same mark one is kept too early: nothing depends on either.
    pub fn again(&self, hash: u128) -> bool {
        let (place, mark) = ((hash >> 64) as usize % REMEMBERED, hash as u64);
        self.0[place].swap(mark, Ordering::Relaxed) == mark
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_time_is_known_until_another_takes_the_place() {
        let seen = Seen::new();
        let (first, second) = ((3 << 64) | 7, ((3 + REMEMBERED as u128) << 64) | 8);
        assert!(!seen.again(first));
        assert!(seen.again(first));
        assert!(!seen.again(second));
        assert!(!seen.again(first));
        assert!(!seen.again((4 << 64) | 7));
        assert!(seen.again(first));
    }
}
