//! The projection of impressions and clicks into cells of all grains, and of these into spend.
//!
//! Invariant: what is written is the sum of the batch's events, row by row in the order of keys, which is how
//! RocksDB wants them. A batch's events are sorted by one number each, in which campaign, bucket, ad and place stand
//! as they do in keys, and summed in one pass; hours are summed from minutes and days from hours. That is several
//! times faster than a hash map of cells, which would not fit a processor's cache.

use adtally_streams::event::Kind;
use adtally_streams::names::LATE_AFTER_MS;
use rustc_hash::{FxHashMap, FxHashSet};

use crate::applied::{Applied, Projection};
use crate::cell_list::{ListWriter, Place};
use crate::cell_order::{Widths, bits};
use crate::cells::{Bucket, Grain};
use crate::counted::{Cell, Counted, Owner, Sum, each_row};
use crate::family::{Changes, Family, Op, Target};
use crate::metrics::encode_sums;
use crate::radix;
use crate::sections::{OpenSection, Section};
use crate::spend;
use crate::symbols::Symbol;

/// What one event adds.
#[derive(Clone, Copy, Debug)]
struct Addition {
    owner: u32,
    place: Place,
    time_s: i64,
    cost_micros: i64,
    is_click: bool,
    is_invalid: bool,
    is_late: bool,
}

impl Sum {
    fn of(a: &Addition) -> Self {
        let one = |yes: bool| u32::from(yes);
        Self {
            impressions: one(!a.is_click && !a.is_invalid),
            invalid_impressions: one(!a.is_click && a.is_invalid),
            gross_clicks: one(a.is_click),
            general_invalid_clicks: one(a.is_click && a.is_invalid),
            late_events: one(a.is_late),
            has_cost: a.cost_micros != 0,
            gross_cost_micros: a.cost_micros,
            cost_not_charged_micros: if a.is_invalid { a.cost_micros } else { 0 },
        }
    }
}

impl From<&Addition> for Cell {
    fn from(a: &Addition) -> Self {
        Cell {
            owner: a.owner,
            place: a.place,
            time_s: a.time_s,
            sum: Sum::of(a),
        }
    }
}

impl From<&Cell> for Cell {
    fn from(cell: &Cell) -> Self {
        *cell
    }
}

/// Ads of which it is remembered where they were last.
const MAX_HINTS: usize = 1 << 16;
/// Open sections that are remembered; past it they are forgotten, and their markers put once more.
const MAX_OPEN: usize = 1 << 18;

/// The projection. Between batches it is empty and keeps its memory.
#[derive(Debug, Default)]
pub struct CellSums {
    /// Sections whose markers are known to be there, so that they are put once and not with every batch.
    open: FxHashSet<OpenSection>,
    /// Sections that were marked since [`CellSums::take_opened`], with the offset of one of their cells.
    opened: Vec<(OpenSection, i32)>,
    known: FxHashMap<Owner, u32>,
    /// By ad, as far as symbols are low: where in `owners` it was last, which is mostly where it is.
    hints: Vec<u32>,
    owners: Vec<Owner>,
    additions: Vec<Addition>,
    /// The current frame's ad dictionary as places in `owners`.
    dictionary: Vec<u32>,
    /// Whether cells are kept here and no rows.
    keeps_cells: bool,
    counted: Counted,
}

impl Projection for CellSums {
    fn apply(&mut self, frame: &Applied<'_>) {
        let kind = frame.kind();
        if kind == Kind::Conversion {
            return;
        }
        self.dictionary.clear();
        for entry in frame.ads {
            let owner = Owner {
                campaign: entry.campaign,
                ad: entry.ad,
                offset_s: entry.utc_offset_s,
            };
            let place = self.place(owner);
            self.dictionary.push(place);
        }
        let f = frame.frame;
        for (at, creative) in frame.events.iter().zip(frame.creatives) {
            let at = *at as usize;
            let region = frame.regions[f.region[at] as usize];
            self.additions.push(Addition {
                owner: self.dictionary[f.ad[at] as usize],
                place: Place::new(*creative, region, f.device[at] as u8),
                time_s: f.event_time_ms[at].div_euclid(1_000),
                cost_micros: f.amount_micros[at],
                is_click: kind == Kind::Click,
                is_invalid: f.verdict[at].is_some(),
                is_late: f.arrival_ms[at].saturating_sub(f.event_time_ms[at]) > LATE_AFTER_MS,
            });
        }
    }

