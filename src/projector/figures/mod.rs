//! How fast a shard folds, beside its yardstick: the bare decode of the same frames.
//!
//! Invariant: the measured path is the projector's own, decode, ledger, ids, cells and RocksDB, on one thread; the
//! traffic is a function of its seed, so two runs measure the same. What RocksDB's own threads do for it, flushes
//! and compactions to the end, is counted in the processor time of the whole process.

mod stored;
mod traffic;
mod usage;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use adtally_projections::fold::Entry;
use adtally_streams::event::Kind;
use adtally_streams::frame::decode_for_fold;
use adtally_streams::names::events_subject;

use super::ProjectorError;
use super::folder::Folder;
use super::worker::{BATCH_MAX_BYTES, BATCH_MAX_EVENTS, BATCH_MAX_MESSAGES};
use crate::store::{Limits, Memory, Shard, StoreError};

pub use stored::Stored;
pub use traffic::{EVENTS_A_MINUTE, Traffic};
pub use usage::{memory_bytes, peak_memory_bytes, process_cpu, thread_cpu, written_bytes};

/// Events that are made, decoded and folded before the next ones are made, so that a load of any size fits.
const ROUND_EVENTS: u64 = 1 << 20;

/// What is measured.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// Impressions, whose ids are the collector's own, or clicks, which all pass the id index.
    pub kind: Kind,
    /// How many.
    pub events: u64,
    /// Events in a frame, at most [`adtally_streams::names::FRAME_MAX_EVENTS`].
    pub frame_events: u32,
    /// What the traffic is made from.
    pub seed: u64,
}

/// A frame as the broker hands it on.
#[derive(Clone, Debug)]
pub struct Framed {
    /// What it holds.
    pub kind: Kind,
    /// When the broker took it, Unix milliseconds: just after its last event.
    pub broker_ms: i64,
    /// Its bytes.
    pub payload: Vec<u8>,
}

/// Where the time of a fold went.
#[derive(Clone, Copy, Debug, Default)]
pub struct Parts {
    /// Decoding the frames.
    pub decode: Duration,
    /// Reading the state.
    pub read: Duration,
    /// Folding proper.
    pub compute: Duration,
    /// Writing the batches.
    pub write: Duration,
}

/// What was measured.
#[derive(Clone, Copy, Debug)]
pub struct FoldFigures {
    /// What was folded.
    pub load: Load,
    /// Bytes of its frames.
    pub bytes: u64,
    /// Processor time of decoding the frames and nothing else.
    pub bare_decode: Duration,
    /// Processor time of the folding thread, decoding included. Not the time that passed, which grows with whatever
    /// else the machine does.
    pub fold: Duration,
    /// The time that passed.
    pub passed: Duration,
    /// Where that went.
    pub parts: Parts,
    /// Processor time of the whole process for the fold: the thread's, and that of RocksDB's threads until
    /// everything was flushed and compacted.
    pub cpu: Duration,
    /// Rows that were written.
    pub rows: u64,
    /// Batches that were written.
    pub batches: u64,
    /// Bytes written to files: write-ahead log, flushes and compactions. None where the system does not tell.
    pub written_bytes: Option<u64>,
    /// What the state then holds.
    pub stored: Stored,
}

impl FoldFigures {
    fn per_s(&self, time: Duration) -> f64 {
        self.load.events as f64 / time.as_secs_f64()
    }

    /// Events a second of the bare decode.
    pub fn decoded_per_s(&self) -> f64 {
        self.per_s(self.bare_decode)
    }

    /// Events a second of the fold's thread, beside which RocksDB's own threads flush and compact.
    pub fn folded_per_s(&self) -> f64 {
        self.per_s(self.fold)
    }

    /// Events for each second of processor time of the whole process.
    pub fn folded_per_cpu_s(&self) -> f64 {
        self.per_s(self.cpu)
    }

    /// The whole fold's speed as a part of the bare decode's.
    pub fn ratio(&self) -> f64 {
        self.bare_decode.as_secs_f64() / self.fold.as_secs_f64()
    }
}

