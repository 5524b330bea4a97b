//! A statement from the state at a log time: the questions that analytics and fraud answer, asked of a whole month.

use std::collections::BTreeMap;
use std::ops::{ControlFlow, Range};

use adtally_projections::bounds::{Bound, print};
use adtally_projections::buckets::Granularity;
use adtally_projections::completeness::Producer;
use adtally_projections::family::Family;
use adtally_projections::month::Month;
use adtally_projections::partial::Dimension;
use adtally_projections::position::{POSITION_KEY, Position};
use adtally_projections::statement::{
    Counted, InvalidOf, Line, Statement, adjustments, decimal, minor_digits, sealed, to_minor,
    totals,
};
use adtally_streams::catalogue::{Catalogue, PricingModel};
use adtally_streams::id::Id;
use adtally_streams::time::{offset_at, to_rfc3339};
use async_nats::Client;
use chrono_tz::Tz;

use super::closed::Closed;
use super::history::History;
use super::{Asked, Document, StatementError};
use crate::query::analytics::{Question, Span, answer};
use crate::query::fraud;
use crate::query::scope::Subject;
use crate::query::shard::SnapshotSet;
use crate::query::stored::StoredRows;
use crate::query::{Cancel, QueryError};
use crate::replay::at::StateAt;

/// A statement that was computed.
pub struct Computed {
    /// It.
    pub statement: Statement,
    /// When its month is over.
    pub end_ms: i64,
    /// Who holds back what is complete, in words.
    pub holders: String,
    /// Up to when everything is complete.
    pub through_ms: Option<i64>,
}

impl Computed {
    /// As it is printed.
    pub fn document(&self) -> Document {
        Document {
            sealed: sealed(&self.statement),
            closed: None,
        }
    }
}

/// What a statement is computed from besides counts.
pub struct Ground {
    /// The catalogue and its history.
    pub history: History,
    /// What was closed before.
    pub closed: Closed,
    /// The log time; none for that of the state.
    pub as_of_ms: Option<i64>,
}

impl Ground {
    /// Reads what the broker has at or before a log time; everything without one.
    ///
    /// # Errors
    /// [`StatementError`] when it cannot be read.
    pub async fn read(
        client: &Client,
        as_of_ms: Option<i64>,
        advertiser: &Id,
    ) -> Result<Self, StatementError> {
        Ok(Self {
            closed: Closed::read(client, as_of_ms, advertiser).await?,
            history: History::read(client, as_of_ms, advertiser).await?,
            as_of_ms,
        })
    }
}

/// Computes a statement over the state at a log time.
///
/// # Errors
/// [`StatementError`] for an advertiser that the catalogue did not know, and when the state cannot be read.
pub fn at_state(
    state: &StateAt,
    ground: &Ground,
    asked: &Asked,
    cancel: &Cancel,
) -> Result<Computed, StatementError> {
    let mut shards = Vec::with_capacity(state.shards().len());
    for shard in state.shards() {
        shards.push(crate::query::shard::Shard {
            number: shard.number(),
            rows: Box::new(StoredRows::plain(shard.snapshot()?)),
        });
    }
    let set = SnapshotSet {
        generation: String::new(),
        shards,
        united: None,
    };
    compute(&set, ground, asked, cancel)
}

/// Whether a statement may be closed now.
///
/// # Errors
/// [`StatementError::NotOver`] and [`StatementError::Incomplete`].
pub fn fit_to_close(
    computed: &Computed,
    asked: &Asked,
    as_of_ms: i64,
) -> Result<(), StatementError> {
    let end_ms = computed.end_ms;
    if as_of_ms < end_ms {
        return Err(StatementError::NotOver {
            month: asked.month,
            advertiser: asked.advertiser.clone(),
            end_ms,
        });
    }
    if computed.through_ms.is_none_or(|through| through < end_ms) {
        return Err(StatementError::Incomplete {
            month: asked.month,
            through: computed.through_ms,
            end_ms,
            holders: computed.holders.clone(),
        });
    }
    Ok(())
}