    fn finish(&mut self, out: &mut Changes) {
        if !self.additions.is_empty() {
            let order = Order::of(&self.owners, &self.additions);
            let minutes = order.summed(Grain::Minute, &self.additions);
            // Under an offset of no whole minutes, hours begin within a minute.
            let whole = self.owners.iter().all(|owner| owner.offset_s % 60 == 0);
            let hours = match whole {
                true => order.summed(Grain::Hour, &minutes),
                false => order.summed(Grain::Hour, &self.additions),
            };
            let days = order.summed(Grain::Day, &hours);
            order.write_spend(&days, out);
            let cells = [minutes, hours, days];
            if self.keeps_cells {
                let owners = self.owners.clone();
                self.counted = Counted { owners, cells };
            } else {
                if self.open.len() > MAX_OPEN {
                    self.open.clear();
                }
                for (grain, cells) in Grain::ALL.into_iter().zip(&cells) {
                    order.write(grain, cells, out);
                    order.mark(grain, cells, &mut self.open, &mut self.opened, out);
                }
            }
        }
        self.additions.clear();
        self.owners.clear();
        self.known.clear();
    }
}

impl CellSums {
    /// The place of an owner in `owners`.
    fn place(&mut self, owner: Owner) -> u32 {
        let ad = owner.ad as usize;
        let hint = self.hints.get(ad).copied().unwrap_or_default();
        if self.owners.get(hint as usize) == Some(&owner) {
            return hint;
        }
        let owners = &mut self.owners;
        let place = *self.known.entry(owner).or_insert_with(|| {
            owners.push(owner);
            owners.len() as u32 - 1
        });
        if ad < MAX_HINTS {
            if ad >= self.hints.len() {
                self.hints.resize(ad + 1, 0);
            }
            self.hints[ad] = place;
        }
        place
    }

    /// The sections that got their first rows since the last call, each with the offset of a cell's hours and days.
    pub fn take_opened(&mut self) -> Vec<(OpenSection, i32)> {
        std::mem::take(&mut self.opened)
    }

    /// From now on cells are for [`CellSums::take_counted`], and neither they nor their markers become rows.
    pub fn keep_cells(&mut self) {
        self.keeps_cells = true;
    }

    /// The cells of the last batch, where they are kept.
    pub fn take_counted(&mut self) -> Counted {
        std::mem::take(&mut self.counted)
    }

    /// A section's marker was taken away: its next row puts it again.
    pub fn forget(&mut self, sealed: &OpenSection) {
        self.open.remove(sealed);
    }
}

/// The order of a batch's cells.
struct Order<'a> {
    owners: &'a [Owner],
    /// Rank of each owner's campaign, and of the owner itself, among the batch's.
    ranks: Vec<(u32, u32)>,
    campaigns: u32,
    times_s: (i64, i64),
    offsets_s: (i32, i32),
    largest: (Symbol, Symbol),
}

impl<'a> Order<'a> {
    fn of(owners: &'a [Owner], additions: &[Addition]) -> Self {
        let mut sorted: Vec<u32> = (0..owners.len() as u32).collect();
        sorted.sort_unstable_by_key(|at| owners[*at as usize]);
        let mut ranks = vec![(0, 0); owners.len()];
        let mut campaigns = 0;
        for (rank, pair) in (0u32..).zip(sorted.windows(2)) {
            let campaign = |at: u32| owners[at as usize].campaign;
            campaigns += u32::from(campaign(pair[0]) != campaign(pair[1]));
            ranks[pair[1] as usize] = (campaigns, rank + 1);
        }
        let mut times_s = (i64::MAX, i64::MIN);
        let mut largest = (0, 0);
        for a in additions {
            times_s = (times_s.0.min(a.time_s), times_s.1.max(a.time_s));
            largest = (
                largest.0.max(a.place.creative()),
                largest.1.max(a.place.region()),
            );
        }
        let offsets = || owners.iter().map(|owner| owner.offset_s);
        Self {
            owners,
            ranks,
            campaigns: campaigns + 1,
            times_s,
            offsets_s: (offsets().min().unwrap_or(0), offsets().max().unwrap_or(0)),
            largest,
        }
    }

    /// The number of a bucket, counted from the Unix epoch on the grain's own clock.
    fn bucket(&self, grain: Grain, owner: u32, time_s: i64) -> i64 {
        let offset_s = || i64::from(self.owners[owner as usize].offset_s);
        match grain {
            Grain::Minute => time_s.div_euclid(60),
            Grain::Hour => (time_s + offset_s()).div_euclid(3_600),
            Grain::Day => (time_s + offset_s()).div_euclid(86_400),
        }
    }

    /// The first and the last bucket that the batch can have.
    fn buckets(&self, grain: Grain) -> (i64, i64) {
        let ((from, to), (low, high)) = (self.times_s, self.offsets_s);
        let (low, high) = (i64::from(low), i64::from(high));
        match grain {
            Grain::Minute => (from.div_euclid(60), to.div_euclid(60)),
            Grain::Hour => (
                (from + low).div_euclid(3_600),
                (to + high).div_euclid(3_600),
            ),
            Grain::Day => (
                (from + low).div_euclid(86_400),
                (to + high).div_euclid(86_400),
            ),
        }
    }

