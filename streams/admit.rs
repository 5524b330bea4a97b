//! The border's decision: raw event, facts and catalogue into a stamped event, or a refusal with a reason.
//!
//! Pure and total. It fixes forever what the fold must not look up: advertiser, campaign, price, currency, UTC
//! offset, dimensions, and the edge's own verdict.

use std::sync::Arc;

use crate::catalogue::{Ad, Campaign, Catalogue, Status};
use crate::dimensions;
use crate::event::{
    Body, ClickDetail, ConversionDetail, Device, EdgeReason, Event, Flags, Kind, Placement,
    TEXT_MAX_BYTES,
};
use crate::id::Id;
use crate::money::Currency;
use crate::names::{MAX_FUTURE_MS, OTHER};
use crate::parse::RawEvent;
use crate::refusal::{Reason, Refusal, cut_at_char};
use crate::time::{offset_at, to_rfc3339};

/// What only the outside knows about an event: when and from whom it came.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// When it reached the border, in milliseconds of the Unix epoch.
    pub arrival_ms: i64,
    /// The user agent is a known crawler's.
    pub is_bot: bool,
    /// The browser announced a prefetch.
    pub is_prefetch: bool,
    /// The address has made more clicks in this minute than one may.
    pub over_address_limit: bool,
    /// ISO 3166 code of the address, from a GeoIP database; counts when the event names no region.
    pub region_from_address: Option<Arc<str>>,
    /// Device class of the user agent; counts when the event names none.
    pub device_from_agent: Option<Device>,
    /// Keyed hash of the address.
    pub address_hash: Option<u64>,
    /// There was an address, but no key is left for the event's day.
    pub no_address_key: bool,
    /// The border made the event's id itself.
    pub minted_id: bool,
    /// User agent of the request that carried the event; counts when the event names none. Cut at [`crate::event::TEXT_MAX_BYTES`].
    pub user_agent: Option<Arc<str>>,
    /// Referrer of that request, likewise.
    pub referrer: Option<Arc<str>>,
    /// What a lenient way in has mended: [`Flags::BAD_TIME`], [`Flags::BAD_ID`], [`Flags::BAD_PARAMETER`].
    pub mended: Flags,
}

/// An event that counts, and how its ad is spread over shards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admitted {
    /// The stamped event.
    pub event: Event,
    /// For [`crate::names::shard_of`]: 1 unless the catalogue spreads the ad.
    pub spread: u16,
}

/// Stamps an event, or refuses it: [`Reason::TsInFuture`], [`Reason::UnknownAd`] or [`Reason::MissingClickOrUser`].
///
/// The catalogue must be at or past the last document that was published before the event arrived; then "unknown
/// ad" is a verdict and not a race.
pub fn admit(mut raw: RawEvent, facts: &Facts, catalogue: &Catalogue) -> Result<Admitted, Refusal> {
    let time_ms = raw.ts_ms.unwrap_or(facts.arrival_ms);
    if time_ms.saturating_sub(facts.arrival_ms) > MAX_FUTURE_MS {
        let (ts, arrival) = (to_rfc3339(time_ms), to_rfc3339(facts.arrival_ms));
        let detail = format!("ts: {ts} is more than 5 minutes ahead of the arrival at {arrival}");
        return Err(Refusal::new(Reason::TsInFuture, detail));
    }
    let content_hash = raw.content_hash();
    let mut flags = facts.mended;
    if facts.no_address_key {
        flags.set(Flags::NO_ADDRESS_KEY);
    }
    if facts.minted_id {
        flags.set(Flags::MINTED_ID);
    }
    let user_agent = raw
        .user_agent
        .take()
        .or_else(|| bounded(facts.user_agent.as_ref()));
    let referrer = raw
        .referrer
        .take()
        .or_else(|| bounded(facts.referrer.as_ref()));
    let (id, user_id) = (raw.id.clone(), raw.user_id.clone());
    let stamped = match raw.kind {
        Kind::Conversion => conversion(raw, catalogue)?,
        Kind::Impression | Kind::Click => placed(raw, time_ms, facts, catalogue)?,
    };
    flags.set(stamped.flags);
    let owner = Owner::of(stamped.advertiser_id.as_ref(), time_ms, catalogue);
    let event = Event {
        id,
        event_time_ms: time_ms,
        arrival_ms: facts.arrival_ms,
        advertiser_id: stamped.advertiser_id,
        currency: stamped.currency.or(owner.currency),
        utc_offset_s: owner.utc_offset_s,
        catalogue_revision: catalogue.revision(),
        content_hash,
        flags,
        address_hash: facts.address_hash,
        user_id,
        user_agent,
        referrer,
        body: stamped.body,
    };
    Ok(Admitted {
        event,
        spread: stamped.spread,
    })
}

/// What is stamped differently on each kind of event.
struct Stamped {
    advertiser_id: Option<Id>,
    currency: Option<Currency>,
    flags: Flags,
    body: Body,
    spread: u16,
}

/// What an advertiser fixes for its events; UTC and no currency where the catalogue does not know it.
#[derive(Default)]
struct Owner {
    currency: Option<Currency>,
    utc_offset_s: i32,
}

