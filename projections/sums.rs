//! A table of sums by bucket and group, which meets each bucket and group by a small number of its own.
//!
//! Invariant: what is put under a bucket and group adds up, in whatever pieces it comes. Rows are kept in columns as they
//! come, a run for each time that a bucket is met, so that whoever adds many looks nothing up; what stands under the same
//! bucket and group in several runs is added up when runs are collapsed. There are never more than [`MAX_KEPT`] rows
//! and one block's between two collapses, and never more than [`MAX_ROWS`] after one.

use rustc_hash::FxHashMap;

use crate::buckets::BucketKey;
use crate::metrics::METRICS;
use crate::partial::{DIMENSIONS, MAX_ROWS, TooManyRows};

/// The numbers of a group; what is not grouped by is 0.
pub type Group = [u32; DIMENSIONS];

/// Rows that a table gathers before it collapses them for the first time.
const COLLAPSE_FROM: usize = 1 << 18;
/// Rows that are kept at most before they are collapsed: twice as many as may be left.
const MAX_KEPT: usize = 2 * MAX_ROWS;
/// No number.
const NONE: u32 = u32::MAX;

/// Rows in columns: the number of a group, and its sums. A column that is shorter than there are rows ends in zeros.
#[derive(Clone, Debug, Default)]
pub struct Columns {
    /// By row the number of its group.
    pub groups: Vec<u32>,
    /// By metric a column of sums.
    pub fields: [Vec<i64>; METRICS],
}

impl Columns {
    /// How many rows there are.
    pub fn len(&self) -> usize {
        self.groups.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    /// The sums of a row.
    pub fn sums(&self, row: usize) -> [i64; METRICS] {
        std::array::from_fn(|field| self.fields[field].get(row).copied().unwrap_or(0))
    }

    /// A metric's column from a row on, to which the sums of that row and those after it can be appended.
    pub fn column(&mut self, field: usize, from: usize) -> &mut Vec<i64> {
        let column = &mut self.fields[field];
        column.resize(from, 0);
        column
    }

    fn push(&mut self, group: u32, sums: &[i64; METRICS]) {
        let row = self.groups.len();
        self.groups.push(group);
        for (field, n) in sums.iter().enumerate().filter(|(_, n)| **n != 0) {
            self.column(field, row).push(*n);
        }
    }

    /// Appends other rows.
    pub fn append(&mut self, mut other: Columns) {
        if self.is_empty() {
            *self = other;
            return;
        }
        let from = self.groups.len();
        self.groups.append(&mut other.groups);
        for (field, column) in other.fields.iter_mut().enumerate() {
            if !column.is_empty() {
                self.column(field, from).append(column);
            }
        }
    }
}

/// Rows of one bucket that follow each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// The number of the bucket.
    pub bucket: u32,
    /// Its first row.
    pub from: u32,
    /// The row after its last one.
    pub to: u32,
}

/// Rows, and which of them are of which bucket.
#[derive(Clone, Debug, Default)]
pub struct Runs {
    /// The runs, in the order of their rows.
    pub runs: Vec<Run>,
    /// The rows.
    pub rows: Columns,
}

/// Sums of one bucket by group, which are gathered from several runs.
#[derive(Debug, Default)]
pub struct Gathered {
    is_touched: Vec<bool>,
    touched: Vec<u32>,
    fields: [Vec<i64>; METRICS],
    /// The places of the rows of the run that is being added.
    places: Vec<u32>,
}

impl Gathered {
    /// Nothing, for groups with numbers below `groups`.
    pub fn new(groups: usize) -> Self {
        Self {
            is_touched: vec![false; groups],
            ..Self::default()
        }
    }

    /// Adds the rows of a run; `number` says under which number a group of theirs stands.
    pub fn add(&mut self, rows: &Columns, run: &Run, number: impl Fn(u32) -> u32) {
        let (from, to) = (run.from as usize, run.to as usize);
        self.places.clear();
        for group in &rows.groups[from..to] {
            let place = number(*group);
            self.places.push(place);
            let touched = &mut self.is_touched[place as usize];
            if !*touched {
                *touched = true;
                self.touched.push(place);
            }
        }
        for (into, column) in self.fields.iter_mut().zip(&rows.fields) {
            let column = &column[from.min(column.len())..to.min(column.len())];
            if column.is_empty() {
                continue;
            }
            into.resize(self.is_touched.len(), 0);
            for (place, n) in self.places.iter().zip(column) {
                let sum = &mut into[*place as usize];
                *sum = sum.saturating_add(*n);
            }
        }
    }

    /// Touches every group: what has no sums is zero.
    pub fn touch_all(&mut self) {
        self.is_touched.fill(true);
        self.touched.clear();
        self.touched.extend(0..self.is_touched.len() as u32);
    }

