//! A frame's columns: gathered event by event, then written into three parts.
//!
//! What a fold needs is *hot*, what only archive and judge need is *cold*, and random bytes are *raw*, since among
//! texts they would halve the speed of the compressor. Texts are only borrowed here.

use crate::columns::{Dictionary, put_bytes, put_deltas, put_texts, put_varint, put_zigzag};
use crate::event::Kind;
use crate::frame::COLD_MAX_BYTES;
use crate::id_column::put_ids;
use crate::uuid_text::{UUID_TEXT, uuid_text};
use crate::view::{Account, EventView, IdView};

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

/// A frame's three parts, unpacked; `raw` in the two halves that they are written in.
#[derive(Default)]
pub(crate) struct Parts {
    pub(crate) hot: Vec<u8>,
    pub(crate) cold: Vec<u8>,
    pub(crate) raw: Vec<u8>,
    raw_cold: Vec<u8>,
    /// Where those columns of the cold part end that say who saw or clicked.
    pub(crate) visitors_end: usize,
}

/// The events of a frame, column by column.
pub(crate) struct Columns<'a> {
    kind: Kind,
    event_times: Vec<i64>,
    arrivals: Vec<i64>,
    /// Ad, campaign and account; for conversions the account alone.
    ads: Dictionary<(&'a str, &'a str, Account<'a>)>,
    creatives: Dictionary<&'a str>,
    regions: Dictionary<&'a str>,
    devices: Vec<u8>,
    verdicts: Vec<u8>,
    flags: Dictionary<u16>,
    amounts: Vec<i64>,
    ids: Vec<Option<IdView<'a>>>,
    content_hashes: Vec<u64>,
    revisions: Vec<i64>,
    address_hashes: Vec<Option<u64>>,
    user_ids: Vec<Option<IdView<'a>>>,
    user_agents: Dictionary<Option<&'a str>>,
    referrers: Dictionary<Option<&'a str>>,
    cause_ids: Vec<Option<IdView<'a>>>,
    order_ids: Vec<Option<IdView<'a>>>,
    landing_urls: Vec<Option<&'a str>>,
}

impl<'a> Columns<'a> {
    /// Empty columns with room for `count` events of that kind, which are all that may be added.
    pub(crate) fn with_room(kind: Kind, count: usize) -> Self {
        let of = |kinds: &[Kind]| if kinds.contains(&kind) { count } else { 0 };
        let (clicks, conversions) = (of(&[Kind::Click]), of(&[Kind::Conversion]));
        let placed = of(&[Kind::Impression, Kind::Click]);
        Self {
            kind,
            event_times: Vec::with_capacity(count),
            arrivals: Vec::with_capacity(count),
            ads: Dictionary::with_room(count),
            creatives: Dictionary::with_room(placed),
            regions: Dictionary::with_room(placed),
            devices: Vec::with_capacity(placed),
            verdicts: Vec::with_capacity(placed),
            flags: Dictionary::with_room(count),
            amounts: Vec::with_capacity(count),
            ids: Vec::with_capacity(count),
            content_hashes: Vec::with_capacity(count),
            revisions: Vec::with_capacity(count),
            address_hashes: Vec::with_capacity(count),
            user_ids: Vec::with_capacity(count),
            user_agents: Dictionary::with_room(count),
            referrers: Dictionary::with_room(count),
            cause_ids: Vec::with_capacity(clicks + conversions),
            order_ids: Vec::with_capacity(conversions),
            landing_urls: Vec::with_capacity(clicks),
        }
    }

    /// Adds an event.
    ///
    /// # Panics
    /// When it is of another kind.
    pub(crate) fn push(&mut self, event: &EventView<'a>) {
        assert!(event.kind == self.kind, "a frame holds events of one kind");
        self.event_times.push(event.event_time_ms);
        self.arrivals.push(event.arrival_ms);
        self.flags.add(event.flags.0, event.flags.0);
        self.amounts.push(event.amount_micros);
        self.ids.push(Some(event.id));
        self.content_hashes.push(event.content_hash);
        self.revisions.push(event.catalogue_revision as i64);
        self.address_hashes.push(event.address_hash);
        self.user_ids.push(event.user_id);
        self.user_agents.add(event.user_agent, event.user_agent);
        self.referrers.add(event.referrer, event.referrer);
        match self.kind {
            Kind::Impression => self.push_placement(event),
            Kind::Click => {
                self.push_placement(event);
                self.cause_ids.push(event.cause_id);
                self.landing_urls.push(event.landing_url);
            }
            Kind::Conversion => {
                self.ads.add(("", "", event.account), event.account.0);
                self.cause_ids.push(event.cause_id);
                self.order_ids.push(event.order_id);
            }
        }
    }

