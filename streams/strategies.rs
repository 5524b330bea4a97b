//! Proptest strategies for stamped events and their frames: any that the border could make, and more.
//!
//! Values come from small pools as often as from the whole range, because dictionaries, repeated ids and equal
//! times are where codecs and folds go wrong. Behind the feature `testing`, for the tests of other crates.

use std::sync::Arc;

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use crate::event::{
    Body, ClickDetail, ConversionDetail, Device, EdgeReason, Event, Flags, Kind, Placement,
};
use crate::frame::{EventId, Header};
use crate::id::{Epoch, Id};
use crate::money::{Currency, MAX_MICROS};
use crate::watermark::Watermark;

/// The first millisecond of year 1, which the border still accepts.
pub const MIN_TIME_MS: i64 = -62_135_596_800_000;
/// The last millisecond of year 9999, likewise.
pub const MAX_TIME_MS: i64 = 253_402_300_799_999;
/// Most strategies' times lie within a few days from here: 2026-03-01T00:00:00Z.
pub const USUAL_TIME_MS: i64 = 1_772_323_200_000;

/// Any identifier: text of any allowed length, a UUID of any bits, or one of a few.
pub fn id() -> impl Strategy<Value = Id> {
    prop_oneof![
        3 => (0u8..12).prop_map(|n| known_id(&format!("id-{n}"))),
        2 => "[A-Za-z0-9_:-]{1,64}".prop_map(|text| known_id(&text)),
        2 => any::<[u8; 16]>().prop_map(|bytes| EventId::Uuid(bytes).to_id()),
        3 => (-2_000i64..2_000, any::<[u8; 10]>()).prop_map(|(ms, rest)| uuid_v7(USUAL_TIME_MS + ms, rest)),
        1 => any::<[u8; 16]>().prop_map(|b| known_id(&EventId::Uuid(b).to_id().as_str().to_uppercase())),
    ]
}

fn known_id(text: &str) -> Id {
    Id::new(text).expect("strategies make ids of the contract's alphabet")
}

/// A UUIDv7 made at that time.
pub fn uuid_v7(at_ms: i64, rest: [u8; 10]) -> Id {
    let mut bytes = [0u8; 16];
    bytes[..6].copy_from_slice(&at_ms.to_be_bytes()[2..]);
    bytes[6..].copy_from_slice(&rest);
    bytes[6] = 0x70 | bytes[6] & 0x0f;
    bytes[8] = 0x80 | bytes[8] & 0x3f;
    EventId::Uuid(bytes).to_id()
}

/// An id of one of `n` of a sort, as in `ad-7`.
pub fn one_of(sort: &'static str, n: u16) -> impl Strategy<Value = Id> {
    (0..n).prop_map(move |i| known_id(&format!("{sort}-{i}")))
}

/// Any text of a few characters, of one byte or more each, one of a few, or a long one.
pub fn text() -> impl Strategy<Value = Arc<str>> {
    prop_oneof![
        4 => (0u8..6).prop_map(|n| Arc::from(format!("Mozilla/5.0 ({n}) like Gecko"))),
        4 => any::<String>().prop_map(Arc::from),
        1 => "[ -~]{300,600}".prop_map(Arc::from),
        1 => Just(Arc::from("")),
    ]
}

/// A time in milliseconds: usually within some days, sometimes at either end of what the border accepts.
pub fn time_ms() -> impl Strategy<Value = i64> {
    prop_oneof![
        8 => (-1_000i64..1_000).prop_map(|ms| USUAL_TIME_MS + ms),
        4 => (-4 * 86_400_000i64..86_400_000).prop_map(|ms| USUAL_TIME_MS + ms),
        1 => MIN_TIME_MS..=MAX_TIME_MS,
        1 => Just(MIN_TIME_MS),
        1 => Just(MAX_TIME_MS),
    ]
}

/// An amount in micros: one of a few prices, or any that the border accepts.
pub fn micros() -> impl Strategy<Value = i64> {
    prop_oneof![3 => (0i64..4).prop_map(|n| n * 250_000), 1 => 0..=MAX_MICROS]
}

/// A currency.
pub fn currency() -> impl Strategy<Value = Currency> {
    let code = prop_oneof![Just("USD".to_owned()), Just("EUR".to_owned()), "[A-Z]{3}"];
    code.prop_map(|code| Currency::new(&code).expect("three letters make a currency"))
}

/// A region: a code, `other` or none.
pub fn region() -> impl Strategy<Value = Arc<str>> {
    prop_oneof![
        Just("US-CA"),
        Just("DE"),
        Just("IN"),
        Just("other"),
        Just("")
    ]
    .prop_map(Arc::from)
}

/// A device class.
pub fn device() -> impl Strategy<Value = Device> {
    proptest::sample::select(Device::ALL.as_slice())
}

