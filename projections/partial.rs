//! Partial sums of shards, and the table that they merge into.
//!
//! Invariant: shards meet in sums and unions of names only, so their order does not matter. A shard's numbers for
//! names never leave it: they are exchanged for the table's own on the way in.

use std::sync::Arc;

use adtally_streams::event::Device;
use rustc_hash::{FxHashMap, FxHashSet};
use serde::{Deserialize, Serialize};

use crate::block::BlockError;
use crate::buckets::{BucketKey, Slot};
use crate::cells::CellKey;
use crate::codec::Damaged;
use crate::metrics::{METRICS, Metrics, add_sums};
use crate::sums::{Group, SumTable, add};
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
    table: SumTable,
}

impl ShardSums {
    /// Nothing yet, grouped by distinct dimensions.
    pub fn new(group_by: &[Dimension]) -> Self {
        Self {
            group_by: group_by.to_vec(),
            table: SumTable::default(),
        }
    }

    /// What it is grouped by.
    pub fn group_by(&self) -> &[Dimension] {
        &self.group_by
    }

    /// The table of the sums, for whoever adds many cells at once.
    pub fn table(&mut self) -> &mut SumTable {
        &mut self.table
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
        add_sums(self.table.row(bucket, group)?, value)?;
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

/// The names that one dimension has in a table, numbered as they come.
#[derive(Clone, Debug, Default)]
struct Interner {
    numbers: FxHashMap<Arc<str>, u32>,
    names: Vec<Arc<str>>,
}

impl Interner {
    fn number(&mut self, name: &Arc<str>) -> u32 {
        if let Some(number) = self.numbers.get(name) {
            return *number;
        }
        let number = self.names.len() as u32;
        self.numbers.insert(name.clone(), number);
        self.names.push(name.clone());
        number
    }
}

/// The sums of all shards so far.
#[derive(Debug)]
pub struct Merged {
    group_by: Vec<Dimension>,
    table: SumTable,
    names: Vec<Interner>,
}

impl Merged {
    /// Nothing yet, grouped by distinct dimensions.
    pub fn new(group_by: &[Dimension]) -> Self {
        Self {
            group_by: group_by.to_vec(),
            table: SumTable::default(),
            names: vec![Interner::default(); group_by.len()],
        }
    }

    /// Adds a shard's sums. A number without a name in `names` stands under the empty name.
    pub fn add(&mut self, shard: ShardSums, names: &Names) -> Result<(), TooManyRows> {
        let nameless: Arc<str> = Arc::from("");
        let mut renumber = |at: usize, symbol: Symbol| {
            let name = names.get(at).and_then(|n| n.get(&symbol));
            self.names[at].number(name.unwrap_or(&nameless))
        };
        let grouped = self.group_by.len();
        let theirs = shard.table;
        let mut groups = Vec::with_capacity(theirs.groups().len());
        for group in theirs.groups() {
            let mut own = Group::default();
            for at in 0..grouped {
                own[at] = renumber(at, group[at]);
            }
            groups.push(self.table.group(own));
        }
        let buckets: Vec<u32> = theirs
            .buckets()
            .iter()
            .map(|bucket| self.table.bucket(*bucket))
            .collect();
        for (bucket, group, sums) in theirs.rows() {
            let (bucket, group) = (buckets[bucket as usize], groups[group as usize]);
            add(self.table.row(bucket, group)?, sums);
        }
        Ok(())
    }

    /// The table of all rows, sorted by time and then by the group's names. `fill` adds a row of zeros for every
    /// slot and every group that was seen, and, without grouping, for every slot.
    pub fn finish(mut self, slots: &[Slot], fill: bool) -> Result<Table, TooManyRows> {
        let mut sum = [0i64; METRICS];
        for (_, _, row) in self.table.rows() {
            add(&mut sum, row);
        }
        if fill {
            self.fill(slots)?;
        }
        let place: FxHashMap<BucketKey, u32> = slots
            .iter()
            .enumerate()
            .map(|(i, s)| (s.key, i as u32))
            .collect();
        let places: Vec<Option<u32>> = self
            .table
            .buckets()
            .iter()
            .map(|bucket| place.get(bucket).copied())
            .collect();
        let ranks: Vec<Vec<u32>> = self.names.iter().map(|n| ranks(&n.names)).collect();
        let mut rows: Vec<Row> = self
            .table
            .rows()
            .filter_map(|(bucket, group, sums)| {
                Some(Row {
                    slot: places[bucket as usize]?,
                    group: self.table.groups()[group as usize],
                    metrics: Metrics::from_fields(*sums),
                })
            })
            .collect();
        let rank = |row: &Row| {
            let mut by = [0; DIMENSIONS];
            by.iter_mut()
                .zip(&ranks)
                .zip(row.group)
                .for_each(|((by, ranks), n)| *by = ranks[n as usize]);
            by
        };
        rows.sort_unstable_by(|a, b| {
            let time = |r: &Row| slots[r.slot as usize].time_ms;
            (time(a), rank(a), a.slot).cmp(&(time(b), rank(b), b.slot))
        });
        Ok(Table {
            group_by: self.group_by,
            names: self.names.into_iter().map(|n| n.names).collect(),
            slots: slots.to_vec(),
            rows,
            totals: Metrics::from_fields(sum),
        })
    }

    fn fill(&mut self, slots: &[Slot]) -> Result<(), TooManyRows> {
        if self.group_by.is_empty() {
            self.table.group(Group::default());
        }
        let groups = self.table.groups().len() as u32;
        if (groups as usize).saturating_mul(slots.len()) > MAX_ROWS {
            return Err(TooManyRows);
        }
        for slot in slots {
            let bucket = self.table.bucket(slot.key);
            for group in 0..groups {
                self.table.row(bucket, group)?;
            }
        }
        Ok(())
    }
}

/// For each number, the place of its name among all names in byte order.
fn ranks(names: &[Arc<str>]) -> Vec<u32> {
    let mut order: Vec<u32> = (0..names.len() as u32).collect();
    order.sort_unstable_by(|a, b| names[*a as usize].cmp(&names[*b as usize]));
    let mut ranks = vec![0; names.len()];
    order
        .into_iter()
        .enumerate()
        .for_each(|(rank, n)| ranks[n as usize] = rank as u32);
    ranks
}

/// One row of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// Place of its bucket in [`Table::slots`].
    pub slot: u32,
    group: Group,
    /// Its sums.
    pub metrics: Metrics,
}

/// An answer's rows.
#[derive(Clone, Debug)]
pub struct Table {
    /// What the rows are grouped by, in the order in which they are sorted.
    pub group_by: Vec<Dimension>,
    names: Vec<Vec<Arc<str>>>,
    /// The buckets.
    pub slots: Vec<Slot>,
    /// The rows, sorted by time and then by the group's names.
    pub rows: Vec<Row>,
    /// The sums over all rows.
    pub totals: Metrics,
}

impl Table {
    /// A row's group, in the order of `group_by`.
    pub fn group<'a>(&'a self, row: &'a Row) -> impl Iterator<Item = (Dimension, &'a str)> {
        self.group_by
            .iter()
            .zip(&self.names)
            .zip(row.group)
            .map(|((dimension, names), n)| (*dimension, &*names[n as usize]))
    }

    /// A row's bucket.
    pub fn slot(&self, row: &Row) -> &Slot {
        &self.slots[row.slot as usize]
    }
}

#[path = "partial_wire.rs"]
mod wire;

#[cfg(test)]
#[path = "partial_tests.rs"]
mod tests;
