//! What is kept of a block is found damaged like the block itself, and says how large it is.
#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;
use crate::block_writer::{Columns, write};
use crate::cuboid::Cuboid;
use crate::spans::{Place, Span};

/// A block of so many cells in an hour, whose first metric takes `width` bytes a cell.
fn unpacked(cells: u32, width: u32) -> Unpacked {
    let place = Place { at: 0, offset_s: 0 };
    let key = BlockKey {
        campaign: 5,
        cuboid: Cuboid::RegionDevice,
        span: Span {
            grain: Grain::Hour,
            number: 20_000,
        },
        first: place,
        part: 0,
    };
    let largest = (1i64 << (8 * width - 1)) | 1;
    let columns = Columns {
        buckets: vec![(place, cells)],
        dimensions: vec![
            (0..cells).map(|n| 7 + n / 6).collect(),
            (0..cells).map(|n| n % 6).collect(),
        ],
        metrics: vec![(
            0,
            (0..cells)
                .map(|n| if n == 0 { 0 } else { largest })
                .collect(),
        )],
    };
    let (mut k, mut v) = (Vec::new(), Vec::new());
    key.encode(&mut k);
    write(&key, &columns, &mut v);
    Unpacked::of(&Block::parse(Grain::Hour, &k, &v).unwrap()).unwrap()
}

#[test]
fn it_takes_what_its_columns_take_and_little_more() {
    // Regions in two bytes, devices in one, the metric in four; a symbol in four.
    let (cells, regions, devices) = (6_000, 1_000, 6);
    let columns = cells * (2 + 1 + 4) + (regions + devices) * 4;
    let bytes = unpacked(cells as u32, 4).bytes();
    assert!(
        (columns..columns + 8_192).contains(&bytes),
        "{bytes} of {columns}"
    );
}

proptest! {
    #[test]
    fn a_changed_bit_of_what_is_kept_is_found(
        cells in 1u32..400, at: prop::sample::Index, bit in 0u32..8,
    ) {
        let mut bytes = Vec::new();
        let kept = unpacked(cells, 2);
        kept.encode(&mut bytes);
        prop_assert_eq!(Unpacked::decode(&bytes), Ok(kept));
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        prop_assert!(Unpacked::decode(&bytes).is_err());
    }

    #[test]
    fn a_cut_end_and_any_bytes_are_found_and_panic_nowhere(
        any in proptest::collection::vec(any::<u8>(), 0..80), cut in 0usize..200,
    ) {
        prop_assert!(Unpacked::decode(&any).is_err());
        let mut bytes = Vec::new();
        unpacked(100, 1).encode(&mut bytes);
        prop_assert!(Unpacked::decode(&bytes[..cut.min(bytes.len() - 1)]).is_err());
    }
}
