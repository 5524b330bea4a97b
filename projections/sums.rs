//! A table of sums by bucket and group, which meets each bucket and group by a small number of its own.
//!
//! Invariant: what is put under a bucket and group adds up, in whatever pieces it comes. Rows are kept in columns as they
//! come, a run for each time that a bucket is met, so that whoever adds many looks nothing up; what stands under the same
//! bucket and group in several runs, or in one, is added up when runs are collapsed. There are never more than
//! [`MAX_KEPT`] rows and one block's between two collapses, and never more than [`MAX_ROWS`] after one.

use rustc_hash::FxHashMap;

use crate::buckets::BucketKey;
use crate::gathered::{Numbered, collapsed};
use crate::metrics::METRICS;
use crate::origins::{Origin, Origins};
use crate::partial::{DIMENSIONS, MAX_ROWS, TooManyRows};

/// The numbers of a group; what is not grouped by is 0.
pub type Group = [u32; DIMENSIONS];

/// Rows that a table gathers before it collapses them for the first time.
const COLLAPSE_FROM: usize = 1 << 18;
/// Rows that are kept at most before they are collapsed: twice as many as may be left.
const MAX_KEPT: usize = 2 * MAX_ROWS;
/// No number.
const NONE: u32 = u32::MAX;

/// Sums in columns, a row each.
#[derive(Clone, Debug, Default)]
pub struct Columns {
    len: usize,
    /// By metric a column; one that is shorter than there are rows ends in zeros.
    fields: [Vec<i64>; METRICS],
    /// By metric, how far from zero any of its rows could come that are added up, in whatever order; at the end of the
    /// range when that is not known.
    reach: [u64; METRICS],
    /// How many rows there will be, by what is known of them.
    expected: usize,
}

impl Columns {
    /// How many rows there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// A metric's sums; those of the last rows are left out where they are zero.
    pub fn column(&self, field: usize) -> &[i64] {
        &self.fields[field]
    }

    /// How far from zero any of a metric's rows could come that are added up.
    pub fn reach(&self, field: usize) -> u64 {
        self.reach[field]
    }

    /// The sums of a row.
    #[inline]
    pub fn sums(&self, row: usize) -> [i64; METRICS] {
        std::array::from_fn(|field| self.fields[field].get(row).copied().unwrap_or(0))
    }

    /// Adds rows at the end, all of them zero.
    pub fn grow(&mut self, rows: usize) {
        self.len += rows;
    }

    /// A metric's column, to which the sums of the row `from` and those after it can be appended, which come no further
    /// from zero together than `reach`.
    pub fn column_from(&mut self, field: usize, from: usize, reach: u64) -> &mut Vec<i64> {
        self.reach[field] = self.reach[field].saturating_add(reach);
        let column = &mut self.fields[field];
        if column.capacity() == 0 {
            // Growing by doubling would copy all of it once more.
            column.reserve(self.expected);
        }
        column.resize(from, 0);
        column
    }

    /// Notes how far from zero rows could come that are appended without saying so.
    pub fn reach_at_least(&mut self, field: usize, reach: u64) {
        self.reach[field] = self.reach[field].max(reach);
    }

    /// Makes room for so many rows more, in the column of a metric that is not zero everywhere.
    pub fn reserve(&mut self, field: usize, rows: usize) {
        self.fields[field].reserve(rows);
    }

    fn push(&mut self, sums: &[i64; METRICS]) {
        let row = self.len;
        self.len += 1;
        for (field, n) in sums.iter().enumerate().filter(|(_, n)| **n != 0) {
            self.column_from(field, row, n.unsigned_abs()).push(*n);
        }
    }

    /// Puts the rows from one on into another order: their numbers, counted from that one.
    pub fn reorder(&mut self, from: usize, order: &[usize]) {
        for column in &mut self.fields {
            if column.len() > from {
                let at = |row: &usize| column.get(from + *row).copied().unwrap_or(0);
                let sorted: Vec<i64> = order.iter().map(at).collect();
                column.truncate(from);
                column.extend(sorted);
            }
        }
    }

    /// A metric's sum over all rows, at an end of the range where it is beyond it.
    pub fn total(&self, field: usize) -> i64 {
        let column = self.fields[field].iter();
        match fits(self.reach[field]) {
            true => column.fold(0, |sum: i64, n| sum.wrapping_add(*n)),
            false => column.fold(0, |sum: i64, n| sum.saturating_add(*n)),
        }
    }
}

