//! The frame codec against what it promises: every field comes back, nothing else is believed.

#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use crate::event::{Body, ClickDetail, Device, Event, Flags, Placement};
use crate::event_row::{Rows, put_row};
use crate::frame::{
    ENVELOPE_MAX_BYTES, EventFrame, EventMessage, FoldFrame, FoldMessage, Header, decode_events,
    decode_for_fold, decode_header, encode, encode_announcement, encode_rows, event_bound,
    frame_crc,
};
use crate::id::{Epoch, Id};
use crate::lane::{EVENT_OVERHEAD_BYTES, FRAME_OVERHEAD_BYTES};
use crate::names::FRAME_MAX_EVENTS_READ;
use crate::strategies;
use crate::visitor::NOBODY;
use crate::visitor::tests::of_event;
use crate::watermark::Watermark;

fn events_of(message: &[u8]) -> EventFrame {
    match decode_events(message).unwrap() {
        EventMessage::Frame(frame) => frame,
        EventMessage::Announcement { .. } => panic!("an announcement"),
    }
}

fn fold_of(message: &[u8]) -> FoldFrame {
    match decode_for_fold(message).unwrap() {
        FoldMessage::Frame(frame) => *frame,
        FoldMessage::Announcement { .. } => panic!("an announcement"),
    }
}

