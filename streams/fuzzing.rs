//! What holds for any bytes whatever: the bodies of the fuzz targets in `fuzz/`, and of the test that runs their
//! kept corpus in every test run.
//!
//! Each function takes what a hostile sender may send and panics when a promise is broken: no bytes make a reader
//! panic or reserve more than they hold, readers of the same message agree, and what was believed can be written and
//! read again as the same. Behind the feature `testing`.

use std::sync::LazyLock;

use crate::admit::{Facts, admit};
use crate::catalogue::{Catalogue, check_landing_url, expand_landing_url};
use crate::event::Kind;
use crate::frame::{
    EventFrame, EventMessage, FoldMessage, Header, decode_events, decode_for_fold, decode_header,
    encode, frame_crc,
};
use crate::id::{Epoch, Id};
use crate::parse::{RawEvent, parse_subject};
use crate::refusal::{DETAIL_MAX_BYTES, QuarantineRecord, Refusal};
use crate::watermark::Watermark;

/// When every event of the targets arrives: 2026-03-01T00:00:00Z.
const ARRIVAL_MS: i64 = 1_772_323_200_000;

/// A message of an EVENTS stream, as it came and with its checksum made right: blind changes would all end at the
/// checksum, and a forger would not.
pub fn message(bytes: &[u8]) {
    read_every_way(bytes);
    if let Some((body, _)) = bytes.split_last_chunk::<4>() {
        let mut sealed = body.to_vec();
        sealed.extend(frame_crc(body).to_be_bytes());
        read_every_way(&sealed);
    }
}

