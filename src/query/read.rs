//! Reading a plan's cells of one shard: blocks where they are sealed, rows where they are not.
//!
//! Invariant: a span's cells are what its blocks and its rows add up to, read from one snapshot, so an answer is the
//! same whenever a span is sealed. Rows are looked for only where a marker says that there are some; a block that is
//! damaged is an error that names it, and never an answer.

use std::ops::{ControlFlow, Range};

use adtally_projections::block::{self, Block, BlockKey};
use adtally_projections::block_sums::BlockSums;
use adtally_projections::buckets::{BucketKey, HOUR_MS};
use adtally_projections::cell_list::CellList;
use adtally_projections::cells::{self, Bucket, Grain, RowKey};
use adtally_projections::cuboid::Cuboid;
use adtally_projections::family::Family;
use adtally_projections::partial::{Filters, PartialError, ShardSums};
use adtally_projections::plan::Plan;
use adtally_projections::sections::{OpenSection, Run, open_range};
use adtally_projections::spans::Span;
use adtally_projections::symbols::{Space, Symbol};
use serde::{Deserialize, Serialize};

use super::shard::{Help, Shard};
use super::united::Done;
use super::{Cancel, QueryError};

/// After how many cells a scan looks whether anybody still waits for it.
pub const CHECK_EVERY: u64 = 4_096;

/// A number for each level of buckets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Levels {
    /// Of days.
    pub day: u64,
    /// Of hours.
    pub hour: u64,
    /// Of minutes.
    pub minute: u64,
}

impl Levels {
    /// The number of a grain.
    pub fn of(&mut self, grain: Grain) -> &mut u64 {
        match grain {
            Grain::Day => &mut self.day,
            Grain::Hour => &mut self.hour,
            Grain::Minute => &mut self.minute,
        }
    }

    fn add(&mut self, other: &Levels) {
        self.day += other.day;
        self.hour += other.hour;
        self.minute += other.minute;
    }
}

/// How much was read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Read {
    /// Cells, of blocks and of rows.
    pub cells: Levels,
    /// Blocks.
    pub blocks: Levels,
    /// Those of them that were not unpacked, because the cache had them. Not told by an older process.
    #[serde(default)]
    pub cached: Levels,
    /// Blocks of several shards together that were read in place of theirs, which are counted above as well.
    #[serde(default)]
    pub united: Levels,
    /// Rows of cells that are not sealed.
    pub rows: Levels,
    /// Bytes of both, as they are stored.
    pub bytes: u64,
}

impl Read {
    /// Adds what another shard has read.
    pub fn add(&mut self, other: &Read) {
        self.cells.add(&other.cells);
        self.blocks.add(&other.blocks);
        self.cached.add(&other.cached);
        self.united.add(&other.united);
        self.rows.add(&other.rows);
        self.bytes += other.bytes;
    }
}

/// What a bucket of a cell belongs to; none when it is not asked for.
pub type PlaceBucket<'f> = &'f mut dyn FnMut(Bucket) -> Option<BucketKey>;

/// A stretch of one grain's cells: bucket numbers as [`cells::range`] takes them, and the spans that hold them.
#[derive(Clone, Copy, Debug)]
pub struct Stretch {
    /// Of which cells.
    pub grain: Grain,
    from: i64,
    to: i64,
    /// The first and the last of the spans.
    pub spans: (i32, i32),
}

impl Stretch {
    fn of_days(days: &Range<i64>) -> Self {
        let day = |n: i64| Bucket::Day(n.clamp(i32::MIN.into(), i32::MAX.into()) as i32);
        Self {
            grain: Grain::Day,
            from: days.start,
            to: days.end,
            spans: (span_of(day(days.start)), span_of(day(days.end - 1))),
        }
    }

