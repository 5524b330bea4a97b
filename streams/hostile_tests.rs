//! Messages whose checksum is right and whose contents are not: each is refused by name, before it costs anything.

#![allow(clippy::unwrap_used)]

use crate::envelope::{ANNOUNCEMENT, COLD_PACKED, Envelope, HOT_PACKED, put_watermark};
use crate::event::Kind;
use crate::frame::{
    COLD_MAX_BYTES, FoldMessage, FrameError, HOT_MAX_BYTES, VERSION, decode_events,
    decode_for_fold, encode,
};
use crate::frame_tests::{clicks, header_of, resealed};
use crate::names::FRAME_MAX_EVENTS_READ;
use crate::visitor::NOBODY;
use crate::watermark::Watermark;

/// A sealed frame of clicks with something about its envelope changed. The frame is leaked, so that what is put
/// into its envelope may live for any time.
fn changed<'a>(count: usize, change: impl FnOnce(&mut Envelope<'a>)) -> Vec<u8> {
    let events = clicks(count);
    let message: &'static [u8] = encode(&header_of(&events), &events).leak();
    let mut envelope: Envelope<'a> = Envelope::open(message).unwrap();
    change(&mut envelope);
    envelope.seal()
}

fn refused(message: &[u8]) -> FrameError {
    let error = decode_for_fold(message).unwrap_err();
    assert_eq!(decode_events(message).unwrap_err(), error);
    error
}

#[test]
fn an_unchanged_envelope_is_read() {
    assert!(decode_events(&changed(3, |_| {})).is_ok());
}

#[test]
fn headers_are_checked() {
    let version = changed(3, |e| e.version = VERSION + 1);
    assert_eq!(refused(&version), FrameError::UnknownVersion(VERSION + 1));
    assert_eq!(
        refused(&changed(3, |e| e.kind = 9)),
        FrameError::UnknownKind(9)
    );
    assert_eq!(
        refused(&changed(3, |e| e.codec = 4)),
        FrameError::UnknownCodec(4)
    );
    assert_eq!(
        refused(&changed(3, |e| e.producer = "a producer")).name(),
        "bad_id"
    );
    assert_eq!(
        refused(&changed(3, |e| e.watermark = &[0])),
        FrameError::Short
    );
    for (first, count) in [
        (0, 0),
        (0, FRAME_MAX_EVENTS_READ as u32 + 1),
        (0, u32::MAX),
        (u64::MAX - 2, 3),
    ] {
        let message = changed(3, |e| (e.first, e.count) = (first, count));
        assert_eq!(refused(&message), FrameError::BadCount { first, count });
    }
}

#[test]
fn another_count_than_the_columns_is_refused() {
    for count in [1, 2, 4, 5, FRAME_MAX_EVENTS_READ as u32] {
        let name = refused(&changed(3, |e| e.count = count)).name();
        assert_ne!(name, "bad_checksum", "{count}");
    }
}

/// Declared lengths are looked at before anything is reserved or unpacked.
#[test]
fn declared_lengths_have_limits() {
    for (length, most, part) in [
        (HOT_MAX_BYTES as u64 + 1, HOT_MAX_BYTES, "hot"),
        (u64::MAX, HOT_MAX_BYTES, "hot"),
    ] {
        let message = changed(8, |e| (e.hot_len, e.codec) = (length, e.codec | HOT_PACKED));
        assert_eq!(
            refused(&message),
            FrameError::TooLarge {
                part,
                said: length,
                most
            }
        );
    }
    let said = COLD_MAX_BYTES as u64 + 1;
    let message = changed(8, |e| e.cold_len = said);
    let most = COLD_MAX_BYTES;
    assert_eq!(
        refused(&message),
        FrameError::TooLarge {
            part: "cold",
            said,
            most
        }
    );
}

