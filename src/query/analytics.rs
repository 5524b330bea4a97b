//! Counts by time and dimensions: resolve what is asked about, plan, sum every shard, merge.
//!
//! The inner loop reads a cell's key and adds its stored value to the row of its bucket and group, without an
//! allocation a cell.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Instant;

use adtally_projections::bounds::Bound;
use adtally_projections::buckets::{BucketKey, Granularity};
use adtally_projections::cells::{self, Bucket, Grain};
use adtally_projections::partial::{
    Dimension, Filter, Filters, Merged, Names, ShardSums, Table, device_name,
};
use adtally_projections::plan::{Plan, Source, default_granularity};
use adtally_projections::symbols::{Space, Symbol};
use adtally_streams::catalogue::Catalogue;
use adtally_streams::event::Device;
use adtally_streams::money::Currency;
use chrono_tz::Tz;
use rustc_hash::FxHashMap;
use serde::{Deserialize, Serialize};

use super::scope::{Scope, ShardScope, Subject};
use super::shard::{AsOf, Shard, SnapshotSet};
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
    /// A question about all that the subject has in a span: not grouped, not filtered, not filled.
    pub fn of(subject: Subject, span: Span) -> Self {
        Self {
            subject,
            span,
            granularity: None,
            group_by: Vec::new(),
            creatives: BTreeSet::new(),
            regions: BTreeSet::new(),
            devices: BTreeSet::new(),
            time_zone: None,
            fill: false,
        }
    }
}

/// How much was read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CellsRead {
    /// Day cells.
    pub day: u64,
    /// Hour cells.
    pub hour: u64,
    /// Minute cells.
    pub minute: u64,
}

/// An answer about counts.
#[derive(Clone, Debug)]
pub struct Answer {
    /// How it was found.
    pub plan: Plan,
    /// Its rows.
    pub table: Table,
    /// The currency of its money.
    pub currency: Option<Currency>,
    /// Which state it is made of.
    pub as_of: AsOf,
    /// How much was read for it.
    pub cells: CellsRead,
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
    let plan = Plan::new(start, end, granularity, zone, source)?;
    let (table, cells) = count(question, &scope, &plan, set, cancel)?;
    let took_ms = began.elapsed().as_secs_f64() * 1_000.0;
    Ok(Answer {
        plan,
        table,
        currency,
        as_of: set.as_of()?,
        cells,
        campaigns: scope.len(),
        took_ms,
    })
}

/// Sums the cells of a plan over all shards, grouped, filtered and filled as the question says; its span,
/// granularity and clock are the plan's.
pub(super) fn count(
    question: &Question,
    scope: &Scope,
    plan: &Plan,
    set: &SnapshotSet<'_>,
    cancel: &Cancel,
) -> Result<(Table, CellsRead), QueryError> {
    let merged = std::sync::Mutex::new((Merged::new(&question.group_by), CellsRead::default()));
    let by_number: FxHashMap<u16, &ShardScope> = set
        .shards
        .iter()
        .map(|s| s.number)
        .zip(&scope.shards)
        .collect();
    set.each(|shard| {
        let scope = by_number[&shard.number];
        if scope.campaigns.is_empty() {
            return Ok(());
        }
        let (sums, names, cells) = match shard.rows.elsewhere() {
            Some(there) => there.sums(scope, question, plan)?,
            None => part(shard, scope, question, plan, cancel)?,
        };
        let mut merged = merged
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        merged.0.add(sums, &names)?;
        merged.1.day += cells.day;
        merged.1.hour += cells.hour;
        merged.1.minute += cells.minute;
        Ok(())
    })?;
    let (merged, cells) = merged
        .into_inner()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    for (level, n) in [
        ("day", cells.day),
        ("hour", cells.hour),
        ("minute", cells.minute),
    ] {
        metrics::counter!("adtally_query_cells_read_total", "level" => level).increment(n);
    }
    Ok((merged.finish(&plan.slots, question.fill)?, cells))
}

