//! A block as sums read it.
//!
//! Invariant: what is read of a block is the same whether it is as stored or was unpacked before.

use crate::block::{Block, BlockError, BlockKey, Values};
use crate::cells::Bucket;
use crate::narrow::Numbers;
use crate::partial::Dimension;
use crate::symbols::Symbol;

/// What sums read of a block, whether it is as stored or was unpacked before.
pub trait ReadBlock {
    /// Where it stands.
    fn key(&self) -> &BlockKey;

    /// What it and all that is in it is known by, where it is known by anything ([`crate::origins::Origin::block`]).
    fn known_as(&self) -> Option<u128> {
        None
    }

    /// Its buckets in order, each with how many of the cells that follow each other are its own.
    fn buckets(&self) -> &[(Bucket, u32)];

    /// How many cells it has, at least 1.
    fn cells(&self) -> usize;

    /// A dimension: its symbols, none of them twice, and for each cell the place of its own among them.
    ///
    /// # Errors
    /// [`BlockError`] when it is damaged, or the cuboid has not got the dimension.
    fn dimension<'b>(
        &'b self,
        dimension: Dimension,
        scratch: &'b mut Vec<u8>,
        symbols: &mut Vec<Symbol>,
    ) -> Result<Numbers<'b>, BlockError>;

    /// A metric; none when it is zero everywhere.
    ///
    /// # Errors
    /// [`BlockError`] when it is damaged.
    fn metric<'b>(
        &'b self,
        field: usize,
        scratch: &'b mut Vec<u8>,
    ) -> Result<Option<Values<'b>>, BlockError>;
}

impl ReadBlock for Block<'_> {
    fn key(&self) -> &BlockKey {
        &self.key
    }

    fn buckets(&self) -> &[(Bucket, u32)] {
        &self.buckets
    }

    fn cells(&self) -> usize {
        Block::cells(self)
    }

    fn dimension<'b>(
        &'b self,
        dimension: Dimension,
        scratch: &'b mut Vec<u8>,
        symbols: &mut Vec<Symbol>,
    ) -> Result<Numbers<'b>, BlockError> {
        self.places(dimension, scratch, symbols)
    }

    fn metric<'b>(
        &'b self,
        field: usize,
        scratch: &'b mut Vec<u8>,
    ) -> Result<Option<Values<'b>>, BlockError> {
        Block::metric(self, field, scratch)
    }
}
