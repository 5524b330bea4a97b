//! The sums of all shards, put together to the table of an answer's rows.
//!
//! Invariant: shards meet in sums and unions of names only, so their order does not matter. A bucket's rows are added up
//! by themselves, group by group in the order of the groups' names, so nothing is sorted row by row, and any buckets can
//! be made apart from the others.

use std::ops::Range;
use std::sync::Arc;

use rustc_hash::FxHashMap;

use crate::buckets::{BucketKey, Slot};
use crate::gathered::{Gathered, Numbered, collapsed};
use crate::metrics::{METRICS, Metrics};
use crate::partial::{DIMENSIONS, Dimension, MAX_ROWS, Names, ShardSums, TooManyRows};
use crate::sums::{Group, Run, Runs, add};
use crate::symbols::Symbol;
use crate::table::{Part, Table};

/// Rows of all shards that are kept before they are added up.
const MAX_KEPT: usize = 4 * MAX_ROWS;

/// The names that one dimension has in a table, numbered as they come.
#[derive(Clone, Debug, Default)]
pub(crate) struct Interner {
    numbers: FxHashMap<Arc<str>, u32>,
    names: Vec<Arc<str>>,
}

impl Interner {
    /// The names, in the order of their numbers.
    pub(crate) fn names(&self) -> &[Arc<str>] {
        &self.names
    }

    pub(crate) fn number(&mut self, name: &Arc<str>) -> u32 {
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
    names: Vec<Interner>,
    buckets: FxHashMap<BucketKey, u32>,
    bucket_keys: Vec<BucketKey>,
    groups: FxHashMap<Group, u32>,
    group_keys: Vec<Group>,
    /// Rows by the numbers here.
    parts: Vec<Numbered>,
}

impl Merged {
    /// Nothing yet, grouped by distinct dimensions.
    pub fn new(group_by: &[Dimension]) -> Self {
        Self {
            group_by: group_by.to_vec(),
            names: vec![Interner::default(); group_by.len()],
            buckets: FxHashMap::default(),
            bucket_keys: Vec::new(),
            groups: FxHashMap::default(),
            group_keys: Vec::new(),
            parts: Vec::new(),
        }
    }

    /// Adds a shard's sums. A number without a name in `names` stands under the empty name.
    ///
    /// # Errors
    /// [`TooManyRows`] when there are more than an answer may have.
    pub fn add(&mut self, shard: ShardSums, names: &Names) -> Result<(), TooManyRows> {
        let (runs, buckets, groups) = shard.into_table().into_runs();
        let nameless: Arc<str> = Arc::from("");
        let mut renumber = |at: usize, symbol: Symbol| {
            let name = names.get(at).and_then(|n| n.get(&symbol));
            self.names[at].number(name.unwrap_or(&nameless))
        };
        let mut known: Vec<FxHashMap<Symbol, u32>> =
            vec![FxHashMap::default(); self.group_by.len()];
        let mut own_groups = Vec::with_capacity(groups.len());
        for group in groups {
            let mut own = Group::default();
            for (at, known) in known.iter_mut().enumerate() {
                own[at] = *known
                    .entry(group[at])
                    .or_insert_with(|| renumber(at, group[at]));
            }
            let next = self.group_keys.len() as u32;
            own_groups.push(*self.groups.entry(own).or_insert_with(|| {
                self.group_keys.push(own);
                next
            }));
        }
        let bucket = |key: BucketKey| {
            *self.buckets.entry(key).or_insert_with(|| {
                self.bucket_keys.push(key);
                self.bucket_keys.len() as u32 - 1
            })
        };
        let buckets = buckets.into_iter().map(bucket).collect();
        if !runs.rows.is_empty() {
            self.parts.push(Numbered {
                runs,
                buckets,
                groups: own_groups,
            });
        }
        if self.rows() > MAX_KEPT {
            self.collapse()?;
        }
        Ok(())
    }

    /// How many rows there are, of which several may become one.
    pub fn rows(&self) -> usize {
        self.parts.iter().map(|part| part.runs.rows.len()).sum()
    }

