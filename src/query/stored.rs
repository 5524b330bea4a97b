//! The store's snapshots, as questions read them.
//!
//! Invariant: one snapshot of each shard, taken one after the other before the question begins, so an answer never
//! sees a batch that came later than its positions.

use std::ops::ControlFlow;
use std::sync::Arc;

use adtally_projections::dump;
use adtally_projections::family::Family;
use adtally_projections::spans::Retention;

use super::QueryError;
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

impl Snapshots for Arc<Shards> {
    fn with(&self, work: &mut dyn FnMut(&SnapshotSet<'_>)) -> Result<(), QueryError> {
        let set = self.set();
        let mut shards = Vec::with_capacity(set.iter().len());
        for shard in set.iter() {
            shards.push(Shard {
                number: shard.number(),
                rows: Box::new(shard.snapshot()?),
            });
        }
        work(&SnapshotSet {
            generation: set.generation(),
            shards,
        });
        Ok(())
    }
}
