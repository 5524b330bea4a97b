//! The row: an event as an outbox keeps it until its frame is cut, read where it lies.
//!
//! Fixed fields first, then lengths, then UUIDs, then all texts in one piece, so that they are checked once and
//! borrowed. The first byte is the layout: rows outlive the program that wrote them. Earlier programs wrote a
//! MessagePack map, whose first byte is none of ours, and [`Rows`] reads those too. What else is on disk is guarded
//! by the store's own checksums, so a reader checks that it stays inside its bytes, and no more.

use crate::columns::{Reader, put_varint, put_zigzag};
use crate::event::{Device, EdgeReason, Event, Flags, Kind};
use crate::frame_error::FrameError;
use crate::money::Currency;
use crate::view::{EventView, IdView};

/// The layout that this program writes.
const LAYOUT: u8 = 1;
/// The upper half of the first byte of a MessagePack map of up to 15 entries, as earlier programs wrote it.
const EARLIER_MAP: u8 = 0x80;
/// The most texts that a row has.
const TEXTS_MAX: usize = 12;

/// Bits that say what stands behind the fixed fields.
mod has {
    pub const ADVERTISER: u16 = 1;
    pub const CURRENCY: u16 = 1 << 1;
    pub const ADDRESS_HASH: u16 = 1 << 2;
    pub const USER: u16 = 1 << 3;
    pub const USER_AGENT: u16 = 1 << 4;
    pub const REFERRER: u16 = 1 << 5;
    pub const CAUSE: u16 = 1 << 6;
    pub const ORDER: u16 = 1 << 7;
    pub const LANDING_URL: u16 = 1 << 8;
    /// These ids are UUIDs.
    pub const UUID_ID: u16 = 1 << 9;
    pub const UUID_USER: u16 = 1 << 10;
    pub const UUID_CAUSE: u16 = 1 << 11;
    pub const UUID_ORDER: u16 = 1 << 12;
    pub const UUIDS: [u16; 4] = [UUID_ID, UUID_USER, UUID_CAUSE, UUID_ORDER];
}

/// Why stored bytes are not an event.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadRow {
    /// Written by a later version of this program.
    #[error("a stored event has layout {0}, and this program reads layout {LAYOUT}: update it")]
    UnknownLayout(u8),
    /// The MessagePack map of an earlier program, and it is damaged.
    #[error("a stored event is not the MessagePack map that it should be: {0}")]
    BadMap(String),
    /// Our own layout, and it is damaged.
    #[error("a stored event is damaged: {0}")]
    Damaged(#[from] FrameError),
}

/// Appends the stored form of an event.
pub fn put_row(out: &mut Vec<u8>, event: &Event) {
    let view = event.view();
    let ids = [Some(view.id), view.user_id, view.cause_id, view.order_id];
    let texts = texts(&view, ids);
    let count = texts.iter().flatten().count() as u8;
    out.extend_from_slice(&[LAYOUT, view.kind as u8, count]);
    out.extend_from_slice(&present(&view, ids).to_le_bytes());
    out.extend_from_slice(&view.event_time_ms.to_le_bytes());
    out.extend_from_slice(&view.arrival_ms.to_le_bytes());
    out.extend_from_slice(&view.content_hash.to_le_bytes());
    out.extend_from_slice(&view.account.2.to_le_bytes());
    out.extend_from_slice(&view.flags.0.to_le_bytes());
    out.extend_from_slice(&[view.device, view.verdict]);
    put_varint(out, view.catalogue_revision);
    put_zigzag(out, view.amount_micros);
    if let Some(hash) = view.address_hash {
        out.extend_from_slice(&hash.to_le_bytes());
    }
    if let Some(currency) = view.account.1 {
        out.extend_from_slice(currency.as_str().as_bytes());
    }
    for text in texts.iter().flatten() {
        put_varint(out, text.len() as u64);
    }
    for id in ids.into_iter().flatten() {
        if let IdView::Uuid(bytes) = id {
            out.extend_from_slice(&bytes);
        }
    }
    for text in texts.iter().flatten() {
        out.extend_from_slice(text.as_bytes());
    }
}

