//! A frame as projections see it: names as symbols, and which of its events count for the first time.
//!
//! Invariant: what stands here is decided by the log alone (ledger, id index, limits), so a projection is a sum
//! or a set over it and needs to read nothing. A new projection is a file that implements [`Projection`] and a
//! line in [`crate::fold`].

use adtally_streams::event::{EdgeReason, Kind};
use adtally_streams::frame::FoldFrame;
use adtally_streams::money::Currency;
use adtally_streams::names::LATE_AFTER_MS;

use crate::family::Changes;
use crate::symbols::Symbol;

/// An entry of a frame's ad dictionary in symbols.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AdSymbols {
    /// The ad; [`crate::symbols::NONE`] for conversions.
    pub ad: Symbol,
    /// The campaign; none likewise.
    pub campaign: Symbol,
    /// The advertiser; none when unknown.
    pub advertiser: Symbol,
    /// The currency, where known.
    pub currency: Option<Currency>,
    /// Seconds east of UTC.
    pub utc_offset_s: i32,
}

/// A frame of which some events count.
#[derive(Clone, Copy, Debug)]
pub struct Applied<'a> {
    /// The frame.
    pub frame: &'a FoldFrame,
    /// Parallel to the frame's ad dictionary.
    pub ads: &'a [AdSymbols],
    /// Parallel to the frame's region dictionary.
    pub regions: &'a [Symbol],
    /// Places of the events that count, ascending.
    pub events: &'a [u32],
    /// Parallel to `events`: the creative each is counted under.
    pub creatives: &'a [Symbol],
}

/// One event of an [`Applied`] that is an impression or a click.
#[derive(Clone, Copy, Debug)]
pub struct Placed {
    /// Its place in the frame.
    pub at: usize,
    /// Its ad's names.
    pub ad: AdSymbols,
    /// The creative it is counted under.
    pub creative: Symbol,
    /// Its region.
    pub region: Symbol,
    /// Number of its device class.
    pub device: u8,
    /// When it happened, in whole seconds of the Unix epoch, rounded down.
    pub time_s: i64,
    /// Whether it arrived late.
    pub late: bool,
    /// Its cost if valid, in micros.
    pub cost_micros: i64,
    /// The border's verdict.
    pub verdict: Option<EdgeReason>,
}

impl Applied<'_> {
    /// The kind of all events.
    pub fn kind(&self) -> Kind {
        self.frame.header.kind
    }

    /// The events that count.
    pub fn placed(&self) -> impl Iterator<Item = Placed> {
        let f = self.frame;
        self.events
            .iter()
            .zip(self.creatives)
            .map(move |(at, creative)| {
                let at = *at as usize;
                Placed {
                    at,
                    ad: self.ads[f.ad[at] as usize],
                    creative: *creative,
                    region: self.regions[f.region[at] as usize],
                    device: f.device[at] as u8,
                    time_s: f.event_time_ms[at].div_euclid(1_000),
                    late: f.arrival_ms[at].saturating_sub(f.event_time_ms[at]) > LATE_AFTER_MS,
                    cost_micros: f.amount_micros[at],
                    verdict: f.verdict[at],
                }
            })
    }
}

/// Something that is summed or collected over the events that count.
pub trait Projection: Default {
    /// Takes a frame in, in log order.
    fn apply(&mut self, frame: &Applied<'_>);

    /// Writes what a batch's frames changed, in the order of keys, and forgets it.
    fn finish(&mut self, out: &mut Changes);
}
