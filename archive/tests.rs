//! What a segment gives back is what the log's own messages decode to.

#![allow(clippy::unwrap_used)]

use adtally_projections::fold::{Content, Entry};
use adtally_projections::sketch::Coupon;
use adtally_streams::event::{Body, ClickDetail, Device, Event, Flags, Kind, Placement};
use adtally_streams::frame::{
    Header, decode_whole, encode, encode_announcement, encode_retirement, frame_crc,
};
use adtally_streams::id::{Epoch, Id};
use adtally_streams::strategies;
use adtally_streams::visitor::NOBODY;
use adtally_streams::watermark::Watermark;
use bytes::Bytes;
use parquet::data_type::ByteArrayType;
use parquet::file::reader::{FileReader, SerializedFileReader};
use proptest::prelude::*;

use crate::chain::{Chain, ChainError};
use crate::erase::{Pseudonym, erase, is_user_hash};
use crate::manifest::{
    ENTRY_VERSION, FileRef, Hour, SegmentEntry, entry_path, read_entry_path, read_segment_path,
    segment_path,
};
use crate::read::SegmentReader;
use crate::segment::{Message, Rows, Segment, SegmentWriter};
use crate::user_hash;

type Log = Vec<(u64, i64, String, Vec<u8>)>;

fn write(log: &Log) -> Segment {
    let mut writer = SegmentWriter::new().unwrap();
    for (sequence, broker_ms, subject, payload) in log {
        writer
            .push(Message {
                sequence: *sequence,
                broker_ms: *broker_ms,
                subject,
                payload,
            })
            .unwrap();
    }
    writer.finish().unwrap()
}

/// Entries have no equality of their own, and their every field shows in their words.
fn words(entries: impl IntoIterator<Item = Entry>) -> Vec<String> {
    entries
        .into_iter()
        .map(|entry| format!("{:?}", seen(entry)))
        .collect()
}

fn read(segment: Segment) -> Vec<Entry> {
    let mut reader = SegmentReader::open(segment.bytes.into()).unwrap();
    let mut all = Vec::new();
    while let Some(entries) = reader.next_entries().unwrap() {
        all.extend(entries);
    }
    all
}

/// What a fold reads of the log: of an event that the id index passes over, no content hash.
fn decoded(log: &Log) -> Vec<String> {
    let entries = log.iter().map(|(sequence, ms, subject, payload)| {
        let mut entry = Entry::decode(*sequence, *ms, subject, payload);
        if let (Content::Frame(frame), Ok(_)) = (&mut entry.content, decode_whole(payload)) {
            let kind = frame.header.kind;
            for (hash, flags) in frame.content_hash.iter_mut().zip(&frame.flags) {
                if kind != Kind::Click && flags.has(Flags::MINTED_ID) {
                    *hash = 0;
                }
            }
        }
        entry
    });
    words(entries)
}

/// A visitor as far as a sketch looks.
fn seen(mut entry: Entry) -> Entry {
    if let Content::Frame(frame) = &mut entry.content {
        for visitor in frame.visitor.iter_mut().filter(|v| **v != NOBODY) {
            *visitor = u64::from(Coupon::of(*visitor).bits());
        }
    }
    entry
}

/// A message of any sort, good or bad, with its subject.
fn message() -> impl Strategy<Value = (String, Vec<u8>)> {
    let frame = strategies::frame(40).prop_map(|(header, events)| {
        let subject = format!("events.3.{}", header.kind);
        (subject, encode(&header, &events))
    });
    let author = (strategies::id(), any::<u64>(), any::<i64>(), any::<bool>());
    let announcement = author.prop_map(|(producer, epoch, through_ms, retires)| {
        let watermark = Watermark {
            through_ms,
            acked: [epoch, 7, 0],
            heads: [epoch, 9, 1],
            drained: retires,
        };
        let bytes = match retires {
            true => encode_retirement(&producer, Epoch(epoch), "its disk is gone"),
            false => encode_announcement(&producer, Epoch(epoch), &watermark),
        };
        ("events.3.watermark".to_owned(), bytes)
    });
    let other = (strategies::frame(40), any::<prop::sample::Index>(), 0u8..3).prop_map(
        |((header, events), at, how)| {
            let mut bytes = encode(&header, &events);
            match how {
                0 => bytes.truncate(at.index(bytes.len())),
                1 => {
                    let at = at.index(bytes.len());
                    bytes[at] ^= 0x20;
                }
                // A frame under the subject of another kind.
                _ => return ("events.3.decision".to_owned(), bytes),
            }
            ("events.3.click".to_owned(), bytes)
        },
    );
    prop_oneof![6 => frame, 2 => announcement, 1 => other]
}