/// Every text of a row in its order; conversions have no placement, and a UUID is no text.
fn texts<'a>(view: &EventView<'a>, ids: [Option<IdView<'a>>; 4]) -> [Option<&'a str>; TEXTS_MAX] {
    let text = |id: Option<IdView<'a>>| match id {
        Some(IdView::Text(text)) => Some(text),
        _ => None,
    };
    let placed = |text| (view.kind != Kind::Conversion).then_some(text);
    [
        text(ids[0]),
        view.account.0,
        text(ids[1]),
        placed(view.ad_id),
        placed(view.campaign_id),
        placed(view.creative),
        placed(view.region),
        view.user_agent,
        view.referrer,
        text(ids[2]),
        text(ids[3]),
        view.landing_url,
    ]
}

fn present(view: &EventView<'_>, ids: [Option<IdView<'_>>; 4]) -> u16 {
    let uuid = |at: usize| matches!(ids[at], Some(IdView::Uuid(_)));
    [
        (view.account.0.is_some(), has::ADVERTISER),
        (view.account.1.is_some(), has::CURRENCY),
        (view.address_hash.is_some(), has::ADDRESS_HASH),
        (view.user_id.is_some(), has::USER),
        (view.user_agent.is_some(), has::USER_AGENT),
        (view.referrer.is_some(), has::REFERRER),
        (view.cause_id.is_some(), has::CAUSE),
        (view.order_id.is_some(), has::ORDER),
        (view.landing_url.is_some(), has::LANDING_URL),
        (uuid(0), has::UUID_ID),
        (uuid(1), has::UUID_USER),
        (uuid(2), has::UUID_CAUSE),
        (uuid(3), has::UUID_ORDER),
    ]
    .into_iter()
    .fold(0, |bits, (is, bit)| if is { bits | bit } else { bits })
}

/// The texts of a row, taken off one after the other.
struct Texts<'a> {
    lengths: [u64; TEXTS_MAX],
    at: usize,
    rest: &'a str,
}

impl<'a> Texts<'a> {
    fn next(&mut self) -> Result<&'a str, FrameError> {
        let length = self.lengths.get(self.at).ok_or(FrameError::Short)?;
        let length = usize::try_from(*length).map_err(|_| FrameError::BadNumber)?;
        let (text, rest) = self
            .rest
            .split_at_checked(length)
            .ok_or(FrameError::BadText)?;
        (self.at, self.rest) = (self.at + 1, rest);
        Ok(text)
    }

    fn next_if(&mut self, there: bool) -> Result<Option<&'a str>, FrameError> {
        there.then(|| self.next()).transpose()
    }

    /// An id: the UUID that was read, or else a text.
    fn id(
        &mut self,
        uuid: Option<[u8; 16]>,
        there: bool,
    ) -> Result<Option<IdView<'a>>, FrameError> {
        match uuid {
            Some(bytes) => Ok(Some(IdView::Uuid(bytes))),
            None => Ok(self.next_if(there)?.map(IdView::Text)),
        }
    }
}

/// What stands first in a row, whatever else it holds.
struct Fixed {
    kind: Kind,
    /// How many texts there are.
    texts: u8,
    /// Bits of [`has`].
    bits: u16,
    event_time_ms: i64,
    arrival_ms: i64,
    content_hash: u64,
    utc_offset_s: i32,
    flags: Flags,
    device: u8,
    verdict: u8,
    catalogue_revision: u64,
    amount_micros: i64,
    address_hash: Option<u64>,
    currency: Option<Currency>,
}

