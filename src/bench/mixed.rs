//! The traffic of the long measurements: ten impressions to a click, in full frames, in the order of their times.

use adtally_streams::event::Kind;

use crate::projector::figures::{EVENTS_A_MINUTE, Framed, Load, Traffic};

/// Impressions for every click.
const IMPRESSIONS_A_CLICK: u64 = 10;
/// Events of a frame.
const FRAME_EVENTS: u32 = 1_024;
/// Events of a shard that are made at a time: a batch of the fold, so that little of the memory is the benchmark's.
pub const ROUND_EVENTS: u64 = 1 << 17;

/// One shard's traffic.
pub struct Mixed {
    impressions: Traffic,
    clicks: Traffic,
}

impl Mixed {
    /// Of a shard that is to get so many events.
    pub fn new(shard: u16, events: u64) -> Self {
        let traffic = |kind| {
            let load = Load {
                kind,
                events,
                frame_events: FRAME_EVENTS,
                seed: u64::from(shard) + 1,
            };
            Traffic::new(load, shard)
        };
        Self {
            impressions: traffic(Kind::Impression),
            clicks: traffic(Kind::Click).at_rate(EVENTS_A_MINUTE / IMPRESSIONS_A_CLICK),
        }
    }

    /// The next frames.
    pub fn frames(&mut self, events: u64) -> Vec<Framed> {
        let clicks = events / (IMPRESSIONS_A_CLICK + 1);
        let mut frames = self.impressions.frames(events - clicks);
        frames.extend(self.clicks.frames(clicks));
        frames.sort_by_key(|frame| frame.broker_ms);
        frames
    }
}