    /// Hours of any clock of which some part lies between two instants: of the days beside them too.
    fn of_any_clock(instants: &Range<i64>) -> Self {
        let (from, to) = (instants.start / 1_000 - 3_600, instants.end / 1_000);
        let utc = |start_s| {
            span_of(Bucket::Hour {
                start_s,
                offset_s: 0,
            })
        };
        Self {
            grain: Grain::Hour,
            from,
            to,
            spans: (utc(from).saturating_sub(1), utc(to).saturating_add(1)),
        }
    }
}

/// Calls `each` with every stretch of days, hours and minutes that a plan reads, and with where their buckets go.
pub fn each_stretch(
    plan: &Plan,
    each: &mut dyn FnMut(&Stretch, PlaceBucket<'_>) -> Result<(), QueryError>,
) -> Result<(), QueryError> {
    if !plan.days.is_empty() {
        each(&Stretch::of_days(&plan.days), &mut |bucket| match bucket {
            Bucket::Day(day) if plan.days.contains(&i64::from(day)) => {
                Some(plan.place_day(i64::from(day)))
            }
            _ => None,
        })?;
    }
    for hours in &plan.hours {
        let (from, to, offset_s) = (hours.from_ms / 1_000, hours.to_ms / 1_000, hours.offset_s);
        let hour = |start_s| Bucket::Hour { start_s, offset_s };
        let stretch = Stretch {
            grain: Grain::Hour,
            from,
            to,
            spans: (span_of(hour(from)), span_of(hour(to - 1))),
        };
        each(&stretch, &mut |bucket| match bucket {
            Bucket::Hour { start_s, offset_s } => {
                let is_asked = offset_s == hours.offset_s && (from..to).contains(&start_s);
                is_asked.then(|| plan.place_hour(start_s * 1_000, offset_s))
            }
            _ => None,
        })?;
    }
    let mut hint = 0;
    for minutes in &plan.minutes {
        let (from, to) = (minutes.start / 60_000, minutes.end / 60_000);
        let minute = |n| span_of(Bucket::Minute(n));
        let stretch = Stretch {
            grain: Grain::Minute,
            from,
            to,
            spans: (minute(from), minute(to - 1)),
        };
        each(&stretch, &mut |bucket| match bucket {
            Bucket::Minute(minute) if (from..to).contains(&minute) => {
                plan.place_minute(minute * 60_000, &mut hint)
            }
            _ => None,
        })?;
    }
    Ok(())
}

/// The spans of a stretch that are not done, as few ranges as they are.
fn left(
    done: Option<&Done>,
    campaign: Symbol,
    cuboid: Cuboid,
    stretch: &Stretch,
) -> Vec<(i32, i32)> {
    let (grain, (first, last)) = (stretch.grain, stretch.spans);
    let Some(done) = done.filter(|done| !done.is_empty()) else {
        return vec![stretch.spans];
    };
    let mut out: Vec<(i32, i32)> = Vec::new();
    for number in first..=last {
        if done.contains(&(campaign, cuboid, Span { grain, number })) {
            continue;
        }
        match out.last_mut() {
            Some((_, end)) if *end + 1 == number => *end = number,
            _ => out.push((number, number)),
        }
    }
    out
}

fn span_of(bucket: Bucket) -> i32 {
    Span::of(bucket).number
}

/// Sums what a question asks of one shard.
pub struct Reader<'a> {
    shard: &'a Shard<'a>,
    plan: &'a Plan,
    filters: &'a Filters,
    cuboid: Cuboid,
    done: Option<&'a Done>,
    cancel: &'a Cancel,
    help: &'a Help<'a>,
    sums: ShardSums,
    blocks: BlockSums,
    read: Read,
}