/// A verdict of the border, most often none.
pub fn verdict() -> impl Strategy<Value = Option<EdgeReason>> {
    prop_oneof![3 => Just(None), 1 => proptest::sample::select(EdgeReason::ALL.as_slice()).prop_map(Some)]
}

/// Any placement.
pub fn placement() -> impl Strategy<Value = Placement> {
    let creative = prop_oneof![3 => (0u8..4).prop_map(|n| format!("v{n}")), 1 => any::<String>()];
    let ids = (
        prop_oneof![4 => one_of("ad", 20).boxed(), 1 => id().boxed()],
        one_of("campaign", 5),
    );
    (ids, creative, region(), device(), micros(), verdict()).prop_map(
        |((ad_id, campaign_id), creative, region, device, cost_micros, verdict)| Placement {
            ad_id,
            campaign_id,
            creative: Arc::from(creative),
            region,
            device,
            cost_micros,
            verdict,
        },
    )
}

/// What a click has besides, its landing page with or without the click's own id.
fn click_detail(own: Id) -> impl Strategy<Value = ClickDetail> {
    let landing = prop_oneof![
        Just(format!("https://example.com/?click={own}&again={own}")),
        Just("https://example.com/".to_owned()),
        any::<String>(),
    ];
    (option::of(id()), option::of(landing.prop_map(Arc::from))).prop_map(
        |(impression_id, landing_url)| ClickDetail {
            impression_id,
            landing_url,
        },
    )
}

/// Any body of that kind, for an event of that id.
fn body(kind: Kind, own: Id) -> BoxedStrategy<Body> {
    match kind {
        Kind::Impression => placement().prop_map(Body::Impression).boxed(),
        Kind::Click => (placement(), click_detail(own))
            .prop_map(|(p, c)| Body::Click(p, c))
            .boxed(),
        Kind::Conversion => (option::of(id()), option::of(id()), micros())
            .prop_map(|(click_id, order_id, value_micros)| {
                Body::Conversion(ConversionDetail {
                    click_id,
                    order_id,
                    value_micros,
                })
            })
            .boxed(),
    }
}

/// Any event of that kind. A conversion always has an advertiser; the others have none when the ad is unknown.
pub fn event(kind: Kind) -> impl Strategy<Value = Event> {
    let advertiser = one_of("advertiser", 3);
    let advertiser = match kind {
        Kind::Conversion => advertiser.prop_map(Some).boxed(),
        Kind::Impression | Kind::Click => option::weighted(0.8, advertiser).boxed(),
    };
    let offset = prop_oneof![
        Just(0),
        Just(-18_000),
        Just(19_800),
        Just(37_800),
        -86_399i32..=86_399
    ];
    let times = (
        time_ms(),
        prop_oneof![2 => Just(None), 1 => time_ms().prop_map(Some)],
    );
    let account = (advertiser, option::of(currency()), offset);
    let stamps = (
        prop_oneof![3 => 0u64..3, 1 => any::<u64>()],
        any::<u64>(),
        any::<u16>(),
        option::of(any::<u64>()),
    );
    let visitor = (option::of(id()), option::of(text()), option::of(text()));
    let own = id().prop_flat_map(move |own| (body(kind, own.clone()), Just(own)));
    (own, times, account, stamps, visitor).prop_map(
        |((body, id), (arrival_ms, event_time), account, stamps, visitor)| Event {
            id,
            event_time_ms: event_time.unwrap_or(arrival_ms),
            arrival_ms,
            advertiser_id: account.0,
            currency: account.1,
            utc_offset_s: account.2,
            catalogue_revision: stamps.0,
            content_hash: stamps.1,
            flags: Flags(if stamps.2 < 0x8000 { 0 } else { stamps.2 }),
            address_hash: stamps.3,
            user_id: visitor.0,
            user_agent: visitor.1,
            referrer: visitor.2,
            body,
        },
    )
}

/// Any watermark.
pub fn watermark() -> impl Strategy<Value = Watermark> {
    (
        time_ms(),
        any::<[u64; 3]>(),
        any::<[u64; 3]>(),
        any::<bool>(),
    )
        .prop_map(|(through_ms, acked, heads, drained)| Watermark {
            through_ms,
            acked,
            heads,
            drained,
        })
}

/// A header and `1..=most` events that it describes.
pub fn frame(most: usize) -> impl Strategy<Value = (Header, Vec<Event>)> {
    let kind = proptest::sample::select(Kind::ALL.as_slice());
    kind.prop_flat_map(move |kind| {
        let first = prop_oneof![0u64..5, 0..=u64::MAX - most as u64];
        (
            Just(kind),
            vec(event(kind), 1..=most),
            id(),
            any::<u64>(),
            first,
            watermark(),
        )
    })
    .prop_map(|(kind, events, producer, epoch, first, watermark)| {
        let count = events.len() as u32;
        (
            Header {
                kind,
                producer,
                epoch: Epoch(epoch),
                first,
                count,
                watermark,
            },
            events,
        )
    })
}