impl Fixed {
    #[inline]
    fn read(from: &mut Reader<'_>) -> Result<Self, FrameError> {
        let [_, kind, texts] = *from.array()?;
        let kind = Kind::from_number(kind).ok_or(FrameError::UnknownKind(kind))?;
        let bits = u16::from_le_bytes(*from.array()?);
        let mut fixed = Self {
            kind,
            texts,
            bits,
            event_time_ms: i64::from_le_bytes(*from.array()?),
            arrival_ms: i64::from_le_bytes(*from.array()?),
            content_hash: u64::from_le_bytes(*from.array()?),
            utc_offset_s: i32::from_le_bytes(*from.array()?),
            flags: Flags(u16::from_le_bytes(*from.array()?)),
            device: 0,
            verdict: 0,
            catalogue_revision: 0,
            amount_micros: 0,
            address_hash: None,
            currency: None,
        };
        [fixed.device, fixed.verdict] = *from.array()?;
        let is_verdict = fixed.verdict == 0 || EdgeReason::from_number(fixed.verdict).is_some();
        if Device::from_number(fixed.device).is_none() || !is_verdict {
            return Err(FrameError::UnknownNumber);
        }
        fixed.catalogue_revision = from.varint()?;
        fixed.amount_micros = from.zigzag()?;
        if fixed.has(has::ADDRESS_HASH) {
            fixed.address_hash = Some(u64::from_le_bytes(*from.array()?));
        }
        if fixed.has(has::CURRENCY) {
            let currency = Currency::from_code(*from.array()?);
            fixed.currency = Some(currency.ok_or(FrameError::BadCurrency)?);
        }
        Ok(fixed)
    }

    fn has(&self, bit: u16) -> bool {
        self.bits & bit != 0
    }
}

/// The ids of a row that are UUIDs.
type Uuids = [Option<[u8; 16]>; has::UUIDS.len()];

/// Reads the UUIDs and the texts, which end a row.
#[inline]
fn read_texts<'a>(mut from: Reader<'a>, fixed: &Fixed) -> Result<(Uuids, Texts<'a>), FrameError> {
    let mut lengths = [0; TEXTS_MAX];
    let there = lengths.get_mut(..usize::from(fixed.texts));
    for length in there.ok_or(FrameError::BadNumber)? {
        *length = from.varint()?;
    }
    let mut uuids = Uuids::default();
    for (uuid, bit) in uuids.iter_mut().zip(has::UUIDS) {
        if fixed.has(bit) {
            *uuid = Some(*from.array()?);
        }
    }
    let texts = Texts {
        lengths,
        at: 0,
        rest: std::str::from_utf8(from.rest()).map_err(|_| FrameError::BadText)?,
    };
    Ok((uuids, texts))
}

/// Reads a row of our layout.
pub(crate) fn read_row(row: &[u8]) -> Result<EventView<'_>, FrameError> {
    let mut from = Reader::new(row);
    let fixed = Fixed::read(&mut from)?;
    let (uuids, mut texts) = read_texts(from, &fixed)?;
    let own = texts.id(uuids[0], true)?.ok_or(FrameError::Short)?;
    let advertiser_id = texts.next_if(fixed.has(has::ADVERTISER))?;
    let user_id = texts.id(uuids[1], fixed.has(has::USER))?;
    let mut placed = || match fixed.kind {
        Kind::Conversion => Ok(""),
        Kind::Impression | Kind::Click => texts.next(),
    };
    let (ad_id, campaign_id, creative, region) = (placed()?, placed()?, placed()?, placed()?);
    let view = EventView {
        kind: fixed.kind,
        id: own,
        event_time_ms: fixed.event_time_ms,
        arrival_ms: fixed.arrival_ms,
        account: (advertiser_id, fixed.currency, fixed.utc_offset_s),
        catalogue_revision: fixed.catalogue_revision,
        content_hash: fixed.content_hash,
        flags: fixed.flags,
        address_hash: fixed.address_hash,
        user_id,
        user_agent: texts.next_if(fixed.has(has::USER_AGENT))?,
        referrer: texts.next_if(fixed.has(has::REFERRER))?,
        ad_id,
        campaign_id,
        creative,
        region,
        device: fixed.device,
        verdict: fixed.verdict,
        amount_micros: fixed.amount_micros,
        cause_id: texts.id(uuids[2], fixed.has(has::CAUSE))?,
        order_id: texts.id(uuids[3], fixed.has(has::ORDER))?,
        landing_url: texts.next_if(fixed.has(has::LANDING_URL))?,
    };
    match texts.rest.is_empty() {
        true => Ok(view),
        false => Err(FrameError::Trailing),
    }
}