/// What the fold sees of event `i`, put beside the event itself.
fn assert_same(fold: &FoldFrame, i: usize, event: &Event) {
    let ad = &fold.ads[fold.ad[i] as usize];
    assert_eq!(ad.advertiser_id, event.advertiser_id);
    assert_eq!(ad.currency, event.currency);
    assert_eq!(ad.utc_offset_s, event.utc_offset_s);
    assert_eq!(fold.flags[i], event.flags);
    assert_eq!(fold.event_time_ms[i], event.event_time_ms);
    assert_eq!(fold.arrival_ms[i], event.arrival_ms);
    assert_eq!(fold.id[i].to_id(), event.id);
    assert_eq!(fold.content_hash[i], event.content_hash);
    match &event.body {
        Body::Impression(p) | Body::Click(p, _) => {
            assert_eq!(ad.ad_id.as_ref(), Some(&p.ad_id));
            assert_eq!(ad.campaign_id.as_ref(), Some(&p.campaign_id));
            assert_eq!(fold.creatives[fold.creative[i] as usize], p.creative);
            assert_eq!(fold.regions[fold.region[i] as usize], p.region);
            assert_eq!(fold.device[i], p.device);
            assert_eq!(fold.verdict[i], p.verdict);
            assert_eq!(fold.amount_micros[i], p.cost_micros);
            assert_eq!(fold.visitor[i], of_event(event));
        }
        Body::Conversion(c) => {
            assert_eq!((&ad.ad_id, &ad.campaign_id), (&None, &None));
            assert_eq!(fold.amount_micros[i], c.value_micros);
            assert_eq!(fold.visitor[i], NOBODY);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn every_field_comes_back((header, events) in strategies::frame(40)) {
        let message = encode(&header, &events);
        prop_assert_eq!(events_of(&message), EventFrame { header: header.clone(), events: events.clone() });
        prop_assert_eq!(decode_header(&message).unwrap(), Some(header.clone()));
        let fold = fold_of(&message);
        prop_assert_eq!(&fold.header, &header);
        for (i, event) in events.iter().enumerate() {
            assert_same(&fold, i, event);
        }
    }

    #[test]
    fn a_frame_is_no_larger_than_its_events_are_bound_to((header, events) in strategies::frame(20)) {
        let bound: usize = events.iter().map(event_bound).sum();
        prop_assert!(encode(&header, &events).len() <= bound + ENVELOPE_MAX_BYTES);
    }

    /// A lane cuts its frames by the bytes of their rows, before it encodes them.
    #[test]
    fn a_lane_s_budget_covers_the_frame((header, events) in strategies::frame(20)) {
        let row_bytes = |event: &Event| {
            let mut row = Vec::new();
            put_row(&mut row, event);
            row.len()
        };
        for event in &events {
            prop_assert!(event_bound(event) <= row_bytes(event) + EVENT_OVERHEAD_BYTES);
        }
        let rows: usize = events.iter().map(|e| row_bytes(e) + EVENT_OVERHEAD_BYTES).sum();
        prop_assert!(encode(&header, &events).len() <= rows + FRAME_OVERHEAD_BYTES);
    }

    /// What an outbox packs from its rows is what it would have packed from the events.
    #[test]
    fn rows_make_the_same_frame_as_their_events((header, events) in strategies::frame(40)) {
        let mut rows = Rows::default();
        for event in &events {
            let mut row = Vec::new();
            put_row(&mut row, event);
            rows.push(&row).unwrap();
        }
        prop_assert_eq!(encode_rows(&header, &rows).unwrap(), encode(&header, &events));
    }

    #[test]
    fn announcements_come_back(producer in strategies::id(), epoch: u64, watermark in strategies::watermark()) {
        let epoch = Epoch(epoch);
        let message = encode_announcement(&producer, epoch, &watermark);
        prop_assert_eq!(
            decode_for_fold(&message).unwrap(),
            FoldMessage::Announcement { producer: producer.clone(), epoch, watermark, retired: None }
        );
        prop_assert_eq!(decode_header(&message).unwrap(), None);
        prop_assert_eq!(decode_events(&message).unwrap(), EventMessage::Announcement { producer, epoch, watermark, retired: None });
    }

    #[test]
    fn no_prefix_is_a_frame((header, events) in strategies::frame(6)) {
        let message = encode(&header, &events);
        for length in 0..message.len() {
            prop_assert!(decode_for_fold(&message[..length]).is_err());
            prop_assert!(decode_events(&message[..length]).is_err());
        }
    }

    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(decode_events(&resealed(bytes.clone())).is_err());
        prop_assert!(decode_events(&bytes).is_err());
    }

    /// Past the checksum, as a writer with a defect would: nothing panics, and what is read agrees with itself.
    #[test]
    fn mutations_under_a_right_checksum_do_not_panic(
        (header, events) in strategies::frame(12),
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut message = encode(&header, &events);
        let body = message.len() - 4;
        for (at, byte) in changes {
            message[at.index(body)] = byte;
        }
        let message = resealed_in_place(message);
        let fold = decode_for_fold(&message);
        if let Ok(EventMessage::Frame(frame)) = decode_events(&message) {
            let Ok(FoldMessage::Frame(fold)) = fold else { panic!("events without a fold") };
            prop_assert_eq!(frame.events.len(), fold.id.len());
            for (i, event) in frame.events.iter().enumerate() {
                assert_same(&fold, i, event);
            }
        }
    }

    #[test]
    fn a_flipped_bit_is_seen((header, events) in strategies::frame(6), at: prop::sample::Index, bit in 0u8..8) {
        let mut message = encode(&header, &events);
        let at = at.index(message.len());
        message[at] ^= 1 << bit;
        prop_assert_eq!(decode_for_fold(&message).unwrap_err().name(), "bad_checksum");
    }
}

/// As many clicks, each of its own, on two ads.
pub(crate) fn clicks(count: usize) -> Vec<Event> {
    let click = |i: usize| {
        let text = |sort: &str, n: usize| Id::new(&format!("{sort}-{n}")).unwrap();
        let arrival_ms = strategies::USUAL_TIME_MS + i as i64;
        Event {
            id: strategies::uuid_v7(arrival_ms, [i as u8; 10]),
            event_time_ms: arrival_ms - 3,
            arrival_ms,
            advertiser_id: Some(text("advertiser", 1)),
            currency: None,
            utc_offset_s: 3_600,
            catalogue_revision: 1,
            content_hash: i as u64,
            flags: Flags::default(),
            address_hash: None,
            user_id: Some(text("user", i)),
            user_agent: None,
            referrer: None,
            body: Body::Click(
                Placement {
                    ad_id: text("ad", i % 2),
                    campaign_id: text("campaign", 1),
                    creative: "v1".into(),
                    region: "DE".into(),
                    device: Device::Tv,
                    cost_micros: 250_000,
                    verdict: None,
                },
                ClickDetail::default(),
            ),
        }
    };
    (0..count).map(click).collect()
}

/// A header for those events.
pub(crate) fn header_of(events: &[Event]) -> Header {
    Header {
        kind: events[0].kind(),
        producer: Id::new("collector-1").unwrap(),
        epoch: Epoch(7),
        first: 0,
        count: events.len() as u32,
        watermark: Watermark::default(),
    }
}

/// The largest frame that a reader takes, with as many entries in its dictionaries as it has events.
#[test]
fn the_largest_frame_is_read() {
    let mut events = clicks(FRAME_MAX_EVENTS_READ);
    for (i, event) in events.iter_mut().enumerate() {
        event.user_agent = Some(format!("agent {i}").into());
        event.flags = Flags(i as u16);
        if let Body::Click(placement, _) = &mut event.body {
            placement.ad_id = Id::new(&format!("ad-{i}")).unwrap();
            placement.cost_micros = i as i64;
        }
    }
    let message = encode(&header_of(&events), &events);
    assert_eq!(events_of(&message).events, events);
}

#[test]
#[should_panic(expected = "one kind")]
fn a_frame_of_two_kinds_is_not_written() {
    let mut events = clicks(2);
    let Body::Click(placement, _) = events[1].body.clone() else {
        panic!("a click")
    };
    events[1].body = Body::Impression(placement);
    encode(&header_of(&events), &events);
}

#[test]
#[should_panic(expected = "says 2")]
fn a_frame_that_misstates_its_count_is_not_written() {
    let events = clicks(2);
    encode(&header_of(&events), &events[..1]);
}

/// Those bytes with a right checksum behind them.
pub(crate) fn resealed(mut bytes: Vec<u8>) -> Vec<u8> {
    let crc = frame_crc(&bytes);
    bytes.extend(crc.to_be_bytes());
    bytes
}

/// Those bytes with their last four made right.
fn resealed_in_place(mut message: Vec<u8>) -> Vec<u8> {
    message.truncate(message.len() - 4);
    resealed(message)
}

#[test]
fn the_checksum_is_crc32c() {
    // RFC 3720, appendix B.4, and the check value of the CRC catalogue.
    assert_eq!(frame_crc(&[0; 32]), 0x8a91_36aa);
    assert_eq!(frame_crc(b"123456789"), 0xe306_9283);
}