/// Whether sums that come so far from zero stay within 64 bits, so that nothing need be looked at while they are made.
pub fn fits(reach: u64) -> bool {
    reach <= i64::MAX as u64
}

/// Rows of one bucket that follow each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// The number of the bucket.
    pub bucket: u32,
    /// Where the numbers of its rows' groups begin.
    pub groups: u32,
    /// Its first row.
    pub from: u32,
    /// The row after its last one.
    pub to: u32,
}

/// Rows, and which of them are of which bucket and groups.
#[derive(Clone, Debug, Default)]
pub struct Runs {
    /// The runs, in the order of their rows.
    pub runs: Vec<Run>,
    /// The numbers of groups. Those of runs with the same ones in the same order, as the buckets of a large campaign
    /// have them, stand here once.
    pub groups: Vec<u32>,
    /// The rows.
    pub rows: Columns,
    /// Which of them are cells of a block as they are.
    pub origins: Origins,
}

impl Runs {
    /// The numbers of a run's groups, row by row.
    pub fn groups_of(&self, run: &Run) -> &[u32] {
        &self.groups[run.groups as usize..][..(run.to - run.from) as usize]
    }

    /// Appends a run of rows, which are zero until their columns are written.
    fn push(&mut self, bucket: u32, groups: &[u32]) {
        if groups.is_empty() {
            return;
        }
        let at = match self.runs.last() {
            Some(last) if self.groups_of(last) == groups => last.groups,
            _ => {
                self.groups.extend_from_slice(groups);
                (self.groups.len() - groups.len()) as u32
            }
        };
        self.push_at(bucket, at, groups.len());
    }

    /// The same for rows whose groups stand there.
    pub fn push_at(&mut self, bucket: u32, groups: u32, rows: usize) {
        let from = self.rows.len() as u32;
        self.rows.grow(rows);
        self.runs.push(Run {
            bucket,
            groups,
            from,
            to: from + rows as u32,
        });
    }

    /// Makes a run of the rows behind the last one, which are there already, as the numbers of their groups are from
    /// `groups` on.
    pub fn close(&mut self, bucket: u32, groups: usize) {
        let from = self.runs.last().map_or(0, |last| last.to);
        let to = self.rows.len() as u32;
        if from == to {
            return;
        }
        let mut run = Run {
            bucket,
            groups: groups as u32,
            from,
            to,
        };
        // Most buckets of a large campaign have the groups of the one before.
        if let Some(last) = self.runs.last()
            && self.groups_of(last) == self.groups_of(&run)
        {
            run.groups = last.groups;
            self.groups.truncate(groups);
        }
        self.runs.push(run);
    }
}

/// Rows of the bucket that cells are being added to one by one.
#[derive(Clone, Debug, Default)]
struct Open {
    bucket: u32,
    /// By group the place of its row.
    places: Vec<u32>,
    groups: Vec<u32>,
    sums: Vec<[i64; METRICS]>,
}

/// The table.
#[derive(Clone, Debug)]
pub struct SumTable {
    buckets: FxHashMap<BucketKey, u32>,
    bucket_keys: Vec<BucketKey>,
    groups: FxHashMap<Group, u32>,
    group_keys: Vec<Group>,
    open: Open,
    runs: Runs,
    collapse_at: usize,
    /// How many buckets there will be, by what is known of them.
    expected: usize,
}

impl Default for SumTable {
    fn default() -> Self {
        Self {
            buckets: FxHashMap::default(),
            bucket_keys: Vec::new(),
            groups: FxHashMap::default(),
            group_keys: Vec::new(),
            open: Open::default(),
            runs: Runs::default(),
            collapse_at: COLLAPSE_FROM,
            expected: 0,
        }
    }
}

impl SumTable {
    /// Notes how many buckets there will be at most, so that room is made for them at once.
    pub fn expect(&mut self, buckets: usize) {
        self.expected = buckets;
    }

    /// The same of cells that are about to be added, where their number is known.
    pub fn expect_cells(&mut self, cells: usize) {
        let rows = &mut self.runs.rows;
        rows.expected = rows.expected.max(rows.len() + cells).min(COLLAPSE_FROM);
    }

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

