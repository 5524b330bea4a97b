//! The ads whose last hour stands out: sums of three stretches of time over all shards, and the rule of
//! [`adtally_projections::trending`] over them.
//!
//! Invariant: the last hour, the past hours and what was before them are read from one snapshot and do not
//! overlap, so no click is compared with itself; an ad that is spread over shards is one ad before it is scored.

use std::collections::BTreeMap;
use std::ops::{Deref, Range};

use adtally_projections::buckets::{DAY_MS, Granularity, HOUR_MS, MINUTE_MS, hour_extent};
use adtally_projections::partial::Dimension;
use adtally_projections::plan::Plan;
use adtally_projections::ratios::Metric;
use adtally_projections::symbols::Space;
use adtally_projections::table::{Row, Table};
use adtally_projections::trending::{
    Counted, FIRST_EVENT_WITHIN_DAYS, MIN_CLICKS, PAST_HOURS, Trend, trends,
};
use adtally_streams::catalogue::Catalogue;
use chrono_tz::Tz;

use super::analytics::{Question, Span, count};
use super::scope::{Scope, Subject};
use super::shard::{AsOf, SnapshotSet};
use super::{Cancel, QueryError};

/// Ads that stand out.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The clock of the past hours.
    pub zone: Tz,
    /// The last full hour, in Unix milliseconds.
    pub last_hour: Range<i64>,
    /// The ads, the greatest score first.
    pub rows: Vec<Trend>,
    /// Which state it is made of.
    pub as_of: AsOf,
}

/// Finds the ads that stand out, at most `limit`. The last hour is the 60 minutes before the one that holds
/// `now_ms`; the past hours are whole hours of the answer's clock before it. `time_zone` is as for analytics.
///
/// # Errors
/// [`QueryError::Asked`] for advertisers of different time zones without `time_zone`, and for too many ads; what
/// reading the state returns.
pub fn answer<'c, C>(
    subject: Subject,
    now_ms: i64,
    time_zone: Option<Tz>,
    limit: usize,
    catalogue: impl FnOnce() -> C,
    set: &SnapshotSet<'_>,
    cancel: &Cancel,
) -> Result<Answer, QueryError>
where
    C: Deref<Target = Catalogue> + 'c,
{
    let mut scope = Scope::resolve(&subject, &catalogue(), set, cancel)?;
    let (zone, source) = scope.clock(time_zone)?;
    let span = Span {
        start: None,
        end: None,
        now_ms,
    };
    let question = Question {
        group_by: vec![Dimension::AdId, Dimension::CampaignId],
        metrics: [Metric::Impressions, Metric::Clicks].into_iter().collect(),
        ..Question::of(subject, span)
    };
    let horizon = set.horizon()?;
    let counted = |scope: &Scope, plan: &Plan| {
        count(&question, scope, plan, set, cancel).map(|(table, _)| table)
    };
    let end = now_ms.div_euclid(MINUTE_MS) * MINUTE_MS;
    let last_hour = end - HOUR_MS..end;
    let last = Plan::new(
        last_hour.start,
        last_hour.end,
        Granularity::Total,
        zone,
        source,
    )?
    .within(&horizon)?;
    let mut ads = candidates(&counted(&scope, &last)?);
    if !ads.is_empty() {
        confine_to(&mut scope, &ads, set, cancel)?;
        let past_end = hour_extent(zone, last_hour.start).start;
        let past_start = past_end - PAST_HOURS * HOUR_MS;
        let past = Plan::new(past_start, past_end, Granularity::Hour, zone, source)?;
        let past = past.within(&horizon)?;
        add_past(&mut ads, &counted(&scope, &past)?, &past);
        let before = past.start_ms - FIRST_EVENT_WITHIN_DAYS * DAY_MS;
        let before = Plan::new(before, past.start_ms, Granularity::Total, zone, source)?;
        let before = before.within(&horizon)?;
        let table = counted(&scope, &before)?;
        for row in table.rows() {
            if let Some(ad) = ads.get_mut(names(&table, &row).0) {
                ad.is_older = true;
            }
        }
    }
    Ok(Answer {
        zone,
        last_hour,
        rows: trends(ads.into_values(), limit),
        as_of: set.as_of()?,
    })
}

/// A row's ad and campaign.
fn names<'a>(table: &'a Table, row: &Row) -> (&'a str, &'a str) {
    let mut group = table.group(row).map(|(_, name)| name);
    (
        group.next().unwrap_or_default(),
        group.next().unwrap_or_default(),
    )
}

/// The ads that were clicked often enough to be mentioned, by their ids. An ad that was counted under several
/// campaigns is one ad, and is named with the campaign of most of its clicks.
fn candidates(table: &Table) -> BTreeMap<String, Counted> {
    let mut ads: BTreeMap<String, (i64, Counted)> = BTreeMap::new();
    for row in table.rows() {
        let (ad_id, campaign_id) = names(table, &row);
        let clicks = row.metrics.clicks();
        let (most, ad) = ads.entry(ad_id.to_owned()).or_insert_with(|| {
            let ad_id = ad_id.to_owned();
            let none = Counted {
                ad_id,
                ..Counted::default()
            };
            (i64::MIN, none)
        });
        ad.clicks = ad.clicks.saturating_add(clicks);
        ad.impressions = ad.impressions.saturating_add(row.metrics.impressions);
        if clicks > *most {
            *most = clicks;
            ad.campaign_id = campaign_id.to_owned();
        }
    }
    ads.into_iter()
        .filter(|(_, (_, ad))| ad.clicks >= MIN_CLICKS)
        .map(|(ad_id, (_, ad))| (ad_id, ad))
        .collect()
}

/// Leaves only these ads in a scope: those that nobody clicked on are most of an advertiser's, and their past is
/// not asked for.
fn confine_to(
    scope: &mut Scope,
    ads: &BTreeMap<String, Counted>,
    set: &SnapshotSet<'_>,
    cancel: &Cancel,
) -> Result<(), QueryError> {
    let numbers = set.each(|shard, _| {
        cancel.check()?;
        let known = shard.symbols(Space::Ad, ads.keys().map(String::as_str))?;
        Ok(known.into_iter().flatten().collect::<Vec<_>>())
    })?;
    for (shard, numbers) in scope.shards.iter_mut().zip(numbers) {
        shard.ads = Some(numbers);
    }
    Ok(())
}

/// Adds what the ads had in each of the past hours. An hour that a change of the clock cut short is left out: its
/// clicks are not those of 60 minutes.
fn add_past(ads: &mut BTreeMap<String, Counted>, table: &Table, plan: &Plan) {
    let places = whole_hours(plan);
    let hours = places.iter().flatten().count();
    for ad in ads.values_mut() {
        ad.past = vec![None; hours];
    }
    for row in table.rows() {
        let place = places.get(row.slot as usize).copied().flatten();
        if let (Some(place), Some(ad)) = (place, ads.get_mut(names(table, &row).0)) {
            let clicks = ad.past[place].unwrap_or(0);
            ad.past[place] = Some(clicks.saturating_add(row.metrics.clicks()));
        }
    }
}

/// For each of the plan's hours its place among those of 60 minutes; none for the others.
fn whole_hours(plan: &Plan) -> Vec<Option<usize>> {
    let (mut at, mut whole) = (plan.start_ms, 0);
    let place = |_| {
        let extent = hour_extent(plan.zone, at);
        at = extent.end;
        (extent.end - extent.start == HOUR_MS).then(|| {
            whole += 1;
            whole - 1
        })
    };
    plan.slots.iter().map(place).collect()
}
