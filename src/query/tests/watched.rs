//! A shard whose reading is watched.

use super::*;
use crate::store::{OfCampaign, Open};

/// The rows of a shard.
pub struct Watched<'a> {
    /// The rows themselves.
    pub rows: Box<dyn ShardRead + 'a>,
    /// Whether what is kept in memory of campaigns and producers is told; nothing else that is kept ever is.
    pub remembers: bool,
    /// Families that may not be scanned.
    pub unscanned: &'static [Family],
}

impl ShardRead for Watched<'_> {
    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Vec<u8>>, QueryError> {
        self.rows.get(family, key)
    }

    fn scan(
        &self,
        family: Family,
        from: &[u8],
        to: &[u8],
        each: EachRow<'_>,
    ) -> Result<(), QueryError> {
        assert!(!self.unscanned.contains(&family), "{family:?} is scanned");
        self.rows.scan(family, from, to, each)
    }

    fn known_campaign(&self, id: &Id) -> Option<OfCampaign> {
        self.rows.known_campaign(id).filter(|_| self.remembers)
    }

    fn open_producers(&self) -> Option<Arc<Open>> {
        self.rows.open_producers().filter(|_| self.remembers)
    }
}

/// A set whose shards are read so.
pub fn watched<'a>(
    set: SnapshotSet<'a>,
    remembers: bool,
    unscanned: &'static [Family],
) -> SnapshotSet<'a> {
    let shards = set.shards.into_iter().map(|shard| Shard {
        number: shard.number,
        rows: Box::new(Watched {
            rows: shard.rows,
            remembers,
            unscanned,
        }) as Box<dyn ShardRead + 'a>,
    });
    SnapshotSet {
        generation: set.generation,
        shards: shards.collect(),
        united: None,
    }
}
