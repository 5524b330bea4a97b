//! Invalid clicks: how many for which reason, and which ones, page by page.
//!
//! A page is picked by (time, ad, click), which is the same in every shard, so its cursor outlives a rebuild of
//! the state, where the shards' own numbers for names do not.

use std::collections::{BTreeMap, BinaryHeap};
use std::ops::ControlFlow;
use std::sync::Arc;

use adtally_projections::bounds::print;
use adtally_projections::buckets::MINUTE_MS;
use adtally_projections::family::Family;
use adtally_projections::symbols::{Space, Symbol};
use adtally_projections::verdicts::{
    Class, FraudClick, FraudSum, FraudSumKey, class_of, clicks_range, sums_range,
};
use adtally_streams::catalogue::Catalogue;
use adtally_streams::event::EdgeReason;
use adtally_streams::id::Id;
use adtally_streams::money::Currency;
use chrono_tz::Tz;
use rustc_hash::FxHashMap;

use super::analytics::Span;
use super::read::CHECK_EVERY;
use super::scope::{Scope, ShardScope, Subject};
use super::shard::{AsOf, Shard, SnapshotSet};
use super::{Cancel, QueryError};

/// How many clicks a page has when no limit is asked for.
pub const DEFAULT_LIMIT: usize = 100;
/// The most clicks of one page.
pub const MAX_LIMIT: usize = 1_000;

/// What of a range is asked for.
#[derive(Clone, Debug)]
pub struct Question {
    /// Whose clicks.
    pub subject: Subject,
    /// When they happened.
    pub span: Span,
    /// Only those of this reason.
    pub reason: Option<EdgeReason>,
}

/// What both answers say of themselves.
#[derive(Clone, Debug)]
pub struct Frame {
    /// The first instant that is counted.
    pub start_ms: i64,
    /// The instant after the last.
    pub end_ms: i64,
    /// The clock of the advertiser.
    pub zone: Tz,
    /// The currency of the money.
    pub currency: Option<Currency>,
    /// Which state the answer is made of.
    pub as_of: AsOf,
}

/// Sums by reason, revision of the rule, and class.
pub type Sums = BTreeMap<(&'static str, u32, &'static str), FraudSum>;

/// Sums the invalid clicks of whole UTC minutes by reason.
pub fn sums<C: std::ops::Deref<Target = Catalogue>>(
    question: &Question,
    catalogue: impl FnOnce() -> C,
    set: &SnapshotSet<'_>,
    cancel: &Cancel,
) -> Result<(Frame, Sums), QueryError> {
    let scope = Scope::resolve(&question.subject, &catalogue(), set, cancel)?;
    let mut frame = frame(question, &scope, set)?;
    frame.start_ms = frame.start_ms.div_euclid(MINUTE_MS) * MINUTE_MS;
    frame.end_ms = (frame.end_ms + MINUTE_MS - 1).div_euclid(MINUTE_MS) * MINUTE_MS;
    let mut sums = Sums::new();
    for (shard, scope) in set.shards.iter().zip(&scope.shards) {
        for campaign in &scope.campaigns {
            let (from, to) = sums_range(
                *campaign,
                frame.start_ms / MINUTE_MS,
                frame.end_ms / MINUTE_MS,
            );
            let mut read = 0;
            shard
                .rows
                .scan(Family::FraudSums, &from, &to, &mut |key, value| {
                    check(&mut read, cancel)?;
                    let key = FraudSumKey::decode(key)?;
                    if question.reason.is_none_or(|r| r == key.reason) {
                        let row = sums
                            .entry((key.reason.name(), key.revision, class_of(key.reason).name()))
                            .or_default();
                        add(row, &FraudSum::decode(value)?);
                    }
                    Ok(ControlFlow::Continue(()))
                })?;
        }
    }
    Ok((frame, sums))
}

/// Adds one sum to another.
pub fn add(into: &mut FraudSum, other: &FraudSum) {
    into.invalid_clicks = into.invalid_clicks.saturating_add(other.invalid_clicks);
    into.cost_micros = into.cost_micros.saturating_add(other.cost_micros);
}

fn check(read: &mut u64, cancel: &Cancel) -> Result<(), QueryError> {
    *read += 1;
    if read.is_multiple_of(CHECK_EVERY) {
        cancel.check()
    } else {
        Ok(())
    }
}

fn frame(question: &Question, scope: &Scope, set: &SnapshotSet<'_>) -> Result<Frame, QueryError> {
    let currency = scope.currency()?;
    let (zone, _) = scope.clock(None)?;
    let (start_ms, end_ms) = question.span.instants(zone)?;
    Ok(Frame {
        start_ms,
        end_ms,
        zone,
        currency,
        as_of: set.as_of()?,
    })
}

/// Where a page ends: its last click.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cursor {
    time_ms: i64,
    ad_id: String,
    click_id: String,
}

impl std::fmt::Display for Cursor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}.{}", self.time_ms, self.ad_id, self.click_id)
    }
}

