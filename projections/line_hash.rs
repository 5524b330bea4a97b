//! What a comparison makes of a line of a canonical dump: a hash of what it is about, and what it adds to its slot.
//!
//! Invariant: two lines, of one state or of two, are equal here exactly when they have equal texts, but for a
//! collision of 128 bits; a property test holds the two against each other. Nearly all lines are cells, and what one
//! adds is linear in its counters: a hash of which cell it is, times the sum of its counters, each times a weight of
//! its own. So the parts of a cell add up to what the whole cell adds, in any order, and what a fold adds to cells can
//! be compared without any cell being written, read or merged. Only where a counter has saturated do its parts come to
//! something else; then the lines decide. All other rows are few, and what they add is a hash of all of them.

use adtally_streams::event::Device;
use twox_hash::XxHash3_128;

use crate::cell_list::{CellList, Place};
use crate::cells::{Bucket, CellKey, RowKey};
use crate::codec::{Damaged, Reader};
use crate::counted::Cell;
use crate::dump_line::{Content, Line};
use crate::dump_names::Names;
use crate::metrics::METRICS;
use crate::symbols::{Space, Symbol};

/// First byte of what is hashed of a cell's row, and of one that no question reads; a text begins with a letter.
const CELL: u8 = 1;
const UNREAD_CELL: u8 = 4;

/// Weights of the counters, and last that of a cell of which all are zero, which is a line all the same. Odd, so that
/// no counter of 64 bits times its weight is nothing.
const WEIGHTS: [u128; METRICS + 1] = {
    let (mut weights, mut at) = ([0; METRICS + 1], 0);
    while at <= METRICS {
        weights[at] = weight(at as u64);
        at += 1;
    }
    weights
};

/// A number of which no bit says anything of another (SplitMix64, twice).
const fn weight(number: u64) -> u128 {
    const fn half(seed: u64) -> u128 {
        let z = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) as u128
    }
    half(2 * number + 1) << 64 | half(2 * number + 2) | 1
}

/// What a line comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Hashed {
    /// Where it stands, with lines that are read one after the other near each other.
    pub(crate) place: u64,
    /// Hash of what it is about.
    pub(crate) about: u128,
    /// What it adds.
    pub(crate) adds: u128,
}

/// Lines of a row's cells that stand near each other.
const NEAR_BITS: u32 = 6;

impl Hashed {
    fn of(near: u128, about: u128, adds: u128) -> Self {
        let place = (near as u64) << NEAR_BITS | (about as u64 & ((1 << NEAR_BITS) - 1));
        Self { place, about, adds }
    }

    /// Of a cell of a row, with the sum of its counters, each times its weight.
    fn of_cell(names: &Names, row: u128, place: Place, sum: u128) -> Self {
        let about = cell_hash(
            names,
            row,
            (place.creative(), place.region(), place.device()),
        );
        Self::of(row, about, about.wrapping_mul(sum))
    }
}

/// What the cells of a row have in common.
type Row = (Symbol, Bucket, Symbol, bool);

/// Makes something of the lines of one state.
#[derive(Debug, Default)]
pub(crate) struct LineHasher {
    bytes: Vec<u8>,
    /// The row of the last cell, and its hash: most cells stand beside one of the same row.
    row: Option<(Row, u128)>,
}

impl LineHasher {
    /// Of a line.
    pub(crate) fn of(&mut self, line: &Line<'_>) -> Hashed {
        if let Content::Cell {
            cell,
            sums,
            is_read,
        } = line.content
        {
            let row = self.row(line.names, cell, is_read);
            let place = (cell.creative, cell.region, cell.device);
            let about = cell_hash(line.names, row, place);
            return Hashed::of(row, about, about.wrapping_mul(weighed(sums)));
        }
        self.bytes.clear();
        let about = line.put_bytes(&mut self.bytes);
        let about = XxHash3_128::oneshot(&self.bytes[..about]);
        Hashed::of(about >> 64, about, XxHash3_128::oneshot(&self.bytes))
    }