fn log() -> impl Strategy<Value = Log> {
    let step = (1u64..4, -50i64..5_000, message());
    prop::collection::vec(step, 0..12).prop_map(|steps| {
        let (mut sequence, mut at) = (0, strategies::USUAL_TIME_MS);
        let message = |(skip, ms, (subject, payload))| {
            sequence += skip;
            at += ms;
            (sequence, at, subject, payload)
        };
        steps.into_iter().map(message).collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn a_segment_reads_back_as_the_log_decodes(log in log()) {
        prop_assert_eq!(words(read(write(&log))), decoded(&log));
    }
}

/// A message as a later version could write it: with a key that this one does not know.
fn with_another_key(message: &[u8]) -> Vec<u8> {
    const CHECKSUM: [u8; 4] = [0xa1, b's', 0xc4, 4];
    let body = &message[..message.len() - 8];
    assert_eq!(&message[body.len()..body.len() + 4], CHECKSUM);
    let mut out = body.to_vec();
    // A map of one entry more.
    out[0] += 1;
    out.extend([0xa2, b'z', b'z', 7]);
    out.extend(CHECKSUM);
    let checksum = frame_crc(&out);
    out.extend(checksum.to_be_bytes());
    out
}

/// The bytes of messages that a file keeps beside its rows.
fn kept(bytes: &Bytes) -> Vec<Vec<u8>> {
    let file = SerializedFileReader::new(bytes.clone()).unwrap();
    let group = file.get_row_group(0).unwrap();
    let columns = group.metadata().columns();
    let raw = columns
        .iter()
        .position(|c| c.column_path().string() == "raw")
        .unwrap();
    let rows = group.metadata().num_rows() as usize;
    let column = crate::optional::read::<ByteArrayType>(&*group, raw, rows).unwrap();
    column
        .values
        .iter()
        .map(|value| value.data().to_vec())
        .collect()
}

fn click_of(user: &str, click: &str) -> Vec<u8> {
    let id = |text: &str| Id::new(text).unwrap();
    let placement = Placement {
        ad_id: id("ad"),
        campaign_id: id("campaign"),
        creative: "".into(),
        region: "US-CA".into(),
        device: Device::Ios,
        cost_micros: 7,
        verdict: None,
    };
    let event = Event {
        id: id(click),
        event_time_ms: strategies::USUAL_TIME_MS,
        arrival_ms: strategies::USUAL_TIME_MS,
        advertiser_id: None,
        currency: None,
        utc_offset_s: 0,
        catalogue_revision: 1,
        content_hash: 99,
        flags: Flags::default(),
        address_hash: Some(42),
        user_id: Some(id(user)),
        user_agent: None,
        referrer: None,
        body: Body::Click(placement, ClickDetail::default()),
    };
    let header = Header {
        kind: Kind::Click,
        producer: Id::new("p").unwrap(),
        epoch: Epoch(1),
        first: 0,
        count: 1,
        watermark: Watermark::default(),
    };
    encode(&header, &[event])
}

#[test]
fn a_later_versions_message_keeps_its_bytes_until_one_of_its_users_is_erased() {
    let message = |sequence, payload| (sequence, 5, "events.0.click".to_owned(), payload);
    let later = with_another_key(&click_of("anna", "c1"));
    let log = vec![message(1, later.clone()), message(2, click_of("bob", "c2"))];
    let segment = write(&log);
    assert_eq!((segment.rows.click, segment.messages), (2, 2));
    let bytes = Bytes::from(segment.bytes);
    assert_eq!(kept(&bytes), [later]);
    let read = |bytes: Bytes| {
        let mut reader = SegmentReader::open(bytes).unwrap();
        words(reader.next_entries().unwrap().unwrap())
    };
    assert_eq!(read(bytes.clone()), decoded(&log));

    let pseudonym = Pseudonym::of([3; 32]);
    assert!(
        erase(bytes.clone(), &user_hash("nobody"), &pseudonym)
            .unwrap()
            .is_none()
    );
    let erased = erase(bytes, &user_hash("anna"), &pseudonym)
        .unwrap()
        .unwrap();
    assert_eq!(erased.rows, 1);
    let erased = Bytes::from(erased.bytes);
    assert_eq!(kept(&erased), Vec::<Vec<u8>>::new());
    // The checksum is still that of the message as it came, and the events are the same but for the visitor.
    let nobody = |words: Vec<String>| -> Vec<String> {
        let cut = |w: String| {
            w.split_once("visitor: [")
                .map(|(begin, _)| begin.to_owned())
        };
        words.into_iter().map(|w| cut(w).unwrap()).collect()
    };
    let (now, then) = (read(erased.clone()), decoded(&log));
    assert_ne!(now[0], then[0]);
    assert_eq!(now[1], then[1]);
    assert_eq!(nobody(now), nobody(then));
    assert!(
        erase(erased, &user_hash("anna"), &pseudonym)
            .unwrap()
            .is_none()
    );
}

#[test]
fn a_users_hash_is_what_sha256sum_prints() {
    // printf %s user-3 | sha256sum | cut -c1-16
    assert_eq!(user_hash("user-3"), "92303aa084836e18");
    assert!(is_user_hash(&user_hash("")) && !is_user_hash("92303aa084836e1"));
}

/// Of entries that follow one another, one entry each ten sequences.
fn entries() -> Vec<SegmentEntry> {
    (0..3u64)
        .map(|n| SegmentEntry {
            version: ENTRY_VERSION,
            shard: 4,
            stream_created_ns: 7,
            first: n * 10 + 1,
            last: n * 10 + 10,
            revision: 0,
            messages: 10,
            rows: Rows::default(),
            log_time_from_ms: n as i64,
            log_time_to_ms: n as i64,
            file: FileRef {
                path: segment_path(4, Hour::of(0), n * 10 + 1, 0, "a"),
                bytes: 0,
                sha256: String::new(),
            },
            written_at: String::new(),
            archiver: String::new(),
            erasures: Vec::new(),
        })
        .collect()
}

#[test]
fn entries_that_are_no_chain_are_refused_by_name() {
    let chain = Chain::of(4, entries().into_iter().rev()).unwrap();
    assert_eq!((chain.first(), chain.last()), (Some(1), Some(30)));
    let firsts = |entries: &[SegmentEntry]| entries.iter().map(|e| e.first).collect::<Vec<_>>();
    assert_eq!(firsts(chain.of_sequences(10, 11)), [1]);
    assert_eq!(firsts(chain.of_sequences(10, 12)), [1, 11]);
    assert_eq!(firsts(chain.of_sequences(31, 40)), Vec::<u64>::new());
    let mut lacks = entries();
    lacks.remove(1);
    let error = Chain::of(4, lacks).unwrap_err().to_string();
    assert!(error.contains("00000000000000000021-0000.json"), "{error}");
    let mut overlaps = entries();
    overlaps[1].first = 10;
    assert!(matches!(
        Chain::of(4, overlaps),
        Err(ChainError::Broken {
            expected: 11,
            found: 10,
            ..
        })
    ));
    let mut other = entries();
    other[2].stream_created_ns = 8;
    assert!(matches!(
        Chain::of(4, other),
        Err(ChainError::OtherStream { .. })
    ));
}

#[test]
fn only_what_can_never_be_named_is_left_over() {
    let mut all = entries();
    let erased = SegmentEntry {
        revision: 1,
        file: FileRef {
            path: segment_path(4, Hour::of(0), 11, 1, "erased"),
            ..all[1].file.clone()
        },
        ..all[1].clone()
    };
    all.push(erased);
    let chain = Chain::of(4, all).unwrap();
    let place = |first, revision, unique| segment_path(4, Hour::of(0), first, revision, unique);
    // Named; the one from before an erasure; of a crash; of one who is at work behind the end.
    for (path, stale, left_over) in [
        (place(1, 0, "a"), true, false),
        (place(11, 0, "a"), false, true),
        (place(11, 1, "erased"), true, false),
        (place(21, 0, "crashed"), false, true),
        (place(15, 0, "crashed"), false, true),
        (place(31, 0, "at work"), true, false),
        // Of an erasure at work, or of one that was killed.
        (place(21, 1, "at work"), false, false),
        (place(21, 1, "killed"), true, true),
        ("log/shard=4/notes.txt".to_owned(), true, false),
    ] {
        assert_eq!(chain.is_left_over(&path, stale), left_over, "{path}");
    }
}

#[test]
fn hours_are_those_of_utc() {
    // 2026-11-27T06:59:59.999Z
    let ms = 1_795_762_799_999;
    let hour = Hour::of(ms);
    assert_eq!(hour.end_ms(), ms + 1);
    let path = segment_path(3, hour, 12, 0, "u");
    assert_eq!(
        path,
        "log/shard=3/year=2026/month=11/day=27/hour=06/00000000000000000012-0000-u.parquet"
    );
    assert_eq!(read_segment_path(&path), Some((12, 0)));
    assert_eq!(read_entry_path(&entry_path(3, 12, 4)), Some((12, 4)));
    assert_eq!(Hour::of(-1).end_ms(), 0);
}
