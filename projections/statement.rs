//! Statements: what an advertiser owes for a civil month, line by line, and the hash that proves it.
//!
//! Invariant: a statement is a function of the counts at its positions, of the catalogue and of the statements that
//! were closed by then, and of nothing else; so anyone who folds the log to the same positions gets the same bytes.
//! Money is integer micros; each line is rounded once, to the currency's minor unit, half away from zero, and a
//! statement's amount is the sum of its rounded lines. A closed statement never changes: what becomes known later of
//! its month is an adjustment on the next one.

use std::collections::BTreeMap;

use adtally_streams::catalogue::PricingModel;
use adtally_streams::id::Id;
use adtally_streams::money::Currency;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::metrics::Metrics;
use crate::month::Month;

/// Digits of a minor unit where ISO 4217 has none, or does not know the currency: hundredths.
const USUAL_DIGITS: u32 = 2;
/// Digits of a micro.
const MICRO_DIGITS: u32 = 6;

/// How many decimals the amounts of a currency have (ISO 4217's minor unit).
pub fn minor_digits(currency: Currency) -> u32 {
    iso_currency::Currency::from_code(currency.as_str())
        .and_then(|known| known.exponent())
        .map_or(USUAL_DIGITS, u32::from)
        .min(MICRO_DIGITS)
}

/// Micros in whole minor units, rounded half away from zero.
pub fn to_minor(micros: i64, digits: u32) -> i64 {
    let unit = i128::from(10_u64.pow(MICRO_DIGITS - digits));
    let size = (i128::from(micros).abs() * 2 + unit) / (2 * unit);
    let size = i64::try_from(size).unwrap_or(i64::MAX);
    if micros < 0 { -size } else { size }
}

/// Minor units as a decimal number: `-12.05`.
pub fn decimal(minor: i64, digits: u32) -> String {
    let (sign, size) = (if minor < 0 { "-" } else { "" }, minor.unsigned_abs());
    if digits == 0 {
        return format!("{sign}{size}");
    }
    let unit = 10_u64.pow(digits);
    let width = digits as usize;
    format!("{sign}{}.{:0width$}", size / unit, size % unit)
}

/// Invalid clicks of one reason. Not charged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InvalidOf {
    /// The rule's name.
    pub reason: String,
    /// How many.
    pub invalid_clicks: i64,
    /// What they would have cost.
    pub cost_micros: i64,
}

/// What a campaign costs in the month.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// The campaign.
    pub campaign_id: Id,
    /// How it is paid for, as the catalogue has it at the statement's time: `cpc` or `cpm`.
    pub pricing_model: PricingModel,
    /// Valid clicks.
    pub clicks: i64,
    /// Valid impressions; none where clicks are paid for.
    pub impressions: Option<i64>,
    /// What it costs.
    pub cost_micros: i64,
    /// The same in the currency, rounded.
    pub amount: String,
    /// Clicks that are not charged.
    pub invalid_clicks: i64,
    /// Why they are not.
    pub invalid_clicks_by_reason: Vec<InvalidOf>,
    /// By how much the days of the month cost more than their daily budgets. Said, and charged.
    pub over_delivery_micros: i64,
}

/// What has become known of a closed month since it was put on a statement: a credit where it is below zero.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Adjustment {
    /// The closed month.
    pub month: Month,
    /// The campaign.
    pub campaign_id: Id,
    /// Valid clicks more than were put on statements.
    pub clicks: i64,
    /// Valid impressions, likewise.
    pub impressions: i64,
    /// Cost, likewise.
    pub cost_micros: i64,
    /// The same in the currency, rounded.
    pub amount: String,
}

/// The sums of a statement.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// Valid clicks of the lines.
    pub clicks: i64,
    /// Cost of the lines.
    pub cost_micros: i64,
    /// Cost of the adjustments.
    pub adjustments_micros: i64,
    /// What is owed: the sum of all rounded lines and adjustments.
    pub amount: String,
}

/// What an advertiser owes for a month.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Statement {
    /// The advertiser.
    pub advertiser_id: Id,
    /// The month.
    pub month: Month,
    /// The clock of the month, by its IANA name.
    pub time_zone: String,
    /// Its first instant.
    pub start: String,
    /// The instant after its last.
    pub end: String,
    /// The currency of all money.
    pub currency_code: Currency,
    /// A line for each campaign of which anything was counted, by its id.
    pub lines: Vec<Line>,
    /// By month and campaign.
    pub adjustments: Vec<Adjustment>,
    /// The sums.
    pub totals: Totals,
    /// The log time up to which it is made.
    pub as_of: String,
    /// Up to when everything that was answered is counted.
    pub complete_through: Option<String>,
    /// The last message of each stream that is in it.
    pub positions: BTreeMap<String, u64>,
}

/// What was counted of a campaign in a month.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// Its sums.
    pub metrics: Metrics,
    /// Cost of each civil day that has any, by day number.
    pub days: BTreeMap<i64, i64>,
}

impl Counted {
    /// By how much its days cost more than `budget` says of each.
    pub fn over_delivery(&self, budget: impl Fn(i64) -> Option<i64>) -> i64 {
        let over = |(day, cost): (&i64, &i64)| {
            budget(*day).map_or(0, |budget| cost.saturating_sub(budget).max(0))
        };
        self.days.iter().map(over).fold(0, i64::saturating_add)
    }
}

