//! What a segment gives back is what the log's own messages decode to.

#![allow(clippy::unwrap_used)]

use adtally_projections::fold::Entry;
use adtally_streams::frame::{encode, encode_announcement, encode_retirement};
use adtally_streams::id::Epoch;
use adtally_streams::strategies;
use adtally_streams::watermark::Watermark;
use proptest::prelude::*;

use crate::read::SegmentReader;
use crate::segment::{Message, Segment, SegmentWriter};

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
    entries.into_iter().map(|e| format!("{e:?}")).collect()
}

fn read(segment: Segment) -> Vec<Entry> {
    let mut reader = SegmentReader::open(segment.bytes.into()).unwrap();
    let mut all = Vec::new();
    while let Some(entries) = reader.next_entries().unwrap() {
        all.extend(entries);
    }
    all
}

fn decoded(log: &Log) -> Vec<String> {
    words(
        log.iter()
            .map(|(s, ms, subject, payload)| Entry::decode(*s, *ms, subject, payload)),
    )
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