/// Computes a statement over one snapshot of every shard.
pub(super) fn compute(
    set: &SnapshotSet<'_>,
    ground: &Ground,
    asked: &Asked,
    cancel: &Cancel,
) -> Result<Computed, StatementError> {
    let positions = positions(set)?;
    let log_time_ms = positions.values().map(|p| p.log_time_ms).max();
    let as_of_ms = ground.as_of_ms.or(log_time_ms).unwrap_or(0);
    let catalogue = &ground.history.catalogue;
    let known = catalogue.advertiser(asked.advertiser.as_str());
    let (zone, currency) = known
        .map(|a| (a.time_zone, a.currency_code))
        .ok_or_else(|| StatementError::NoAdvertiser {
            advertiser: asked.advertiser.clone(),
            as_of_ms,
        })?;
    let month = Counting {
        set,
        catalogue,
        advertiser: &asked.advertiser,
        zone,
        cancel,
    };
    let digits = minor_digits(currency);
    let lines = lines(&month, asked, ground, digits)?;
    let closed = ground.closed.statements();
    let mut earlier: Vec<Month> = closed.iter().map(|s| s.month).collect();
    earlier.retain(|earlier| *earlier < asked.month);
    earlier.sort_unstable();
    let mut adjusted = Vec::new();
    for earlier in earlier {
        let counted = month.of(earlier.extent(zone))?;
        adjusted.extend(adjustments(earlier, &counted, &closed, digits));
    }
    let extent = asked.month.extent(zone);
    let as_of = set.as_of()?;
    let through_ms = as_of.complete_through_ms;
    let statement = Statement {
        advertiser_id: asked.advertiser.clone(),
        month: asked.month,
        time_zone: zone.name().to_owned(),
        start: on_clock(extent.start, zone),
        end: on_clock(extent.end, zone),
        currency_code: currency,
        totals: totals(&lines, &adjusted, digits),
        lines,
        adjustments: adjusted,
        as_of: to_rfc3339(as_of_ms),
        complete_through: through_ms.map(to_rfc3339),
        positions: named(&positions, ground.history.sequence),
    };
    Ok(Computed {
        statement,
        holders: holders(set, extent.end)?,
        end_ms: extent.end,
        through_ms,
    })
}

fn on_clock(ms: i64, zone: Tz) -> String {
    print(ms, offset_at(zone, ms), zone)
}

fn named(positions: &BTreeMap<u16, Position>, catalogue: u64) -> BTreeMap<String, u64> {
    let events = positions
        .iter()
        .map(|(shard, position)| (format!("events.{shard}"), position.sequence));
    events.chain([("catalog".to_owned(), catalogue)]).collect()
}

/// The position of each shard; a shard before its first message has none.
fn positions(set: &SnapshotSet<'_>) -> Result<BTreeMap<u16, Position>, QueryError> {
    let mut positions = BTreeMap::new();
    for shard in &set.shards {
        let position = match shard.rows.get(Family::Meta, POSITION_KEY)? {
            Some(row) => Position::decode(&row)?,
            None => Position::start(0),
        };
        positions.insert(shard.number, position);
    }
    Ok(positions)
}

/// The producers that are not complete through `end_ms`, in words.
fn holders(set: &SnapshotSet<'_>, end_ms: i64) -> Result<String, QueryError> {
    let mut behind: BTreeMap<String, i64> = BTreeMap::new();
    let mut silent = Vec::new();
    for shard in &set.shards {
        let mut producers = 0;
        shard
            .rows
            .scan(Family::Completeness, &[], &[0xff], &mut |key, value| {
                let producer = Producer::decode(key, value)?;
                producers += 1;
                let through = producer.watermark.through_ms;
                // One that is drained holds nothing back unless all are, and then says how far it came.
                if through < end_ms {
                    let drained = if producer.watermark.drained {
                        ", drained"
                    } else {
                        ""
                    };
                    let name = format!("{} (epoch {}{drained})", producer.producer, producer.epoch);
                    let least = behind.entry(name).or_insert(through);
                    *least = through.min(*least);
                }
                Ok(ControlFlow::Continue(()))
            })?;
        if producers == 0 {
            silent.push(shard.number.to_string());
        }
    }
    if !silent.is_empty() {
        return Ok(format!(
            "no producer has written to shard {}",
            silent.join(", ")
        ));
    }
    let said = |(name, through): (&String, &i64)| format!("{name} is at {}", to_rfc3339(*through));
    Ok(behind.iter().map(said).collect::<Vec<_>>().join("; "))
}

