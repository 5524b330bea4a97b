//! Writes frames: events into columns, columns into three parts, parts into an envelope.
//!
//! One layout for every size. Writing trusts its caller and checks what would make a frame that nobody can read:
//! such a frame would be acknowledged and then be lost.

use std::cell::RefCell;

use zstd::bulk::Compressor;

use crate::columns::{Dictionary, put_bytes, put_deltas, put_texts, put_varint, put_zigzag};
use crate::envelope::{ANNOUNCEMENT, COLD_PACKED, Envelope, HOT_PACKED, put_watermark};
use crate::event::{Body, ClickDetail, ConversionDetail, Event, Kind};
use crate::frame::{COLD_MAX_BYTES, HOT_MAX_BYTES, Header};
use crate::id::{Epoch, Id};
use crate::id_column::put_ids;
use crate::money::Currency;
use crate::names::FRAME_MAX_EVENTS_READ;
use crate::uuid_text::UUID_TEXT;
use crate::watermark::Watermark;

/// Below so many events a frame's parts stay as they are: zstd would add more than it takes.
const PACK_FROM_EVENTS: usize = 4;
/// zstd's level: the next one costs twice the time for a byte an event.
const LEVEL: i32 = 1;

/// Amount mode: one for each ad entry.
pub(crate) const AMOUNT_BY_AD: u8 = 0;
/// Amount mode: a dictionary.
pub(crate) const AMOUNT_DICTIONARY: u8 = 1;
/// Amount mode: one for each event.
pub(crate) const AMOUNT_EACH: u8 = 2;

/// Stands in place of a currency's three letters where there is none.
pub(crate) const NO_CURRENCY: u8 = 0;

/// Landing pages stand as they are.
pub(crate) const LANDING_PLAIN: u8 = 0;
/// In landing pages the first [`OWN_ID`] stands for the click's own id.
pub(crate) const LANDING_TEMPLATES: u8 = 1;
/// What stands for the click's own id.
pub(crate) const OWN_ID: u8 = 0;
/// The most bytes of a frame's landing pages after their templates are filled; a reader stops there.
pub(crate) const LANDING_MAX_BYTES: usize = COLD_MAX_BYTES;

/// What a writer keeps from frame to frame: at most a few frames' worth of bytes a thread.
struct Scratch {
    zstd: Compressor<'static>,
    parts: Parts,
    hot_packed: Vec<u8>,
    cold_packed: Vec<u8>,
}

/// A frame's three parts, unpacked; `raw` in the two halves that they are written in.
#[derive(Default)]
struct Parts {
    hot: Vec<u8>,
    cold: Vec<u8>,
    raw: Vec<u8>,
    raw_cold: Vec<u8>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::new(Scratch {
        zstd: Compressor::new(LEVEL).expect("zstd's context takes a megabyte of memory and nothing else"),
        parts: Parts::default(),
        hot_packed: Vec::new(),
        cold_packed: Vec::new(),
    });
}

/// The message of an idle producer's watermark.
pub fn encode_announcement(producer: &Id, epoch: Epoch, watermark: &Watermark) -> Vec<u8> {
    let mut packed = Vec::with_capacity(64);
    put_watermark(&mut packed, watermark);
    Envelope::new(ANNOUNCEMENT, producer.as_str(), epoch.0, &packed).seal()
}

/// The message of those events.
///
/// # Panics
/// When `header` does not describe `events`: other kinds, another count, none, more than
/// [`FRAME_MAX_EVENTS_READ`], or counters past the end of numbers; or when the events are larger than any reader
/// accepts, which those are not whose [`crate::frame::event_bound`] add up to at most
/// [`crate::names::FRAME_MAX_BYTES`].
pub fn encode(header: &Header, events: &[Event]) -> Vec<u8> {
    assert!(
        header.count as usize == events.len()
            && (1..=FRAME_MAX_EVENTS_READ).contains(&events.len()),
        "a frame of {} events says {}",
        events.len(),
        header.count
    );
    assert!(
        events.iter().all(|e| e.kind() == header.kind),
        "a frame holds events of one kind"
    );
    assert!(
        header.first.checked_add(u64::from(header.count)).is_some(),
        "counters end before 2^64"
    );
    SCRATCH.with_borrow_mut(|scratch| scratch.encode(header, events))
}

