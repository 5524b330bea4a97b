//! Counts by time and dimensions: resolve what is asked about, plan, sum every shard, merge.
//!
//! Which cells are read, and how, is in [`super::read`].

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use adtally_projections::bounds::Bound;
use adtally_projections::buckets::Granularity;
use adtally_projections::cuboid::Cuboid;
use adtally_projections::merged::Merged;
use adtally_projections::partial::{
    Dimension, Filter, Filters, Names, ShardSums, TooManyRows, device_name,
};
use adtally_projections::plan::{Plan, Source, default_granularity};
use adtally_projections::ratios::Chosen;
use adtally_projections::symbols::{Space, Symbol};
use adtally_projections::table::{Part, Table};
use adtally_streams::catalogue::Catalogue;
use adtally_streams::event::Device;
use adtally_streams::money::Currency;
use chrono_tz::Tz;
use rustc_hash::FxHashMap;
use serde::Serialize;

use super::read::{Levels, Read, Reader};
use super::scope::{Scope, ShardScope, Subject};
use super::shard::{AsOf, Help, Shard, SnapshotSet, threads};
use super::united::{self, Done};
use super::{Cancel, QueryError};

/// How long before `end` a range begins that names no start, in milliseconds.
pub const DEFAULT_RANGE_MS: i64 = 86_400_000;

/// The bounds of a question as they were asked for.
#[derive(Clone, Copy, Debug)]
pub struct Span {
    /// The first instant; [`DEFAULT_RANGE_MS`] before the end when absent.
    pub start: Option<Bound>,
    /// The instant after the last; now when absent.
    pub end: Option<Bound>,
    /// Now, in Unix milliseconds.
    pub now_ms: i64,
}

impl Span {
    /// The instants `(start, end)` on a clock.
    pub fn instants(&self, zone: Tz) -> Result<(i64, i64), QueryError> {
        let end = self.end.map_or(self.now_ms, |b| b.instant(zone));
        let start = self
            .start
            .map_or(end.saturating_sub(DEFAULT_RANGE_MS), |b| b.instant(zone));
        if start < end {
            return Ok((start, end));
        }
        let detail = match self.end {
            Some(_) => "`end` must be later than `start`",
            None => "`end` is now when it is left out, and must be later than `start`",
        };
        Err(QueryError::asked(Some("end"), detail))
    }
}

/// A question about counts.
#[derive(Clone, Debug)]
pub struct Question {
    /// What is counted.
    pub subject: Subject,
    /// When.
    pub span: Span,
    /// How finely; by the range when absent.
    pub granularity: Option<Granularity>,
    /// Distinct dimensions.
    pub group_by: Vec<Dimension>,
    /// What is counted of them: nothing else is read. It says nothing about which rows there are.
    pub metrics: Chosen,
    /// Creative variants that count; all when none is named.
    pub creatives: BTreeSet<String>,
    /// Regions that count, likewise.
    pub regions: BTreeSet<String>,
    /// Devices that count, likewise.
    pub devices: BTreeSet<Device>,
    /// The clock of the answer; the advertiser's when absent.
    pub time_zone: Option<Tz>,
    /// Whether buckets without events get a row.
    pub fill: bool,
}

impl Question {
    /// The smallest cuboid with everything that is grouped by and filtered.
    pub(super) fn cuboid(&self) -> Cuboid {
        let filtered = [
            (Dimension::AdId, !self.subject.ads.is_empty()),
            (Dimension::Creative, !self.creatives.is_empty()),
            (Dimension::Region, !self.regions.is_empty()),
            (Dimension::Device, !self.devices.is_empty()),
        ];
        let filtered = filtered.into_iter().filter(|(_, is)| *is).map(|(d, _)| d);
        Cuboid::covering(filtered.chain(self.group_by.iter().copied()))
    }