impl Owner {
    fn of(advertiser_id: Option<&Id>, time_ms: i64, catalogue: &Catalogue) -> Self {
        let Some(advertiser) = advertiser_id.and_then(|id| catalogue.advertiser(id.as_str()))
        else {
            return Self::default();
        };
        let utc_offset_s = offset_at(advertiser.time_zone, time_ms);
        Self {
            currency: Some(advertiser.currency_code),
            utc_offset_s,
        }
    }
}

fn bounded(text: Option<&Arc<str>>) -> Option<Arc<str>> {
    let text = text.filter(|t| !t.is_empty())?;
    if text.len() <= TEXT_MAX_BYTES {
        Some(text.clone())
    } else {
        Some(Arc::from(cut_at_char(text, TEXT_MAX_BYTES)))
    }
}

fn conversion(raw: RawEvent, catalogue: &Catalogue) -> Result<Stamped, Refusal> {
    if raw.click_id.is_none() && raw.user_id.is_none() {
        let detail = "a conversion names its click_id or its user_id";
        return Err(Refusal::new(Reason::MissingClickOrUser, detail));
    }
    let known = catalogue
        .advertiser(raw.key.as_str())
        .map(|advertiser| advertiser.advertiser_id.clone());
    let detail = ConversionDetail {
        click_id: raw.click_id,
        order_id: raw.order_id,
        value_micros: raw.value_micros.unwrap_or(0),
    };
    Ok(Stamped {
        advertiser_id: Some(known.unwrap_or(raw.key)),
        currency: raw.currency,
        flags: Flags::default(),
        body: Body::Conversion(detail),
        spread: 1,
    })
}

/// An impression or a click: under which campaign, at which price, with which dimensions and verdict.
fn placed(
    raw: RawEvent,
    time_ms: i64,
    facts: &Facts,
    catalogue: &Catalogue,
) -> Result<Stamped, Refusal> {
    let mut flags = Flags::default();
    let ad = catalogue.ad(raw.key.as_str()).map(Arc::as_ref);
    let named = match (ad, raw.campaign_id) {
        (Some(ad), given) => {
            if given.is_some_and(|given| given != ad.campaign_id) {
                flags.set(Flags::CAMPAIGN_MISMATCH);
            }
            ad.campaign_id.clone()
        }
        (None, Some(given)) => {
            flags.set(Flags::UNKNOWN_AD);
            given
        }
        (None, None) => {
            let detail = format!(
                "ad_id: {} is not in the catalogue, and the event names no campaign_id",
                raw.key
            );
            return Err(Refusal::new(Reason::UnknownAd, detail));
        }
    };
    let campaign = catalogue.campaign(named.as_str()).map(Arc::as_ref);
    // The catalogue's own copies of the ids are shared by all its events.
    let (ad_id, campaign_id) = (
        ad.map_or(raw.key, |ad| ad.ad_id.clone()),
        campaign.map_or(named, |campaign| campaign.campaign_id.clone()),
    );
    let list_price = match (ad, campaign) {
        (Some(_), Some(campaign)) => campaign.pricing.cost_of(raw.kind),
        _ => 0,
    };
    let placement = Placement {
        ad_id,
        campaign_id,
        creative: creative(raw.creative, ad),
        region: raw
            .region
            .or_else(|| facts.region_from_address.clone())
            .unwrap_or_default(),
        device: raw.device.or(facts.device_from_agent).unwrap_or_default(),
        cost_micros: raw.cost_micros.unwrap_or(list_price),
        verdict: verdict(facts, ad, campaign, time_ms),
    };
    let body = match raw.kind {
        Kind::Click => Body::Click(
            placement,
            ClickDetail {
                impression_id: raw.impression_id,
                landing_url: raw.landing_url,
            },
        ),
        Kind::Impression | Kind::Conversion => Body::Impression(placement),
    };
    Ok(Stamped {
        advertiser_id: campaign.map(|campaign| campaign.advertiser_id.clone()),
        currency: None,
        flags,
        body,
        spread: ad.map_or(1, Ad::spread),
    })
}

/// The variant as it is counted: one of the ad's list where it has one, else what was given.
fn creative(given: Option<Arc<str>>, ad: Option<&Ad>) -> Arc<str> {
    let Some(given) = given else {
        return Arc::default();
    };
    match ad {
        Some(ad) if !ad.creatives.is_empty() && &*given != OTHER => ad
            .creatives
            .iter()
            .find(|listed| **listed == given)
            .cloned()
            .unwrap_or_else(dimensions::other),
        _ => given,
    }
}

/// The edge's verdict: where several reasons apply, the first in the order of their numbers stands.
fn verdict(
    facts: &Facts,
    ad: Option<&Ad>,
    campaign: Option<&Campaign>,
    time_ms: i64,
) -> Option<EdgeReason> {
    let is_active = ad.is_none_or(|ad| ad.status == Status::Active)
        && campaign.is_none_or(|campaign| campaign.is_active_at(time_ms));
    EdgeReason::ALL.into_iter().find(|reason| match reason {
        EdgeReason::KnownBot => facts.is_bot,
        EdgeReason::Prefetch => facts.is_prefetch,
        EdgeReason::CampaignInactive => !is_active,
        EdgeReason::AddressLimit => facts.over_address_limit,
    })
}

#[cfg(test)]
#[path = "admit_fixtures.rs"]
mod fixtures;
#[cfg(test)]
#[path = "admit_tests.rs"]
mod tests;