impl Scratch {
    fn encode(&mut self, header: &Header, events: &[Event]) -> Vec<u8> {
        let parts = &mut self.parts;
        parts.fill(header.kind, events);
        assert!(
            parts.hot.len() <= HOT_MAX_BYTES && parts.cold.len() <= COLD_MAX_BYTES,
            "events no reader accepts"
        );
        let mut watermark = Vec::with_capacity(64);
        put_watermark(&mut watermark, &header.watermark);
        let mut envelope = Envelope::new(
            header.kind as u8,
            header.producer.as_str(),
            header.epoch.0,
            &watermark,
        );
        (envelope.first, envelope.count) = (header.first, header.count);
        (envelope.hot_len, envelope.hot) = (parts.hot.len() as u64, &parts.hot);
        (envelope.cold_len, envelope.cold) = (parts.cold.len() as u64, &parts.cold);
        envelope.raw = &parts.raw;
        if events.len() >= PACK_FROM_EVENTS {
            if pack(&mut self.zstd, &parts.hot, &mut self.hot_packed) {
                envelope.hot = &self.hot_packed;
                envelope.codec |= HOT_PACKED;
            }
            if pack(&mut self.zstd, &parts.cold, &mut self.cold_packed) {
                envelope.cold = &self.cold_packed;
                envelope.codec |= COLD_PACKED;
            }
        }
        envelope.seal()
    }
}

/// Packs a part, and says whether that made it smaller.
fn pack(zstd: &mut Compressor<'_>, plain: &[u8], packed: &mut Vec<u8>) -> bool {
    packed.clear();
    packed.reserve(zstd::zstd_safe::compress_bound(plain.len()));
    zstd.compress_to_buffer(plain, packed)
        .expect("zstd packs any bytes into a buffer of its bound");
    packed.len() < plain.len()
}

/// One account of a frame: an advertiser with the currency and clock that go with it.
type Account<'a> = (Option<&'a str>, Option<Currency>, i32);

impl Parts {
    fn fill(&mut self, kind: Kind, events: &[Event]) {
        [
            &mut self.hot,
            &mut self.cold,
            &mut self.raw,
            &mut self.raw_cold,
        ]
        .into_iter()
        .for_each(Vec::clear);
        let event_times: Vec<i64> = events.iter().map(|e| e.event_time_ms).collect();
        let arrivals: Vec<i64> = events.iter().map(|e| e.arrival_ms).collect();
        let times = [event_times.as_slice(), &arrivals];
        self.put_times(times);
        let ads = match kind {
            Kind::Impression | Kind::Click => self.put_placements(events),
            Kind::Conversion => self.put_accounts(events),
        };
        self.put_flags(events);
        self.put_amounts(events, &ads);
        put_ids(
            &mut self.hot,
            &mut self.raw,
            events.iter().map(|e| Some(e.id.as_str())),
            times,
        );
        events
            .iter()
            .for_each(|e| self.raw.extend_from_slice(&e.content_hash.to_be_bytes()));
        self.put_cold(kind, events, times);
        put_varint(&mut self.hot, self.raw_cold.len() as u64);
        self.raw.append(&mut self.raw_cold);
    }

    fn put_times(&mut self, [event_times, arrivals]: [&[i64]; 2]) {
        put_deltas(&mut self.hot, arrivals.iter().copied());
        for (event_time, arrival) in event_times.iter().zip(arrivals) {
            put_zigzag(&mut self.hot, arrival.wrapping_sub(*event_time));
        }
    }

    /// A conversion's ad entry is its account; returned are the symbols.
    fn put_accounts(&mut self, events: &[Event]) -> Vec<u32> {
        let accounts = Dictionary::of(events.len(), events.iter().map(account));
        self.put_account_entries(&accounts.entries);
        accounts.put_symbols(&mut self.hot);
        accounts.symbols
    }