/// Measures a load in an empty folder, which is left as it is afterwards. Blocks for as long as it takes.
///
/// # Errors
/// [`ProjectorError`] when the state cannot be written there.
pub fn measure(folder: &Path, load: Load) -> Result<FoldFigures, ProjectorError> {
    let memory = Memory::new(Limits::default()).map_err(|source| StoreError::Rocks {
        path: folder.to_path_buf(),
        action: "start",
        source,
    })?;
    let shard = Arc::new(Shard::open(0, "g-figures", folder, &memory)?);
    let mut run = FoldRun::new(Arc::clone(&shard))?;
    let mut traffic = Traffic::new(load, 0);
    let (cpu_before, written_before) = (process_cpu(), written_bytes());
    let (mut bytes, mut bare_decode, mut fold, mut passed) = Default::default();
    // What this thread does besides folding is no part of the fold.
    let mut other_cpu = Duration::ZERO;
    loop {
        let aside = thread_cpu();
        let frames = traffic.frames(ROUND_EVENTS);
        if frames.is_empty() {
            break;
        }
        bytes += frames.iter().map(|f| f.payload.len() as u64).sum::<u64>();
        let made = thread_cpu();
        for frame in &frames {
            std::hint::black_box(decode_for_fold(&frame.payload).is_ok());
        }
        let decoded = thread_cpu();
        let began = Instant::now();
        run.fold(&frames)?;
        passed += began.elapsed();
        fold += thread_cpu().saturating_sub(decoded);
        bare_decode += decoded.saturating_sub(made);
        other_cpu += decoded.saturating_sub(aside);
    }
    shard.settle()?;
    let cpu = process_cpu().saturating_sub(cpu_before + other_cpu);
    let written = written_bytes()
        .zip(written_before)
        .map(|(now, before)| now - before);
    let figures = FoldFigures {
        load,
        bytes,
        bare_decode,
        fold,
        passed,
        parts: run.parts,
        cpu,
        rows: run.rows,
        batches: run.batches,
        written_bytes: written,
        stored: Stored::of(&shard.snapshot()?)?,
    };
    shard.close()?;
    Ok(figures)
}

/// Folds frames as a shard's thread does under load, and notes where the time goes.
#[derive(Debug)]
pub struct FoldRun {
    folder: Folder<'static>,
    subjects: [String; Kind::ALL.len()],
    sequence: u64,
    /// Where the time went.
    pub parts: Parts,
    /// Rows that were written.
    pub rows: u64,
    /// Batches that were written.
    pub batches: u64,
}

impl FoldRun {
    /// Goes on where the shard is.
    ///
    /// # Errors
    /// [`ProjectorError`] when the state cannot be read.
    pub fn new(shard: Arc<Shard>) -> Result<Self, ProjectorError> {
        let subjects = Kind::ALL.map(|kind| events_subject(shard.number(), kind));
        let folder = Folder::open(shard, 1)?;
        Ok(Self {
            sequence: folder.sequence(),
            folder,
            subjects,
            parts: Parts::default(),
            rows: 0,
            batches: 0,
        })
    }

    /// Folds frames in batches as the projector cuts them when it is behind.
    ///
    /// # Errors
    /// [`ProjectorError`] when the state cannot be read or written.
    pub fn fold(&mut self, frames: &[Framed]) -> Result<(), ProjectorError> {
        let mut entries = Vec::new();
        let (mut events, mut bytes) = (0, 0);
        for (i, frame) in frames.iter().enumerate() {
            let began = Instant::now();
            self.sequence += 1;
            let subject = &self.subjects[frame.kind as usize];
            let (at, payload) = (frame.broker_ms, &frame.payload);
            entries.push(Entry::decode(self.sequence, at, subject, payload));
            self.parts.decode += began.elapsed();
            bytes += payload.len();
            events += entries.last().map_or(0, Entry::events);
            let full = entries.len() >= BATCH_MAX_MESSAGES
                || events >= BATCH_MAX_EVENTS
                || bytes >= BATCH_MAX_BYTES;
            if full || i + 1 == frames.len() {
                self.write(&entries)?;
                entries.clear();
                (events, bytes) = (0, 0);
            }
        }
        Ok(())
    }

    fn write(&mut self, entries: &[Entry]) -> Result<(), ProjectorError> {
        let (folded, times) = self.folder.apply_timed(entries)?;
        self.parts.read += times.read;
        self.parts.compute += times.compute;
        self.parts.write += times.write;
        self.rows += folded.changes.len() as u64;
        self.batches += 1;
        Ok(())
    }
}

/// Frames of a load, for tests.
#[cfg(test)]
pub fn frames(load: Load) -> Vec<Vec<u8>> {
    let frames = Traffic::new(load, 0).frames(load.events);
    frames.into_iter().map(|frame| frame.payload).collect()
}
