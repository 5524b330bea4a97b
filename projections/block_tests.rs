//! Blocks return as they were written, and one that is damaged anywhere is never read.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::block_writer::{Columns, write};
use crate::metrics::METRICS;

type Cells = BTreeMap<(Place, Vec<Symbol>), Vec<i64>>;

fn key(cuboid: Cuboid, first: Place) -> BlockKey {
    BlockKey {
        campaign: 7,
        cuboid,
        span: Span {
            grain: Grain::Hour,
            number: 20_000,
        },
        first,
        part: 0,
    }
}

/// Cells of hours of a day under a few offsets.
fn cells(dimensions: usize) -> impl Strategy<Value = Cells> {
    let place = (
        0i32..24,
        prop_oneof![Just(0i32), Just(37_800), Just(39_600), Just(-18_000)],
    )
        .prop_map(|(hour, offset_s)| Place {
            at: hour * 3_600 - offset_s,
            offset_s,
        });
    let symbol = prop_oneof![3 => 0u32..6, 1 => 0u32..70_000];
    let value = prop_oneof![
        4 => Just(0i64), 4 => 0i64..10, 2 => -1_000i64..1_000_000, 1 => any::<i64>()
    ];
    proptest::collection::btree_map(
        (place, proptest::collection::vec(symbol, dimensions)),
        proptest::collection::vec(value, METRICS + 2),
        1..300,
    )
}

fn columns(cells: &Cells) -> Columns {
    let mut out = Columns::default();
    for ((place, symbols), sums) in cells {
        match out.buckets.last_mut() {
            Some((last, n)) if last == place => *n += 1,
            _ => out.buckets.push((*place, 1)),
        }
        out.dimensions.resize(symbols.len(), Vec::new());
        for (column, symbol) in out.dimensions.iter_mut().zip(symbols) {
            column.push(*symbol);
        }
        out.metrics.resize(sums.len(), (0, Vec::new()));
        for (field, (column, n)) in out.metrics.iter_mut().zip(sums).enumerate() {
            column.0 = field;
            column.1.push(*n);
        }
    }
    out
}

fn stored(cuboid: Cuboid, cells: &Cells) -> (Vec<u8>, Vec<u8>) {
    let columns = columns(cells);
    let key = key(cuboid, columns.buckets[0].0);
    let (mut k, mut v) = (Vec::new(), Vec::new());
    key.encode(&mut k);
    write(&key, &columns, &mut v);
    (k, v)
}

/// Every cell of a block, or why it cannot be read.
fn read(key: &[u8], value: &[u8]) -> Result<Cells, BlockError> {
    let block = Block::parse(Grain::Hour, key, value)?;
    let (mut scratch, mut symbols) = (Vec::new(), Vec::new());
    let mut names: Vec<Vec<Symbol>> = vec![Vec::new(); block.cells()];
    for dimension in block.key.cuboid.dimensions() {
        let places = block.places(*dimension, &mut scratch, &mut symbols)?;
        for (cell, name) in names.iter_mut().enumerate() {
            name.push(symbols[places.at(cell) as usize]);
        }
    }
    let mut sums = vec![vec![0; METRICS + 2]; block.cells()];
    for field in block.fields() {
        let values = block.metric(field, &mut scratch)?.unwrap();
        for (cell, sum) in sums.iter_mut().enumerate() {
            // A mutated block may name any field.
            if let Some(sum) = sum.get_mut(field) {
                *sum = values.at(cell);
            }
        }
    }
    let buckets = block.buckets.iter();
    let places = buckets
        .flat_map(|(bucket, n)| std::iter::repeat_n(block.key.span.place(*bucket), *n as usize));
    Ok(places.zip(names).zip(sums).collect())
}

