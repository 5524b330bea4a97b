//! The cells of a block one by one: for sealing them again and for the dump, which take all of them.

use crate::block::{Block, BlockError};
use crate::metrics::MAX_FIELDS;
use crate::spans::Place;
use crate::symbols::Symbol;

/// The symbols of a cell in the order of its cuboid's dimensions; what the cuboid has not got is 0.
pub type Symbols = [Symbol; 4];

/// Calls `cell` with every cell of a block, in order: its bucket's place, its symbols and all its metrics, those of a
/// newer writer included.
///
/// # Errors
/// [`BlockError`] when a column is damaged.
pub fn each_cell(
    block: &Block<'_>,
    mut cell: impl FnMut(Place, Symbols, &[i64; MAX_FIELDS]),
) -> Result<(), BlockError> {
    let n = block.cells();
    let mut names: Vec<Symbols> = vec![Symbols::default(); n];
    let (mut scratch, mut symbols) = (Vec::new(), Vec::new());
    for (at, dimension) in block.key.cuboid.dimensions().iter().enumerate() {
        let places = block.places(*dimension, &mut scratch, &mut symbols)?;
        for (cell, name) in names.iter_mut().enumerate() {
            name[at] = symbols[places.at(cell) as usize];
        }
    }
    let fields: Vec<usize> = block.fields().collect();
    let mut sums: Vec<i64> = vec![0; n * fields.len()];
    for (at, field) in fields.iter().enumerate() {
        if let Some(values) = block.metric(*field, &mut scratch)? {
            for row in 0..n {
                sums[row * fields.len() + at] = values.at(row);
            }
        }
    }
    let span = block.key.span;
    let buckets = block.buckets.iter();
    let places = buckets.flat_map(|(b, n)| std::iter::repeat_n(span.place(*b), *n as usize));
    let mut all = [0; MAX_FIELDS];
    for ((row, place), name) in places.enumerate().zip(names) {
        for (at, field) in fields.iter().enumerate() {
            all[*field] = sums[row * fields.len() + at];
        }
        cell(place, name, &all);
    }
    Ok(())
}
