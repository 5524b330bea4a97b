//! What a campaign has cost today and in all, beside its daily budget.

use adtally_projections::buckets::{day_number, day_start};
use adtally_projections::codec::Damaged;
use adtally_projections::family::Family;
use adtally_projections::ratios::pacing;
use adtally_projections::spend::{Spend, day_key, total_key};
use adtally_projections::symbols::Space;
use adtally_streams::catalogue::Catalogue;
use adtally_streams::id::Id;
use adtally_streams::money::Currency;
use adtally_streams::time::offset_at;
use chrono_tz::Tz;

use super::QueryError;
use super::shard::{AsOf, SnapshotSet};

/// A campaign as the catalogue has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Whose it is.
    pub advertiser_id: Id,
    /// The currency of its money.
    pub currency: Currency,
    /// The clock of its days.
    pub zone: Tz,
    /// What it may cost a day.
    pub daily_budget_micros: Option<i64>,
}

impl Budget {
    /// The campaign of that id; none when the catalogue does not know it.
    pub fn of(catalogue: &Catalogue, campaign: &Id) -> Option<Self> {
        let campaign = catalogue.campaign(campaign.as_str())?;
        let advertiser = catalogue.advertiser(campaign.advertiser_id.as_str())?;
        Some(Self {
            advertiser_id: campaign.advertiser_id.clone(),
            currency: advertiser.currency_code,
            zone: advertiser.time_zone,
            daily_budget_micros: campaign.daily_budget_micros,
        })
    }
}

/// What a campaign has cost.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The civil day that is today, as a day number.
    pub day: i64,
    /// Charged today.
    pub today_micros: i64,
    /// Charged in all.
    pub total_micros: i64,
    /// Today's cost over the daily budget; none without a budget.
    pub share: Option<f64>,
    /// See [`pacing`].
    pub pacing_multiplier: Option<f64>,
    /// Which state it is made of.
    pub as_of: AsOf,
}

/// Sums a campaign's spend over the shards.
///
/// # Errors
/// [`QueryError::NotFound`] for a campaign that neither the catalogue nor any shard knows.
pub fn answer(
    campaign: &Id,
    budget: Option<&Budget>,
    now_ms: i64,
    set: &SnapshotSet<'_>,
) -> Result<Answer, QueryError> {
    let zone = budget.map_or(Tz::UTC, |b| b.zone);
    let day = day_number(now_ms, offset_at(zone, now_ms));
    let stored_day = i32::try_from(day).map_err(|_| Damaged { what: "spend" })?;
    let mut known = budget.is_some();
    let (mut today, mut total) = (0i64, 0i64);
    for shard in &set.shards {
        let Some(symbol) = shard.symbol(Space::Campaign, campaign.as_str())? else {
            continue;
        };
        known = true;
        let cost = |key: &[u8]| match shard.rows.get(Family::Spend, key)? {
            Some(value) => Ok::<_, QueryError>(Spend::decode(&value)?.cost_micros()),
            None => Ok(0),
        };
        let mut key = Vec::with_capacity(9);
        day_key(&mut key, symbol, stored_day);
        today = today.saturating_add(cost(&key)?);
        key.clear();
        total_key(&mut key, symbol);
        total = total.saturating_add(cost(&key)?);
    }
    if !known {
        return Err(QueryError::NotFound(format!(
            "there is no campaign {campaign}, and nothing was counted under it"
        )));
    }
    let daily_budget = budget.and_then(|b| b.daily_budget_micros);
    let (begin, end) = (day_start(zone, day), day_start(zone, day + 1));
    Ok(Answer {
        day,
        today_micros: today,
        total_micros: total,
        share: daily_budget
            .filter(|b| *b > 0)
            .map(|b| today as f64 / b as f64),
        pacing_multiplier: pacing(today, daily_budget, now_ms - begin, end - begin),
        as_of: set.as_of()?,
    })
}
