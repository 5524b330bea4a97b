//! From bytes to a raw event: what a publisher said, checked field by field, before anything is looked up.
//!
//! Every way in makes the same [`RawEvent`], so that the same event by two ways has the same content hash. A refusal
//! names the field and the rule; no bytes whatever make a panic.

use std::net::IpAddr;
use std::sync::Arc;

use crate::event::{Device, Kind};
use crate::id::Id;
use crate::money::{Currency, Micros};

/// What a publisher said of one event. Texts are already bounded and normalised; nothing has been looked up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawEvent {
    /// What happened.
    pub kind: Kind,
    /// `impression_id`, `click_id` or `conversion_id`.
    pub id: Id,
    /// `ad_id`, or a conversion's `advertiser_id`.
    pub key: Id,
    /// When it happened, in milliseconds of the Unix epoch; absent means at its arrival.
    pub ts_ms: Option<i64>,
    /// The campaign that the publisher names.
    pub campaign_id: Option<Id>,
    /// Creative variant: at most 64 bytes without control characters, or `other`; never empty.
    pub creative: Option<Arc<str>>,
    /// The visitor as the publisher names them.
    pub user_id: Option<Id>,
    /// Device class.
    pub device: Option<Device>,
    /// `geo`: a code of ISO 3166, or `other`.
    pub region: Option<Arc<str>>,
    /// Client address. Only the border sees it, to hash it; it goes no further.
    pub ip: Option<IpAddr>,
    /// Client address as hashed by the publisher; the border hashes it once more.
    pub ip_hash: Option<Arc<str>>,
    /// User agent, cut at [`crate::event::TEXT_MAX_BYTES`].
    pub user_agent: Option<Arc<str>>,
    /// Page that the client came from, cut likewise.
    pub referrer: Option<Arc<str>>,
    /// Price of this event, in micros.
    pub cost_micros: Option<Micros>,
    /// The impression that a click names.
    pub impression_id: Option<Id>,
    /// Where a click led, cut likewise.
    pub landing_url: Option<Arc<str>>,
    /// The click that a conversion names.
    pub click_id: Option<Id>,
    /// What a conversion was worth, in micros.
    pub value_micros: Option<Micros>,
    /// The currency of that value.
    pub currency: Option<Currency>,
    /// The advertiser's order.
    pub order_id: Option<Id>,
}

impl RawEvent {
    /// An event with its identity and nothing else.
    pub fn new(kind: Kind, id: Id, key: Id) -> Self {
        Self {
            kind,
            id,
            key,
            ts_ms: None,
            campaign_id: None,
            creative: None,
            user_id: None,
            device: None,
            region: None,
            ip: None,
            ip_hash: None,
            user_agent: None,
            referrer: None,
            cost_micros: None,
            impression_id: None,
            landing_url: None,
            click_id: None,
            value_micros: None,
            currency: None,
            order_id: None,
        }
    }
}