/// Rows of one lane, gathered for a frame.
#[derive(Debug, Default)]
pub struct Rows {
    bytes: Vec<u8>,
    /// Where each row ends.
    ends: Vec<usize>,
}

impl Rows {
    /// None yet, with room for that many rows of that many bytes in all.
    pub fn with_capacity(rows: usize, bytes: usize) -> Self {
        Self {
            bytes: Vec::with_capacity(bytes),
            ends: Vec::with_capacity(rows),
        }
    }

    /// Adds a stored row. One of an earlier layout is written anew in ours.
    ///
    /// # Errors
    /// [`BadRow`] when its layout is a later one, or an earlier one and damaged; it is not added.
    pub fn push(&mut self, row: &[u8]) -> Result<(), BadRow> {
        match row.first() {
            Some(&LAYOUT) => self.bytes.extend_from_slice(row),
            Some(first) if first & 0xf0 == EARLIER_MAP => {
                let event: Event =
                    rmp_serde::from_slice(row).map_err(|e| BadRow::BadMap(e.to_string()))?;
                put_row(&mut self.bytes, &event);
            }
            Some(later) => return Err(BadRow::UnknownLayout(*later)),
            None => return Err(BadRow::Damaged(FrameError::Short)),
        }
        self.ends.push(self.bytes.len());
        Ok(())
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Whole events, for whoever needs more than a frame of them.
    ///
    /// # Errors
    /// [`BadRow`] when one of them cannot be read.
    pub fn events(&self) -> Result<Vec<Event>, BadRow> {
        self.views().map(|view| Ok(view?.to_event()?)).collect()
    }

    /// What each of them says.
    pub(crate) fn views(&self) -> impl Iterator<Item = Result<EventView<'_>, FrameError>> {
        let mut start = 0;
        self.ends.iter().map(move |end| {
            let row = &self.bytes[start..*end];
            start = *end;
            read_row(row)
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::strategies;

    fn view_of(row: &[u8]) -> Result<EventView<'_>, FrameError> {
        read_row(row)
    }

    proptest! {
        #[test]
        fn every_field_comes_back((_, events) in strategies::frame(8)) {
            let mut rows = Rows::default();
            for event in &events {
                let mut row = Vec::new();
                put_row(&mut row, event);
                prop_assert_eq!(view_of(&row), Ok(event.view()));
                rows.push(&row).unwrap();
            }
            prop_assert_eq!(rows.events().unwrap(), events);
        }

        /// What a program of the first weeks left in its outbox is shipped by this one.
        #[test]
        fn rows_of_earlier_programs_are_read((_, events) in strategies::frame(8)) {
            let mut rows = Rows::default();
            for event in &events {
                rows.push(&rmp_serde::to_vec_named(event).unwrap()).unwrap();
            }
            let views: Vec<_> = rows.views().map(Result::unwrap).collect();
            prop_assert_eq!(views, events.iter().map(Event::view).collect::<Vec<_>>());
        }

        #[test]
        fn no_prefix_is_a_row((_, events) in strategies::frame(2)) {
            let mut row = Vec::new();
            put_row(&mut row, &events[0]);
            for length in 0..row.len() {
                prop_assert!(view_of(&row[..length]).is_err(), "{}", length);
            }
            row.push(b'x');
            prop_assert_eq!(view_of(&row), Err(FrameError::Trailing));
        }

        #[test]
        fn no_bytes_panic(mut row in proptest::collection::vec(any::<u8>(), 0..120), layout: bool) {
            if let Some(first) = row.first_mut().filter(|_| layout) {
                *first = LAYOUT;
            }
            let _ = view_of(&row);
            let _ = Rows::default().push(&row);
        }
    }

    #[test]
    fn a_row_of_a_later_layout_is_refused() {
        let mut rows = Rows::default();
        assert_eq!(rows.push(&[2, 0, 0]), Err(BadRow::UnknownLayout(2)));
        assert_eq!(rows.push(&[]), Err(BadRow::Damaged(FrameError::Short)));
        assert!(rows.is_empty());
    }
}
