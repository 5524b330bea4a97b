//! A state in memory: the same reads, writes and merges as on RocksDB, for tests and for small replays.
//!
//! Invariant: it knows nothing of what it holds; what differs between it and RocksDB is a defect of either.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::ops::ControlFlow;

use crate::dump::Source;
use crate::family::{Changes, Family, Op, Reads, Target, Values};
use crate::ids::IdRecord;
use crate::seal::{EachRow, Rows};
use crate::spans::Retention;

/// Rows of a shard's state.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    rows: BTreeMap<Target, BTreeMap<Vec<u8>, Vec<u8>>>,
    retention: Retention,
}

impl Memory {
    /// Keeps cells that long from now on; a new state keeps all of them.
    pub fn keep(&mut self, retention: Retention) {
        self.retention = retention;
    }

    /// A row's value.
    pub fn get(&self, target: Target, key: &[u8]) -> Option<&[u8]> {
        self.rows.get(&target)?.get(key).map(Vec::as_slice)
    }

    /// Answers a fold's reads.
    pub fn read(&self, reads: &Reads) -> Values {
        let row = |family, key: &[u8]| self.get(Target::Family(family), key).map(<[u8]>::to_vec);
        let latest = |key: &[u8]| {
            let days = self
                .rows
                .iter()
                .rev()
                .filter(|(target, _)| matches!(target, Target::Ids(_)));
            days.filter_map(|(_, rows)| rows.get(key))
                .find_map(|value| IdRecord::decode(value).ok())
        };
        Values {
            rows: reads
                .rows
                .iter()
                .map(|(f, keys)| (*f, keys.iter().map(|key| row(*f, key)).collect()))
                .collect(),
            ids: reads.ordered_ids().map(latest).collect(),
        }
    }

    /// Writes a fold's changes.
    pub fn write(&mut self, changes: &Changes) {
        for change in changes.iter() {
            let rows = self.rows.entry(change.target).or_default();
            match change.op {
                Op::Put => {
                    rows.insert(change.key.to_vec(), change.value.to_vec());
                }
                Op::Delete => {
                    rows.remove(change.key);
                }
                Op::Merge => {
                    let existing = rows.get(change.key).map(Vec::as_slice);
                    let merge = match change.target {
                        Target::Family(family) => family.merge(),
                        Target::Ids(_) => None,
                    };
                    let merged = merge.and_then(|m| m.apply(existing, [change.value].into_iter()));
                    if let Some(merged) = merged {
                        rows.insert(change.key.to_vec(), merged);
                    }
                }
            }
        }
    }

    /// Drops the id families of log days that `may_drop` says.
    pub fn drop_ids(&mut self, may_drop: impl Fn(i32) -> bool) {
        self.rows
            .retain(|target, _| !matches!(target, Target::Ids(day) if may_drop(*day)));
    }
}

impl Source for Memory {
    fn scan(&self, family: Family, row: &mut dyn FnMut(&[u8], &[u8])) -> Result<(), Infallible> {
        self.rows
            .get(&Target::Family(family))
            .into_iter()
            .flatten()
            .for_each(|(key, value)| row(key, value));
        Ok(())
    }

    fn scan_ids(&self, row: &mut dyn FnMut(&[u8], &[u8])) -> Result<(), Infallible> {
        for (target, rows) in &self.rows {
            if matches!(target, Target::Ids(_)) {
                rows.iter().for_each(|(key, value)| row(key, value));
            }
        }
        Ok(())
    }

    fn retention(&self) -> Retention {
        self.retention
    }
}

impl Rows for Memory {
    type Error = Infallible;

    fn range(
        &self,
        family: Family,
        from: &[u8],
        to: &[u8],
        row: EachRow<'_>,
    ) -> Result<(), Infallible> {
        let rows = self.rows.get(&Target::Family(family));
        for (key, value) in rows
            .into_iter()
            .flat_map(|rows| rows.range(from.to_vec()..))
        {
            if key.as_slice() >= to || row(key, value) == ControlFlow::Break(()) {
                break;
            }
        }
        Ok(())
    }
}