/// A campaign's place on a statement that was closed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Billed {
    clicks: i64,
    impressions: i64,
    cost_micros: i64,
}

impl Billed {
    fn add(&mut self, clicks: i64, impressions: i64, cost_micros: i64) {
        self.clicks = self.clicks.saturating_add(clicks);
        self.impressions = self.impressions.saturating_add(impressions);
        self.cost_micros = self.cost_micros.saturating_add(cost_micros);
    }
}

/// What differs between a closed month as it is counted now and as it stands on closed statements: its own, and the
/// adjustments of others.
pub fn adjustments(
    month: Month,
    counted: &BTreeMap<Id, Counted>,
    closed: &[Statement],
    digits: u32,
) -> Vec<Adjustment> {
    let mut billed: BTreeMap<&Id, Billed> = BTreeMap::new();
    for statement in closed {
        if statement.month == month {
            for line in &statement.lines {
                let impressions = line.impressions.unwrap_or(0);
                let of = billed.entry(&line.campaign_id).or_default();
                of.add(line.clicks, impressions, line.cost_micros);
            }
        }
        for a in statement.adjustments.iter().filter(|a| a.month == month) {
            let of = billed.entry(&a.campaign_id).or_default();
            of.add(a.clicks, a.impressions, a.cost_micros);
        }
    }
    let mut campaigns: Vec<&Id> = counted.keys().chain(billed.keys().copied()).collect();
    campaigns.sort_unstable();
    campaigns.dedup();
    // A line that says no impressions is one of clicks, and so is what is adjusted of it.
    let says_impressions = |campaign: &Id| {
        let own = closed.iter().filter(|s| s.month == month);
        let line = own
            .flat_map(|s| &s.lines)
            .find(|l| l.campaign_id == *campaign);
        line.is_none_or(|line| line.impressions.is_some())
    };
    let difference = |campaign: &Id| {
        let now = counted.get(campaign).map(|c| c.metrics).unwrap_or_default();
        let then = billed.get(campaign).copied().unwrap_or_default();
        let cost_micros = now.cost_micros().saturating_sub(then.cost_micros);
        let impressions = match says_impressions(campaign) {
            true => now.impressions.saturating_sub(then.impressions),
            false => 0,
        };
        Adjustment {
            month,
            campaign_id: campaign.clone(),
            clicks: now.clicks().saturating_sub(then.clicks),
            impressions,
            cost_micros,
            amount: decimal(to_minor(cost_micros, digits), digits),
        }
    };
    let differs = |a: &Adjustment| a.clicks != 0 || a.impressions != 0 || a.cost_micros != 0;
    campaigns
        .into_iter()
        .map(difference)
        .filter(differs)
        .collect()
}

/// The sums of lines and adjustments.
pub fn totals(lines: &[Line], adjustments: &[Adjustment], digits: u32) -> Totals {
    let sum = |all: &mut dyn Iterator<Item = i64>| all.fold(0, i64::saturating_add);
    let costs = || lines.iter().map(|line| line.cost_micros);
    let adjusted = || adjustments.iter().map(|a| a.cost_micros);
    let amount = sum(&mut costs()
        .chain(adjusted())
        .map(|micros| to_minor(micros, digits)));
    Totals {
        clicks: sum(&mut lines.iter().map(|line| line.clicks)),
        cost_micros: sum(&mut costs()),
        adjustments_micros: sum(&mut adjusted()),
        amount: decimal(amount, digits),
    }
}

/// A statement with its hash, as it is printed and as it is closed: one JSON object without white space, whose last
/// field `sha256` is the SHA-256 of the object without it.
pub fn sealed(statement: &Statement) -> Vec<u8> {
    let plain = serde_json::to_vec(statement).expect("texts and numbers have a JSON form");
    let hash = hash(&plain);
    let mut out = plain;
    // What was the object's end is now behind the hash.
    out.pop();
    out.extend_from_slice(format!(",\"sha256\":\"{hash}\"}}").as_bytes());
    out
}

/// Bytes that are no sealed statement.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadStatement {
    /// No JSON of that shape.
    #[error("it cannot be read: {0}")]
    Unreadable(String),
    /// The hash is another one.
    #[error("its hash is {said}, and that of its content is {found}")]
    OtherHash {
        /// What stands there.
        said: String,
        /// What it is.
        found: String,
    },
}

/// Reads what [`sealed`] wrote, and checks the hash.
///
/// # Errors
/// [`BadStatement`].
pub fn open(bytes: &[u8]) -> Result<Statement, BadStatement> {
    #[derive(Deserialize)]
    struct Sealed {
        #[serde(flatten)]
        statement: Statement,
        sha256: String,
    }
    let unreadable = |e: serde_json::Error| BadStatement::Unreadable(e.to_string());
    let Sealed { statement, sha256 } = serde_json::from_slice(bytes).map_err(unreadable)?;
    let tail = format!(",\"sha256\":\"{sha256}\"}}");
    let Some(head) = bytes.strip_suffix(tail.as_bytes()) else {
        return Err(BadStatement::Unreadable(
            "the hash is not its last field".into(),
        ));
    };
    let found = hash(&[head, b"}"].concat());
    if found != sha256 {
        return Err(BadStatement::OtherHash {
            said: sha256,
            found,
        });
    }
    Ok(statement)
}

fn hash(bytes: &[u8]) -> String {
    let digest = Sha256::digest(bytes);
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
#[path = "statement_tests.rs"]
mod tests;