impl std::str::FromStr for Cursor {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let mut parts = text.splitn(3, '.');
        let mut next = || parts.next().ok_or(());
        let time_ms = next()?.parse().map_err(|_| ())?;
        let id = |text: &str| {
            Id::new(text)
                .map(|id| id.as_str().to_owned())
                .map_err(|_| ())
        };
        Ok(Self {
            time_ms,
            ad_id: id(next()?)?,
            click_id: id(next()?)?,
        })
    }
}

/// An invalid click of a page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Click {
    /// Its place in the order of pages.
    pub at: Cursor,
    /// The campaign.
    pub campaign_id: String,
    /// Why it is invalid.
    pub reason: EdgeReason,
    /// Revision of the rule.
    pub revision: u32,
    /// Its class.
    pub class: Class,
    /// Its cost, which is not charged.
    pub cost_micros: i64,
}

impl Click {
    /// When it happened, RFC 3339 in UTC.
    pub fn time(&self) -> String {
        print(self.at.time_ms, 0, Tz::UTC)
    }

    /// The ad.
    pub fn ad_id(&self) -> &str {
        &self.at.ad_id
    }

    /// The click.
    pub fn click_id(&self) -> &str {
        &self.at.click_id
    }
}

impl PartialOrd for Click {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Click {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (&self.at, &self.campaign_id).cmp(&(&other.at, &other.campaign_id))
    }
}

/// One page of invalid clicks.
#[derive(Clone, Debug)]
pub struct Page {
    /// What it is a page of.
    pub frame: Frame,
    /// Its clicks, in order of time, ad and id.
    pub clicks: Vec<Click>,
    /// Where the next page goes on; none at the end.
    pub next: Option<Cursor>,
}

/// The `limit` clicks after a cursor.
pub fn page<C: std::ops::Deref<Target = Catalogue>>(
    question: &Question,
    after: Option<&Cursor>,
    limit: usize,
    catalogue: impl FnOnce() -> C,
    set: &SnapshotSet<'_>,
    cancel: &Cancel,
) -> Result<Page, QueryError> {
    let scope = Scope::resolve(&question.subject, &catalogue(), set, cancel)?;
    let frame = frame(question, &scope, set)?;
    // One more than the page, so that its end is known.
    let mut picker = Picker {
        reason: question.reason,
        start_ms: after.map_or(frame.start_ms, |c| c.time_ms.max(frame.start_ms)),
        end_ms: frame.end_ms,
        after,
        keep: limit + 1,
        first: BinaryHeap::with_capacity(limit + 2),
    };
    for (shard, scope) in set.shards.iter().zip(&scope.shards) {
        picker.take(shard, scope, cancel)?;
    }
    let mut clicks = picker.first.into_sorted_vec();
    let more = clicks.len() > limit;
    clicks.truncate(limit);
    let next = clicks.last().filter(|_| more).map(|click| click.at.clone());
    Ok(Page {
        frame,
        clicks,
        next,
    })
}

/// Keeps the least clicks of all that it is shown.
struct Picker<'q> {
    reason: Option<EdgeReason>,
    start_ms: i64,
    end_ms: i64,
    after: Option<&'q Cursor>,
    keep: usize,
    first: BinaryHeap<Click>,
}

impl Picker<'_> {
    /// Looks at a shard's clicks.
    fn take(
        &mut self,
        shard: &Shard<'_>,
        scope: &ShardScope,
        cancel: &Cancel,
    ) -> Result<(), QueryError> {
        let mut names: FxHashMap<Symbol, Arc<str>> = FxHashMap::default();
        for campaign in &scope.campaigns {
            let campaign_id = shard.name(Space::Campaign, *campaign)?;
            let (from, to) = clicks_range(*campaign, self.start_ms, self.end_ms);
            let mut read = 0;
            shard
                .rows
                .scan(Family::FraudClicks, &from, &to, &mut |key, value| {
                    check(&mut read, cancel)?;
                    let click = FraudClick::decode(key, value)?;
                    if self.is_past(&click) {
                        return Ok(ControlFlow::Break(()));
                    }
                    if self.reason.is_none_or(|r| r == click.reason) {
                        let ad = match names.get(&click.ad) {
                            Some(name) => name.clone(),
                            None => names
                                .entry(click.ad)
                                .or_insert(shard.name(Space::Ad, click.ad)?)
                                .clone(),
                        };
                        self.offer(click, &ad, &campaign_id);
                    }
                    Ok(ControlFlow::Continue(()))
                })?;
        }
        Ok(())
    }

    /// Whether neither this click nor a later one can be among the first any more; rows come in order of time.
    fn is_past(&self, click: &FraudClick) -> bool {
        self.first.len() >= self.keep
            && self
                .first
                .peek()
                .is_some_and(|last| click.event_time_ms > last.at.time_ms)
    }

    fn offer(&mut self, click: FraudClick, ad_id: &str, campaign_id: &str) {
        let at = Cursor {
            time_ms: click.event_time_ms,
            ad_id: ad_id.to_owned(),
            click_id: click.click_id,
        };
        if self.after.is_some_and(|cursor| at <= *cursor) {
            return;
        }
        self.first.push(Click {
            at,
            campaign_id: campaign_id.to_owned(),
            reason: click.reason,
            revision: click.revision,
            class: click.class,
            cost_micros: click.cost_micros,
        });
        if self.first.len() > self.keep {
            self.first.pop();
        }
    }
}