    /// Appends the sums of every group that was touched, by its number, ascending; then nothing is gathered.
    pub fn drain(&mut self, out: &mut Columns) {
        let from = out.len();
        if self.touched.len() * 32 < self.is_touched.len() {
            self.touched.sort_unstable();
        } else {
            self.touched.clear();
            let touched = self.is_touched.iter().enumerate().filter(|(_, is)| **is);
            self.touched.extend(touched.map(|(place, _)| place as u32));
        }
        out.groups.extend_from_slice(&self.touched);
        for (field, sums) in self.fields.iter_mut().enumerate() {
            if sums.is_empty() {
                continue;
            }
            let taken = self
                .touched
                .iter()
                .map(|place| std::mem::take(&mut sums[*place as usize]));
            out.column(field, from).extend(taken);
        }
        for place in self.touched.drain(..) {
            self.is_touched[place as usize] = false;
        }
    }
}

/// Rows of a table under the numbers of another one.
#[derive(Debug)]
pub struct Numbered {
    /// The rows.
    pub runs: Runs,
    /// By the number of a bucket the other one.
    pub buckets: Vec<u32>,
    /// By the number of a group the other one.
    pub groups: Vec<u32>,
}

impl Numbered {
    /// Rows that keep their numbers, of so many buckets and groups.
    pub fn alike(runs: Runs, buckets: usize, groups: usize) -> Self {
        Self {
            runs,
            buckets: (0..buckets as u32).collect(),
            groups: (0..groups as u32).collect(),
        }
    }
}

/// Adds up what stands under the same bucket and group, of groups with numbers below `groups`. Runs come out in the order of
/// their buckets.
///
/// # Errors
/// [`TooManyRows`] when more than an answer may have are left.
pub fn collapsed(parts: &[Numbered], groups: usize) -> Result<Runs, TooManyRows> {
    let mut runs: Vec<(u32, u32, Run)> = Vec::new();
    for (at, part) in (0..).zip(parts) {
        let bucket = |run: &Run| part.buckets[run.bucket as usize];
        runs.extend(part.runs.runs.iter().map(|run| (bucket(run), at, *run)));
    }
    runs.sort_unstable_by_key(|(bucket, at, run)| (*bucket, *at, run.from));
    let (mut out, mut gathered) = (Runs::default(), Gathered::new(groups));
    for of_bucket in runs.chunk_by(|a, b| a.0 == b.0) {
        for (_, at, run) in of_bucket {
            let part = &parts[*at as usize];
            gathered.add(&part.runs.rows, run, |group| part.groups[group as usize]);
        }
        let from = out.rows.len() as u32;
        gathered.drain(&mut out.rows);
        if out.rows.len() > MAX_ROWS {
            return Err(TooManyRows);
        }
        out.runs.push(Run {
            bucket: of_bucket[0].0,
            from,
            to: out.rows.len() as u32,
        });
    }
    Ok(out)
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
        }
    }
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

    /// Sums of a bucket and group by their numbers, to which a cell can be added.
    ///
    /// # Errors
    /// [`TooManyRows`] when that makes one row too many.
    pub fn row(&mut self, bucket: u32, group: u32) -> Result<&mut [i64; METRICS], TooManyRows> {
        if self.open.bucket != bucket {
            self.close();
            self.make_room(0)?;
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

    /// Appends rows of a bucket, by the numbers of their groups, of which one may come several times. The sums are for
    /// the caller to append to the columns, from the row on that is answered.
    ///
    /// # Errors
    /// [`TooManyRows`] when there are too many already.
    pub fn append(
        &mut self,
        bucket: u32,
        groups: &[u32],
    ) -> Result<(usize, &mut Columns), TooManyRows> {
        self.make_room(groups.len())?;
        let Runs { runs, rows } = &mut self.runs;
        let from = rows.len();
        if !groups.is_empty() {
            rows.groups.extend_from_slice(groups);
            runs.push(Run {
                bucket,
                from: from as u32,
                to: rows.len() as u32,
            });
        }
        Ok((from, rows))
    }

    /// Puts the rows that cells were added to one by one beside the others.
    fn close(&mut self) {
        let Open {
            bucket,
            places,
            groups,
            sums,
        } = &mut self.open;
        let from = self.runs.rows.len() as u32;
        for (group, sums) in groups.drain(..).zip(sums.drain(..)) {
            places[group as usize] = NONE;
            self.runs.rows.push(group, &sums);
        }
        let to = self.runs.rows.len() as u32;
        if from < to {
            let bucket = *bucket;
            self.runs.runs.push(Run { bucket, from, to });
        }
    }

    fn make_room(&mut self, more: usize) -> Result<(), TooManyRows> {
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
        let Runs { runs, rows } = &self.runs;
        let buckets: Vec<u32> = runs
            .iter()
            .flat_map(|run| std::iter::repeat_n(run.bucket, (run.to - run.from) as usize))
            .collect();
        let rows = (0..rows.len()).map(move |row| (buckets[row], rows.groups[row], rows.sums(row)));
        Ok(rows)
    }
}

/// Adds sums to others, saturating.
pub fn add(into: &mut [i64; METRICS], sums: &[i64; METRICS]) {
    into.iter_mut()
        .zip(sums)
        .for_each(|(a, b)| *a = a.saturating_add(*b));
}