    fn put_account_entries(&mut self, entries: &[Account<'_>]) {
        put_varint(&mut self.hot, entries.len() as u64);
        let advertisers: Vec<&str> = entries
            .iter()
            .map(|(advertiser, ..)| advertiser.unwrap_or(""))
            .collect();
        put_texts(&mut self.hot, &advertisers);
        for (_, currency, utc_offset_s) in entries {
            match currency {
                Some(code) => self.hot.extend_from_slice(code.as_str().as_bytes()),
                None => self.hot.push(NO_CURRENCY),
            }
            put_zigzag(&mut self.hot, i64::from(*utc_offset_s));
        }
    }

    /// An ad names its campaign and a campaign its account, each distinct pair once; returned are the symbols of
    /// the ads.
    fn put_placements(&mut self, events: &[Event]) -> Vec<u32> {
        let placements = || events.iter().filter_map(Event::placement);
        let ads = Dictionary::by(
            events.len(),
            events
                .iter()
                .zip(placements())
                .map(|(e, p)| (p.ad_id.as_str(), p.campaign_id.as_str(), account(e))),
            |(ad_id, ..)| *ad_id,
        );
        let campaigns = Dictionary::by(
            ads.entries.len(),
            ads.entries.iter().map(|(_, c, a)| (*c, *a)),
            |(campaign_id, _)| *campaign_id,
        );
        let accounts = Dictionary::of(
            campaigns.entries.len(),
            campaigns.entries.iter().map(|(_, a)| *a),
        );
        self.put_account_entries(&accounts.entries);
        campaigns.put_len(&mut self.hot);
        put_texts(
            &mut self.hot,
            &campaigns
                .entries
                .iter()
                .map(|(c, _)| *c)
                .collect::<Vec<_>>(),
        );
        accounts.put_symbols(&mut self.hot);
        ads.put_len(&mut self.hot);
        put_texts(
            &mut self.hot,
            &ads.entries.iter().map(|(ad, ..)| *ad).collect::<Vec<_>>(),
        );
        campaigns.put_symbols(&mut self.hot);
        ads.put_symbols(&mut self.hot);
        for texts in [
            Dictionary::of(events.len(), placements().map(|p| &*p.creative)),
            Dictionary::of(events.len(), placements().map(|p| &*p.region)),
        ] {
            texts.put_len(&mut self.hot);
            put_texts(&mut self.hot, &texts.entries);
            texts.put_symbols(&mut self.hot);
        }
        put_bytes(
            &mut self.hot,
            &placements().map(|p| p.device as u8).collect::<Vec<_>>(),
        );
        put_bytes(
            &mut self.hot,
            &placements()
                .map(|p| p.verdict.map_or(0, |v| v as u8))
                .collect::<Vec<_>>(),
        );
        ads.symbols
    }

    fn put_flags(&mut self, events: &[Event]) {
        let flags = Dictionary::of(events.len(), events.iter().map(|e| e.flags.0));
        flags.put_len(&mut self.hot);
        flags
            .entries
            .iter()
            .for_each(|f| put_varint(&mut self.hot, u64::from(*f)));
        flags.put_symbols(&mut self.hot);
    }

    /// Prices follow from ads but for a change within the frame; an exchange's prices and conversions' values
    /// follow from nothing.
    fn put_amounts(&mut self, events: &[Event], ads: &[u32]) {
        let amounts = events.iter().map(amount);
        if let Some(by_ad) = amounts_by_ad(amounts.clone(), ads) {
            self.hot.push(AMOUNT_BY_AD);
            by_ad.into_iter().for_each(|n| put_zigzag(&mut self.hot, n));
            return;
        }
        let distinct = Dictionary::of(events.len(), amounts.clone());
        if distinct.entries.len() * 2 <= events.len() {
            self.hot.push(AMOUNT_DICTIONARY);
            distinct.put_len(&mut self.hot);
            distinct
                .entries
                .iter()
                .for_each(|n| put_zigzag(&mut self.hot, *n));
            distinct.put_symbols(&mut self.hot);
        } else {
            self.hot.push(AMOUNT_EACH);
            amounts.for_each(|n| put_zigzag(&mut self.hot, n));
        }
    }

    fn put_cold(&mut self, kind: Kind, events: &[Event], times: [&[i64]; 2]) {
        let (cold, raw) = (&mut self.cold, &mut self.raw_cold);
        put_deltas(cold, events.iter().map(|e| e.catalogue_revision as i64));
        put_bytes(
            cold,
            &events
                .iter()
                .map(|e| u8::from(e.address_hash.is_some()))
                .collect::<Vec<_>>(),
        );
        events
            .iter()
            .filter_map(|e| e.address_hash)
            .for_each(|h| raw.extend_from_slice(&h.to_be_bytes()));
        put_ids(
            cold,
            raw,
            events.iter().map(|e| e.user_id.as_ref().map(Id::as_str)),
            times,
        );
        put_optional_texts(
            cold,
            events.len(),
            events.iter().map(|e| e.user_agent.as_deref()),
        );
        put_optional_texts(
            cold,
            events.len(),
            events.iter().map(|e| e.referrer.as_deref()),
        );
        match kind {
            Kind::Impression => {}
            Kind::Click => {
                let clicks = || events.iter().filter_map(click);
                put_ids(
                    cold,
                    raw,
                    clicks().map(|c| c.impression_id.as_ref().map(Id::as_str)),
                    times,
                );
                put_landing_urls(cold, events);
            }
            Kind::Conversion => {
                let conversions = || events.iter().filter_map(conversion);
                put_ids(
                    cold,
                    raw,
                    conversions().map(|c| c.click_id.as_ref().map(Id::as_str)),
                    times,
                );
                put_ids(
                    cold,
                    raw,
                    conversions().map(|c| c.order_id.as_ref().map(Id::as_str)),
                    times,
                );
            }
        }
    }
}

fn account(event: &Event) -> Account<'_> {
    (
        event.advertiser_id.as_ref().map(Id::as_str),
        event.currency,
        event.utc_offset_s,
    )
}