    /// Whether rows of several shards meet, so that there is something to add up.
    pub fn is_of_several(&self) -> bool {
        self.parts.len() > 1
    }

    fn collapse(&mut self) -> Result<(), TooManyRows> {
        let groups = self.group_keys.len();
        let runs = collapsed(&self.parts, groups)?;
        self.parts = vec![Numbered::alike(runs, self.bucket_keys.len(), groups)];
        Ok(())
    }

    /// The table of all rows, sorted by time and then by the group's names. `fill` adds a row of zeros for every
    /// slot and every group that was seen, and, without grouping, for every slot.
    ///
    /// # Errors
    /// [`TooManyRows`] when there are more than an answer may have.
    pub fn finish(self, slots: &[Slot], fill: bool) -> Result<Table, TooManyRows> {
        let mut finish = self.in_order(slots, fill)?;
        let part = match finish.taken() {
            Some(part) => part,
            None => finish.part(0..finish.len())?,
        };
        finish.table([part])
    }

    /// Puts groups and buckets in order, so that parts of the table can be made, by several at once.
    ///
    /// # Errors
    /// [`TooManyRows`] when filling makes more than an answer may have.
    pub fn in_order(mut self, slots: &[Slot], fill: bool) -> Result<Finish, TooManyRows> {
        if fill && self.group_by.is_empty() && self.group_keys.is_empty() {
            self.group_keys.push(Group::default());
        }
        if fill && self.group_keys.len().saturating_mul(slots.len()) > MAX_ROWS {
            return Err(TooManyRows);
        }
        let by_name: Vec<Vec<u32>> = self.names.iter().map(|n| ranks(&n.names)).collect();
        let rank = |group: &Group| {
            let mut by = [0; DIMENSIONS];
            by.iter_mut()
                .zip(&by_name)
                .zip(group)
                .for_each(|((by, ranks), n)| *by = ranks[*n as usize]);
            by
        };
        let mut order: Vec<([u32; DIMENSIONS], u32)> =
            self.group_keys.iter().map(rank).zip(0..).collect();
        order.sort_unstable();
        let mut places = vec![0; order.len()];
        for (place, (_, group)) in (0..).zip(&order) {
            places[*group as usize] = place;
        }
        let slot_of: FxHashMap<BucketKey, u32> = slots.iter().map(|s| s.key).zip(0..).collect();
        let slot_of: Vec<u32> = self
            .bucket_keys
            .iter()
            .map(|bucket| slot_of.get(bucket).copied().unwrap_or(NOWHERE))
            .collect();
        for part in &mut self.parts {
            for group in &mut part.groups {
                *group = places[*group as usize];
            }
            for bucket in &mut part.buckets {
                *bucket = slot_of[*bucket as usize];
            }
        }
        let mut in_time: Vec<u32> = (0..slots.len() as u32).collect();
        in_time.sort_by_key(|slot| slots[*slot as usize].time_ms);
        Ok(Finish {
            group_by: self.group_by,
            names: self.names.into_iter().map(|n| n.names).collect(),
            groups: order
                .iter()
                .map(|(_, group)| self.group_keys[*group as usize])
                .collect(),
            slots: slots.to_vec(),
            in_time,
            fill,
            runs: BySlot::of(&self.parts, slots.len()),
            parts: self.parts,
        })
    }
}

/// Which runs are of which slot.
#[derive(Debug)]
struct BySlot {
    /// Where the runs of each slot begin, and where those begin that have none.
    begins: Vec<usize>,
    /// Runs by the number of their part, and theirs in it.
    runs: Vec<(u32, u32)>,
}

impl BySlot {
    /// Puts the runs of parts in the order of so many slots, each slot's in the order of parts.
    fn of(parts: &[Numbered], slots: usize) -> Self {
        let slot = |part: &Numbered, run: &Run| {
            let slot = part.buckets[run.bucket as usize] as usize;
            slot.min(slots)
        };
        let mut begins = vec![0; slots + 2];
        for part in parts {
            for run in &part.runs.runs {
                begins[slot(part, run) + 1] += 1;
            }
        }
        for slot in 0..=slots {
            begins[slot + 1] += begins[slot];
        }
        let mut next = begins.clone();
        let mut runs = vec![(0, 0); begins[slots + 1]];
        for (at, part) in (0..).zip(parts) {
            for (number, run) in (0..).zip(&part.runs.runs) {
                let place = &mut next[slot(part, run)];
                runs[*place] = (at, number);
                *place += 1;
            }
        }
        Self { begins, runs }
    }