/// A shard's part of an answer: its sums, and the names of their numbers.
pub(super) fn part(
    shard: &Shard<'_>,
    scope: &ShardScope,
    question: &Question,
    plan: &Plan,
    cancel: &Cancel,
) -> Result<(ShardSums, Names, CellsRead), QueryError> {
    let (sums, cells) = sum_shard(shard, scope, question, plan, cancel)?;
    let names = names(shard, &sums)?;
    Ok((sums, names, cells))
}

fn sum_shard(
    shard: &Shard<'_>,
    scope: &ShardScope,
    question: &Question,
    plan: &Plan,
    cancel: &Cancel,
) -> Result<(ShardSums, CellsRead), QueryError> {
    let mut sums = ShardSums::new(&question.group_by);
    let mut read = CellsRead::default();
    let filters = filters(shard, scope, question)?;
    if filters.let_nothing_through() {
        return Ok((sums, read));
    }
    for campaign in &scope.campaigns {
        let mut range = |grain, from, to, place: &mut dyn FnMut(Bucket) -> Option<BucketKey>| {
            sum_range(
                shard,
                grain,
                cells::range(grain, *campaign, from, to),
                &filters,
                place,
                &mut sums,
                cancel,
            )
        };
        if !plan.days.is_empty() {
            read.day += range(
                Grain::Day,
                plan.days.start,
                plan.days.end,
                &mut |bucket| match bucket {
                    Bucket::Day(day) => Some(plan.place_day(i64::from(day))),
                    _ => None,
                },
            )?;
        }
        for hours in &plan.hours {
            read.hour += range(
                Grain::Hour,
                hours.from_ms / 1_000,
                hours.to_ms / 1_000,
                &mut |bucket| match bucket {
                    Bucket::Hour { start_s, offset_s } if offset_s == hours.offset_s => {
                        Some(plan.place_hour(start_s * 1_000, offset_s))
                    }
                    _ => None,
                },
            )?;
        }
        let mut hint = 0;
        for minutes in &plan.minutes {
            read.minute += range(
                Grain::Minute,
                minutes.start / 60_000,
                minutes.end / 60_000,
                &mut |bucket| match bucket {
                    Bucket::Minute(minute) => plan.place_minute(minute * 60_000, &mut hint),
                    _ => None,
                },
            )?;
        }
    }
    Ok((sums, read))
}

/// Adds the cells of a range of keys; how many were read.
fn sum_range(
    shard: &Shard<'_>,
    grain: Grain,
    (from, to): (Vec<u8>, Vec<u8>),
    filters: &Filters,
    place: &mut dyn FnMut(Bucket) -> Option<BucketKey>,
    sums: &mut ShardSums,
    cancel: &Cancel,
) -> Result<u64, QueryError> {
    let mut read = 0_u64;
    shard
        .rows
        .scan(grain.family(), &from, &to, &mut |key, value| {
            cells::each(grain, key, value, |cell, value| {
                read += 1;
                if read.is_multiple_of(CHECK_EVERY) {
                    cancel.check()?;
                }
                if filters.pass(cell)
                    && let Some(bucket) = place(cell.bucket)
                {
                    sums.add(bucket, cell, value)?;
                }
                Ok::<_, QueryError>(())
            })?;
            Ok(ControlFlow::Continue(()))
        })?;
    Ok(read)
}

/// After how many rows a scan looks whether anybody still waits for it.
pub const CHECK_EVERY: u64 = 4_096;

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

fn names(shard: &Shard<'_>, sums: &ShardSums) -> Result<Names, QueryError> {
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
    /// Cells that were read, by level.
    pub cells_read: CellsRead,
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
            cells_read: self.cells,
            ranges: Ranges {
                days: (!plan.days.is_empty()).then(|| [date(plan.days.start), date(plan.days.end)]),
                hours: plan
                    .hours
                    .iter()
                    .map(|h| [at(h.from_ms, h.offset_s), at(h.to_ms, h.offset_s)])
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