impl<'a> Reader<'a> {
    /// Nothing read yet. What is `done` is not read of the plan's days, hours and minutes.
    pub fn new(
        shard: &'a Shard<'a>,
        plan: &'a Plan,
        filters: &'a Filters,
        (cuboid, done): (Cuboid, Option<&'a Done>),
        sums: ShardSums,
        (cancel, help): (&'a Cancel, &'a Help<'a>),
    ) -> Self {
        Self {
            shard,
            plan,
            filters,
            cuboid,
            done,
            cancel,
            help,
            sums,
            blocks: BlockSums::default(),
            read: Read::default(),
        }
    }

    /// The sums, and how much was read for them.
    pub fn finish(self) -> (ShardSums, Read) {
        (self.sums, self.read)
    }

    /// Adds a campaign's cells of the plan.
    pub fn campaign(&mut self, campaign: Symbol) -> Result<(), QueryError> {
        let plan = self.plan;
        let done = self.done;
        each_stretch(plan, &mut |stretch, place| {
            self.stretch(campaign, stretch, done, place)
        })?;
        self.whole_hours(campaign)?;
        self.gone(campaign)
    }

    fn whole_hours(&mut self, campaign: Symbol) -> Result<(), QueryError> {
        let plan = self.plan;
        for hours in &plan.whole_hours {
            let mut failed = None;
            self.stretch(
                campaign,
                &Stretch::of_any_clock(hours),
                None,
                &mut |bucket| {
                    let Bucket::Hour { start_s, .. } = bucket else {
                        return None;
                    };
                    let placed = plan.place_whole_hour(hours, start_s.saturating_mul(1_000));
                    placed.unwrap_or_else(|error| {
                        failed = Some(error);
                        None
                    })
                },
            )?;
            if let Some(error) = failed {
                return Err(error.into());
            }
        }
        Ok(())
    }

    /// Makes sure that nothing that passes the filters was where the plan's own cells are gone.
    fn gone(&mut self, campaign: Symbol) -> Result<(), QueryError> {
        let plan = self.plan;
        for gone in &plan.gone {
            let (part, days) = (&gone.part, plan.days_about(&gone.part));
            let stretch = match gone.told_by {
                Grain::Day => Stretch::of_days(&days),
                Grain::Hour | Grain::Minute => Stretch::of_any_clock(part),
            };
            let own = std::mem::replace(&mut self.sums, ShardSums::new(&[]));
            let told = self.stretch(campaign, &stretch, None, &mut |bucket| {
                let is_within = match bucket {
                    Bucket::Day(day) => days.contains(&i64::from(day)),
                    Bucket::Hour { start_s, .. } => {
                        let start_ms = start_s.saturating_mul(1_000);
                        start_ms < part.end && part.start < start_ms.saturating_add(HOUR_MS)
                    }
                    Bucket::Minute(_) => false,
                };
                is_within.then_some(BucketKey::TOTAL)
            });
            let mut found = std::mem::replace(&mut self.sums, own);
            told?;
            if !found.table().is_empty() {
                return Err(gone.refusal.clone().into());
            }
        }
        Ok(())
    }

    fn stretch(
        &mut self,
        campaign: Symbol,
        stretch: &Stretch,
        done: Option<&Done>,
        place: PlaceBucket<'_>,
    ) -> Result<(), QueryError> {
        if stretch.from >= stretch.to {
            return Ok(());
        }
        for run in self.open_runs(campaign, stretch)? {
            self.rows(campaign, run, stretch, place)?;
        }
        for cuboid in [self.cuboid, Cuboid::Few] {
            for spans in left(done, campaign, cuboid, stretch) {
                let left = Stretch { spans, ..*stretch };
                self.sealed(campaign, &left, cuboid, place)?;
            }
        }
        Ok(())
    }

    /// The sections of a stretch that have rows.
    fn open_runs(&self, campaign: Symbol, stretch: &Stretch) -> Result<Vec<Run>, QueryError> {
        let (from, to) = open_range(stretch.grain, campaign, stretch.from, stretch.to);
        let mut sections = Vec::new();
        let each = &mut |key: &[u8], _: &[u8]| {
            sections.push(OpenSection::decode(key)?.section);
            Ok(ControlFlow::Continue(()))
        };
        self.shard.rows.scan(Family::OpenSpans, &from, &to, each)?;
        Ok(Run::of(sections))
    }

    fn rows(
        &mut self,
        campaign: Symbol,
        run: Run,
        stretch: &Stretch,
        place: PlaceBucket<'_>,
    ) -> Result<(), QueryError> {
        let grain = stretch.grain;
        let (from, to) = run.range();
        let (from, to) = (from.max(stretch.from), to.min(stretch.to));
        if from >= to {
            return Ok(());
        }
        let (from, to) = cells::range(grain, campaign, from, to);
        let Self {
            shard,
            filters,
            cancel,
            help,
            sums,
            read,
            ..
        } = self;
        shard
            .rows
            .scan(grain.family(), &from, &to, &mut |key, value| {
                let row = RowKey::decode(grain, key)?;
                // Rows of another clock's hours lie among them.
                if !run.holds(row.bucket) {
                    return Ok(ControlFlow::Continue(()));
                }
                *read.rows.of(grain) += 1;
                read.bytes += (key.len() + value.len()) as u64;
                let Some(bucket) = place(row.bucket) else {
                    return Ok(ControlFlow::Continue(()));
                };
                for listed in CellList::of(value) {
                    let (at, stored) = listed?;
                    let cells = read.cells.of(grain);
                    *cells += 1;
                    if cells.is_multiple_of(CHECK_EVERY) {
                        cancel.check()?;
                        help.look();
                    }
                    let cell = row.cell(at);
                    if filters.pass(&cell) {
                        sums.add(bucket, &cell, stored)?;
                    }
                }
                Ok(ControlFlow::Continue(()))
            })
    }

    fn sealed(
        &mut self,
        campaign: Symbol,
        stretch: &Stretch,
        cuboid: Cuboid,
        place: PlaceBucket<'_>,
    ) -> Result<(), QueryError> {
        let (grain, (first, last)) = (stretch.grain, stretch.spans);
        let (from, to) = block::range(campaign, cuboid, first, last);
        let mut damaged: Option<(Option<Span>, String)> = None;
        let Self {
            shard,
            filters,
            cancel,
            help,
            sums,
            blocks,
            read,
            ..
        } = self;
        let scanned = shard
            .rows
            .scan(grain.blocks(), &from, &to, &mut |key, value| {
                cancel.check()?;
                help.look();
                *read.blocks.of(grain) += 1;
                read.bytes += value.len() as u64;
                let added = match shard.rows.unpacked(grain, key, value) {
                    Some(found) => found.map_err(PartialError::from).and_then(|found| {
                        *read.cached.of(grain) += u64::from(found.was_kept);
                        blocks.add(found.block(), filters, place, sums)
                    }),
                    None => Block::parse(grain, key, value)
                        .map_err(PartialError::from)
                        .and_then(|block| blocks.add(&block, filters, place, sums)),
                };
                match added {
                    Ok(cells) => *read.cells.of(grain) += cells,
                    Err(PartialError::Block(error)) => {
                        let span = BlockKey::decode(grain, key).ok().map(|key| key.span);
                        damaged = Some((span, error.to_string()));
                        return Ok(ControlFlow::Break(()));
                    }
                    Err(error) => return Err(error.into()),
                }
                Ok(ControlFlow::Continue(()))
            });
        // RocksDB has checksums of its own, and may find the damage first.
        let damaged = match scanned {
            Err(QueryError::Store(what)) => Some((None, what)),
            Err(error) => return Err(error),
            Ok(()) => damaged,
        };
        let Some((span, what)) = damaged else {
            return Ok(());
        };
        let number = self.shard.number;
        metrics::counter!("adtally_blocks_damaged_total", "shard" => number.to_string())
            .increment(1);
        let among = |number| Span { grain, number };
        Err(QueryError::Block {
            shard: number,
            campaign: self.shard.name(Space::Campaign, campaign)?.to_string(),
            span: span.map_or_else(
                || format!("{} to {}", among(first), among(last)),
                |span| span.to_string(),
            ),
            what,
        })
    }
}