    /// A question about all that the subject has in a span: not grouped, not filtered, not filled.
    pub fn of(subject: Subject, span: Span) -> Self {
        Self {
            subject,
            span,
            granularity: None,
            group_by: Vec::new(),
            metrics: Chosen::ALL,
            creatives: BTreeSet::new(),
            regions: BTreeSet::new(),
            devices: BTreeSet::new(),
            time_zone: None,
            fill: false,
        }
    }
}

/// An answer about counts.
#[derive(Clone, Debug)]
pub struct Answer {
    /// How it was found.
    pub plan: Plan,
    /// Its rows.
    pub table: Table,
    /// What was counted; the other sums of the rows mean nothing.
    pub metrics: Chosen,
    /// The currency of its money.
    pub currency: Option<Currency>,
    /// Which state it is made of.
    pub as_of: AsOf,
    /// How much was read for it.
    pub read: Read,
    /// Which blocks were read.
    pub cuboid: Cuboid,
    /// How many campaigns matched.
    pub campaigns: usize,
    /// How long it took, in milliseconds.
    pub took_ms: f64,
}

/// Answers a question from one set of snapshots. `catalogue` is called once, and let go of before cells are read.
pub fn answer<'c, C>(
    question: &Question,
    catalogue: impl FnOnce() -> C,
    set: &SnapshotSet<'_>,
    cancel: &Cancel,
) -> Result<Answer, QueryError>
where
    C: std::ops::Deref<Target = Catalogue> + 'c,
{
    let began = Instant::now();
    let scope = Scope::resolve(&question.subject, &catalogue(), set, cancel)?;
    let currency = scope.currency()?;
    let (zone, source) = scope.clock(question.time_zone)?;
    let (start, end) = question.span.instants(zone)?;
    let granularity = question
        .granularity
        .unwrap_or_else(|| default_granularity(start, end));
    let plan = Plan::new(start, end, granularity, zone, source)?.within(&set.horizon()?)?;
    let (table, read) = count(question, &scope, &plan, set, cancel)?;
    let took_ms = began.elapsed().as_secs_f64() * 1_000.0;
    Ok(Answer {
        plan,
        table,
        metrics: question.metrics,
        currency,
        as_of: set.as_of()?,
        read,
        cuboid: question.cuboid(),
        campaigns: scope.len(),
        took_ms,
    })
}

/// Sums the cells of a plan over all shards, grouped, filtered and filled as the question says; its span,
/// granularity and clock are the plan's, which reads only what is kept ([`Plan::within`]).
pub(super) fn count(
    question: &Question,
    scope: &Scope,
    plan: &Plan,
    set: &SnapshotSet<'_>,
    cancel: &Cancel,
) -> Result<(Table, Read), QueryError> {
    let mut merged = (Merged::new(&question.group_by), Read::default());
    let mut done = Vec::new();
    if let Some(united) = united::read(question, scope, plan, set, cancel)? {
        let (sums, names) = united.sums;
        merged.0.add(sums, &names)?;
        merged.1.add(&united.read);
        done = united.done;
    }
    let merged = std::sync::Mutex::new(merged);
    let done = done.iter().map(Some).chain(std::iter::repeat(None));
    let of_shard = scope.shards.iter().zip(done);
    let by_number: FxHashMap<u16, (&ShardScope, Option<&Done>)> =
        set.shards.iter().map(|s| s.number).zip(of_shard).collect();
    set.each(|shard, help| {
        let (scope, done) = by_number[&shard.number];
        if scope.campaigns.is_empty() {
            return Ok(());
        }
        let (sums, names, read) = match shard.rows.elsewhere() {
            Some(there) => there.sums(scope, question, plan)?,
            None => part(shard, scope, question, plan, done, (cancel, help))?,
        };
        let mut merged = merged
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        merged.0.add(sums, &names)?;
        merged.1.add(&read);
        Ok(())
    })?;
    let (merged, read) = merged
        .into_inner()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    for (level, n) in [
        ("day", read.cells.day),
        ("hour", read.cells.hour),
        ("minute", read.cells.minute),
    ] {
        metrics::counter!("adtally_query_cells_read_total", "level" => level).increment(n);
    }
    Ok((finished(merged, plan, question.fill)?, read))
}

