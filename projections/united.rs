//! United blocks: what the blocks of one span, cuboid and campaign are together, over the shards that have some.
//!
//! Invariant: a united block adds to an answer what the blocks that it is made of would add one by one. Each shard numbers
//! names in its own way, so a united block has the names themselves, and a question numbers those that it meets.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use adtally_streams::event::Device;

use crate::block::{Block, BlockError, BlockKey, MAX_CELLS, Values};
use crate::block_writer::{Columns, write};
use crate::buckets::{BucketKey, Slot};
use crate::cells::Bucket;
use crate::cuboid::Cuboid;
use crate::merged::{Interner, Merged};
use crate::metrics::METRICS;
use crate::narrow::Numbers;
use crate::partial::{Dimension, Names, ShardSums, TooManyRows};
use crate::read_block::ReadBlock;
use crate::spans::{Place, Span};
use crate::symbols::Symbol;
use crate::table::Table;
use crate::unpacked::Unpacked;

/// Blocks of one span that are being added up.
#[derive(Debug)]
pub struct Uniting {
    cuboid: Cuboid,
    span: Span,
    places: BTreeSet<Place>,
    merged: Merged,
}

impl Uniting {
    /// Nothing yet.
    pub fn new(cuboid: Cuboid, span: Span) -> Self {
        Self {
            cuboid,
            span,
            places: BTreeSet::new(),
            merged: Merged::new(cuboid.dimensions()),
        }
    }

    /// Sums to which the blocks of one shard are to be added, by [`Uniting::place`].
    pub fn sums(&self) -> ShardSums {
        ShardSums::new(self.cuboid.dimensions())
    }

    /// Where the cells of a bucket go.
    pub fn place(&mut self, bucket: Bucket) -> BucketKey {
        let place = self.span.place(bucket);
        self.places.insert(place);
        key_of(place)
    }

    /// Adds the sums of a shard, with the names of its numbers.
    ///
    /// # Errors
    /// [`TooManyRows`] when there are too many.
    pub fn add(&mut self, sums: ShardSums, names: &Names) -> Result<(), TooManyRows> {
        self.merged.add(sums, names)
    }

    /// The united block; none when it has too many cells for one.
    pub fn finish(self) -> Option<United> {
        let slots: Vec<Slot> = (0..)
            .zip(&self.places)
            .map(|(time_ms, place)| Slot {
                key: key_of(*place),
                time_ms,
                offset_s: 0,
            })
            .collect();
        let table = self.merged.finish(&slots, false).ok()?;
        if table.is_empty() {
            return Some(United::default());
        }
        if table.len() > MAX_CELLS {
            return None;
        }
        let places: Vec<Place> = self.places.into_iter().collect();
        let (columns, names) = columns(&table, self.cuboid, &places);
        let key = BlockKey {
            campaign: 0,
            cuboid: self.cuboid,
            span: self.span,
            first: columns.buckets.first()?.0,
            part: 0,
        };
        let (mut stands, mut stored) = (Vec::new(), Vec::new());
        key.encode(&mut stands);
        write(&key, &columns, &mut stored);
        let block = Block::parse(self.span.grain, &stands, &stored).ok()?;
        let block = Unpacked::of(&block).ok()?;
        Some(United {
            block: Some(block),
            names,
        })
    }
}

fn key_of(place: Place) -> BucketKey {
    BucketKey {
        at: place.at.into(),
        offset_s: place.offset_s,
    }
}

/// The rows of a table whose slots are those places, with each dimension's names in byte order, which is that of rows.
fn columns(table: &Table, cuboid: Cuboid, places: &[Place]) -> (Columns, Vec<Vec<Arc<str>>>) {
    let dimensions = cuboid.dimensions().len();
    let groups: Vec<Vec<&str>> = (0..table.groups() as u32)
        .map(|group| table.names_of(group).map(|(_, name)| name).collect())
        .collect();
    let numbers: Vec<BTreeMap<&str, Symbol>> = (0..dimensions)
        .map(|d| {
            let names: BTreeSet<&str> = groups.iter().map(|group| group[d]).collect();
            names.into_iter().zip(0..).collect()
        })
        .collect();
    let groups: Vec<Vec<Symbol>> = groups
        .iter()
        .map(|group| numbers.iter().zip(group).map(|(n, name)| n[name]).collect())
        .collect();
    let mut out = Columns {
        buckets: Vec::new(),
        dimensions: vec![Vec::with_capacity(table.len()); dimensions],
        metrics: (0..METRICS)
            .map(|field| (field, Vec::with_capacity(table.len())))
            .collect(),
    };
    for row in table.rows() {
        let place = places[row.slot as usize];
        match out.buckets.last_mut() {
            Some((last, n)) if *last == place => *n += 1,
            _ => out.buckets.push((place, 1)),
        }
        let symbols = out.dimensions.iter_mut().zip(&groups[row.group as usize]);
        symbols.for_each(|(column, symbol)| column.push(*symbol));
        let sums = out.metrics.iter_mut().zip(row.metrics.fields());
        sums.for_each(|((_, column), n)| column.push(n));
    }
    let named = |n: BTreeMap<&str, Symbol>| n.into_keys().map(Arc::from).collect();
    (out, numbers.into_iter().map(named).collect())
}