    fn push_placement(&mut self, event: &EventView<'a>) {
        let ad = (event.ad_id, event.campaign_id, event.account);
        self.ads.add(ad, event.ad_id);
        self.creatives.add(event.creative, event.creative);
        self.regions.add(event.region, event.region);
        self.devices.push(event.device);
        self.verdicts.push(event.verdict);
    }

    fn count(&self) -> usize {
        self.ids.len()
    }

    fn times(&self) -> [&[i64]; 2] {
        [&self.event_times, &self.arrivals]
    }
}

impl Parts {
    /// Writes the columns in place of what was there.
    pub(crate) fn fill(&mut self, columns: &Columns<'_>) {
        [
            &mut self.hot,
            &mut self.cold,
            &mut self.raw,
            &mut self.raw_cold,
        ]
        .into_iter()
        .for_each(Vec::clear);
        self.put_times(columns);
        match columns.kind {
            Kind::Impression | Kind::Click => self.put_placements(columns),
            Kind::Conversion => self.put_accounts(columns),
        }
        self.put_flags(&columns.flags);
        self.put_amounts(&columns.amounts, &columns.ads.symbols);
        put_ids(&mut self.hot, &mut self.raw, &columns.ids, columns.times());
        for hash in &columns.content_hashes {
            self.raw.extend_from_slice(&hash.to_be_bytes());
        }
        self.put_cold(columns);
        put_varint(&mut self.hot, self.raw_cold.len() as u64);
        self.raw.append(&mut self.raw_cold);
    }

    fn put_times(&mut self, columns: &Columns<'_>) {
        let [event_times, arrivals] = columns.times();
        put_deltas(&mut self.hot, arrivals.iter().copied());
        for (event_time, arrival) in event_times.iter().zip(arrivals) {
            put_zigzag(&mut self.hot, arrival.wrapping_sub(*event_time));
        }
    }

    /// A conversion's ad entry is its account.
    fn put_accounts(&mut self, columns: &Columns<'_>) {
        let accounts = columns.ads.entries.iter().map(|(.., account)| *account);
        self.put_account_entries(accounts);
        columns.ads.put_symbols(&mut self.hot);
    }

    fn put_account_entries<'a>(
        &mut self,
        entries: impl ExactSizeIterator<Item = Account<'a>> + Clone,
    ) {
        put_varint(&mut self.hot, entries.len() as u64);
        let advertisers = entries
            .clone()
            .map(|(advertiser, ..)| advertiser.unwrap_or(""));
        put_texts(&mut self.hot, advertisers);
        for (_, currency, utc_offset_s) in entries {
            match currency {
                Some(code) => self.hot.extend_from_slice(code.as_str().as_bytes()),
                None => self.hot.push(NO_CURRENCY),
            }
            put_zigzag(&mut self.hot, i64::from(utc_offset_s));
        }
    }

    /// An ad names its campaign and a campaign its account, each distinct pair once.
    fn put_placements(&mut self, columns: &Columns<'_>) {
        let ads = &columns.ads;
        let campaigns = Dictionary::by(
            ads.entries.len(),
            ads.entries.iter().map(|(_, c, a)| (*c, *a)),
            |(campaign_id, _)| *campaign_id,
        );
        let accounts = Dictionary::of(
            campaigns.entries.len(),
            campaigns.entries.iter().map(|(_, a)| *a),
        );
        self.put_account_entries(accounts.entries.iter().copied());
        campaigns.put_len(&mut self.hot);
        put_texts(&mut self.hot, campaigns.entries.iter().map(|(c, _)| *c));
        accounts.put_symbols(&mut self.hot);
        ads.put_len(&mut self.hot);
        put_texts(&mut self.hot, ads.entries.iter().map(|(ad, ..)| *ad));
        campaigns.put_symbols(&mut self.hot);
        ads.put_symbols(&mut self.hot);
        for texts in [&columns.creatives, &columns.regions] {
            texts.put_len(&mut self.hot);
            put_texts(&mut self.hot, texts.entries.iter().copied());
            texts.put_symbols(&mut self.hot);
        }
        put_bytes(&mut self.hot, &columns.devices);
        put_bytes(&mut self.hot, &columns.verdicts);
    }

    fn put_flags(&mut self, flags: &Dictionary<u16>) {
        flags.put_len(&mut self.hot);
        for entry in &flags.entries {
            put_varint(&mut self.hot, u64::from(*entry));
        }
        flags.put_symbols(&mut self.hot);
    }

    /// Prices follow from ads but for a change within the frame; an exchange's prices and conversions' values
    /// follow from nothing.
    fn put_amounts(&mut self, amounts: &[i64], ads: &[u32]) {
        if let Some(by_ad) = amounts_by_ad(amounts, ads) {
            self.hot.push(AMOUNT_BY_AD);
            by_ad.into_iter().for_each(|n| put_zigzag(&mut self.hot, n));
            return;
        }
        let distinct = Dictionary::of(amounts.len(), amounts.iter().copied());
        if distinct.entries.len() * 2 <= amounts.len() {
            self.hot.push(AMOUNT_DICTIONARY);
            distinct.put_len(&mut self.hot);
            for entry in &distinct.entries {
                put_zigzag(&mut self.hot, *entry);
            }
            distinct.put_symbols(&mut self.hot);
        } else {
            self.hot.push(AMOUNT_EACH);
            for amount in amounts {
                put_zigzag(&mut self.hot, *amount);
            }
        }
    }

    fn put_cold(&mut self, columns: &Columns<'_>) {
        let (cold, raw) = (&mut self.cold, &mut self.raw_cold);
        put_deltas(cold, columns.revisions.iter().copied());
        let hashes = &columns.address_hashes;
        let there: Vec<u8> = hashes.iter().map(|h| u8::from(h.is_some())).collect();
        put_bytes(cold, &there);
        for hash in hashes.iter().flatten() {
            raw.extend_from_slice(&hash.to_be_bytes());
        }
        put_ids(cold, raw, &columns.user_ids, columns.times());
        self.visitors_end = cold.len();
        put_optional_texts(cold, &columns.user_agents);
        put_optional_texts(cold, &columns.referrers);
        match columns.kind {
            Kind::Impression => {}
            Kind::Click => {
                put_ids(cold, raw, &columns.cause_ids, columns.times());
                put_landing_urls(cold, columns);
            }
            Kind::Conversion => {
                put_ids(cold, raw, &columns.cause_ids, columns.times());
                put_ids(cold, raw, &columns.order_ids, columns.times());
            }
        }
    }
}

