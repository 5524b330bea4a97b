//! Parameters of a link that a person has followed: what is unusable is left out and flagged, never refused.

use adtally_streams::dimensions;
use adtally_streams::event::{Device, Flags};
use adtally_streams::id::Id;
use adtally_streams::names::MAX_FUTURE_MS;
use adtally_streams::parse::RawEvent;
use adtally_streams::time::parse_time_text;

use super::query::{Given, Params};

/// Reads parameters, and notes what it had to leave out.
pub(super) struct Lenient<'p> {
    params: &'p Params<'p>,
    /// When the request arrived, in milliseconds of the Unix epoch.
    now_ms: i64,
    /// How old a given time may be, in milliseconds.
    max_age_ms: i64,
    /// What was left out.
    pub mended: Flags,
}

impl<'p> Lenient<'p> {
    pub(super) fn new(params: &'p Params<'p>, now_ms: i64, max_age_ms: i64) -> Self {
        Self {
            params,
            now_ms,
            max_age_ms,
            mended: Flags::default(),
        }
    }

    /// An id, or none and `flag` when it is not one.
    pub(super) fn id(&mut self, name: &str, flag: Flags) -> Option<Id> {
        let read = match self.params.get(name) {
            Given::Absent => return None,
            Given::Text(text) => Id::new(text).ok(),
            Given::NotText => None,
        };
        if read.is_none() {
            self.mended.set(flag);
        }
        read
    }

    /// A text, or none and a flag when it is not one.
    fn text(&mut self, name: &str) -> Option<&'p str> {
        if matches!(self.params.get(name), Given::NotText) {
            self.mended.set(Flags::BAD_PARAMETER);
        }
        self.params.text(name)
    }

    /// `ts`, or none (which is the arrival) and a flag when it is unreadable, too old or too far ahead.
    pub(super) fn time(&mut self) -> Option<i64> {
        let read = match self.params.get("ts") {
            Given::Absent => return None,
            Given::Text(text) => time_of(text),
            Given::NotText => None,
        };
        let usable = read.filter(|ms| {
            (self.now_ms - self.max_age_ms..=self.now_ms + MAX_FUTURE_MS).contains(ms)
        });
        if usable.is_none() {
            self.mended.set(Flags::BAD_TIME);
        }
        usable
    }

    /// The fields that impressions and clicks share.
    pub(super) fn placement(&mut self, raw: &mut RawEvent) {
        raw.ts_ms = self.time();
        raw.campaign_id = self.id("campaign_id", Flags::BAD_PARAMETER);
        raw.user_id = self.id("user_id", Flags::BAD_PARAMETER);
        raw.creative = self.text("creative").and_then(dimensions::creative);
        raw.device = self
            .text("device")
            .map(|name| Device::from_name(name.trim()));
        raw.region = self.text("geo").and_then(dimensions::region);
    }
}

/// A time as it stands in a link. A space before the digits of an offset is the plus sign that a query cannot hold
/// unescaped, as in the times of questions.
fn time_of(text: &str) -> Option<i64> {
    let read = |text: &str| parse_time_text(text).ok();
    read(text).or_else(|| {
        let (time, offset) = text.rsplit_once(' ')?;
        read(&format!("{time}+{offset}"))
    })
}