    /// Of each cell of a row.
    ///
    /// # Errors
    /// [`Damaged`] when its value is no list.
    pub(crate) fn of_row(
        names: &Names,
        row: &RowKey,
        list: &[u8],
        is_read: bool,
        mut each: impl FnMut(Hashed),
    ) -> Result<(), Damaged> {
        let row = row_hash(names, (row.campaign, row.bucket, row.ad, is_read));
        for listed in CellList::of(list) {
            let (place, stored) = listed?;
            each(Hashed::of_cell(names, row, place, weighed_stored(stored)?));
        }
        Ok(())
    }

    /// Of each of the cells of a row that a fold has counted.
    pub(crate) fn of_counted(
        names: &Names,
        row: &RowKey,
        cells: &[Cell],
        mut each: impl FnMut(Hashed),
    ) {
        let row = row_hash(names, (row.campaign, row.bucket, row.ad, true));
        for cell in cells {
            let sum = weighed(&cell.sum.fields());
            each(Hashed::of_cell(names, row, cell.place, sum));
        }
    }

    fn row(&mut self, names: &Names, cell: &CellKey, is_read: bool) -> u128 {
        let row = (cell.campaign, cell.bucket, cell.ad, is_read);
        match self.row {
            Some((last, hash)) if last == row => hash,
            _ => {
                let hash = row_hash(names, row);
                self.row = Some((row, hash));
                hash
            }
        }
    }
}

fn row_hash(names: &Names, (campaign, bucket, ad, is_read): Row) -> u128 {
    let (at, offset_s) = match bucket {
        Bucket::Minute(minute) => (minute, 0),
        Bucket::Hour { start_s, offset_s } => (start_s, offset_s),
        Bucket::Day(day) => (i64::from(day), 0),
    };
    let mut bytes = [0; 46];
    bytes[0] = if is_read { CELL } else { UNREAD_CELL };
    bytes[1] = bucket.grain() as u8;
    bytes[2..10].copy_from_slice(&at.to_le_bytes());
    bytes[10..14].copy_from_slice(&offset_s.to_le_bytes());
    bytes[14..30].copy_from_slice(&names.hash(Space::Campaign, campaign).to_le_bytes());
    bytes[30..46].copy_from_slice(&names.hash(Space::Ad, ad).to_le_bytes());
    XxHash3_128::oneshot(&bytes)
}

/// Odd, so that it takes nothing from what it is multiplied with.
fn cell_hash(names: &Names, row: u128, (creative, region, number): (Symbol, Symbol, u8)) -> u128 {
    let mut bytes = [0; 49];
    bytes[..16].copy_from_slice(&row.to_le_bytes());
    bytes[16..32].copy_from_slice(&names.hash(Space::Creative, creative).to_le_bytes());
    bytes[32..48].copy_from_slice(&names.hash(Space::Region, region).to_le_bytes());
    bytes[48] = device(number) as u8;
    XxHash3_128::oneshot(&bytes) | 1
}

/// The sum of counters, each times its weight.
fn weighed(sums: &[i64; METRICS]) -> u128 {
    let mut all_zero = true;
    let mut sum = 0u128;
    for (counter, weight) in sums.iter().zip(&WEIGHTS) {
        if *counter != 0 {
            all_zero = false;
            // Two's complement: what is below zero takes away.
            sum = sum.wrapping_add((i128::from(*counter) as u128).wrapping_mul(*weight));
        }
    }
    match all_zero {
        true => WEIGHTS[METRICS],
        false => sum,
    }
}

/// The same of a stored sum, without its counters standing anywhere; fields of a newer writer are passed over.
fn weighed_stored(stored: &[u8]) -> Result<u128, Damaged> {
    let mut r = Reader::new(stored, "sum");
    let (mut mask, mut all_zero, mut sum) = (r.varint()?, true, 0u128);
    while mask != 0 {
        let field = mask.trailing_zeros() as usize;
        mask &= mask - 1;
        let counter = r.signed()?;
        if counter != 0 && field < METRICS {
            all_zero = false;
            sum = sum.wrapping_add((i128::from(counter) as u128).wrapping_mul(WEIGHTS[field]));
        }
    }
    r.end()?;
    match all_zero {
        true => Ok(WEIGHTS[METRICS]),
        false => Ok(sum),
    }
}

/// The class that a device's number stands for; one that this version does not know is that of no device.
pub(crate) fn device(number: u8) -> Device {
    Device::from_number(number).unwrap_or_default()
}
