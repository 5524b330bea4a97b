//! What must become of an event, by the contract's words: plain strings, numbers and a plain catalogue.

use adtally_streams::event::Kind;

use crate::catalogue::{ADVERTISERS, Plain};
use crate::clients::{Flaw, Spec};

/// An event later than this against its arrival counts as late; one further ahead is refused. Milliseconds.
const FIVE_MINUTES_MS: i64 = 300_000;

/// What must become of an event once it is durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It counts, unless its id is taken.
    Counts(Box<Counted>),
    /// It is refused, for that reason.
    Refused(&'static str),
}

impl Fate {
    /// Where it goes; none to QUARANTINE.
    pub fn shard(&self) -> Option<u16> {
        match self {
            Fate::Counts(counted) => Some(counted.shard),
            Fate::Refused(_) => None,
        }
    }
}

/// An event as it counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counted {
    /// What happened.
    pub kind: Kind,
    /// The shard of its ad or advertiser.
    pub shard: u16,
    /// Kind, ad or advertiser, and id.
    pub identity: String,
    /// Its id.
    pub id: String,
    /// Its id came from outside, or it is a click.
    pub is_indexed: bool,
    /// What its publisher gave: another text is another content.
    pub content: String,
    /// The ad or advertiser.
    pub key: String,
    /// The campaign it is counted under.
    pub campaign: String,
    /// The advertiser's currency, where there is one.
    pub currency: Option<&'static str>,
    /// Seconds east of UTC of the advertiser's clock.
    pub offset_s: i64,
    /// The variant.
    pub creative: String,
    /// The region.
    pub region: &'static str,
    /// The device class.
    pub device: &'static str,
    /// What it costs, or a conversion's value.
    pub amount_micros: i64,
    /// Why the border judged it invalid.
    pub invalid: Option<&'static str>,
    /// When it happened.
    pub time_ms: i64,
    /// It arrived more than five minutes after that.
    pub is_late: bool,
}

/// The shard of a key: 32-bit FNV-1a as its authors publish it.
fn shard_of(key: &str, shards: u16) -> u16 {
    let mut hash: u32 = 2_166_136_261;
    for byte in key.bytes() {
        hash ^= u32::from(byte);
        hash = hash.wrapping_mul(16_777_619);
    }
    (hash % u32::from(shards)) as u16
}

/// What must become of an event that arrives at `arrival_ms` while that catalogue is in force, with `id` as its id.
pub fn judge(spec: &Spec, id: &str, arrival_ms: i64, catalogue: &Plain, shards: u16) -> Fate {
    if let Some(flaw) = spec.flaw.filter(|flaw| *flaw != Flaw::Future) {
        return Fate::Refused(flaw.reason());
    }
    let time_ms = spec.ts_ms.unwrap_or(arrival_ms);
    if time_ms - arrival_ms > FIVE_MINUTES_MS {
        return Fate::Refused("ts_in_future");
    }
    let mut counted = Counted {
        kind: spec.kind,
        shard: shard_of(&spec.key, shards),
        identity: format!("{} {} {id}", spec.kind.name(), spec.key),
        id: id.to_owned(),
        is_indexed: spec.kind == Kind::Click || spec.id.is_some(),
        content: spec.payload(id),
        key: spec.key.clone(),
        campaign: String::new(),
        currency: None,
        offset_s: 0,
        creative: String::new(),
        region: "",
        device: "",
        amount_micros: spec.amount_micros.unwrap_or(0),
        invalid: None,
        time_ms,
        is_late: arrival_ms - time_ms > FIVE_MINUTES_MS,
    };
    let advertiser = if spec.kind == Kind::Conversion {
        ADVERTISERS.iter().position(|(id, ..)| *id == spec.key)
    } else {
        let Some(advertiser) = place(spec, catalogue, &mut counted) else {
            return Fate::Refused("unknown_ad");
        };
        advertiser
    };
    if let Some(advertiser) = advertiser {
        let (_, currency, _, offset_s) = ADVERTISERS[advertiser];
        (counted.currency, counted.offset_s) = (Some(currency), i64::from(offset_s));
    }
    Fate::Counts(Box::new(counted))
}

/// Fills in what impressions and clicks have; answers the advertiser, where there is one. None when the event can
/// be placed nowhere.
fn place(spec: &Spec, catalogue: &Plain, counted: &mut Counted) -> Option<Option<usize>> {
    let ad = catalogue.ads.get(&spec.key);
    counted.campaign = match (ad, &spec.campaign) {
        (Some(ad), _) => ad.campaign.clone(),
        (None, Some(campaign)) => campaign.clone(),
        (None, None) => return None,
    };
    let campaign = catalogue.campaigns.get(&counted.campaign);
    let price = match (ad, campaign) {
        (Some(_), Some(c)) if c.per_click && spec.kind == Kind::Click => c.price_micros,
        (Some(_), Some(c)) if !c.per_click && spec.kind == Kind::Impression => {
            c.price_micros / 1_000
        }
        _ => 0,
    };
    counted.amount_micros = spec.amount_micros.unwrap_or(price);
    counted.creative = match (spec.creative, ad) {
        (None, _) => String::new(),
        (Some(c), Some(ad)) if !ad.creatives.is_empty() && !ad.creatives.contains(&c) => {
            "other".to_owned()
        }
        (Some(c), _) => c.to_owned(),
    };
    counted.region = spec.region.map_or("", |(_, counted)| counted);
    counted.device = spec.device.map_or("other", |(_, counted)| counted);
    let is_active = ad.is_none_or(|ad| ad.is_active) && campaign.is_none_or(|c| c.is_active);
    counted.invalid = if spec.is_bot {
        Some("known_bot")
    } else if !is_active {
        Some("campaign_inactive")
    } else {
        None
    };
    Some(campaign.map(|c| c.advertiser))
}
