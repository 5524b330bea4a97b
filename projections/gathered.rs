//! Adding up rows of one bucket that stand in several runs, in an array with a place for each group.
//!
//! Invariant: what comes out has each group once, in the order of the groups' numbers, with the sum of all its rows. A
//! metric whose rows together could leave 64 bits is summed saturating, any other one without a look at each number.

use crate::metrics::METRICS;
use crate::partial::{MAX_ROWS, TooManyRows};
use crate::sums::{Columns, Run, Runs, fits};

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

/// The places of the groups of a part's runs, kept from one run to the next that has the same groups.
#[derive(Clone, Debug, Default)]
struct Places {
    /// Which of the part's numbers of groups they are of, and how many.
    of: Option<(u32, usize)>,
    places: Vec<u32>,
    /// Whether every group is among them.
    is_every: bool,
    /// Whether they ascend, so that no group comes twice.
    ascend: bool,
}

/// Sums of one bucket by group, which are gathered from several runs.
#[derive(Debug)]
pub struct Gathered {
    groups: usize,
    /// By metric, how far from zero any sum can come.
    reach: [u64; METRICS],
    /// By metric, by group.
    fields: [Vec<i64>; METRICS],
    is_touched: Vec<bool>,
    touched: Vec<u32>,
    /// Whether every group was touched, whatever the two before say.
    is_every: bool,
    /// By part.
    kept: Vec<Places>,
}

impl Gathered {
    /// Nothing, of runs of those parts, for groups with numbers below `groups`.
    pub fn new(groups: usize, parts: &[Numbered]) -> Self {
        let reach = |field| {
            let parts = parts.iter().map(|part| part.runs.rows.reach(field));
            parts.fold(0, u64::saturating_add)
        };
        Self {
            groups,
            reach: std::array::from_fn(reach),
            fields: std::array::from_fn(|_| Vec::new()),
            is_touched: vec![false; groups],
            touched: Vec::new(),
            is_every: false,
            kept: vec![Places::default(); parts.len()],
        }
    }

    /// Adds the rows of a run of the part of that number.
    pub fn add(&mut self, number: usize, part: &Numbered, run: &Run) {
        let (from, to) = (run.from as usize, run.to as usize);
        self.find_places(number, part, run);
        let kept = &self.kept[number];
        if kept.is_every {
            self.is_every = true;
        }
        if !self.is_every {
            for place in &kept.places {
                let touched = &mut self.is_touched[*place as usize];
                if !*touched {
                    *touched = true;
                    self.touched.push(*place);
                }
            }
        }
        for (field, into) in self.fields.iter_mut().enumerate() {
            let column = part.runs.rows.column(field);
            let column = &column[from.min(column.len())..to.min(column.len())];
            if column.is_empty() {
                continue;
            }
            into.resize(self.groups, 0);
            let rows = kept.places.iter().zip(column);
            match fits(self.reach[field]) {
                true => rows.for_each(|(place, n)| {
                    let sum = &mut into[*place as usize];
                    *sum = sum.wrapping_add(*n);
                }),
                false => rows.for_each(|(place, n)| {
                    let sum = &mut into[*place as usize];
                    *sum = sum.saturating_add(*n);
                }),
            }
        }
    }

    /// Appends the rows of a run as they are, where nothing is to be added up or put in order since it is the only run of
    /// its bucket and its groups ascend; `all` asks for a row of every group. Answers whether it did.
    pub fn copy(
        &mut self,
        (number, part, run): (usize, &Numbered, &Run),
        all: bool,
        (groups, rows): (&mut Vec<u32>, &mut Columns),
    ) -> bool {
        self.find_places(number, part, run);
        let kept = &self.kept[number];
        if !kept.ascend || (all && !kept.is_every) {
            return false;
        }
        let from = rows.len();
        groups.extend_from_slice(&kept.places);
        rows.grow(kept.places.len());
        for (field, reach) in self.reach.iter().enumerate() {
            rows.reach_at_least(field, *reach);
            let column = part.runs.rows.column(field);
            let end = column.len().min(run.to as usize);
            if let Some(column) = column.get(run.from as usize..end)
                && !column.is_empty()
            {
                rows.column_from(field, from, 0).extend_from_slice(column);
            }
        }
        true
    }

    fn find_places(&mut self, number: usize, part: &Numbered, run: &Run) {
        let kept = &mut self.kept[number];
        let groups = part.runs.groups_of(run);
        let of = Some((run.groups, groups.len()));
        if kept.of == of {
            return;
        }
        kept.of = of;
        kept.places.clear();
        let places = groups.iter().map(|group| part.groups[*group as usize]);
        kept.places.extend(places);
        kept.ascend = kept.places.is_sorted_by(|a, b| a < b);
        kept.is_every = groups.len() >= self.groups && {
            let mut is_there = vec![false; self.groups];
            for place in &kept.places {
                is_there[*place as usize] = true;
            }
            is_there.into_iter().all(|is| is)
        };
    }

    /// Touches every group: what has no sums is zero.
    pub fn touch_all(&mut self) {
        self.is_every = true;
    }

    /// Appends the number and the sums of every group that was touched, by its number, ascending; then nothing is
    /// gathered.
    pub fn drain(&mut self, groups: &mut Vec<u32>, rows: &mut Columns) {
        let from = rows.len();
        for (field, reach) in self.reach.iter().enumerate() {
            rows.reach_at_least(field, *reach);
        }
        if self.is_every {
            groups.extend(0..self.groups as u32);
            rows.grow(self.groups);
            for (field, sums) in self.fields.iter_mut().enumerate() {
                if !sums.is_empty() {
                    rows.column_from(field, from, 0).extend_from_slice(sums);
                    sums.fill(0);
                }
            }
        } else {
            self.sort_touched();
            groups.extend_from_slice(&self.touched);
            rows.grow(self.touched.len());
            for (field, sums) in self.fields.iter_mut().enumerate() {
                if sums.is_empty() {
                    continue;
                }
                let touched = self.touched.iter();
                let taken = touched.map(|place| std::mem::take(&mut sums[*place as usize]));
                rows.column_from(field, from, 0).extend(taken);
            }
        }
        self.is_every = false;
        for place in self.touched.drain(..) {
            self.is_touched[place as usize] = false;
        }
    }

    fn sort_touched(&mut self) {
        if self.touched.len() * 32 < self.groups {
            self.touched.sort_unstable();
            return;
        }
        self.touched.clear();
        let touched = self.is_touched.iter().enumerate().filter(|(_, is)| **is);
        self.touched.extend(touched.map(|(place, _)| place as u32));
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
    runs.sort_by_key(|(bucket, _, _)| *bucket);
    let (mut out, mut gathered) = (Runs::default(), Gathered::new(groups, parts));
    for of_bucket in runs.chunk_by(|a, b| a.0 == b.0) {
        for (_, at, run) in of_bucket {
            gathered.add(*at as usize, &parts[*at as usize], run);
        }
        let groups = out.groups.len();
        gathered.drain(&mut out.groups, &mut out.rows);
        if out.rows.len() > MAX_ROWS {
            return Err(TooManyRows);
        }
        out.close(of_bucket[0].0, groups);
    }
    Ok(out)
}
