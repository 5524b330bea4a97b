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
use adtally_projections::position::Position;
use adtally_projections::spans::{Retention, Span};
use adtally_projections::symbols::{Space, Symbol};
use adtally_streams::id::Id;

use super::QueryError;
use super::block_cache::{BlockCache, Found, ShardBlocks};
use super::shard::{EachRow, Shard, ShardRead, SnapshotSet, Snapshots};
use crate::store::{OfCampaign, Open, ShardSnapshot, Shards, StoreError, Version};

impl From<StoreError> for QueryError {
    fn from(error: StoreError) -> Self {
        QueryError::Store(error.to_string())
    }
}

/// A shard's snapshot, and what is kept of its blocks where anything is.
pub struct StoredRows<'a> {
    snapshot: ShardSnapshot<'a>,
    blocks: Option<ShardBlocks>,
}

impl<'a> StoredRows<'a> {
    /// A snapshot that is read as it is stored.
    pub fn plain(snapshot: ShardSnapshot<'a>) -> Self {
        Self {
            snapshot,
            blocks: None,
        }
    }
}

impl ShardRead for StoredRows<'_> {
    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Vec<u8>>, QueryError> {
        Ok(self.snapshot.get(family, key)?)
    }

    fn scan(
        &self,
        family: Family,
        from: &[u8],
        to: &[u8],
        each: EachRow<'_>,
    ) -> Result<(), QueryError> {
        let mut failed = None;
        self.snapshot.scan(family, from, Some(to), |key, value| {
            each(key, value).unwrap_or_else(|error| {
                failed = Some(error);
                ControlFlow::Break(())
            })
        })?;
        failed.map_or(Ok(()), Err)
    }

    fn position(&self) -> Result<Option<Position>, QueryError> {
        // Read when the snapshot was taken; among what is written meanwhile it is the row that is looked for longest.
        Ok(self.snapshot.position())
    }

    fn known_name(&self, space: Space, symbol: Symbol) -> Option<Arc<str>> {
        self.snapshot.names().get(space, symbol)
    }

    fn keep_name(&self, space: Space, symbol: Symbol, name: &Arc<str>) {
        self.snapshot.names().keep(space, symbol, name);
    }

    fn known_campaign(&self, id: &Id) -> Option<OfCampaign> {
        self.snapshot.known_campaign(id)
    }

    fn keep_campaign(&self, id: &Id, found: OfCampaign) {
        self.snapshot.keep_campaign(id, found);
    }

    fn open_producers(&self) -> Option<Arc<Open>> {
        self.snapshot.open_producers()
    }

    fn keep_open_producers(&self, open: Open) {
        self.snapshot.keep_open_producers(open);
    }

    fn retention(&self) -> Retention {
        dump::Source::retention(&self.snapshot)
    }

    fn version(&self, campaign: Symbol, span: Span) -> Option<Version> {
        self.snapshot.version(campaign, span)
    }

    fn unpacked(
        &self,
        grain: Grain,
        key: &[u8],
        value: &[u8],
    ) -> Option<Result<Found, BlockError>> {
        self.blocks.as_ref()?.unpacked(grain, key, value)
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
            let blocks = self.cache.as_ref();
            let rows = StoredRows {
                snapshot: shard.snapshot()?,
                blocks: blocks.map(|c| ShardBlocks::new(c, shard.number(), shard.generation())),
            };
            shards.push(Shard {
                number: shard.number(),
                rows: Box::new(rows),
            });
        }
        work(&SnapshotSet {
            generation: set.generation(),
            shards,
            united: self.cache.as_ref().map(|cache| cache.united().clone()),
        });
        Ok(())
    }
}
