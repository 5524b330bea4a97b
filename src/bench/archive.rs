//! Archiving beside its yardstick, the bare decode of the same frames: how fast frames become Parquet, how fast that
//! becomes the entries of a fold again, and how large it is.
//!
//! Invariant: what is measured is what the role archiver does between the broker and the store, decoding, encoding,
//! compressing and the checksum of the file, on one thread; and what was written is read back and counted.

use std::time::Duration;

use adtally_archive::read::SegmentReader;
use adtally_archive::segment::{Message, SegmentWriter};
use adtally_streams::event::Kind;
use adtally_streams::frame::decode_for_fold;
use adtally_streams::names::events_subject;
use anyhow::Context as _;
use sha2::{Digest, Sha256};

use super::Figure;
use crate::projector::figures::{Framed, Load, Traffic, thread_cpu};
use crate::telemetry;

/// Events of a frame: full ones, and those that load makes.
const FRAMES: [u32; 2] = [1_024, 256];
/// Events that are made and archived at a time, each time a file: half of the rows that a file may have.
const ROUND_EVENTS: u64 = 1 << 20;

/// Measures archiving `events` events of each kind.
pub async fn run(events: u64) -> anyhow::Result<Vec<Figure>> {
    let mut figures = Vec::new();
    for kind in [Kind::Impression, Kind::Click] {
        for frame_events in FRAMES {
            let load = Load {
                kind,
                events,
                frame_events,
                seed: 1,
            };
            telemetry::say(&format!(
                "archiving {events} {kind}s in frames of {frame_events} ..."
            ));
            let reached = tokio::task::spawn_blocking(move || measure(load)).await??;
            figures.push(reached.figure(load));
        }
    }
    Ok(figures)
}

/// What was measured.
#[derive(Debug, Default)]
struct Reached {
    events: u64,
    frame_bytes: u64,
    file_bytes: u64,
    decode: Duration,
    write: Duration,
    read: Duration,
}

fn measure(load: Load) -> anyhow::Result<Reached> {
    let mut traffic = Traffic::new(load, 0);
    let mut reached = Reached::default();
    loop {
        let frames = traffic.frames(ROUND_EVENTS);
        if frames.is_empty() {
            return Ok(reached);
        }
        let made = thread_cpu();
        for frame in &frames {
            std::hint::black_box(decode_for_fold(&frame.payload).is_ok());
        }
        let decoded = thread_cpu();
        let (bytes, events) = write(load.kind, &frames)?;
        let written = thread_cpu();
        reached.frame_bytes += frames.iter().map(|f| f.payload.len() as u64).sum::<u64>();
        reached.file_bytes += bytes.len() as u64;
        let before = thread_cpu();
        let read = read(bytes)?;
        anyhow::ensure!(
            read == events,
            "{read} events came back of {events}: the archive loses some"
        );
        reached.read += thread_cpu().saturating_sub(before);
        reached.events += events;
        reached.decode += decoded.saturating_sub(made);
        reached.write += written.saturating_sub(decoded);
    }
}

fn write(kind: Kind, frames: &[Framed]) -> anyhow::Result<(Vec<u8>, u64)> {
    let subject = events_subject(0, kind);
    let mut writer = SegmentWriter::new()?;
    for (n, frame) in frames.iter().enumerate() {
        writer.push(Message {
            sequence: n as u64 + 1,
            broker_ms: frame.broker_ms,
            subject: &subject,
            payload: &frame.payload,
        })?;
    }
    let segment = writer.finish()?;
    std::hint::black_box(Sha256::digest(&segment.bytes));
    Ok((segment.bytes, segment.rows.events()))
}

fn read(bytes: Vec<u8>) -> anyhow::Result<u64> {
    let mut reader = SegmentReader::open(bytes.into())?;
    let mut events = 0;
    while let Some(entries) = reader.next_entries().context("reading it back")? {
        events += entries
            .iter()
            .map(|entry| entry.events() as u64)
            .sum::<u64>();
    }
    Ok(events)
}

impl Reached {
    fn per_s(&self, time: Duration) -> f64 {
        self.events as f64 / time.as_secs_f64()
    }

    fn figure(&self, load: Load) -> Figure {
        let (written, decoded) = (self.per_s(self.write), self.per_s(self.decode));
        let of_event = |bytes: u64| bytes as f64 / self.events as f64;
        Figure {
            name: format!("archive: {}s, frames of {}", load.kind, load.frame_events),
            value: format!(
                "{:.2} M/s a core, {:.1} bytes an event in Parquet ({:.1} in frames), read back at {:.2} M/s",
                written / 1e6,
                of_event(self.file_bytes),
                of_event(self.frame_bytes),
                self.per_s(self.read) / 1e6
            ),
            yardstick: format!("bare decode {:.2} M/s", decoded / 1e6),
            ratio: Some(written / decoded),
        }
    }
}
