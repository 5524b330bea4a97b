//! The texts of a dump's rows besides cells and ids.
//!
//! Invariant: a text is made of names and numbers that mean something outside the shard, and of all that the row holds.

use sha2::{Digest, Sha256};

use crate::codec::Damaged;
use crate::completeness::Producer;
use crate::conversions::{ConversionKey, ConversionSum};
use crate::directory::{self, Fact};
use crate::dump::hexadecimal;
use crate::dump_line::id_text;
use crate::dump_names::Names;
use crate::family::Family;
use crate::ids::IdKey;
use crate::incidents::{BadFrame, Conflict};
use crate::ledger::{self, Intervals};
use crate::line_hash::device;
use crate::position::{POSITION_KEY, Position};
use crate::sketch::Sketch;
use crate::spend::{self, Spend};
use crate::symbols::{Space, Symbol};
use crate::totals::{self, Totals};
use crate::uniques::UniquesKey;
use crate::verdicts::{FraudClick, FraudSum, FraudSumKey};

/// The text of a row; none where the row has none of its own.
///
/// # Errors
/// [`Damaged`] when the row cannot be read.
pub(crate) fn text_of(
    names: &Names,
    family: Family,
    key: &[u8],
    value: &[u8],
) -> Result<Option<String>, Damaged> {
    Ok(Some(match family {
        // See `dump::is_apart`.
        Family::Symbols
        | Family::Uniques
        | Family::CellsMinute
        | Family::CellsHour
        | Family::CellsDay
        | Family::OpenSpans
        | Family::BlocksMinute
        | Family::BlocksHour
        | Family::BlocksDay => return Ok(None),
        Family::Meta => match key {
            POSITION_KEY => format!("position {:?}", Position::decode(value)?),
            _ => return Ok(None),
        },
        Family::Spend | Family::Conversions | Family::Totals => sums(names, family, key, value)?,
        Family::FraudSums | Family::FraudClicks => verdicts(names, family, key, value)?,
        Family::Ledger | Family::Completeness | Family::Conflicts | Family::BadFrames => {
            of_frames(names, family, key, value)?
        }
        Family::Directory => directory(names, key, value)?,
    }))
}

/// What is summed besides cells.
fn sums(names: &Names, family: Family, key: &[u8], value: &[u8]) -> Result<String, Damaged> {
    Ok(match family {
        Family::Spend => {
            let (campaign, day) = spend::decode_key(key)?;
            let campaign = names.of(Space::Campaign, campaign);
            format!("spend {campaign} {day:?} {:?}", Spend::decode(value)?)
        }
        Family::Conversions => {
            let ConversionKey {
                advertiser,
                day,
                currency,
            } = ConversionKey::decode(key)?;
            let sum = ConversionSum::decode(value)?;
            format!(
                "conversions {} day={day} {currency:?} {sum:?}",
                names.of(Space::Advertiser, advertiser)
            )
        }
        _ => {
            let kind = totals::decode_key(key).ok_or(Damaged { what: "total" })?;
            format!("totals {kind} {:?}", Totals::decode(value)?)
        }
    })
}

/// The text of a sketch, whose stored form is the canonical one; the size says what it means.
pub(crate) fn uniques_text(names: &Names, key: &UniquesKey, value: &[u8]) -> String {
    let mut sketch = Sketch::default();
    let estimate = match sketch.merge(value) {
        Ok(()) => sketch.estimate().estimate.to_string(),
        Err(error) => error.to_string(),
    };
    format!(
        "uniques {} {} day={} estimate={estimate} {}",
        names.of(Space::Campaign, key.campaign),
        key.what.name(),
        key.day,
        hexadecimal(&Sha256::digest(value))
    )
}

/// Invalid clicks, and how many.
fn verdicts(names: &Names, family: Family, key: &[u8], value: &[u8]) -> Result<String, Damaged> {
    let campaign = |symbol| names.of(Space::Campaign, symbol);
    if family == Family::FraudSums {
        let k = FraudSumKey::decode(key)?;
        let sum = FraudSum::decode(value)?;
        return Ok(format!(
            "fraud {} minute={} {}/{} {sum:?}",
            campaign(k.campaign),
            k.minute,
            k.reason.name(),
            k.revision
        ));
    }
    let c = FraudClick::decode(key, value)?;
    let (class, revision, reason) = (c.class.name(), c.revision, c.reason.name());
    Ok(format!(
        "fraud_click {} {} {} {} {reason}/{revision} {class} cost={} creative={:?} region={} device={}",
        campaign(c.campaign),
        c.event_time_ms,
        names.of(Space::Ad, c.ad),
        c.click_id,
        c.cost_micros,
        names.of(Space::Creative, c.creative),
        names.of(Space::Region, c.region),
        device(c.device).name(),
    ))
}

/// What is kept of frames and of who wrote them.
fn of_frames(names: &Names, family: Family, key: &[u8], value: &[u8]) -> Result<String, Damaged> {
    Ok(match family {
        Family::Ledger => {
            let (epoch, kind) = ledger::decode_key(key)?;
            let intervals = Intervals::decode(value)?;
            let intervals: Vec<_> = intervals.iter().collect();
            format!("ledger {epoch} {kind} {intervals:?}")
        }
        Family::Completeness => {
            let row = Producer::decode(key, value)?;
            format!("producer {} {} {row:?}", row.producer, row.epoch)
        }
        Family::Conflicts => {
            let conflict = Conflict::decode(value)?;
            let id = id_text(names, &IdKey::decode(&conflict.id_key)?);
            let rest = Conflict {
                id_key: Vec::new(),
                ..conflict
            };
            format!("conflict {key:?} {id} {rest:?}")
        }
        _ => format!("bad_frame {key:?} {:?}", BadFrame::decode(value)?),
    })
}

fn directory(names: &Names, key: &[u8], value: &[u8]) -> Result<String, Damaged> {
    let campaign = |symbol: Symbol| names.of(Space::Campaign, symbol);
    let ad = |symbol: Symbol| names.of(Space::Ad, symbol);
    let advertiser = |symbol: Symbol| names.of(Space::Advertiser, symbol);
    Ok(match Fact::decode(key)? {
        Some(Fact::Campaign(c)) => format!("directory campaign {}", campaign(c)),
        Some(Fact::Unzoned(c)) => format!("directory unzoned {}", campaign(c)),
        Some(Fact::AdvertiserOfCampaign(c, v)) => {
            format!("directory {} of {}", campaign(c), advertiser(v))
        }
        Some(Fact::CampaignOfAdvertiser(v, c)) => {
            format!("directory {} has {}", advertiser(v), campaign(c))
        }
        Some(Fact::CurrencyOfCampaign(c, currency)) => {
            format!("directory {} in {currency}", campaign(c))
        }
        Some(Fact::CampaignOfAd(a, c)) => format!("directory ad {} under {}", ad(a), campaign(c)),
        Some(Fact::AdOfCampaign(c, a)) => format!("directory {} has ad {}", campaign(c), ad(a)),
        None => {
            let symbol =
                directory::ad_of_creatives_key(key).ok_or(Damaged { what: "directory" })?;
            let creatives = directory::decode_creatives(value)?;
            let creatives: Vec<&str> = creatives
                .iter()
                .map(|c| names.of(Space::Creative, *c))
                .collect();
            format!("directory ad {} creatives {creatives:?}", ad(symbol))
        }
    })
}
