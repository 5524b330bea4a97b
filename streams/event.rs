//! The stamped event: what the border decided, once and forever.
//!
//! Everything that a fold needs stands on the event itself: campaign, advertiser, price, UTC offset, dimensions
//! and the edge's verdict. The fold never looks anything up (invariant 3).

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::id::Id;
use crate::money::{Currency, Micros};

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[repr(u8)]
pub enum Kind {
    /// An ad was shown.
    Impression = 0,
    /// An ad was clicked.
    Click = 1,
    /// An advertiser's goal was reached.
    Conversion = 2,
}

impl Kind {
    /// Every kind, in the order of their numbers.
    pub const ALL: [Kind; 3] = [Kind::Impression, Kind::Click, Kind::Conversion];

    /// The kind's name, in subjects, message ids and JSON.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Impression => "impression",
            Kind::Click => "click",
            Kind::Conversion => "conversion",
        }
    }

    /// The kind of that name.
    pub fn from_name(name: &str) -> Option<Kind> {
        Kind::ALL.into_iter().find(|k| k.name() == name)
    }

    /// The kind of that number.
    pub fn from_number(n: u8) -> Option<Kind> {
        Kind::ALL.into_iter().find(|k| *k as u8 == n)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Device class of the contract.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize,
)]
#[serde(rename_all = "lowercase")]
#[repr(u8)]
#[allow(missing_docs)]
pub enum Device {
    Ios = 0,
    Android = 1,
    Mobile = 2,
    Tablet = 3,
    Desktop = 4,
    Tv = 5,
    #[default]
    Other = 6,
}

impl Device {
    /// Every class, in the order of their numbers.
    pub const ALL: [Device; 7] = [
        Device::Ios,
        Device::Android,
        Device::Mobile,
        Device::Tablet,
        Device::Desktop,
        Device::Tv,
        Device::Other,
    ];

    /// The class's name.
    pub fn name(self) -> &'static str {
        match self {
            Device::Ios => "ios",
            Device::Android => "android",
            Device::Mobile => "mobile",
            Device::Tablet => "tablet",
            Device::Desktop => "desktop",
            Device::Tv => "tv",
            Device::Other => "other",
        }
    }

    /// The class of that name, in any case; anything else is [`Device::Other`].
    pub fn from_name(name: &str) -> Device {
        Device::ALL
            .into_iter()
            .find(|d| d.name().eq_ignore_ascii_case(name))
            .unwrap_or_default()
    }

    /// The class of that number.
    pub fn from_number(n: u8) -> Option<Device> {
        Device::ALL.get(usize::from(n)).copied()
    }
}

/// Why the border judged an event invalid. It counts as revision 0 of the rule of that name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum EdgeReason {
    /// The user agent is that of a known crawler.
    KnownBot = 1,
    /// The browser announced a prefetch.
    Prefetch = 2,
    /// The campaign or the ad was paused, ended, or outside its dates.
    CampaignInactive = 3,
    /// Past the clicks that one address may make in a minute (HTTP collectors only).
    AddressLimit = 4,
}

impl EdgeReason {
    /// Every reason, in the order of their numbers: where several apply, the first one stands.
    pub const ALL: [EdgeReason; 4] = [
        EdgeReason::KnownBot,
        EdgeReason::Prefetch,
        EdgeReason::CampaignInactive,
        EdgeReason::AddressLimit,
    ];

    /// The contract's name of the rule.
    pub fn name(self) -> &'static str {
        match self {
            EdgeReason::KnownBot => "known_bot",
            EdgeReason::Prefetch => "prefetch",
            EdgeReason::CampaignInactive => "campaign_inactive",
            EdgeReason::AddressLimit => "address_limit",
        }
    }

    /// The reason of that number; 0 is none and is not a reason.
    pub fn from_number(n: u8) -> Option<EdgeReason> {
        EdgeReason::ALL.into_iter().find(|r| *r as u8 == n)
    }
}

/// What the border noticed and mended instead of refusing; a set of bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Flags(pub u16);

impl Flags {
    /// The campaign given differs from the catalogue's, which stands.
    pub const CAMPAIGN_MISMATCH: Flags = Flags(1);
    /// A time given to the collector was unusable; the arrival time stands.
    pub const BAD_TIME: Flags = Flags(1 << 1);
    /// A click or impression id given to the collector was unusable; a new one or none stands.
    pub const BAD_ID: Flags = Flags(1 << 2);
    /// Another parameter given to the collector was unusable and was left out.
    pub const BAD_PARAMETER: Flags = Flags(1 << 3);
    /// The ad is not in the catalogue.
    pub const UNKNOWN_AD: Flags = Flags(1 << 4);
    /// No day key was left for the event's day, so its address has no hash.
    pub const NO_ADDRESS_KEY: Flags = Flags(1 << 5);
    /// The id was made by the collector, so no other event can carry it.
    pub const MINTED_ID: Flags = Flags(1 << 6);

    /// Whether all bits of `other` are set.
    pub fn has(self, other: Flags) -> bool {
        self.0 & other.0 == other.0
    }

    /// Sets the bits of `other`.
    pub fn set(&mut self, other: Flags) {
        self.0 |= other.0;
    }
}

