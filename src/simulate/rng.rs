//! A small seeded generator whose sequence never changes, so that a seed means the same traffic in every version.
//!
//! SplitMix64 (<https://prng.di.unimi.it/splitmix64.c>): library generators may change theirs between releases.

/// A source of pseudo-random numbers; not for secrets.
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    /// The sequence of `seed`.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 bits.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `n`, which is at least 1. The bias of the multiplication is under n / 2^64.
    pub fn below(&mut self, n: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(n)) >> 64) as u64
    }

    /// An index below `n`.
    pub fn index(&mut self, n: usize) -> usize {
        self.below(n as u64) as usize
    }

    /// True in `per_mille` of a thousand cases.
    pub fn chance(&mut self, per_mille: u64) -> bool {
        self.below(1_000) < per_mille
    }

    /// One of `items`.
    pub fn pick<T: Copy>(&mut self, items: &[T]) -> T {
        items[self.index(items.len())]
    }

    /// Ten random bytes, as a UUIDv7 takes them.
    pub fn ten_bytes(&mut self) -> [u8; 10] {
        let mut bytes = [0; 10];
        bytes[..8].copy_from_slice(&self.next().to_le_bytes());
        bytes[8..].copy_from_slice(&self.next().to_le_bytes()[..2]);
        bytes
    }
}

/// Draws indexes with Zipf's law: the nth is drawn in proportion to 1/n.
#[derive(Clone, Debug)]
pub struct Zipf {
    /// Cumulated weights in millionths of the first one's.
    upto: Vec<u64>,
}

impl Zipf {
    /// Over `n` items, at least 1.
    pub fn new(n: usize) -> Self {
        let mut sum = 0;
        let upto = (1..=n as u64)
            .map(|k| {
                sum += 1_000_000 / k;
                sum
            })
            .collect();
        Self { upto }
    }

    /// An index.
    pub fn draw(&self, rng: &mut Rng) -> usize {
        let total = self.upto.last().copied().unwrap_or(1);
        let x = rng.below(total);
        self.upto.partition_point(|&u| u <= x)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sequence_is_that_of_the_reference_implementation() {
        // From splitmix64.c with x = 1234567.
        let mut rng = Rng::new(1_234_567);
        let first: Vec<u64> = (0..3).map(|_| rng.next()).collect();
        assert_eq!(
            first,
            [
                6_457_827_717_110_365_317,
                3_203_168_211_198_807_973,
                9_817_491_932_198_370_423
            ]
        );
    }

    #[test]
    fn zipf_draws_the_first_twice_as_often_as_the_second() {
        let zipf = Zipf::new(10);
        let mut rng = Rng::new(1);
        let mut counts = [0u32; 10];
        for _ in 0..100_000 {
            counts[zipf.draw(&mut rng)] += 1;
        }
        let ratio = f64::from(counts[0]) / f64::from(counts[1]);
        assert!((1.9..2.1).contains(&ratio), "{ratio}");
        assert!(counts.iter().all(|c| *c > 2_000), "{counts:?}");
    }
}
