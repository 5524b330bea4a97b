//! Partial sums of shards, which merge into the table of an answer.
//!
//! Invariant: a shard's numbers for names never leave it: they are exchanged for the table's own on the way in, see
//! [`crate::merged`].

use std::sync::Arc;

use adtally_streams::event::Device;
use rustc_hash::{FxHashMap, FxHashSet};
use serde::{Deserialize, Serialize};

use crate::block::BlockError;
use crate::buckets::BucketKey;
use crate::cells::CellKey;
use crate::codec::Damaged;

use crate::metrics::{Fields, add_wanted_sums};
use crate::sums::{Group, SumTable};
use crate::symbols::{Space, Symbol};

/// The most rows of one answer (contract), and of any shard's part in it.
pub const MAX_ROWS: usize = 1_000_000;
/// How many dimensions an answer can be grouped by.
pub const DIMENSIONS: usize = 5;

/// What an answer can be grouped by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Dimension {
    /// The campaign.
    CampaignId,
    /// The ad.
    AdId,
    /// The creative variant.
    Creative,
    /// The region.
    Region,
    /// The device class.
    Device,
}

impl Dimension {
    /// Every dimension.
    pub const ALL: [Dimension; DIMENSIONS] = [
        Dimension::CampaignId,
        Dimension::AdId,
        Dimension::Creative,
        Dimension::Region,
        Dimension::Device,
    ];

    /// The contract's name.
    pub fn name(self) -> &'static str {
        match self {
            Dimension::CampaignId => "campaign_id",
            Dimension::AdId => "ad_id",
            Dimension::Creative => "creative",
            Dimension::Region => "region",
            Dimension::Device => "device",
        }
    }

    /// The dimension of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|d| d.name() == name)
    }

    /// Where a shard numbers its values; none for the device, whose numbers are the same everywhere.
    pub fn space(self) -> Option<Space> {
        match self {
            Dimension::CampaignId => Some(Space::Campaign),
            Dimension::AdId => Some(Space::Ad),
            Dimension::Creative => Some(Space::Creative),
            Dimension::Region => Some(Space::Region),
            Dimension::Device => None,
        }
    }

    fn of(self, cell: &CellKey) -> u32 {
        match self {
            Dimension::CampaignId => cell.campaign,
            Dimension::AdId => cell.ad,
            Dimension::Creative => cell.creative,
            Dimension::Region => cell.region,
            Dimension::Device => u32::from(cell.device),
        }
    }
}

/// More rows than one answer may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the answer has more than {MAX_ROWS} rows; ask for a shorter range, a coarser granularity, fewer group_by \
     dimensions, a filter, or fill=none"
)]
pub struct TooManyRows;

/// Why a shard's sums could not be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PartialError {
    /// Too many of them.
    #[error(transparent)]
    TooManyRows(#[from] TooManyRows),
    /// A stored cell cannot be read.
    #[error(transparent)]
    Damaged(#[from] Damaged),
    /// A block of sealed cells cannot be read.
    #[error("a block of sealed cells is damaged: {0}")]
    Block(#[from] BlockError),
}

/// Values that a filter lets through, as a shard's numbers; none lets everything through.
pub type Filter = Option<FxHashSet<u32>>;

/// The filters of a question on one shard.
#[derive(Clone, Debug, Default)]
pub struct Filters {
    /// Ads.
    pub ad: Filter,
    /// Creative variants.
    pub creative: Filter,
    /// Regions.
    pub region: Filter,
    /// Device numbers.
    pub device: Filter,
}

impl Filters {
    /// Whether some filter has no value that the shard knows, so that no cell of it can pass.
    pub fn let_nothing_through(&self) -> bool {
        [&self.ad, &self.creative, &self.region, &self.device]
            .into_iter()
            .flatten()
            .any(FxHashSet::is_empty)
    }

    /// The filter of a dimension; the campaigns of a question are those that it reads at all.
    pub fn of(&self, dimension: Dimension) -> &Filter {
        match dimension {
            Dimension::CampaignId => &None,
            Dimension::AdId => &self.ad,
            Dimension::Creative => &self.creative,
            Dimension::Region => &self.region,
            Dimension::Device => &self.device,
        }
    }

    /// The dimensions that are filtered.
    pub fn dimensions(&self) -> impl Iterator<Item = Dimension> {
        Dimension::ALL.into_iter().filter(|d| self.of(*d).is_some())
    }

    /// Whether a cell passes all of them.
    pub fn pass(&self, cell: &CellKey) -> bool {
        let ok =
            |filter: &Filter, value: u32| filter.as_ref().is_none_or(|set| set.contains(&value));
        ok(&self.ad, cell.ad)
            && ok(&self.creative, cell.creative)
            && ok(&self.region, cell.region)
            && ok(&self.device, u32::from(cell.device))
    }
}

/// The sums of one shard.
#[derive(Debug)]
pub struct ShardSums {
    group_by: Vec<Dimension>,
    fields: Fields,
    table: SumTable,
}

impl ShardSums {
    /// Nothing yet, grouped by distinct dimensions, of all counters.
    pub fn new(group_by: &[Dimension]) -> Self {
        Self::of(group_by, Fields::ALL)
    }

    /// The same of these counters: the others are not read and stay zero. Which rows there are does not depend on it.
    pub fn of(group_by: &[Dimension], fields: Fields) -> Self {
        Self {
            group_by: group_by.to_vec(),
            fields,
            table: SumTable::default(),
        }
    }

    /// What it is grouped by.
    pub fn group_by(&self) -> &[Dimension] {
        &self.group_by
    }

    /// Which counters are summed.
    pub fn fields(&self) -> Fields {
        self.fields
    }

    /// The table of the sums, for whoever adds many cells at once.
    pub fn table(&mut self) -> &mut SumTable {
        &mut self.table
    }

    pub(crate) fn into_table(self) -> SumTable {
        self.table
    }

    /// Adds a cell's stored value to the row of its bucket and group.
    pub fn add(
        &mut self,
        bucket: BucketKey,
        cell: &CellKey,
        value: &[u8],
    ) -> Result<(), PartialError> {
        let mut group = Group::default();
        for (place, dimension) in group.iter_mut().zip(&self.group_by) {
            *place = dimension.of(cell);
        }
        let (bucket, group) = (self.table.bucket(bucket), self.table.group(group));
        add_wanted_sums(self.table.row(bucket, group)?, self.fields, value)?;
        Ok(())
    }

    /// The numbers in use, by the place of their dimension in the grouping: those whose names the merge needs.
    pub fn symbols(&self) -> Vec<(Dimension, FxHashSet<Symbol>)> {
        let used = |(at, dimension): (usize, &Dimension)| {
            let numbers = self.table.groups().iter().map(|group| group[at]);
            (*dimension, numbers.collect())
        };
        self.group_by.iter().enumerate().map(used).collect()
    }
}

/// The names of a shard's numbers, by the place of their dimension in the grouping.
pub type Names = Vec<FxHashMap<Symbol, Arc<str>>>;

/// The name of a device number as cells hold it.
pub fn device_name(number: u32) -> &'static str {
    u8::try_from(number)
        .ok()
        .and_then(Device::from_number)
        .unwrap_or_default()
        .name()
}

#[path = "partial_wire.rs"]
mod wire;

#[cfg(test)]
#[path = "partial_tests.rs"]
mod tests;