fn amount(event: &Event) -> i64 {
    match &event.body {
        Body::Impression(p) | Body::Click(p, _) => p.cost_micros,
        Body::Conversion(c) => c.value_micros,
    }
}

fn click(event: &Event) -> Option<&ClickDetail> {
    match &event.body {
        Body::Click(_, detail) => Some(detail),
        _ => None,
    }
}

fn conversion(event: &Event) -> Option<&ConversionDetail> {
    match &event.body {
        Body::Conversion(detail) => Some(detail),
        _ => None,
    }
}

/// The amount of each ad entry, where every event of an entry has the same.
fn amounts_by_ad(amounts: impl Iterator<Item = i64>, ads: &[u32]) -> Option<Vec<i64>> {
    let mut by_ad: Vec<i64> = Vec::new();
    for (amount, ad) in amounts.zip(ads) {
        match by_ad.get(*ad as usize) {
            Some(known) if *known != amount => return None,
            Some(_) => {}
            None => by_ad.push(amount),
        }
    }
    Some(by_ad)
}

/// Appends a dictionary of texts and of none, and its symbols. A text's length is written as one more.
fn put_optional_texts<'a>(
    out: &mut Vec<u8>,
    count: usize,
    texts: impl Iterator<Item = Option<&'a str>>,
) {
    let texts = Dictionary::of(count, texts);
    texts.put_len(out);
    texts
        .entries
        .iter()
        .for_each(|text| put_varint(out, text.map_or(0, |t| t.len() as u64 + 1)));
    texts
        .entries
        .iter()
        .flatten()
        .for_each(|text| out.extend_from_slice(text.as_bytes()));
    texts.put_symbols(out);
}

/// A landing page, where it holds the click's own id in two pieces, around it.
type Page<'a> = Option<(&'a str, Option<&'a str>)>;

/// Landing pages with `{click_id}` filled in are all different until the id is taken out again.
fn put_landing_urls(out: &mut Vec<u8>, events: &[Event]) {
    let urls = || {
        events
            .iter()
            .map(|e| click(e).and_then(|c| c.landing_url.as_deref()))
    };
    let bytes: usize = urls().flatten().map(str::len).sum();
    if bytes > LANDING_MAX_BYTES || urls().flatten().any(|url| url.as_bytes().contains(&OWN_ID)) {
        out.push(LANDING_PLAIN);
        put_optional_texts(out, events.len(), urls());
        return;
    }
    out.push(LANDING_TEMPLATES);
    let pages = events
        .iter()
        .zip(urls())
        .map(|(e, url)| url.map(|url| around(url, e.id.as_str())));
    let pages: Dictionary<Page<'_>> = Dictionary::of(events.len(), pages);
    pages.put_len(out);
    for page in &pages.entries {
        let length = page.map_or(0, |(head, tail)| {
            1 + head.len() + tail.map_or(0, |t| 1 + t.len())
        });
        put_varint(out, length as u64);
    }
    for (head, tail) in pages.entries.iter().flatten() {
        out.extend_from_slice(head.as_bytes());
        if let Some(tail) = tail {
            out.push(OWN_ID);
            out.extend_from_slice(tail.as_bytes());
        }
    }
    pages.put_symbols(out);
}

/// The text before and behind the first place where a UUID stands in it.
fn around<'a>(text: &'a str, id: &str) -> (&'a str, Option<&'a str>) {
    if id.len() != UUID_TEXT {
        return (text, None);
    }
    let found = text
        .as_bytes()
        .windows(UUID_TEXT)
        .position(|w| w[8] == b'-' && w == id.as_bytes());
    match found.and_then(|at| Some((text.get(..at)?, text.get(at + UUID_TEXT..)?))) {
        Some((head, tail)) => (head, Some(tail)),
        None => (text, None),
    }
}