    /// Sums what is of one cell, in the order of campaign, bucket, ad and place.
    fn summed<T>(&self, grain: Grain, parts: &[T]) -> Vec<Cell>
    where
        for<'p> Cell: From<&'p T>,
        T: Located,
    {
        let (first, last) = self.buckets(grain);
        let widths = Widths {
            region: bits(u64::from(self.largest.1)),
            creative: bits(u64::from(self.largest.0)),
            owner: bits(self.owners.len() as u64 - 1),
            bucket: bits((last - first) as u64),
        };
        let located = |part: &T| {
            let (owner, place, time_s) = part.located();
            let (campaign, rank) = self.ranks[owner as usize];
            let bucket = (self.bucket(grain, owner, time_s) - first) as u64;
            (campaign, bucket, rank, place)
        };
        let key_bits = widths.sum() + bits(u64::from(self.campaigns - 1));
        let place_bits = bits(parts.len() as u64);
        if key_bits + place_bits <= u64::BITS {
            let packed = (0u64..).zip(parts);
            let packed = packed.map(|(at, part)| widths.pack(located(part)) << place_bits | at);
            let mut order: Vec<u64> = packed.collect();
            radix::sort(&mut order, place_bits, place_bits + key_bits);
            let place = |packed: u64| packed as u32 & ((1u64 << place_bits) - 1) as u32;
            let order = order.into_iter().map(|p| (p >> place_bits, place(p)));
            sum_in_order(parts, order)
        } else {
            // Names or times that lie far apart: the same order without the packing.
            let mut order: Vec<_> = parts.iter().map(located).zip(0..).collect();
            order.sort_unstable();
            sum_in_order(parts, order.into_iter())
        }
    }

    fn write(&self, grain: Grain, cells: &[Cell], out: &mut Changes) {
        each_row(self.owners, grain, cells, |key, cells| {
            out.push_with(
                Target::Family(grain.family()),
                Op::Merge,
                |k| key.encode(k),
                |v| {
                    let mut list = ListWriter::default();
                    for cell in cells {
                        list.push(v, cell.place, |v| encode_sums(&cell.sum.fields(), v));
                    }
                },
            );
        });
    }
}

impl Order<'_> {
    /// Puts the markers of the cells' sections, see [`OpenSection`].
    fn mark(
        &self,
        grain: Grain,
        cells: &[Cell],
        open: &mut FxHashSet<OpenSection>,
        opened: &mut Vec<(OpenSection, i32)>,
        out: &mut Changes,
    ) {
        let mut last = None;
        for cell in cells {
            let owner = &self.owners[cell.owner as usize];
            let section = OpenSection {
                campaign: owner.campaign,
                section: Section::of(Bucket::of(grain, cell.time_s, owner.offset_s)),
            };
            // Cells are sorted by campaign and bucket.
            if last == Some(section) {
                continue;
            }
            last = Some(section);
            if open.insert(section) {
                opened.push((section, owner.offset_s));
                out.put(Family::OpenSpans, |k| section.encode(k), |_| ());
            }
        }
    }

    /// What the campaigns' days cost, from the cells of days, which are sorted by campaign and day first.
    fn write_spend(&self, days: &[Cell], out: &mut Changes) {
        let campaign = |cell: &Cell| self.owners[cell.owner as usize].campaign;
        for of_campaign in days.chunk_by(|a, b| campaign(a) == campaign(b)) {
            let mut spent: Vec<(i32, [i64; 2])> = Vec::new();
            for cell in of_campaign.iter().filter(|cell| cell.sum.has_cost) {
                let day = self.bucket(Grain::Day, cell.owner, cell.time_s) as i32;
                let sum = [cell.sum.gross_cost_micros, cell.sum.cost_not_charged_micros];
                match spent.last_mut() {
                    Some((last, sums)) if *last == day => {
                        *sums = [0, 1].map(|i| sums[i].saturating_add(sum[i]));
                    }
                    _ => spent.push((day, sum)),
                }
            }
            if !spent.is_empty() {
                spend::add(out, campaign(&of_campaign[0]), &spent);
            }
        }
    }
}

/// Something that belongs to a cell.
trait Located {
    /// Its owner, place and time.
    fn located(&self) -> (u32, Place, i64);
}

impl Located for Addition {
    fn located(&self) -> (u32, Place, i64) {
        (self.owner, self.place, self.time_s)
    }
}

impl Located for Cell {
    fn located(&self) -> (u32, Place, i64) {
        (self.owner, self.place, self.time_s)
    }
}

/// Sums what has equal keys; the order is that of the keys, each with its place among the parts.
fn sum_in_order<T, K: PartialEq>(
    parts: &[T],
    order: impl ExactSizeIterator<Item = (K, u32)>,
) -> Vec<Cell>
where
    for<'p> Cell: From<&'p T>,
{
    let mut out: Vec<Cell> = Vec::with_capacity(order.len());
    let mut last = None;
    for (key, at) in order {
        let part = Cell::from(&parts[at as usize]);
        match out.last_mut() {
            Some(cell) if last.as_ref() == Some(&key) => cell.sum.add(&part.sum),
            _ => out.push(part),
        }
        last = Some(key);
    }
    out
}

#[cfg(test)]
#[path = "cell_sums_tests.rs"]
mod tests;
