//! Counts of the window that ends at each of the last minutes: exact, because they are sums of the same minutes
//! that analytics answers with.

use std::ops::Deref;

use adtally_projections::bounds::Bound;
use adtally_projections::buckets::Granularity;
use adtally_projections::metrics::Metrics;
use adtally_projections::ratios::Metric;
use adtally_projections::rolling::Windows;
use adtally_streams::catalogue::Catalogue;
use chrono_tz::Tz;

use super::analytics::{self, Question, Span};
use super::scope::Subject;
use super::shard::{AsOf, SnapshotSet};
use super::{Cancel, QueryError};

/// Windows and their sums.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The clock on which their ends are printed.
    pub zone: Tz,
    /// Each window's end and the impressions and clicks that it holds, ascending.
    pub rows: Vec<(i64, Metrics)>,
    /// Which state it is made of.
    pub as_of: AsOf,
}

/// Sums the windows of what the subject matches. `time_zone` is as for analytics.
///
/// # Errors
/// As for [`analytics::answer`].
pub fn answer<'c, C>(
    subject: Subject,
    windows: &Windows,
    time_zone: Option<Tz>,
    catalogue: impl FnOnce() -> C,
    set: &SnapshotSet<'_>,
    cancel: &Cancel,
) -> Result<Answer, QueryError>
where
    C: Deref<Target = Catalogue> + 'c,
{
    let span = windows.span();
    let question = Question {
        granularity: Some(Granularity::Minute),
        time_zone,
        metrics: [Metric::Impressions, Metric::Clicks].into_iter().collect(),
        ..Question::of(
            subject,
            Span {
                start: Some(Bound::Instant(span.start)),
                end: Some(Bound::Instant(span.end)),
                now_ms: span.end,
            },
        )
    };
    let counted = analytics::answer(&question, catalogue, set, cancel)?;
    let table = &counted.table;
    let minutes: Vec<(i64, Metrics)> = table
        .rows()
        .map(|row| (table.slot(&row).time_ms, row.metrics))
        .collect();
    Ok(Answer {
        zone: counted.plan.zone,
        rows: windows.sums(&minutes),
        as_of: counted.as_of,
    })
}
