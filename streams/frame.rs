//! The frame: a run of one lane, one JetStream message.
//!
//! What a fold needs is decoded by [`decode_for_fold`] into columns; what the archive and the judges need, by
//! [`decode_events`] into whole events. A reader checks before it trusts; a writer never exceeds
//! [`crate::names::FRAME_MAX_EVENTS`] and [`crate::names::FRAME_MAX_BYTES`].

use std::cmp::Ordering;
use std::hash::Hash;
use std::sync::Arc;

use rustc_hash::{FxBuildHasher, FxHashSet};

pub use crate::announcement::{encode_announcement, encode_retirement};
use crate::event::{Body, Device, EdgeReason, Event, Flags, Kind, Placement};
pub use crate::frame_error::FrameError;
pub use crate::frame_events::{ColdColumns, OptionalTexts};
pub use crate::frame_reader::{decode_events, decode_for_fold, decode_header, decode_whole};
pub use crate::frame_writer::{encode, encode_rows};
use crate::id::{Epoch, Id};
use crate::money::{Currency, Micros};
use crate::view::IdView;
#[cfg(doc)]
use crate::visitor::NOBODY;
use crate::watermark::Watermark;

/// The layout that this program writes and reads.
pub const VERSION: u8 = 1;
/// The most bytes that a reader unpacks for a fold.
pub const HOT_MAX_BYTES: usize = 1024 * 1024;
/// The most bytes that a reader unpacks besides.
pub const COLD_MAX_BYTES: usize = 4 * 1024 * 1024;
/// The most bytes of a frame's envelope: its header and the names and lengths of its parts.
pub const ENVELOPE_MAX_BYTES: usize = 320;

/// The checksum (CRC-32C) of a whole message, by which a position recognises the message that it stands on.
pub fn frame_crc(message: &[u8]) -> u32 {
    crc32c::crc32c(message)
}

/// The most bytes that an event takes in a frame. A run of events whose bounds add up to at most
/// [`crate::names::FRAME_MAX_BYTES`] less [`ENVELOPE_MAX_BYTES`] fits a message of [`crate::names::FRAME_MAX_BYTES`].
pub fn event_bound(event: &Event) -> usize {
    let id = |id: &Option<Id>| id.as_ref().map_or(0, id_bytes);
    let advertiser = event.advertiser_id.as_ref().map_or(0, |a| a.as_str().len());
    let text = |text: &Option<Arc<str>>| text.as_ref().map_or(0, |text| text.len());
    let body = match &event.body {
        Body::Impression(p) => placement_bytes(p),
        Body::Click(p, c) => placement_bytes(p) + id(&c.impression_id) + text(&c.landing_url),
        Body::Conversion(c) => id(&c.click_id) + id(&c.order_id),
    };
    let ids = id_bytes(&event.id) + advertiser + id(&event.user_id);
    EVENT_FIXED_BYTES + ids + text(&event.user_agent) + text(&event.referrer) + body
}

/// What an id takes at most, of those that are packed where they are UUIDs.
fn id_bytes(id: &Id) -> usize {
    match IdView::of(id) {
        IdView::Uuid(bytes) => bytes.len(),
        IdView::Text(text) => text.len(),
    }
}

/// What an event takes at most besides its texts: symbols, times, amounts, hashes, dictionary lengths.
const EVENT_FIXED_BYTES: usize = 128;

fn placement_bytes(p: &Placement) -> usize {
    p.ad_id.as_str().len() + p.campaign_id.as_str().len() + p.creative.len() + p.region.len()
}

/// What is known of a frame without its columns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// The kind of all its events.
    pub kind: Kind,
    /// Who wrote it.
    pub producer: Id,
    /// Under which opening of its outbox.
    pub epoch: Epoch,
    /// Counter of its first event in the lane.
    pub first: u64,
    /// How many events it holds, at least one.
    pub count: u32,
    /// The producer's watermark when the frame was cut.
    pub watermark: Watermark,
}

/// An event id as a frame stores it: canonical lower-case UUID text packs into 16 bytes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum EventId {
    /// Canonical lower-case hyphenated UUID text, as its bytes.
    Uuid([u8; 16]),
    /// Any other id.
    Text(Id),
}

