//! The store's snapshots, as questions read them.
//!
//! Invariant: one snapshot of each shard, taken one after the other before the question begins, so an answer never
//! sees a batch that came later than its positions.

use std::ops::ControlFlow;
use std::sync::Arc;

use adtally_projections::block::BlockError;
use adtally_projections::cells::Grain;
use adtally_projections::dump;
use adtally_projections::family::Family;
use adtally_projections::spans::Retention;

use super::QueryError;
use super::block_cache::{BlockCache, Found, ShardBlocks};
use super::shard::{EachRow, Shard, ShardRead, SnapshotSet, Snapshots};
use crate::store::{ShardSnapshot, Shards, StoreError};

impl From<StoreError> for QueryError {
    fn from(error: StoreError) -> Self {
        QueryError::Store(error.to_string())
    }
}

impl ShardRead for ShardSnapshot<'_> {
    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Vec<u8>>, QueryError> {
        Ok(ShardSnapshot::get(self, family, key)?)
    }

    fn scan(
        &self,
        family: Family,
        from: &[u8],
        to: &[u8],
        each: EachRow<'_>,
    ) -> Result<(), QueryError> {
        let mut failed = None;
        ShardSnapshot::scan(self, family, from, Some(to), |key, value| {
            each(key, value).unwrap_or_else(|error| {
                failed = Some(error);
                ControlFlow::Break(())
            })
        })?;
        failed.map_or(Ok(()), Err)
    }

    fn retention(&self) -> Retention {
        dump::Source::retention(self)
    }
}

/// A shard's snapshot with what is kept of its blocks.
struct WithBlocks<'a> {
    snapshot: ShardSnapshot<'a>,
    blocks: ShardBlocks,
}

impl ShardRead for WithBlocks<'_> {
    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Vec<u8>>, QueryError> {
        ShardRead::get(&self.snapshot, family, key)
    }

    fn scan(
        &self,
        family: Family,
        from: &[u8],
        to: &[u8],
        each: EachRow<'_>,
    ) -> Result<(), QueryError> {
        ShardRead::scan(&self.snapshot, family, from, to, each)
    }

    fn retention(&self) -> Retention {
        ShardRead::retention(&self.snapshot)
    }

    fn unpacked(
        &self,
        grain: Grain,
        key: &[u8],
        value: &[u8],
    ) -> Option<Result<Found, BlockError>> {
        self.blocks.unpacked(grain, key, value)
    }
}

/// The open shards, and what is kept of their blocks.
pub struct Stored {
    shards: Arc<Shards>,
    cache: Option<BlockCache>,
}

impl Stored {
    /// The open shards, with a cache of their blocks where there is one.
    pub fn new(shards: Arc<Shards>, cache: Option<BlockCache>) -> Self {
        Self { shards, cache }
    }
}

impl Snapshots for Stored {
    fn with(&self, work: &mut dyn FnMut(&SnapshotSet<'_>)) -> Result<(), QueryError> {
        let set = self.shards.set();
        let mut shards = Vec::with_capacity(set.iter().len());
        for shard in set.iter() {
            let (number, snapshot) = (shard.number(), shard.snapshot()?);
            let rows: Box<dyn ShardRead> = match &self.cache {
                None => Box::new(snapshot),
                Some(cache) => Box::new(WithBlocks {
                    snapshot,
                    blocks: ShardBlocks::new(cache, number, shard.generation()),
                }),
            };
            shards.push(Shard { number, rows });
        }
        work(&SnapshotSet {
            generation: set.generation(),
            shards,
        });
        Ok(())
    }
}