/// Sums of several shards from which on the table is made by several threads.
const MANY_ROWS: usize = 1 << 14;

fn finished(merged: Merged, plan: &Plan, fill: bool) -> Result<Table, QueryError> {
    let threads = match merged.rows() {
        MANY_ROWS.. if merged.is_of_several() => threads(plan.slots.len()),
        _ => 1,
    };
    let mut finish = merged.in_order(&plan.slots, fill)?;
    if let Some(part) = finish.taken() {
        return Ok(finish.table([part])?);
    }
    let ranges = finish.ranges(threads);
    let parts: Vec<Result<Part, TooManyRows>> = std::thread::scope(|scope| {
        let mut ranges = ranges.into_iter();
        let own = ranges.next().unwrap_or_default();
        let others: Vec<_> = ranges
            .map(|range| scope.spawn(|| finish.part(range)))
            .collect();
        let own = finish.part(own);
        let others = others.into_iter().map(|other| match other.join() {
            Ok(part) => part,
            Err(panic) => std::panic::resume_unwind(panic),
        });
        std::iter::once(own).chain(others).collect()
    });
    let parts = parts.into_iter().collect::<Result<Vec<_>, _>>()?;
    Ok(finish.table(parts)?)
}

/// A shard's part of an answer: its sums, and the names of their numbers. What is `done` is no part of it. `others` are whoever waits and whoever helps.
pub(super) fn part(
    shard: &Shard<'_>,
    scope: &ShardScope,
    question: &Question,
    plan: &Plan,
    done: Option<&Done>,
    others: (&Cancel, &Help<'_>),
) -> Result<(ShardSums, Names, Read), QueryError> {
    let (sums, read) = sum_shard(shard, scope, question, plan, done, others)?;
    let names = names(shard, &sums)?;
    Ok((sums, names, read))
}

fn sum_shard(
    shard: &Shard<'_>,
    scope: &ShardScope,
    question: &Question,
    plan: &Plan,
    done: Option<&Done>,
    others: (&Cancel, &Help<'_>),
) -> Result<(ShardSums, Read), QueryError> {
    let mut sums = ShardSums::of(&question.group_by, question.metrics.fields());
    sums.table().expect(plan.slots.len());
    let filters = filters(shard, scope, question)?;
    if filters.let_nothing_through() {
        return Ok((sums, Read::default()));
    }
    // An ad filter that is not the question's own is that of a scope confined to ads.
    let wanted = filters
        .dimensions()
        .chain(question.group_by.iter().copied());
    let cuboid = Cuboid::covering(wanted);
    let mut reader = Reader::new(shard, plan, &filters, (cuboid, done), sums, others);
    for campaign in &scope.campaigns {
        reader.campaign(*campaign)?;
    }
    Ok(reader.finish())
}

fn filters(
    shard: &Shard<'_>,
    scope: &ShardScope,
    question: &Question,
) -> Result<Filters, QueryError> {
    let numbers = |space: Space, names: &BTreeSet<String>| -> Result<Filter, QueryError> {
        if names.is_empty() {
            return Ok(None);
        }
        let known = names.iter().map(|name| shard.symbol(space, name));
        known
            .filter_map(Result::transpose)
            .collect::<Result<_, _>>()
            .map(Some)
    };
    let devices = || question.devices.iter().map(|d| *d as u32).collect();
    Ok(Filters {
        ad: scope.ads.as_ref().map(|ads| ads.iter().copied().collect()),
        creative: numbers(Space::Creative, &question.creatives)?,
        region: numbers(Space::Region, &question.regions)?,
        device: (!question.devices.is_empty()).then(devices),
    })
}

pub(super) fn names(shard: &Shard<'_>, sums: &ShardSums) -> Result<Names, QueryError> {
    let name = |dimension: Dimension, symbol: Symbol| -> Result<Arc<str>, QueryError> {
        match dimension.space() {
            Some(space) => shard.name(space, symbol),
            None => Ok(Arc::from(device_name(symbol))),
        }
    };
    let column = |(dimension, used): (Dimension, rustc_hash::FxHashSet<Symbol>)| {
        used.into_iter()
            .map(|symbol| Ok((symbol, name(dimension, symbol)?)))
            .collect::<Result<_, QueryError>>()
    };
    sums.symbols().into_iter().map(column).collect()
}

/// The plan as `explain` shows it.
#[derive(Clone, Debug, Serialize)]
pub struct Explained {
    /// The granularity, asked for or chosen.
    pub granularity: Granularity,
    /// Which cells could be read.
    pub source: Source,
    /// Buckets of the answer.
    pub buckets: usize,
    /// Campaigns that matched.
    pub campaigns: usize,
    /// Shards that were read.
    pub shards: usize,
    /// The cuboid whose blocks were read: the smallest with all dimensions that are grouped by or filtered.
    pub cuboid: Cuboid,
    /// What was counted: of blocks, only the columns that these need are read.
    pub metrics: Chosen,
    /// Cells that were read, by level, of blocks and of rows.
    pub cells_read: Levels,
    /// Blocks of sealed cells that were read, by level.
    pub blocks_read: Levels,
    /// Those of them that the cache had unpacked already, by level.
    pub blocks_cached: Levels,
    /// Blocks of several shards together that were read in place of as many of these, by level.
    pub blocks_united: Levels,
    /// Rows of cells that are not sealed and were read, by level.
    pub rows_read: Levels,
    /// Bytes of these blocks and rows, as they are stored.
    pub bytes_read: u64,
    /// Ranges that were read, by level.
    pub ranges: Ranges,
    /// How long it took, in milliseconds.
    pub took_ms: f64,
}

/// The ranges of a plan: civil days, labels of hours, and instants of minutes, half open.
#[derive(Clone, Debug, Serialize)]
pub struct Ranges {
    /// The first civil day and the one after the last.
    pub days: Option<[String; 2]>,
    /// Labels of hours, a range for every offset.
    pub hours: Vec<[String; 2]>,
    /// Whole hours of the advertiser's clock that are read in place of minutes that are not kept any more.
    pub whole_hours: Vec<[String; 2]>,
    /// Minutes.
    pub minutes: Vec<[String; 2]>,
}

impl Answer {
    /// How the answer was found.
    pub fn explain(&self) -> Explained {
        let plan = &self.plan;
        let date = |day: i64| {
            chrono::DateTime::from_timestamp(day * 86_400, 0)
                .unwrap_or_default()
                .format("%Y-%m-%d")
                .to_string()
        };
        let at =
            |ms: i64, offset_s: i32| adtally_projections::bounds::print(ms, offset_s, plan.zone);
        let utc = |ms: i64| adtally_projections::bounds::print(ms, 0, Tz::UTC);
        Explained {
            granularity: plan.granularity,
            source: plan.source,
            buckets: plan.slots.len(),
            campaigns: self.campaigns,
            shards: self.as_of.positions.len(),
            cuboid: self.cuboid,
            metrics: self.metrics,
            cells_read: self.read.cells,
            blocks_read: self.read.blocks,
            blocks_cached: self.read.cached,
            blocks_united: self.read.united,
            rows_read: self.read.rows,
            bytes_read: self.read.bytes,
            ranges: Ranges {
                days: (!plan.days.is_empty()).then(|| [date(plan.days.start), date(plan.days.end)]),
                hours: plan
                    .hours
                    .iter()
                    .map(|h| [at(h.from_ms, h.offset_s), at(h.to_ms, h.offset_s)])
                    .collect(),
                whole_hours: plan
                    .whole_hours
                    .iter()
                    .map(|h| [utc(h.start), utc(h.end)])
                    .collect(),
                minutes: plan
                    .minutes
                    .iter()
                    .map(|m| [utc(m.start), utc(m.end)])
                    .collect(),
            },
            took_ms: self.took_ms,
        }
    }
}
