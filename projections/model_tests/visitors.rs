//! Sketches of more visitors than are kept one by one: whatever the batches, the same bytes, of the right size.

use adtally_streams::event::{Body, ClickDetail, Event, Flags, Kind, Placement};
use adtally_streams::frame::{Header, encode};
use adtally_streams::id::{Epoch, Id};
use adtally_streams::watermark::Watermark;

use super::*;

const VISITORS: u64 = 4_000;
const EVENTS: u64 = 9_000;
const FRAME: u64 = 90;

fn id(text: String) -> Id {
    Id::new(&text).unwrap()
}

/// Event `n` of a campaign on one day: each of the visitors twice and some a third time, in no order.
fn event(n: u64) -> Event {
    let visitor = n * 7_919 % VISITORS;
    let placement = Placement {
        ad_id: id(format!("ad-{}", n % 3)),
        campaign_id: id("campaign".to_owned()),
        creative: "".into(),
        region: "".into(),
        device: Default::default(),
        cost_micros: 1,
        verdict: None,
    };
    Event {
        id: id(format!("event-{n}")),
        event_time_ms: 1_709_990_000_000 + n as i64,
        arrival_ms: 1_709_990_000_000 + n as i64,
        advertiser_id: None,
        currency: None,
        utc_offset_s: 0,
        catalogue_revision: 0,
        content_hash: n,
        flags: Flags::default(),
        address_hash: Some(9),
        user_id: Some(id(format!("user-{visitor}"))),
        user_agent: None,
        referrer: None,
        body: Body::Click(placement, ClickDetail::default()),
    }
}

fn log() -> Vec<Entry> {
    let frame = |first: u64| {
        let events: Vec<Event> = (first..first + FRAME).map(event).collect();
        let header = Header {
            kind: Kind::Click,
            producer: id("collector".to_owned()),
            epoch: Epoch(3),
            first,
            count: FRAME as u32,
            watermark: Watermark::default(),
        };
        let sequence = first / FRAME + 1;
        Entry::decode(sequence, 1, "events.0.click", &encode(&header, &events))
    };
    (0..EVENTS).step_by(FRAME as usize).map(frame).collect()
}

fn folded(log: &[Entry], batch: usize, restart: bool) -> Vec<String> {
    let mut state = Memory::default();
    let mut all = open(&state);
    for entries in log.chunks(batch) {
        fold(&mut all, entries, &mut state);
        if restart {
            all = open(&state);
        }
    }
    let lines = dump(&state).unwrap();
    lines
        .into_iter()
        .filter(|line| line.starts_with("uniques "))
        .collect()
}

#[test]
fn many_visitors_have_one_sketch_whatever_the_batches() {
    let log = log();
    let once = folded(&log, log.len(), false);
    assert_eq!(once.len(), 1, "{once:?}");
    for (batch, restart) in [(1, false), (1, true), (3, true), (7, false), (40, true)] {
        assert_eq!(
            folded(&log, batch, restart),
            once,
            "batches of {batch}, restart {restart}"
        );
    }
    let estimate = once[0]
        .split(' ')
        .find_map(|word| word.strip_prefix("estimate="));
    let estimate: f64 = estimate.unwrap().parse().unwrap();
    // Three standard errors of 1.6%.
    assert!((estimate / VISITORS as f64 - 1.0).abs() < 0.049, "{once:?}");
    assert!(
        once[0].starts_with("uniques campaign clickers day=19791 "),
        "{once:?}"
    );
}
