//! Rows that are cells of a block as they are, and what that block is known by: so much says which counts they have, without a
//! look at any of them.
//!
//! Invariant: rows that are said to have an origin are the cells of its block that follow each other from the one named on, in
//! their order, with nothing added to them and nothing left out.

use std::ops::Range;

/// Rows of one block.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Stretch {
    rows: Range<u32>,
    origin: Origin,
}

/// Where rows come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin {
    /// What the block and all that is in it is known by: a hash of 128 bits that no other block has, nor this one with other
    /// counts.
    pub block: u128,
    /// The first row's cell, counted from the block's first one.
    pub cell: u32,
}

/// The origins of some rows, in the order of the rows. Most rows may have none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origins(Vec<Stretch>);

impl Origins {
    /// Notes where rows behind all others come from.
    pub fn push(&mut self, rows: Range<u32>, origin: Origin) {
        if rows.is_empty() {
            return;
        }
        if let Some(last) = self.0.last_mut()
            && last.rows.end == rows.start
            && last.origin.block == origin.block
            && last.origin.cell + (last.rows.end - last.rows.start) == origin.cell
        {
            last.rows.end = rows.end;
            return;
        }
        self.0.push(Stretch { rows, origin });
    }

    /// Where those rows come from; none where not all of them are of one block.
    pub fn of(&self, rows: Range<u32>) -> Option<Origin> {
        let at = self.0.partition_point(|s| s.rows.end <= rows.start);
        let stretch = self.0.get(at)?;
        let is_of = stretch.rows.start <= rows.start && rows.end <= stretch.rows.end;
        is_of.then(|| Origin {
            block: stretch.origin.block,
            cell: stretch.origin.cell + (rows.start - stretch.rows.start),
        })
    }

    /// Forgets where the rows from one on come from: they are not as they were.
    pub fn forget_from(&mut self, row: u32) {
        self.0.retain(|stretch| stretch.rows.start < row);
        if let Some(last) = self.0.last_mut() {
            last.rows.end = last.rows.end.min(row);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(block: u128, cell: u32) -> Origin {
        Origin { block, cell }
    }

    #[test]
    fn rows_are_of_an_origin_only_if_all_of_them_are() {
        let mut origins = Origins::default();
        assert_eq!(origins.of(0..1), None);
        origins.push(10..20, origin(7, 100));
        origins.push(20..20, origin(8, 0));
        origins.push(20..30, origin(7, 110));
        origins.push(30..40, origin(7, 130));
        origins.push(40..50, origin(9, 140));
        for (rows, of) in [
            (10..30, Some(origin(7, 100))),
            (15..25, Some(origin(7, 105))),
            (29..30, Some(origin(7, 119))),
            (30..40, Some(origin(7, 130))),
            (49..50, Some(origin(9, 149))),
            (9..11, None),
            (0..5, None),
            (29..31, None),
            (39..41, None),
            (49..51, None),
            (50..51, None),
        ] {
            assert_eq!(origins.of(rows.clone()), of, "{rows:?}");
        }
        assert_eq!(origins.0.len(), 3);
    }

    #[test]
    fn what_is_forgotten_has_no_origin() {
        let mut origins = Origins::default();
        origins.push(10..20, origin(7, 0));
        origins.push(20..30, origin(8, 0));
        origins.forget_from(15);
        assert_eq!(origins.of(10..15), Some(origin(7, 0)));
        assert_eq!(origins.of(14..16), None);
        assert_eq!(origins.of(20..21), None);
        origins.forget_from(0);
        assert_eq!(origins, Origins::default());
    }
}
