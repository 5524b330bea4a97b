//! The codec against frames that another program wrote: `golden/write.py`, from the layout alone.
//!
//! These bytes are on somebody's disk. A change that fails here needs a new layout number and a reader of both.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use crate::event::{
    Body, ClickDetail, ConversionDetail, Device, EdgeReason, Event, Flags, Kind, Placement,
};
use crate::frame::{
    EventFrame, EventMessage, FoldMessage, Header, decode_events, decode_for_fold, encode,
    encode_announcement, encode_retirement,
};
use crate::id::{Epoch, Id};
use crate::money::Currency;
use crate::watermark::Watermark;

/// 2026-03-01T00:00:00Z.
const T: i64 = 1_772_323_200_000;
const FOREIGN: &str = "9b2f6e1c-52a7-4f0e-8d3b-1a2b3c4d5e6f";

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<u32> = hex.chars().filter_map(|c| c.to_digit(16)).collect();
    digits
        .chunks(2)
        .map(|pair| (pair[0] << 4 | pair[1]) as u8)
        .collect()
}

fn id(text: &str) -> Id {
    Id::new(text).unwrap()
}

fn header(kind: Kind, first: u64, count: u32) -> Header {
    let watermark = Watermark {
        through_ms: T - 12,
        acked: [41, 7, 0],
        heads: [43, 7, 0],
        drained: false,
    };
    let (producer, epoch) = (id("collector-1"), Epoch(0x0123_4567_89ab_cdef));
    Header {
        kind,
        producer,
        epoch,
        first,
        count,
        watermark,
    }
}

/// An event with nothing that it need not have.
fn event(own: &str, event_time_ms: i64, arrival_ms: i64, content_hash: u64, body: Body) -> Event {
    Event {
        id: id(own),
        event_time_ms,
        arrival_ms,
        advertiser_id: None,
        currency: None,
        utc_offset_s: 0,
        catalogue_revision: 7,
        content_hash,
        flags: Flags::default(),
        address_hash: None,
        user_id: None,
        user_agent: None,
        referrer: None,
        body,
    }
}

fn known(event: Event, currency: Option<&str>, utc_offset_s: i32) -> Event {
    Event {
        advertiser_id: Some(id("advertiser-1")),
        currency: currency.map(|c| Currency::new(c).unwrap()),
        utc_offset_s,
        ..event
    }
}

fn shown(cost_micros: i64) -> Placement {
    Placement {
        ad_id: id("ad-1"),
        campaign_id: id("campaign-1"),
        creative: Arc::from("v1"),
        region: Arc::from("US-CA"),
        device: Device::Ios,
        cost_micros,
        verdict: None,
    }
}

fn impressions() -> Vec<Event> {
    let first = Body::Impression(shown(1_250));
    let first = event(
        "019ca6b1-dc00-7cc3-98c4-dc0c0c07398f",
        T,
        T,
        0x1122_3344_5566_7788,
        first,
    );
    let second = Body::Impression(Placement {
        ad_id: id("ad-2"),
        campaign_id: id("campaign-2"),
        creative: Arc::from(""),
        region: Arc::from(""),
        device: Device::Other,
        cost_micros: 0,
        verdict: Some(EdgeReason::Prefetch),
    });
    vec![
        Event {
            flags: Flags::MINTED_ID,
            address_hash: Some(0x99aa_bbcc_ddee_ff00),
            user_agent: Some(Arc::from("Mozilla/5.0")),
            ..known(first, Some("USD"), -18_000)
        },
        Event {
            flags: Flags(Flags::CAMPAIGN_MISMATCH.0 | Flags::UNKNOWN_AD.0),
            user_id: Some(id("u-1")),
            user_agent: Some(Arc::from("Mozilla/5.0")),
            referrer: Some(Arc::from("https://example.com/ü")),
            ..event("imp_2", T - 90_000, T + 15, u64::MAX, second)
        },
    ]
}

fn clicks() -> Vec<Event> {
    let detail = |impression: &str, landing: String| ClickDetail {
        impression_id: Some(id(impression)),
        landing_url: Some(Arc::from(landing)),
    };
    let landing = format!("https://example.com/?c={FOREIGN}&again={FOREIGN}");
    let first = detail("019ca6b1-dc00-7000-8000-000000000001", landing);
    let first = event(FOREIGN, T - 1, T, 1, Body::Click(shown(250_000), first));
    let second = Body::Click(
        shown(300_000),
        detail("imp_2", "https://example.com/".to_owned()),
    );
    let second = event(
        "019ca6b1-dc00-7fff-bfff-ffffffffffff",
        T + 1,
        T + 2,
        3,
        second,
    );
    vec![
        Event {
            address_hash: Some(2),
            user_id: Some(id("002f6e1c-52a7-4f0e-8d3b-1a2b3c4d5e6f")),
            catalogue_revision: 8,
            ..known(first, Some("USD"), -18_000)
        },
        known(second, Some("USD"), -18_000),
    ]
}