#[test]
fn a_part_unpacks_to_exactly_what_it_declares() {
    // A bomb: sixteen MiB of zeros in a kilobyte or two, under a small declared length.
    let bomb = zstd::bulk::compress(&vec![0; 16 * HOT_MAX_BYTES], 1).unwrap();
    for said in [8, HOT_MAX_BYTES] {
        let message = changed(8, |e| {
            (e.hot, e.hot_len, e.codec) = (&bomb, said as u64, e.codec | HOT_PACKED);
        });
        assert_eq!(
            refused(&message),
            FrameError::BadLength { part: "hot", said }
        );
        let message = changed(8, |e| {
            (e.cold, e.cold_len, e.codec) = (&bomb, said as u64, e.codec | COLD_PACKED);
        });
        // A fold does without the visitors.
        let Ok(FoldMessage::Frame(fold)) = decode_for_fold(&message) else {
            panic!("a frame");
        };
        assert_eq!(fold.visitor, [NOBODY; 8]);
        let bad = FrameError::BadLength { part: "cold", said };
        assert_eq!(decode_events(&message).unwrap_err(), bad);
    }
    for said in [0, 1, 100_000] {
        let message = changed(2, |e| e.hot_len = said as u64);
        assert_eq!(
            refused(&message),
            FrameError::BadLength { part: "hot", said }
        );
    }
    let message = changed(8, |e| e.hot_len += 1);
    assert_eq!(refused(&message).name(), "bad_length");
    assert_eq!(
        refused(&changed(8, |e| e.hot = b"not zstd")).name(),
        "bad_length"
    );
}

#[test]
fn nothing_stands_behind_a_column() {
    let behind = |bytes: &[u8]| [bytes, &[0]].concat();
    let events = clicks(3);
    let message = encode(&header_of(&events), &events);
    let plain = Envelope::open(&message).unwrap();
    let (hot, cold, raw) = (behind(plain.hot), behind(plain.cold), behind(plain.raw));
    let longer = changed(3, |e| (e.hot, e.hot_len) = (&hot, hot.len() as u64));
    assert_eq!(refused(&longer), FrameError::Trailing);
    assert_eq!(refused(&changed(3, |e| e.raw = &raw)), FrameError::Trailing);
    let longer = changed(3, |e| (e.cold, e.cold_len) = (&cold, cold.len() as u64));
    assert_eq!(decode_events(&longer).unwrap_err(), FrameError::Trailing);
    // Behind the map, under a checksum of its own.
    assert_eq!(
        refused(&resealed([&message[..], b"abcd"].concat())),
        FrameError::Trailing
    );
    let checksum_twice = resealed(message.clone());
    assert_eq!(refused(&checksum_twice), FrameError::Trailing);
}

/// One template and a click on every place: what it would fill has the cold part's limit.
#[test]
fn landing_pages_do_not_multiply() {
    let mut cold = Vec::new();
    crate::columns::put_varint(&mut cold, 1);
    crate::columns::put_varint(&mut cold, HOT_MAX_BYTES as u64 + 1);
    cold.push(0);
    cold.resize(cold.len() + HOT_MAX_BYTES - 1, b'x');
    let ids: Vec<_> = clicks(64).into_iter().map(|e| e.id).collect();
    let templates = [&[crate::frame_columns::LANDING_TEMPLATES], &cold[..]].concat();
    let mut from = crate::columns::Reader::new(&templates);
    let error = crate::frame_events::read_landing_urls(&mut from, &ids).unwrap_err();
    assert_eq!(error.name(), "too_large");
    let plain = [&[crate::frame_columns::LANDING_PLAIN], &cold[..]].concat();
    let mut from = crate::columns::Reader::new(&plain);
    assert!(crate::frame_events::read_landing_urls(&mut from, &ids).is_ok());
}

/// MessagePack that asks for a great deal: counts and depths that its bytes do not bear out.
#[test]
fn maps_that_lie_are_refused() {
    let mut watermark = Vec::new();
    put_watermark(&mut watermark, &Watermark::default());
    let good = Envelope::new(ANNOUNCEMENT, "p", 1, &watermark).seal();
    assert!(decode_for_fold(&good).is_ok());
    let deep = [&[0x81, 0xa1, b'z'][..], &[0x91; 100_000], &[0x90]].concat();
    for map in [
        &[0xdf, 0xff, 0xff, 0xff, 0xff][..],
        &[0x81, 0xa1, b'z', 0xdd, 0xff, 0xff, 0xff, 0xff],
        &[0x81, 0xa1, b'h', 0xc6, 0xff, 0xff, 0xff, 0xff],
        &[0x81, 0xa1, b'p', 0xdb, 0xff, 0xff, 0xff, 0xff],
        &[0xc0],
        &[0x80],
        &deep,
        &[],
    ] {
        assert_eq!(
            refused(&resealed(map.to_vec())).name(),
            "bad_map",
            "{map:?}"
        );
    }
    for length in 0..4 {
        assert_eq!(refused(&vec![0; length]), FrameError::Short);
    }
}

#[test]
fn conversions_are_not_read_as_clicks() {
    assert!(decode_for_fold(&changed(3, |e| e.kind = Kind::Conversion as u8)).is_err());
}
