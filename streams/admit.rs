//! The border's decision: raw event, facts and catalogue into a stamped event, or a refusal with a reason.
//!
//! Pure and total. It fixes forever what the fold must not look up: advertiser, campaign, price, currency, UTC
//! offset, dimensions, and the edge's own verdict.

use std::sync::Arc;

use crate::event::{Device, Event, Flags};

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
