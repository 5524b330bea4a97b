//! How fast a shard folds, beside its yardstick: the bare decode of the same frames.
//!
//! Invariant: the measured path is the projector's own, decode, ledger, ids, cells and RocksDB, on one thread; the
//! traffic is a function of its seed, so two runs measure the same.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use adtally_projections::fold::Entry;
use adtally_streams::event::{Body, ClickDetail, Device, Event, Flags, Kind, Placement};
use adtally_streams::frame::{Header, decode_for_fold, encode};
use adtally_streams::id::{Epoch, Id};
use adtally_streams::money::Currency;
use adtally_streams::names::events_subject;
use adtally_streams::watermark::Watermark;

use super::ProjectorError;
use super::worker::{BATCH_MAX_BYTES, BATCH_MAX_EVENTS, BATCH_MAX_MESSAGES};
use crate::store::{Limits, Memory, Shard, StoreError};

/// Ads of the measured traffic. The nth of them has a part of it that falls as 1/n, as that of real ads does.
const ADS: u64 = 2_048;
/// Ads of one campaign.
const ADS_PER_CAMPAIGN: u64 = 8;
/// Microseconds between events of the measured traffic: 5,000 a second in the shard.
const EVENT_EVERY_US: u64 = 200;
/// 2026-01-01, when the measured traffic begins.
const BEGIN_MS: i64 = 1_767_225_600_000;

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

/// What was measured.
#[derive(Clone, Copy, Debug)]
pub struct FoldFigures {
    /// What was folded.
    pub load: Load,
    /// Bytes of its frames.
    pub bytes: u64,
    /// Seconds of decoding the frames and nothing else.
    pub decode_s: f64,
    /// Seconds of the whole fold, decoding included.
    pub fold_s: f64,
    /// The part of it in decoding.
    pub fold_decode_s: f64,
    /// The part of it in reading the state.
    pub fold_read_s: f64,
    /// The part of it in folding proper.
    pub fold_compute_s: f64,
    /// The part of it in writing the batches.
    pub fold_write_s: f64,
    /// Rows that were written.
    pub rows: u64,
    /// Batches that were written.
    pub batches: u64,
}

impl FoldFigures {
    /// Events a second of the bare decode.
    pub fn decoded_per_s(&self) -> f64 {
        self.load.events as f64 / self.decode_s
    }

    /// Events a second of the whole fold, on one core (RocksDB's own threads flush and compact beside it).
    pub fn folded_per_s(&self) -> f64 {
        self.load.events as f64 / self.fold_s
    }

    /// The whole fold's speed as a part of the bare decode's.
    pub fn ratio(&self) -> f64 {
        self.decode_s / self.fold_s
    }
}

/// Measures a load in an empty folder, which is left as it is afterwards. Blocks for as long as it takes.
///
/// # Errors
/// [`ProjectorError`] when the state cannot be written there.
pub fn measure(folder: &Path, load: Load) -> Result<FoldFigures, ProjectorError> {
    let frames = frames(load);
    let bytes = frames.iter().map(|frame| frame.len() as u64).sum();
    let began = Instant::now();
    for frame in &frames {
        std::hint::black_box(decode_for_fold(frame).is_ok());
    }
    let decode_s = began.elapsed().as_secs_f64();
    let memory = Memory::new(Limits::default()).map_err(|source| StoreError::Rocks {
        path: folder.to_path_buf(),
        action: "start",
        source,
    })?;
    let shard = Arc::new(Shard::open(0, "g-figures", folder, &memory)?);
    let mut fold = shard.open_fold(1)?;
    let (mut rows, mut written) = (0, 0);
    let began = Instant::now();
    let (mut decoding, mut reading, mut folding, mut writing) = Default::default();
    for (first, batch) in batches(&frames, load) {
        let subject = events_subject(0, load.kind);
        let entry =
            |i: usize| Entry::decode(i as u64 + 1, BEGIN_MS + i as i64, &subject, &frames[i]);
        let entries: Vec<Entry> = timed(&mut decoding, || {
            (first..first + batch).map(entry).collect()
        });
        let folded = timed(&mut folding, || {
            fold.fold(&entries, |reads| timed(&mut reading, || shard.read(reads)))
        });
        let folded = folded.map_err(|source| ProjectorError::Fold { shard: 0, source })?;
        timed(&mut writing, || shard.write(&folded.changes))?;
        rows += folded.changes.len() as u64;
        written += 1;
    }
    let figures = FoldFigures {
        load,
        bytes,
        decode_s,
        fold_s: began.elapsed().as_secs_f64(),
        fold_decode_s: decoding.as_secs_f64(),
        fold_read_s: reading.as_secs_f64(),
        fold_compute_s: (folding - reading).as_secs_f64(),
        fold_write_s: writing.as_secs_f64(),
        rows,
        batches: written,
    };
    shard.close()?;
    Ok(figures)
}

