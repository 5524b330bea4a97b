//! A snapshot: one instant of a shard's state, across all its families.
//!
//! Invariant: everything read through one snapshot belongs to its position, whatever the projector writes
//! meanwhile. It borrows its shard, so a generation is never closed under a question.

use std::ops::ControlFlow;
use std::sync::Arc;

use adtally_projections::codec::Damaged;
use adtally_projections::dump::Source;
use adtally_projections::family::Family;
use adtally_projections::ids;
use adtally_projections::position::{POSITION_KEY, Position};
use adtally_projections::seal::{EachRow, Rows};
use adtally_projections::spans::{DELETED_KEY, Horizon, Retention, Span};
use adtally_projections::symbols::{self, Space, Symbol};
use adtally_streams::id::Id;
use rocksdb::{AsColumnFamilyRef, ReadOptions, SnapshotWithThreadMode};

use super::StoreError;
use super::campaigns::OfCampaign;
use super::names::Names;
use super::open_producers::Open;
use super::shard::{Db, Shard};
use super::versions::Version;

/// One instant of a shard.
pub struct ShardSnapshot<'a> {
    shard: &'a Shard,
    snapshot: SnapshotWithThreadMode<'a, Db>,
    /// RocksDB's number before it was taken.
    sequence: u64,
    position: Option<Position>,
    shown_from: Horizon,
}

impl<'a> ShardSnapshot<'a> {
    pub(super) fn of(shard: &'a Shard) -> Result<Self, StoreError> {
        let sequence = shard.db().latest_sequence_number();
        let mut snapshot = Self {
            shard,
            sequence,
            snapshot: shard.db().snapshot(),
            position: None,
            shown_from: Horizon::default(),
        };
        if let Some(value) = snapshot.get(Family::Meta, POSITION_KEY)? {
            snapshot.position = Some(Position::decode(&value).map_err(|e| snapshot.damaged(e))?);
        }
        Ok(snapshot)
    }

    /// The names that were read of the shard's generation.
    pub fn names(&self) -> &'a Names {
        self.shard.names()
    }

    /// What the blocks of a campaign's span are known by; none where that cannot be said at the moment.
    pub fn version(&self, campaign: Symbol, span: Span) -> Option<Version> {
        self.shard.versions().of(campaign, span, self.sequence)
    }

    /// What was found of a campaign before, by a snapshot with the same campaigns; none where nobody looked.
    pub fn known_campaign(&self, id: &Id) -> Option<OfCampaign> {
        let version = self.shard.versions().of_campaigns(self.sequence)?;
        self.shard.campaigns().get(version, id)
    }

    /// Keeps what was found of a campaign.
    pub fn keep_campaign(&self, id: &Id, found: OfCampaign) {
        if let Some(version) = self.shard.versions().of_campaigns(self.sequence) {
            self.shard.campaigns().keep(version, id, found);
        }
    }

    /// Which producers are open, where a snapshot with the same ones has looked before.
    pub fn open_producers(&self) -> Option<Arc<Open>> {
        let version = self.shard.versions().of_producers(self.sequence)?;
        self.shard.producers().get(version)
    }

    /// Keeps which producers are open.
    pub fn keep_open_producers(&self, open: Open) {
        if let Some(version) = self.shard.versions().of_producers(self.sequence) {
            self.shard.producers().keep(version, open);
        }
    }

    /// The position; none before the first message.
    pub fn position(&self) -> Option<Position> {
        self.position
    }

    /// Up to which horizon cells may have been deleted.
    ///
    /// # Errors
    /// [`StoreError`] when that cannot be read.
    pub fn deleted(&self) -> Result<Horizon, StoreError> {
        let value = self.get(Family::Meta, DELETED_KEY)?;
        let horizon = value.map_or(Ok(Horizon::default()), |v| Horizon::decode(&v));
        horizon.map_err(|error| self.damaged(error))
    }

    /// Its dump is to show no cells before that.
    pub fn show_from(&mut self, horizon: Horizon) {
        self.shown_from = horizon;
    }

    /// The error of a row that cannot be decoded.
    pub fn damaged(&self, source: Damaged) -> StoreError {
        self.shard.damaged(source)
    }

    /// A row's value.
    ///
    /// # Errors
    /// [`StoreError`] when RocksDB cannot read.
    pub fn get(&self, family: Family, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let handle = self.shard.family(family.name())?;
        self.snapshot
            .get_cf(&handle, key)
            .map_err(self.shard.rocks("read a row"))
    }

    /// Visits the rows from one key (included) to another (excluded; none: to the end), in order, until `row`
    /// breaks.
    ///
    /// # Errors
    /// [`StoreError`] when RocksDB cannot read.
    pub fn scan(
        &self,
        family: Family,
        from: &[u8],
        to: Option<&[u8]>,
        row: impl FnMut(&[u8], &[u8]) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        let handle = self.shard.family(family.name())?;
        self.scan_handle(&handle, from, to, row)
    }

    fn scan_handle(
        &self,
        handle: &impl AsColumnFamilyRef,
        from: &[u8],
        to: Option<&[u8]>,
        mut row: impl FnMut(&[u8], &[u8]) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        let mut options = ReadOptions::default();
        if let Some(to) = to {
            options.set_iterate_upper_bound(to);
        }
        let mut rows = self.snapshot.raw_iterator_cf_opt(handle, options);
        rows.seek(from);
        while let Some((key, value)) = rows.item() {
            if row(key, value).is_break() {
                return Ok(());
            }
            rows.next();
        }
        rows.status().map_err(self.shard.rocks("scan rows"))
    }

    /// The name of a symbol.
    ///
    /// # Errors
    /// [`StoreError`] when it cannot be read, or when the symbol has none.
    pub fn name(&self, space: Space, symbol: Symbol) -> Result<String, StoreError> {
        if let Some(name) = symbols::fixed_name(symbol) {
            return Ok(name.to_owned());
        }
        let mut key = Vec::new();
        symbols::symbol_key(&mut key, space, symbol);
        let value = self
            .get(Family::Symbols, &key)?
            .and_then(|value| String::from_utf8(value).ok());
        value.ok_or_else(|| self.damaged(Damaged { what: "symbol" }))
    }
}

impl Source for ShardSnapshot<'_> {
    fn scan(&self, family: Family, row: &mut dyn FnMut(&[u8], &[u8])) -> Result<(), StoreError> {
        ShardSnapshot::scan(self, family, &[], None, |key, value| {
            row(key, value);
            ControlFlow::Continue(())
        })
    }

    fn retention(&self) -> Retention {
        self.shard.retention()
    }

    fn shown_from(&self) -> Horizon {
        self.shown_from
    }

    fn scan_ids(&self, row: &mut dyn FnMut(&[u8], &[u8])) -> Result<(), StoreError> {
        for day in self.shard.id_days() {
            // A day that was dropped meanwhile held nothing that still counts.
            if let Some(handle) = self.shard.db().cf_handle(&ids::day_family(day)) {
                self.scan_handle(&handle, &[], None, |key, value| {
                    row(key, value);
                    ControlFlow::Continue(())
                })?;
            }
        }
        Ok(())
    }
}

impl Rows for ShardSnapshot<'_> {
    type Error = StoreError;

    fn range(
        &self,
        family: Family,
        from: &[u8],
        to: &[u8],
        row: EachRow<'_>,
    ) -> Result<(), StoreError> {
        self.scan(family, from, Some(to), row)
    }
}