/// What counts an advertiser's months.
struct Counting<'c> {
    set: &'c SnapshotSet<'c>,
    catalogue: &'c Catalogue,
    advertiser: &'c Id,
    zone: Tz,
    cancel: &'c Cancel,
}

impl Counting<'_> {
    fn span(&self, extent: &Range<i64>) -> Span {
        Span {
            start: Some(Bound::Instant(extent.start)),
            end: Some(Bound::Instant(extent.end)),
            now_ms: extent.end,
        }
    }

    /// What each campaign has in a stretch of whole civil days.
    fn of(&self, extent: Range<i64>) -> Result<BTreeMap<Id, Counted>, QueryError> {
        let subject = Subject {
            advertisers: [self.advertiser.clone()].into(),
            ..Subject::default()
        };
        let question = Question {
            granularity: Some(Granularity::Day),
            group_by: vec![Dimension::CampaignId],
            time_zone: Some(self.zone),
            ..Question::of(subject, self.span(&extent))
        };
        let found = answer(&question, || self.catalogue, self.set, self.cancel)?;
        let mut counted: BTreeMap<Id, Counted> = BTreeMap::new();
        for row in found.table.rows() {
            let name = found.table.group(&row).next().map_or("", |(_, name)| name);
            let campaign = Id::new(name).map_err(|_| {
                QueryError::from(adtally_projections::codec::Damaged { what: "campaign" })
            })?;
            let of = counted.entry(campaign).or_default();
            of.metrics.add(&row.metrics);
            let cost = row.metrics.cost_micros();
            if cost != 0 {
                *of.days.entry(found.table.slot(&row).key.at).or_default() += cost;
            }
        }
        Ok(counted)
    }

    /// Invalid clicks of a campaign, by reason.
    fn invalid(&self, campaign: &Id, extent: &Range<i64>) -> Result<Vec<InvalidOf>, QueryError> {
        let question = fraud::Question {
            subject: Subject {
                campaigns: [campaign.clone()].into(),
                ..Subject::default()
            },
            span: self.span(extent),
            reason: None,
        };
        let (_, sums) = fraud::sums(&question, || self.catalogue, self.set, self.cancel)?;
        let mut by_reason: BTreeMap<&str, InvalidOf> = BTreeMap::new();
        for ((reason, ..), sum) in &sums {
            let of = by_reason.entry(*reason).or_insert_with(|| InvalidOf {
                reason: (*reason).to_owned(),
                invalid_clicks: 0,
                cost_micros: 0,
            });
            of.invalid_clicks = of.invalid_clicks.saturating_add(sum.invalid_clicks);
            of.cost_micros = of.cost_micros.saturating_add(sum.cost_micros);
        }
        Ok(by_reason.into_values().collect())
    }
}

fn lines(
    month: &Counting<'_>,
    asked: &Asked,
    ground: &Ground,
    digits: u32,
) -> Result<Vec<Line>, StatementError> {
    let extent = asked.month.extent(month.zone);
    let mut lines = Vec::new();
    for (campaign_id, counted) in month.of(extent.clone())? {
        let metrics = counted.metrics;
        let invalid = match metrics.invalid_clicks() {
            0 => Vec::new(),
            _ => month.invalid(&campaign_id, &extent)?,
        };
        let pricing_model = month
            .catalogue
            .campaign(campaign_id.as_str())
            .map_or(PricingModel::Cpc, |campaign| campaign.pricing.model);
        let cost_micros = metrics.cost_micros();
        let budget = |day| ground.history.budget(&campaign_id, day, month.zone);
        lines.push(Line {
            over_delivery_micros: counted.over_delivery(budget),
            pricing_model,
            clicks: metrics.clicks(),
            impressions: (pricing_model == PricingModel::Cpm).then_some(metrics.impressions),
            cost_micros,
            amount: decimal(to_minor(cost_micros, digits), digits),
            invalid_clicks: metrics.invalid_clicks(),
            invalid_clicks_by_reason: invalid,
            campaign_id,
        });
    }
    Ok(lines)
}