/// One distinct (ad, campaign, advertiser, currency, offset) of a frame.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct AdEntry {
    /// The ad; none for conversions.
    pub ad_id: Option<Id>,
    /// The campaign; none for conversions.
    pub campaign_id: Option<Id>,
    /// The advertiser, where known; always there for conversions.
    pub advertiser_id: Option<Id>,
    /// The currency, where known.
    pub currency: Option<Currency>,
    /// Seconds east of UTC of the advertiser's clock at the events' times.
    pub utc_offset_s: i32,
}

/// What a fold needs of a frame: parallel columns of `header.count` values, and the dictionaries they index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoldFrame {
    /// The header.
    pub header: Header,
    /// Dictionary of `ad`.
    pub ads: Vec<AdEntry>,
    /// Dictionary of `creative`.
    pub creatives: Vec<Arc<str>>,
    /// Dictionary of `region`.
    pub regions: Vec<Arc<str>>,
    /// Index into `ads`.
    pub ad: Vec<u32>,
    /// Index into `creatives`.
    pub creative: Vec<u32>,
    /// Index into `regions`.
    pub region: Vec<u32>,
    /// Device class.
    pub device: Vec<Device>,
    /// The border's verdict.
    pub verdict: Vec<Option<EdgeReason>>,
    /// The border's remarks.
    pub flags: Vec<Flags>,
    /// When it happened, Unix milliseconds.
    pub event_time_ms: Vec<i64>,
    /// When it arrived, Unix milliseconds.
    pub arrival_ms: Vec<i64>,
    /// Cost of an impression or click, value of a conversion.
    pub amount_micros: Vec<Micros>,
    /// The event's id.
    pub id: Vec<EventId>,
    /// Hash of what the publisher gave.
    pub content_hash: Vec<u64>,
    /// Who saw or clicked, see [`crate::visitor`]; [`NOBODY`] for conversions, and for every event of a frame whose
    /// cold part cannot be read: who it was changes no money.
    pub visitor: Vec<u64>,
}

/// A message of an EVENTS stream, decoded for a fold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FoldMessage {
    /// A frame of events.
    Frame(Box<FoldFrame>),
    /// A producer's announcement of its watermark, without events.
    Announcement {
        /// Who announces.
        producer: Id,
        /// Of which epoch.
        epoch: Epoch,
        /// What.
        watermark: Watermark,
        /// Why an operator declared that nothing more will come; none where the producer speaks for itself.
        retired: Option<Box<str>>,
    },
}

/// All of a message, in columns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WholeMessage {
    /// What a fold needs.
    pub fold: FoldMessage,
    /// The rest of a frame; none of an announcement.
    pub cold: Option<Box<ColdColumns>>,
    /// Whether this is all: whoever keeps what stands here, each event's own values and the header, loses nothing.
    /// Not so where another program wrote the message, with keys or entries of dictionaries that this one has not.
    pub known: bool,
}

impl FoldFrame {
    /// Whether its dictionaries hold each value once, in the order in which the events first use them: then they
    /// follow from the events' own values.
    pub fn is_as_written(&self) -> bool {
        let placed = self.header.kind != Kind::Conversion;
        follows(&self.ads, &self.ad)
            && (!placed
                || follows(&self.creatives, &self.creative) && follows(&self.regions, &self.region))
    }
}

/// Whether a dictionary is that of its symbols' values in the order of their first use.
fn follows<T: Eq + Hash>(entries: &[T], symbols: &[u32]) -> bool {
    let mut used = 0;
    for symbol in symbols {
        match symbol.cmp(&used) {
            Ordering::Less => {}
            Ordering::Equal => used += 1,
            Ordering::Greater => return false,
        }
    }
    let mut seen = FxHashSet::with_capacity_and_hasher(entries.len(), FxBuildHasher);
    used as usize == entries.len() && entries.iter().all(|entry| seen.insert(entry))
}

/// Whole events, as `events tail`, archive and judges read them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventFrame {
    /// The header.
    pub header: Header,
    /// Its events, in the order of their counters.
    pub events: Vec<Event>,
}

/// A message of an EVENTS stream, decoded into whole events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EventMessage {
    /// A frame of events.
    Frame(EventFrame),
    /// A producer's announcement of its watermark, without events.
    Announcement {
        /// Who announces.
        producer: Id,
        /// Of which epoch.
        epoch: Epoch,
        /// What.
        watermark: Watermark,
        /// Why an operator declared that nothing more will come; none where the producer speaks for itself.
        retired: Option<Box<str>>,
    },
}