    /// The runs of a slot; those without one stand behind the last.
    fn of_slot(&self, slot: usize) -> &[(u32, u32)] {
        &self.runs[self.begins[slot]..self.begins[slot + 1]]
    }
}

/// The slot of a bucket that the answer has none for.
const NOWHERE: u32 = u32::MAX;

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

/// Sums of all shards in the order of an answer's rows, of which parts can be made.
#[derive(Debug)]
pub struct Finish {
    group_by: Vec<Dimension>,
    names: Vec<Vec<Arc<str>>>,
    /// In the order of their names.
    groups: Vec<Group>,
    slots: Vec<Slot>,
    /// The slots in the order of their times.
    in_time: Vec<u32>,
    fill: bool,
    /// Rows by slots, and by the places of groups in `groups`.
    parts: Vec<Numbered>,
    runs: BySlot,
}

impl Finish {
    /// How many buckets there are.
    pub fn len(&self) -> usize {
        self.in_time.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.in_time.is_empty()
    }

    /// The rows of a range of buckets in the order of time. A range begins with another time than the bucket before it
    /// has.
    ///
    /// # Errors
    /// [`TooManyRows`] when there are more than an answer may have.
    pub fn part(&self, buckets: Range<usize>) -> Result<Part, TooManyRows> {
        let mut out = self.with_room(&buckets);
        let mut gathered = Gathered::new(self.groups.len(), &self.parts);
        let time = |slot: &u32| self.slots[*slot as usize].time_ms;
        for at_once in self.in_time[buckets].chunk_by(|a, b| time(a) == time(b)) {
            let from = out.runs.runs.len();
            for slot in at_once {
                self.bucket(*slot, &mut gathered, &mut out);
                if out.len() > MAX_ROWS {
                    return Err(TooManyRows);
                }
            }
            if at_once.len() > 1 {
                out.interleave(from);
            }
        }
        Ok(out)
    }

    /// All rows as one part, taken as they stand, where nothing is to be added up, filled or put in order: a large campaign
    /// whose blocks are united has its rows so, and to copy them takes longer than to make them.
    pub fn taken(&mut self) -> Option<Part> {
        let [only] = self.parts.as_slice() else {
            return None;
        };
        let times = only.runs.runs.iter().map(|run| {
            let slot = self.slots.get(only.buckets[run.bucket as usize] as usize)?;
            Some(slot.time_ms)
        });
        let times = times.collect::<Option<Vec<i64>>>()?;
        let is_whole = !self.fill || times.len() == self.slots.len();
        if !is_whole || !times.is_sorted_by(|a, b| a < b) {
            return None;
        }
        let mut checked = None;
        for run in &only.runs.runs {
            let groups = only.runs.groups_of(run);
            if checked == Some((run.groups, groups.len())) {
                continue;
            }
            checked = Some((run.groups, groups.len()));
            let place = |group: &u32| only.groups[*group as usize];
            let ascend = groups.is_sorted_by(|a, b| place(a) < place(b));
            if !ascend || (self.fill && groups.len() < self.groups.len()) {
                return None;
            }
        }
        let Numbered {
            mut runs,
            buckets,
            groups,
        } = self.parts.pop()?;
        for run in &mut runs.runs {
            run.bucket = buckets[run.bucket as usize];
        }
        for group in &mut runs.groups {
            *group = groups[*group as usize];
        }
        self.runs = BySlot::of(&[], self.slots.len());
        Some(Part { runs })
    }

