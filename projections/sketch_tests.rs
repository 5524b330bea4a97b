//! The sketch against sets: whatever is merged in whatever order, the same bytes, and a size within its bounds.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;

use adtally_streams::visitor::NOBODY;
use proptest::prelude::*;

use super::*;

/// SplitMix64: the hash of a visitor as good as any.
fn visitor(n: u64) -> u64 {
    let n = n.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let z = (n ^ (n >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn stored(visitors: impl IntoIterator<Item = u64>) -> Vec<u8> {
    let mut coupons: Vec<Coupon> = visitors
        .into_iter()
        .map(|n| Coupon::of(visitor(n)))
        .collect();
    let mut out = Vec::new();
    encode_set(&mut coupons, &mut out);
    out
}

fn one_by_one(visitors: impl IntoIterator<Item = u64>) -> Sketch {
    let mut sketch = Sketch::default();
    for n in visitors {
        sketch.insert(Coupon::of(visitor(n)));
    }
    sketch
}

fn bytes_of(sketch: &Sketch) -> Vec<u8> {
    let mut out = Vec::new();
    sketch.encode(&mut out);
    out
}

fn merged(parts: &[Vec<u8>]) -> Vec<u8> {
    merge_sketches(None, parts.iter().map(Vec::as_slice)).unwrap()
}

#[test]
fn a_coupon_is_slot_and_leading_zeros() {
    let of = |visitor: u64| {
        let coupon = Coupon::of(visitor);
        (coupon.0 & 0x3ff_ffff, coupon.rank(), coupon.register())
    };
    assert_eq!(of(0x8000_0000_0000_0003), (3, 1, 3));
    assert_eq!(of(0x0800_0000_0000_5001), (0x5001, 5, 1));
    // Of the 38 bits above the slot none is set: the rank ends there.
    assert_eq!(of(0x3ff_ffff), (0x3ff_ffff, 39, 0xfff));
}

/// What each row says is counted by a set of the plain coupons and by the library from coupons of its own.
#[test]
fn sizes_are_within_their_bounds() {
    for n in [
        0, 1, 2, 10, 384, 385, 1_000, 5_000, 20_000, 100_000, 1_000_000,
    ] {
        let Estimate {
            estimate,
            lower,
            upper,
        } = one_by_one(0..n).estimate();
        assert!(
            lower <= estimate && estimate <= upper,
            "{n}: {lower} {estimate} {upper}"
        );
        assert!(lower <= n && n <= upper, "{n}: {lower} {estimate} {upper}");
        let off = (estimate as f64 - n as f64).abs();
        let allowed = if n <= MAX_COUPONS as u64 {
            0.0
        } else {
            3.0 * RELATIVE_STANDARD_ERROR
        };
        assert!(off <= allowed * n as f64, "{n}: {estimate}");
    }
}

/// Many sketches of the same size: their estimates scatter as it is said that they do.
#[test]
fn estimates_scatter_as_stated() {
    for n in [3_000u64, 30_000] {
        let errors = (0..200).map(|round| {
            let estimate = one_by_one(round * n..(round + 1) * n).estimate().estimate;
            estimate as f64 / n as f64 - 1.0
        });
        let errors: Vec<f64> = errors.collect();
        let mean = errors.iter().sum::<f64>() / errors.len() as f64;
        let deviation = (errors.iter().map(|e| e * e).sum::<f64>() / errors.len() as f64).sqrt();
        // The deviation of 200 is itself uncertain by a twentieth; below the asymptote it is smaller.
        assert!(
            deviation < 1.15 * RELATIVE_STANDARD_ERROR,
            "{n}: {deviation}"
        );
        assert!(mean.abs() < 0.005, "{n}: {mean}");
    }
}

#[test]
fn few_visitors_are_their_coupons_and_many_are_registers() {
    assert_eq!(stored([]), [COUPONS]);
    assert_eq!(stored(0..384).len(), bytes_of(&one_by_one(0..384)).len());
    assert!(stored(0..384).len() <= 1 + 384 * 5);
    assert_eq!(stored(0..385).len(), 1 + DENSE_BYTES);
    for damaged in [&[][..], &[2], &[COUPONS, 5], &[DENSE, 0], &[COUPONS, 0x80]] {
        assert_eq!(
            merge_sketches(None, [damaged].into_iter()),
            None,
            "{damaged:?}"
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn a_visitor_of_a_coupons_bits_has_that_coupon(
        bits in any::<u64>(),
        zeros in 0u32..64,
    ) {
        let visitor = (bits >> zeros).max(1);
        let coupon = Coupon::of(visitor);
        let again = Coupon::visitor_of_bits(coupon.bits());
        prop_assert_eq!(Coupon::of(again), coupon);
        prop_assert_ne!(again, NOBODY);
    }

    #[test]
    fn a_set_has_one_form_however_it_is_split(
        visitors in proptest::collection::vec(0u64..2_000, 0..1_500),
        cuts in proptest::collection::vec(0usize..1_500, 0..6),
        few: bool,
    ) {
        let visitors: Vec<u64> = visitors.iter().map(|n| if few { n % 400 } else { *n }).collect();
        let whole: BTreeSet<u64> = visitors.iter().copied().collect();
        let want = bytes_of(&one_by_one(whole.iter().copied()));
        prop_assert_eq!(&bytes_of(&one_by_one(visitors.iter().copied())), &want);
        prop_assert_eq!(&stored(visitors.iter().copied()), &want);
        let mut cuts: Vec<usize> = cuts.into_iter().map(|c| c.min(visitors.len())).collect();
        cuts.sort_unstable();
        let mut parts = Vec::new();
        let mut from = 0;
        for to in cuts.into_iter().chain([visitors.len()]) {
            parts.push(stored(visitors[from..to].iter().copied()));
            from = to;
        }
        prop_assert_eq!(&merged(&parts), &want);
        parts.reverse();
        // In another order, in two groups, and all of it once more.
        let (left, right) = parts.split_at(parts.len() / 2);
        prop_assert_eq!(&merged(&[merged(left), merged(right), want.clone()]), &want);
    }

    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
        let mut sketch = Sketch::default();
        if sketch.merge(&bytes).is_ok() {
            sketch.estimate();
        }
    }
}