#[test]
fn one_cell_takes_what_the_layout_says() {
    let place = Place {
        at: 3_600,
        offset_s: 0,
    };
    let mut sums = vec![0; METRICS + 2];
    sums[0] = 5;
    let cells = Cells::from([((place, vec![9, 2]), sums)]);
    let (key, value) = stored(Cuboid::RegionDevice, &cells);
    let header = [1, 1, 1, 0, 0, 0, 7, 0x80, 0, 0x4e, 0x20, 0, 0];
    // One bucket at 3,600 (zigzag 7,200) under offset 0 with one cell; two dictionaries of one entry and no column;
    // the first metric, whose least value is 5 (zigzag 10), with no column.
    let rest = [1, 0xa0, 0x38, 0, 1, 1, 9, 0, 0, 1, 2, 0, 0, 1, 10, 0, 0, 0];
    let body = [&header[..], &rest].concat();
    assert_eq!(value[..value.len() - CRC_BYTES], body);
    // CRC-32C as RFC 3720 has it: "123456789" gives e3069283.
    assert_eq!(crc32c::crc32c(b"123456789"), 0xe306_9283);
    assert_eq!(
        value[value.len() - CRC_BYTES..],
        crc32c::crc32c(&body).to_be_bytes()
    );
    assert_eq!(read(&key, &value).unwrap(), cells);
}

#[test]
fn zeros_cost_nothing_and_ones_little() {
    let place = |n: i32| Place {
        at: (n % 24) * 3_600,
        offset_s: 0,
    };
    let cells: Cells = (0..24_000)
        .map(|n| {
            (
                (place(n), vec![n as u32 % 1_000, 1]),
                vec![1, 0, i64::from(n % 7 == 0)],
            )
        })
        .collect();
    let (_, value) = stored(Cuboid::AdCreative, &cells);
    assert!(value.len() < 24_000 * 2, "{} bytes", value.len());
}

proptest! {
    #[test]
    fn cells_return(
        (cuboid, cells) in (0u8..Cuboid::ALL.len() as u8).prop_flat_map(|n| {
            let cuboid = Cuboid::from_number(n).unwrap();
            (Just(cuboid), cells(cuboid.dimensions().len()))
        }),
    ) {
        let (key, value) = stored(cuboid, &cells);
        prop_assert_eq!(read(&key, &value), Ok(cells));
    }

    #[test]
    fn a_changed_bit_is_found(cells in cells(2), at: prop::sample::Index, bit in 0u32..8) {
        let (key, mut value) = stored(Cuboid::RegionDevice, &cells);
        let at = at.index(value.len());
        value[at] ^= 1 << bit;
        prop_assert!(read(&key, &value).is_err());
    }

    #[test]
    fn a_block_under_another_key_is_found(cells in cells(4), at in 0usize..19, bit in 0u32..8) {
        let (mut key, value) = stored(Cuboid::Full, &cells);
        key[at] ^= 1 << bit;
        prop_assert!(read(&key, &value).is_err());
    }

    /// What a damaged block with a good checksum does: no panic, no more memory than a block may take.
    #[test]
    fn mutations_with_a_good_checksum_panic_nowhere(
        cells in cells(2),
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cut in 0usize..6,
    ) {
        let (key, mut value) = stored(Cuboid::RegionDevice, &cells);
        value.truncate(value.len() - CRC_BYTES - cut.min(value.len() - CRC_BYTES - 1));
        for (at, byte) in changes {
            let at = at.index(value.len());
            value[at] = byte;
        }
        let crc = crc32c::crc32c(&value);
        put_u32(&mut value, crc);
        if let Ok(block) = Block::parse(Grain::Hour, &key, &value) {
            prop_assert!(block.cells() <= MAX_CELLS);
        }
        let _ = read(&key, &value);
    }

    #[test]
    fn no_bytes_panic(key in proptest::collection::vec(any::<u8>(), 0..24), value in proptest::collection::vec(any::<u8>(), 0..80)) {
        let _ = read(&key, &value);
        let (from, to) = range(1, Cuboid::Full, i32::MIN, i32::MAX);
        prop_assert!(from < to);
    }
}