/// The amount of each ad entry, where every event of an entry has the same.
fn amounts_by_ad(amounts: &[i64], ads: &[u32]) -> Option<Vec<i64>> {
    let mut by_ad: Vec<i64> = Vec::new();
    for (amount, ad) in amounts.iter().zip(ads) {
        match by_ad.get(*ad as usize) {
            Some(known) if known != amount => return None,
            Some(_) => {}
            None => by_ad.push(*amount),
        }
    }
    Some(by_ad)
}

/// Appends a dictionary of texts and of none, and its symbols. A text's length is written as one more.
fn put_optional_texts(out: &mut Vec<u8>, texts: &Dictionary<Option<&str>>) {
    texts.put_len(out);
    for text in &texts.entries {
        put_varint(out, text.map_or(0, |t| t.len() as u64 + 1));
    }
    for text in texts.entries.iter().flatten() {
        out.extend_from_slice(text.as_bytes());
    }
    texts.put_symbols(out);
}

/// A landing page, where it holds the click's own id in two pieces, around it.
type Page<'a> = Option<(&'a str, Option<&'a str>)>;

/// Landing pages with `{click_id}` filled in are all different until the id is taken out again.
fn put_landing_urls(out: &mut Vec<u8>, columns: &Columns<'_>) {
    let urls = columns.landing_urls.iter();
    let there = urls.clone().flatten();
    let bytes: usize = there.clone().map(|url| url.len()).sum();
    if bytes > LANDING_MAX_BYTES || there.clone().any(|url| url.as_bytes().contains(&OWN_ID)) {
        out.push(LANDING_PLAIN);
        put_optional_texts(out, &Dictionary::of(columns.count(), urls.copied()));
        return;
    }
    out.push(LANDING_TEMPLATES);
    let pages = columns
        .ids
        .iter()
        .zip(urls)
        .map(|(id, url)| url.map(|url| around(url, *id)));
    let pages: Dictionary<Page<'_>> = Dictionary::of(columns.count(), pages);
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

/// The text before and behind the first place where its UUID stands in it.
fn around<'a>(text: &'a str, id: Option<IdView<'_>>) -> (&'a str, Option<&'a str>) {
    let own = match id {
        Some(IdView::Uuid(bytes)) => uuid_text(&bytes),
        // As long as a UUID, in upper case say.
        Some(IdView::Text(id)) => match id.as_bytes().try_into() {
            Ok(own) => own,
            Err(_) => return (text, None),
        },
        None => return (text, None),
    };
    let found = text
        .as_bytes()
        .windows(UUID_TEXT)
        .position(|w| w[8] == b'-' && w == own);
    match found.and_then(|at| Some((text.get(..at)?, text.get(at + UUID_TEXT..)?))) {
        Some((head, tail)) => (head, Some(tail)),
        None => (text, None),
    }
}