fn read_every_way(bytes: &[u8]) {
    let (header, fold, events) = (
        decode_header(bytes),
        decode_for_fold(bytes),
        decode_events(bytes),
    );
    match &fold {
        Ok(FoldMessage::Frame(frame)) => {
            assert_eq!(header.as_ref(), Ok(&Some(frame.header.clone())));
            assert_eq!(frame.ad.len(), frame.header.count as usize);
            assert_eq!(frame.id.len(), frame.ad.len());
            assert_eq!(frame.visitor.len(), frame.ad.len());
        }
        Ok(FoldMessage::Announcement { .. }) => assert_eq!(header, Ok(None)),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
    match events {
        Ok(EventMessage::Frame(frame)) => {
            assert!(matches!(&fold, Ok(FoldMessage::Frame(read)) if read.header == frame.header));
            assert_eq!(frame.events.len(), frame.header.count as usize);
            let again = encode(&frame.header, &frame.events);
            assert_eq!(decode_events(&again), Ok(EventMessage::Frame(frame)));
        }
        Ok(EventMessage::Announcement { .. }) => {
            assert!(matches!(fold, Ok(FoldMessage::Announcement { .. })));
        }
        // A fold does without what it cannot read of the cold part, so it may believe what this reader refuses; never
        // the reverse.
        Err(error) => assert!(fold.is_ok() || fold.err() == Some(error)),
    }
}

/// An event as people publish it. The first byte says its kind, and whether the subject and `Nats-Msg-Id` help out.
pub fn raw_event(bytes: &[u8]) {
    let Some((how, payload)) = bytes.split_first() else {
        return;
    };
    let kind = Kind::ALL[usize::from(how & 0x0f) % Kind::ALL.len()];
    let key = (how & 0x10 != 0).then_some("a1");
    let message_id = (how & 0x20 != 0).then_some("click:m1");
    let read = RawEvent::from_payload(kind, key, message_id, payload);
    admitted_or_refused(&read, payload);
    admitted_or_refused(&RawEvent::from_json_object(payload), payload);
    if let Ok(subject) = std::str::from_utf8(payload) {
        let _ = parse_subject(subject);
    }
    // Both formats say the same of the same object. A text is nested as deep as MessagePack is read at most.
    if let Ok(value @ serde_json::Value::Object(_)) = serde_json::from_slice(payload) {
        let json = serde_json::to_vec(&value).expect("a value from JSON can be written as JSON");
        let packed = rmp_serde::to_vec_named(&value)
            .expect("a value from JSON can be written as MessagePack");
        let reason = |e: Refusal| e.reason;
        assert_eq!(
            RawEvent::from_payload(kind, key, message_id, &json).map_err(reason),
            RawEvent::from_payload(kind, key, message_id, &packed).map_err(reason)
        );
    }
}

fn admitted_or_refused(read: &Result<RawEvent, Refusal>, payload: &[u8]) {
    let facts = Facts {
        arrival_ms: ARRIVAL_MS,
        ..Facts::default()
    };
    let admitted = read.clone().and_then(|raw| admit(raw, &facts, &CATALOGUE));
    match admitted {
        Ok(admitted) => {
            let header = Header {
                kind: admitted.event.kind(),
                producer: Id::new("fuzz").expect("the id is well-formed"),
                epoch: Epoch(1),
                first: 0,
                count: 1,
                watermark: Watermark::default(),
            };
            let events = vec![admitted.event];
            let frame = encode(&header, &events);
            assert!(
                frame.len() <= crate::names::FRAME_MAX_BYTES,
                "an event of {} bytes",
                frame.len()
            );
            let read = decode_events(&frame);
            assert_eq!(read, Ok(EventMessage::Frame(EventFrame { header, events })));
        }
        Err(refusal) => {
            assert!(!refusal.detail.is_empty() && refusal.detail.len() <= DETAIL_MAX_BYTES);
            let record =
                QuarantineRecord::new(refusal, "ads.click.a1", ARRIVAL_MS, payload).to_json_bytes();
            assert!(serde_json::from_slice::<QuarantineRecord>(&record).is_ok());
        }
    }
}

/// An ad with a landing page, so that some events are admitted.
static CATALOGUE: LazyLock<Catalogue> = LazyLock::new(|| {
    let documents = [
        (
            "catalog.advertiser.v1",
            r#"{"advertiser_id":"v1","name":"V","currency_code":"USD","time_zone":"Australia/Lord_Howe"}"#,
        ),
        (
            "catalog.campaign.c1",
            r#"{"campaign_id":"c1","advertiser_id":"v1","name":"C","status":"active","pricing":{"model":"cpc","price_micros":250000}}"#,
        ),
        (
            "catalog.ad.a1",
            r#"{"ad_id":"a1","campaign_id":"c1","landing_url":"https://shop.example/","status":"active","creatives":["x","y"]}"#,
        ),
    ];
    let mut catalogue = Catalogue::default();
    for (revision, (subject, text)) in (1..).zip(documents) {
        catalogue
            .apply(revision, subject, text.as_bytes())
            .expect("the documents are well-formed and fit each other");
    }
    catalogue
});

/// A landing URL and, behind a line feed, the value that its macros are filled with. What leaves is what a header
/// may carry, and no value chooses the host.
pub fn landing_url(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let (url, value) = text.split_once('\n').unwrap_or((&text, ""));
    if check_landing_url(url).is_err() {
        return;
    }
    let filled = expand_landing_url(url, value, value, value, value);
    assert!(filled.bytes().all(|b| b.is_ascii_graphic()), "{filled:?}");
    let plain = expand_landing_url(url, "x", "x", "x", "x");
    // Judged by the URL Standard's own parser, as browsers have it: the same scheme, user, host and port.
    match (url::Url::parse(&filled), url::Url::parse(&plain)) {
        (Ok(filled), Ok(plain)) => {
            assert!(matches!(filled.scheme(), "http" | "https"));
            assert_eq!(
                filled[..url::Position::BeforePath],
                plain[..url::Position::BeforePath]
            );
        }
        (Err(_), Err(_)) => {}
        (filled, plain) => panic!("{filled:?} and {plain:?}"),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    /// Runs one target over the files that fuzzing has kept.
    fn run_corpus(target: &str, body: fn(&[u8])) {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../fuzz/corpus")
            .join(target);
        let mut files = 0;
        for entry in std::fs::read_dir(&folder).expect("fuzz/corpus is part of the repository") {
            let path = entry.expect("the folder can be read").path();
            body(&std::fs::read(&path).expect("the file can be read"));
            files += 1;
        }
        assert!(files > 50, "{} holds {files} files only", folder.display());
    }

    #[test]
    fn the_kept_messages_break_no_promise() {
        run_corpus("frames", super::message);
    }

    #[test]
    fn the_kept_events_break_no_promise() {
        run_corpus("raw_events", super::raw_event);
    }

    #[test]
    fn the_kept_urls_break_no_promise() {
        run_corpus("urls", super::landing_url);
    }
}