    /// Sums of a bucket and group by their numbers, to which a cell can be added.
    ///
    /// # Errors
    /// [`TooManyRows`] when that makes one row too many.
    pub fn row(&mut self, bucket: u32, group: u32) -> Result<&mut [i64; METRICS], TooManyRows> {
        if self.open.bucket != bucket {
            self.close();
            self.make_room(0, 0)?;
            self.open.bucket = bucket;
        }
        let open = &mut self.open;
        if open.places.len() <= group as usize {
            open.places.resize(group as usize + 1, NONE);
        }
        let mut place = open.places[group as usize];
        if place == NONE {
            if open.groups.len() >= MAX_ROWS {
                return Err(TooManyRows);
            }
            place = open.groups.len() as u32;
            open.places[group as usize] = place;
            open.groups.push(group);
            open.sums.push([0; METRICS]);
        }
        Ok(&mut open.sums[place as usize])
    }

    /// Appends a run of rows of a bucket, by the numbers of their groups, of which one may come several times. Their
    /// columns are for the caller to write.
    pub fn append(&mut self, bucket: u32, groups: &[u32]) {
        self.runs.push(bucket, groups);
    }

    /// Notes that the rows from one on, which are the last ones that were appended, are cells of a block as they are.
    pub fn note_origin(&mut self, from: usize, origin: Origin) {
        let rows = from as u32..self.runs.rows.len() as u32;
        self.runs.origins.push(rows, origin);
    }

    /// The columns of the rows that were appended.
    pub fn columns(&mut self) -> &mut Columns {
        &mut self.runs.rows
    }

    /// Puts the rows that cells were added to one by one beside the others.
    fn close(&mut self) {
        let Open {
            bucket,
            places,
            groups,
            sums,
        } = &mut self.open;
        if groups.is_empty() {
            return;
        }
        let at = self.runs.groups.len();
        for group in groups.iter() {
            places[*group as usize] = NONE;
        }
        self.runs.groups.append(groups);
        for sums in sums.drain(..) {
            self.runs.rows.push(&sums);
        }
        self.runs.close(*bucket, at);
    }

    /// Makes room for so many rows more of so many buckets, before they are appended.
    ///
    /// # Errors
    /// [`TooManyRows`] when there are too many already.
    pub fn make_room(&mut self, more: usize, buckets: usize) -> Result<(), TooManyRows> {
        if self.runs.rows.is_empty() {
            // The other buckets are likely to have as many.
            let all = more * self.expected.max(buckets) / buckets.max(1);
            self.expect_cells(all);
        }
        match self.runs.rows.len() + more > self.collapse_at {
            true => self.collapse(),
            false => Ok(()),
        }
    }

    /// Adds up what stands under the same bucket and group, so that each has one row.
    ///
    /// # Errors
    /// [`TooManyRows`] when more than an answer may have are left.
    pub fn collapse(&mut self) -> Result<(), TooManyRows> {
        self.close();
        let groups = self.group_keys.len();
        let runs = std::mem::take(&mut self.runs);
        let all = Numbered::alike(runs, self.bucket_keys.len(), groups);
        self.runs = collapsed(&[all], groups)?;
        self.collapse_at = (2 * self.runs.rows.len()).clamp(COLLAPSE_FROM, MAX_KEPT);
        Ok(())
    }

    /// The groups, in the order of their numbers.
    pub fn groups(&self) -> &[Group] {
        &self.group_keys
    }

    /// The buckets, in the order of their numbers.
    pub fn buckets(&self) -> &[BucketKey] {
        &self.bucket_keys
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.runs.rows.is_empty() && self.open.groups.is_empty()
    }

    /// The rows, with the buckets and groups of their numbers.
    pub fn into_runs(mut self) -> (Runs, Vec<BucketKey>, Vec<Group>) {
        self.close();
        (self.runs, self.bucket_keys, self.group_keys)
    }

    /// Every row: the numbers of its bucket and group, and its sums.
    ///
    /// # Errors
    /// [`TooManyRows`] when there are more than an answer may have.
    pub fn rows(
        &mut self,
    ) -> Result<impl ExactSizeIterator<Item = (u32, u32, [i64; METRICS])>, TooManyRows> {
        self.collapse()?;
        let runs = &self.runs;
        let of_run = |run: &Run| {
            let bucket = run.bucket;
            let groups = runs.groups_of(run).iter();
            groups.map(move |group| (bucket, *group))
        };
        let rows: Vec<(u32, u32)> = runs.runs.iter().flat_map(of_run).collect();
        let rows = rows.into_iter().enumerate();
        Ok(rows.map(move |(row, (bucket, group))| (bucket, group, runs.rows.sums(row))))
    }
}

/// Adds sums to others, saturating.
pub fn add(into: &mut [i64; METRICS], sums: &[i64; METRICS]) {
    into.iter_mut()
        .zip(sums)
        .for_each(|(a, b)| *a = a.saturating_add(*b));
}