fn conversions() -> Vec<Event> {
    let body = |click: Option<&str>, order: Option<&str>, value_micros| {
        let (click_id, order_id) = (click.map(id), order.map(id));
        Body::Conversion(ConversionDetail {
            click_id,
            order_id,
            value_micros,
        })
    };
    let first = event(
        "order:77",
        T,
        T + 1,
        4,
        body(Some(FOREIGN), Some("77"), 990_000_000),
    );
    let second = event(FOREIGN, T, T + 1, 5, body(None, None, 0));
    vec![
        known(first, Some("INR"), 19_800),
        Event {
            user_id: Some(id("u-1")),
            ..known(second, None, 0)
        },
    ]
}

fn sales() -> Vec<Event> {
    let sale = |i: i64| {
        let value_micros = (i % 2) * 5_000_000;
        let body = ConversionDetail {
            click_id: None,
            order_id: None,
            value_micros,
        };
        let sale = event(
            &format!("sale-{i}"),
            T + i,
            T + i,
            i as u64,
            Body::Conversion(body),
        );
        Event {
            user_id: Some(id(&format!("u-{i}"))),
            user_agent: Some(Arc::from("curl/8")),
            ..known(sale, Some("EUR"), 3_600)
        }
    };
    (0..5).map(sale).collect()
}

/// Both ways, and the fold's way agrees with the header.
fn check(golden: &[u8], header: Header, events: Vec<Event>) {
    match decode_for_fold(golden).unwrap() {
        FoldMessage::Frame(fold) => assert_eq!(fold.header, header),
        FoldMessage::Announcement { .. } => panic!("an announcement"),
    }
    let read = decode_events(golden).unwrap();
    assert_eq!(read, EventMessage::Frame(EventFrame { header, events }));
}

fn check_both_ways(hex: &str, header: Header, events: Vec<Event>) {
    assert_eq!(encode(&header, &events), bytes(hex));
    check(&bytes(hex), header, events);
}

#[test]
fn impressions_are_those_bytes() {
    let header = header(Kind::Impression, 41, 2);
    check_both_ways(include_str!("golden/impression.hex"), header, impressions());
}

#[test]
fn clicks_are_those_bytes() {
    check_both_ways(
        include_str!("golden/click.hex"),
        header(Kind::Click, 7, 2),
        clicks(),
    );
}

#[test]
fn conversions_are_those_bytes() {
    let header = header(Kind::Conversion, 0, 2);
    check_both_ways(include_str!("golden/conversion.hex"), header, conversions());
}

#[test]
fn announcements_are_those_bytes() {
    let golden = bytes(include_str!("golden/announcement.hex"));
    let (producer, epoch) = (id("collector-1"), Epoch(0x0123_4567_89ab_cdef));
    let counters = [43, 7, 2];
    let watermark = Watermark {
        through_ms: T,
        acked: counters,
        heads: counters,
        drained: true,
    };
    assert_eq!(encode_announcement(&producer, epoch, &watermark), golden);
    let read = decode_for_fold(&golden).unwrap();
    assert_eq!(
        read,
        FoldMessage::Announcement {
            producer,
            epoch,
            watermark,
            retired: None,
        }
    );
}

#[test]
fn a_retirement_is_an_announcement_with_a_reason_and_no_counters() {
    let (producer, epoch) = (id("collector-1"), Epoch(7));
    let message = encode_retirement(&producer, epoch, "disk \u{1f4a5} lost");
    let expected = Watermark {
        through_ms: 0,
        acked: [0; 3],
        heads: [0; 3],
        drained: true,
    };
    match decode_events(&message).unwrap() {
        EventMessage::Announcement {
            watermark, retired, ..
        } => {
            assert_eq!(watermark, expected);
            assert_eq!(retired.as_deref(), Some("disk \u{1f4a5} lost"));
        }
        EventMessage::Frame(_) => panic!("a frame"),
    }
}

/// What zstd makes of a part is zstd's affair and may change with its version; what it unpacks to may not.
#[test]
fn packed_parts_are_read_whoever_packed_them() {
    let golden = bytes(include_str!("golden/packed.hex"));
    check(&golden, header(Kind::Conversion, 2, 5), sales());
}

#[test]
fn what_a_later_version_adds_is_passed_over() {
    let golden = bytes(include_str!("golden/later.hex"));
    check(&golden, header(Kind::Impression, 41, 2), impressions());
}