    /// Ends of ranges of about equal work for so many, none in the middle of a time.
    pub fn ranges(&self, many: usize) -> Vec<Range<usize>> {
        let time = |at: usize| self.slots[self.in_time[at] as usize].time_ms;
        let mut ends: Vec<usize> = (1..=many).map(|n| self.len() * n / many.max(1)).collect();
        for end in &mut ends {
            while 0 < *end && *end < self.len() && time(*end - 1) == time(*end) {
                *end += 1;
            }
        }
        let begins = std::iter::once(0).chain(ends.clone());
        begins.zip(ends).map(|(from, to)| from..to).collect()
    }

    /// A part with room for the rows of some buckets.
    fn with_room(&self, buckets: &Range<usize>) -> Part {
        let rows = |slot: &u32| -> usize {
            let runs = self.runs.of_slot(*slot as usize).iter();
            let rows = runs.map(|(part, run)| {
                let run = &self.parts[*part as usize].runs.runs[*run as usize];
                (run.to - run.from) as usize
            });
            match self.fill {
                true => self.groups.len(),
                false => self.groups.len().min(rows.sum()),
            }
        };
        let rows: usize = self.in_time[buckets.clone()].iter().map(rows).sum();
        let rows = rows.min(MAX_ROWS);
        let mut out = Runs::default();
        out.runs.reserve(buckets.len());
        for field in 0..METRICS {
            let columns = self.parts.iter().map(|part| &part.runs.rows);
            if columns.clone().any(|rows| !rows.column(field).is_empty()) {
                out.rows.reserve(field, rows);
            }
        }
        Part { runs: out }
    }

    /// Appends the rows of a bucket.
    fn bucket(&self, slot: u32, gathered: &mut Gathered, out: &mut Part) {
        let of = |(at, run): &(u32, u32)| {
            let part = &self.parts[*at as usize];
            (*at as usize, part, &part.runs.runs[*run as usize])
        };
        let runs = self.runs.of_slot(slot as usize);
        let (from, first) = (out.runs.groups.len(), out.runs.rows.len() as u32);
        let to = (&mut out.runs.groups, &mut out.runs.rows);
        let copied = match runs {
            [only] => Some(of(only)).filter(|only| gathered.copy(*only, self.fill, to)),
            _ => None,
        };
        if let Some((_, part, run)) = copied {
            if let Some(origin) = part.runs.origins.of(run.from..run.to) {
                let rows = first..out.runs.rows.len() as u32;
                out.runs.origins.push(rows, origin);
            }
        } else {
            for (number, part, run) in runs.iter().map(of) {
                gathered.add(number, part, run);
            }
            if self.fill {
                gathered.touch_all();
            }
            gathered.drain(&mut out.runs.groups, &mut out.runs.rows);
        }
        out.runs.close(slot, from);
    }

    /// The table, of all its parts in order.
    ///
    /// # Errors
    /// [`TooManyRows`] when there are more than an answer may have.
    pub fn table(self, parts: impl IntoIterator<Item = Part>) -> Result<Table, TooManyRows> {
        let (mut all, mut begins, mut rows) = (Vec::new(), Vec::new(), 0);
        let mut totals = [0; METRICS];
        for part in parts {
            begins.push(rows);
            rows += part.len();
            add(
                &mut totals,
                &std::array::from_fn(|field| part.runs.rows.total(field)),
            );
            all.push(part);
        }
        if rows > MAX_ROWS {
            return Err(TooManyRows);
        }
        for (part, run) in self.runs.of_slot(self.slots.len()) {
            let runs = &self.parts[*part as usize].runs;
            let run = &runs.runs[*run as usize];
            for row in run.from..run.to {
                add(&mut totals, &runs.rows.sums(row as usize));
            }
        }
        Ok(Table {
            group_by: self.group_by,
            names: self.names,
            groups: self.groups,
            slots: self.slots,
            parts: all,
            begins,
            rows,
            totals: Metrics::from_fields(totals),
        })
    }
}