/// A stamped event, as it goes through the outbox into a frame.
///
/// Field names are short in storage because the outbox holds one such map an event; they are never reused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// The event's own id: `impression_id`, `click_id` or `conversion_id`.
    #[serde(rename = "i")]
    pub id: Id,
    /// When it happened, in milliseconds of the Unix epoch, UTC.
    #[serde(rename = "t")]
    pub event_time_ms: i64,
    /// When it reached the border, likewise. For an event by way of INTAKE the broker's timestamp.
    #[serde(rename = "a")]
    pub arrival_ms: i64,
    /// The advertiser, where the catalogue knows it.
    #[serde(rename = "v", default, skip_serializing_if = "Option::is_none")]
    pub advertiser_id: Option<Id>,
    /// The advertiser's currency; for a conversion the one it names.
    #[serde(rename = "y", default, skip_serializing_if = "Option::is_none")]
    pub currency: Option<Currency>,
    /// Seconds east of UTC of the advertiser's clock at the event's time; 0 without an advertiser.
    #[serde(rename = "o", default)]
    pub utc_offset_s: i32,
    /// Sequence in CATALOG of the last document that the border had applied.
    #[serde(rename = "r", default)]
    pub catalogue_revision: u64,
    /// Hash of what the publisher gave, without arrival facts: two events of one id with other content conflict.
    #[serde(rename = "h", default)]
    pub content_hash: u64,
    /// What the border noticed.
    #[serde(rename = "f", default)]
    pub flags: Flags,
    /// Keyed hash of the client's address (HMAC with the key of the event's UTC day).
    #[serde(rename = "p", default, skip_serializing_if = "Option::is_none")]
    pub address_hash: Option<u64>,
    /// The visitor as the publisher names them.
    #[serde(rename = "u", default, skip_serializing_if = "Option::is_none")]
    pub user_id: Option<Id>,
    /// The client's user agent, cut at [`TEXT_MAX_BYTES`].
    #[serde(rename = "g", default, skip_serializing_if = "Option::is_none")]
    pub user_agent: Option<Arc<str>>,
    /// The page that the client came from, cut likewise.
    #[serde(rename = "e", default, skip_serializing_if = "Option::is_none")]
    pub referrer: Option<Arc<str>>,
    /// What only this kind has.
    #[serde(rename = "b")]
    pub body: Body,
}

/// The longest user agent, referrer or landing page that is kept, in bytes; more is cut at a character.
pub const TEXT_MAX_BYTES: usize = 2_048;

/// What only one kind of event has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Body {
    /// An impression.
    #[serde(rename = "i")]
    Impression(Placement),
    /// A click.
    #[serde(rename = "c")]
    Click(Placement, ClickDetail),
    /// A conversion.
    #[serde(rename = "v")]
    Conversion(ConversionDetail),
}

/// Which ad, under which campaign, with which dimensions, at which price.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placement {
    /// The ad.
    #[serde(rename = "a")]
    pub ad_id: Id,
    /// The campaign it is counted under.
    #[serde(rename = "c")]
    pub campaign_id: Id,
    /// Creative variant; empty when none was given. Bounded to the ad's list by the border where there is one,
    /// else to [`crate::names::MAX_CREATIVES_PER_AD`] by the fold.
    #[serde(rename = "v", default)]
    pub creative: Arc<str>,
    /// ISO 3166 code, `other`, or empty.
    #[serde(rename = "g", default)]
    pub region: Arc<str>,
    /// Device class.
    #[serde(rename = "d", default)]
    pub device: Device,
    /// What the event costs when it is valid, in micros of the advertiser's currency.
    #[serde(rename = "p", default)]
    pub cost_micros: Micros,
    /// The border's verdict; none means valid as far as the border can see.
    #[serde(rename = "x", default, skip_serializing_if = "Option::is_none")]
    pub verdict: Option<EdgeReason>,
}

/// What only a click has.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClickDetail {
    /// The impression that the click names.
    #[serde(rename = "i", default, skip_serializing_if = "Option::is_none")]
    pub impression_id: Option<Id>,
    /// Where the visitor was sent, cut at [`TEXT_MAX_BYTES`].
    #[serde(rename = "l", default, skip_serializing_if = "Option::is_none")]
    pub landing_url: Option<Arc<str>>,
}

/// What only a conversion has. Its advertiser stands in [`Event::advertiser_id`], known to the catalogue or not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConversionDetail {
    /// The click that the conversion names.
    #[serde(rename = "c", default, skip_serializing_if = "Option::is_none")]
    pub click_id: Option<Id>,
    /// The advertiser's order.
    #[serde(rename = "o", default, skip_serializing_if = "Option::is_none")]
    pub order_id: Option<Id>,
    /// What it was worth, in micros of [`Event::currency`].
    #[serde(rename = "m", default)]
    pub value_micros: Micros,
}

impl Event {
    /// The event's kind.
    pub fn kind(&self) -> Kind {
        match &self.body {
            Body::Impression(_) => Kind::Impression,
            Body::Click(..) => Kind::Click,
            Body::Conversion(_) => Kind::Conversion,
        }
    }

    /// The ad, campaign, dimensions and price, which impressions and clicks have.
    pub fn placement(&self) -> Option<&Placement> {
        match &self.body {
            Body::Impression(p) | Body::Click(p, _) => Some(p),
            Body::Conversion(_) => None,
        }
    }

    /// What the event is placed by: its ad, or a conversion's advertiser.
    pub fn key(&self) -> &str {
        match (&self.body, &self.advertiser_id) {
            (Body::Impression(p) | Body::Click(p, _), _) => p.ad_id.as_str(),
            (Body::Conversion(_), Some(advertiser)) => advertiser.as_str(),
            (Body::Conversion(_), None) => "",
        }
    }

    /// Whether the id index must remember it: every click, and every event whose id came from outside.
    pub fn is_indexed(&self) -> bool {
        self.kind() == Kind::Click || !self.flags.has(Flags::MINTED_ID)
    }
}