fn timed<T>(sum: &mut Duration, work: impl FnOnce() -> T) -> T {
    let began = Instant::now();
    let done = work();
    *sum += began.elapsed();
    done
}

/// Cuts batches as the projector does under load: first frame and number of frames.
fn batches(frames: &[Vec<u8>], load: Load) -> Vec<(usize, usize)> {
    let mut out = Vec::new();
    let (mut first, mut bytes) = (0, 0);
    for (i, frame) in frames.iter().enumerate() {
        bytes += frame.len();
        let n = i + 1 - first;
        let full = n >= BATCH_MAX_MESSAGES
            || n * load.frame_events as usize >= BATCH_MAX_EVENTS
            || bytes >= BATCH_MAX_BYTES;
        if full || i + 1 == frames.len() {
            out.push((first, n));
            (first, bytes) = (i + 1, 0);
        }
    }
    out
}

/// A generator by multiplication and shifts (SplitMix64), so that figures need no crate and repeat.
fn random(seed: &mut u64) -> u64 {
    *seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (*seed ^ (*seed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

pub(super) fn frames(load: Load) -> Vec<Vec<u8>> {
    let mut seed = load.seed;
    let id = |text: &str| Id::new(text).expect("names of the measured traffic are ids");
    let producer = id("figures");
    let mut out = Vec::new();
    let mut first = 0;
    while first < load.events {
        let count = u64::from(load.frame_events).min(load.events - first);
        let events: Vec<Event> = (first..first + count)
            .map(|n| event(load.kind, n, &mut seed, &id))
            .collect();
        let header = Header {
            kind: load.kind,
            producer: producer.clone(),
            epoch: Epoch(7),
            first,
            count: count as u32,
            watermark: Watermark::default(),
        };
        out.push(encode(&header, &events));
        first += count;
    }
    out
}

fn event(kind: Kind, n: u64, seed: &mut u64, id: &impl Fn(&str) -> Id) -> Event {
    let time_ms = BEGIN_MS + (n * EVENT_EVERY_US / 1_000) as i64;
    // The inverse of a distribution of 1/n: an exponent that is uniform between 0 and 1.
    let exponent = random(seed) as f64 / u64::MAX as f64;
    let ad = ((ADS as f64).powf(exponent) as u64).min(ADS) - 1;
    let r = random(seed);
    let uuid = (u128::from(time_ms as u64) << 80)
        | (0x7 << 76)
        | (0x2 << 62)
        | u128::from(random(seed) >> 2);
    let placement = Placement {
        ad_id: id(&format!("ad-{ad}")),
        campaign_id: id(&format!("campaign-{}", ad / ADS_PER_CAMPAIGN)),
        creative: format!("v{}", (r >> 24) % 3).into(),
        region: ["US-CA", "US-NY", "DE", "FR", "IN", "BR"][(r >> 32) as usize % 6].into(),
        device: Device::ALL[(r >> 40) as usize % Device::ALL.len()],
        cost_micros: 2_500 * (1 + (ad as i64 % 7)),
        verdict: None,
    };
    Event {
        id: id(&uuid::Uuid::from_u128(uuid).to_string()),
        event_time_ms: time_ms,
        arrival_ms: time_ms + (r >> 48) as i64 % 900,
        advertiser_id: Some(id(&format!("advertiser-{}", ad / ADS_PER_CAMPAIGN / 4))),
        currency: Currency::new("USD").ok(),
        utc_offset_s: -18_000,
        catalogue_revision: 1,
        content_hash: random(seed),
        flags: Flags::MINTED_ID,
        address_hash: Some(random(seed)),
        user_id: None,
        user_agent: None,
        referrer: None,
        body: match kind {
            Kind::Click => Body::Click(placement, ClickDetail::default()),
            _ => Body::Impression(placement),
        },
    }
}
