//! A table of sums by bucket and group, which meets each bucket and group by a small number of its own.
//!
//! Invariant: a row is one bucket and one group, and has at most [`MAX_ROWS`] siblings. A reader of many cells asks for
//! the numbers once and then adds by them.

use rustc_hash::FxHashMap;

use crate::buckets::BucketKey;
use crate::metrics::METRICS;
use crate::partial::{DIMENSIONS, MAX_ROWS, TooManyRows};

/// The numbers of a group; what is not grouped by is 0.
pub type Group = [u32; DIMENSIONS];

/// The table.
#[derive(Clone, Debug, Default)]
pub struct SumTable {
    buckets: FxHashMap<BucketKey, u32>,
    bucket_keys: Vec<BucketKey>,
    groups: FxHashMap<Group, u32>,
    group_keys: Vec<Group>,
    /// By bucket number and group number in one: the place of its row.
    places: FxHashMap<u64, u32>,
    rows: Vec<(u64, [i64; METRICS])>,
}

impl SumTable {
    /// The number of a bucket.
    pub fn bucket(&mut self, key: BucketKey) -> u32 {
        // Cells come bucket by bucket.
        if self.bucket_keys.last() == Some(&key) {
            return self.bucket_keys.len() as u32 - 1;
        }
        *self.buckets.entry(key).or_insert_with(|| {
            self.bucket_keys.push(key);
            self.bucket_keys.len() as u32 - 1
        })
    }

    /// The number of a group.
    pub fn group(&mut self, group: Group) -> u32 {
        *self.groups.entry(group).or_insert_with(|| {
            self.group_keys.push(group);
            self.group_keys.len() as u32 - 1
        })
    }

    /// The sums of a bucket and group by their numbers, zeros the first time.
    ///
    /// # Errors
    /// [`TooManyRows`] when that makes one row too many.
    pub fn row(&mut self, bucket: u32, group: u32) -> Result<&mut [i64; METRICS], TooManyRows> {
        let key = (u64::from(bucket) << 32) | u64::from(group);
        let place = *self.places.entry(key).or_insert_with(|| {
            self.rows.push((key, [0; METRICS]));
            self.rows.len() as u32 - 1
        });
        if self.rows.len() > MAX_ROWS {
            return Err(TooManyRows);
        }
        Ok(&mut self.rows[place as usize].1)
    }

    /// How many rows there are.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The groups, in the order of their numbers.
    pub fn groups(&self) -> &[Group] {
        &self.group_keys
    }

    /// The buckets, in the order of their numbers.
    pub fn buckets(&self) -> &[BucketKey] {
        &self.bucket_keys
    }

    /// Every row: the numbers of its bucket and group, and its sums.
    pub fn rows(&self) -> impl Iterator<Item = (u32, u32, &[i64; METRICS])> {
        self.rows
            .iter()
            .map(|(key, sums)| ((key >> 32) as u32, *key as u32, sums))
    }
}

/// Adds sums to others, saturating.
pub fn add(into: &mut [i64; METRICS], sums: &[i64; METRICS]) {
    into.iter_mut()
        .zip(sums)
        .for_each(|(a, b)| *a = a.saturating_add(*b));
}
