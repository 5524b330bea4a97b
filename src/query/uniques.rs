//! How many distinct visitors clicked and were reached: sketches of whole civil days, united over days, campaigns
//! and shards.
//!
//! Invariant: a union is the same in whatever order it is made, so the answer does not depend on how campaigns and
//! visitors are spread over shards.

use std::ops::{ControlFlow, Deref};

use adtally_projections::buckets::Granularity;
use adtally_projections::family::Family;
use adtally_projections::plan::{Plan, Source};
use adtally_projections::sketch::{Estimate, Sketch};
use adtally_projections::uniques::{What, range};
use adtally_streams::catalogue::Catalogue;
use chrono_tz::Tz;

use super::analytics::Span;
use super::scope::{Scope, Subject};
use super::shard::{AsOf, SnapshotSet};
use super::{Cancel, QueryError};

/// How many there are.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The clock of the campaigns, whose days are counted.
    pub zone: Tz,
    /// The first instant that is counted, after widening to whole days.
    pub start_ms: i64,
    /// The instant after the last.
    pub end_ms: i64,
    /// Visitors who clicked.
    pub clickers: Estimate,
    /// Visitors who had an impression.
    pub reached: Estimate,
    /// Which state it is made of.
    pub as_of: AsOf,
}

/// Counts the distinct visitors of what the subject matches, over the whole civil days of a span.
///
/// # Errors
/// [`QueryError::Asked`] for campaigns of different time zones and for a range that ends before it begins; what
/// reading the state returns.
pub fn answer<'c, C>(
    subject: &Subject,
    span: &Span,
    catalogue: impl FnOnce() -> C,
    set: &SnapshotSet<'_>,
    cancel: &Cancel,
) -> Result<Answer, QueryError>
where
    C: Deref<Target = Catalogue> + 'c,
{
    let scope = Scope::resolve(subject, &catalogue(), set, cancel)?;
    let (zone, _) = scope.clock(None).map_err(|_| {
        let detail = "the campaigns are of different time zones, and visitors are counted by whole civil days; ask for each";
        QueryError::asked(Some("campaign_id"), detail)
    })?;
    let (start, end) = span.instants(zone)?;
    let plan = Plan::new(start, end, Granularity::Day, zone, Source::Civil)?;
    let day = |n: i64| n.clamp(i64::from(i32::MIN), i64::from(i32::MAX)) as i32;
    let (from, to) = (day(plan.days.start), day(plan.days.end));
    let mut sketches = What::ALL.map(|_| Sketch::default());
    for (shard, scope) in set.shards.iter().zip(&scope.shards) {
        for campaign in &scope.campaigns {
            for (what, sketch) in What::ALL.into_iter().zip(&mut sketches) {
                let (from, to) = range(*campaign, what, from, to);
                cancel.check()?;
                shard
                    .rows
                    .scan(Family::Uniques, &from, &to, &mut |_, value| {
                        sketch.merge(value)?;
                        Ok(ControlFlow::Continue(()))
                    })?;
            }
        }
    }
    let [reached, clickers] = sketches.map(|sketch| sketch.estimate());
    Ok(Answer {
        zone,
        start_ms: plan.start_ms,
        end_ms: plan.end_ms,
        clickers,
        reached,
        as_of: set.as_of()?,
    })
}