/// A united block; one of nothing where no shard has a block.
#[derive(Debug, Default)]
pub struct United {
    block: Option<Unpacked>,
    /// By dimension of the cuboid the names of its numbers.
    names: Vec<Vec<Arc<str>>>,
}

impl United {
    /// Bytes of memory that it takes, but for names, which others have too.
    pub fn bytes(&self) -> usize {
        let names = self.names.iter().map(Vec::len).sum::<usize>();
        let names = names * (size_of::<Arc<str>>() + 32);
        size_of::<Self>() + names + self.block.as_ref().map_or(0, Unpacked::bytes)
    }

    /// How many cells it has.
    pub fn cells(&self) -> usize {
        self.block.as_ref().map_or(0, Unpacked::cells)
    }

    /// The block under a question's numbers; none where there are no cells. `known_as` is what it is known by
    /// ([`crate::origins::Origin::block`]).
    pub fn numbered<'a>(
        &'a self,
        known_as: u128,
        campaign: Symbol,
        numbering: &mut Numbering,
    ) -> Option<Renumbered<'a>> {
        let block = self.block.as_ref()?;
        let dimensions = block.key().cuboid.dimensions().iter();
        let symbols = dimensions.zip(&self.names).map(|(dimension, names)| {
            let number = |name| numbering.number(*dimension, name);
            names.iter().map(number).collect()
        });
        Some(Renumbered {
            block,
            known_as,
            symbols: symbols.collect(),
            key: BlockKey {
                campaign,
                ..*block.key()
            },
        })
    }
}

/// A question's own numbers for the names of united blocks.
#[derive(Debug, Default)]
pub struct Numbering {
    names: [Interner; Dimension::ALL.len()],
}

impl Numbering {
    /// The number of a name.
    pub fn number(&mut self, dimension: Dimension, name: &Arc<str>) -> Symbol {
        match dimension {
            // Its numbers are the same everywhere.
            Dimension::Device => Device::from_name(name) as Symbol,
            _ => self.names[dimension as usize].number(name),
        }
    }

    /// The names of the numbers, by the place of their dimension in a grouping.
    pub fn names(&self, group_by: &[Dimension]) -> Names {
        let of = |dimension: &Dimension| match dimension {
            Dimension::Device => {
                let devices = Device::ALL.into_iter();
                devices.map(|d| (d as Symbol, d.name().into())).collect()
            }
            _ => {
                let names = self.names[*dimension as usize].names().iter();
                (0..).zip(names.cloned()).collect()
            }
        };
        group_by.iter().map(of).collect()
    }
}

/// A united block as a question reads it.
#[derive(Debug)]
pub struct Renumbered<'a> {
    block: &'a Unpacked,
    known_as: u128,
    key: BlockKey,
    /// By dimension of the cuboid the question's number of each of the block's.
    symbols: Vec<Vec<Symbol>>,
}

impl ReadBlock for Renumbered<'_> {
    fn key(&self) -> &BlockKey {
        &self.key
    }

    fn known_as(&self) -> Option<u128> {
        Some(self.known_as)
    }

    fn buckets(&self) -> &[(Bucket, u32)] {
        self.block.buckets()
    }

    fn cells(&self) -> usize {
        self.block.cells()
    }

    fn dimension<'b>(
        &'b self,
        dimension: Dimension,
        scratch: &'b mut Vec<u8>,
        symbols: &mut Vec<Symbol>,
    ) -> Result<Numbers<'b>, BlockError> {
        let places = self.block.dimension(dimension, scratch, symbols)?;
        let mut dimensions = self.key.cuboid.dimensions().iter().zip(&self.symbols);
        if let Some((_, own)) = dimensions.find(|(d, _)| **d == dimension) {
            for symbol in symbols.iter_mut() {
                *symbol = own[*symbol as usize];
            }
        }
        Ok(places)
    }

    fn metric<'b>(
        &'b self,
        field: usize,
        scratch: &'b mut Vec<u8>,
    ) -> Result<Option<Values<'b>>, BlockError> {
        self.block.metric(field, scratch)
    }
}

#[cfg(test)]
#[path = "united_tests.rs"]
mod tests;
