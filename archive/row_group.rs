//! The rows of a row group, column by column, before they are written.
//!
//! A message is taken whole or not at all, so that each row group can be read by itself.

mod write;

use adtally_projections::sketch::Coupon;
use adtally_streams::event::{Device, EdgeReason, Flags, Kind};
use adtally_streams::frame::{ColdColumns, EventId, FoldFrame, Header, OptionalTexts};
use adtally_streams::id::{Epoch, Id};
use adtally_streams::watermark::Watermark;
use sha2::{Digest, Sha256};

use crate::optional::{Blobs, Optional};
use crate::schema::{MESSAGE, WATERMARK};
use crate::texts::Texts;

/// Bytes of a hash of a user's id, which are most of what an event with a user takes: of a hundred million users, two
/// have the same hash once in four thousand deployments, and are then one in the archive's statistics and in no count.
pub(crate) const USER_HASH_BYTES: usize = 8;

/// How a user's id stands in the archive: the first 16 hexadecimal digits of its SHA-256, as `sha256sum` prints them.
///
/// Without a key, so that who knows an id finds its rows without any secret that could be lost: a pseudonym that
/// keeps the publisher's ids out of the files, and no anonymity towards whoever can guess them.
pub fn user_hash(user_id: &str) -> String {
    String::from_utf8_lossy(&user_digits(user_id.as_bytes())).into_owned()
}

fn user_digits(user_id: &[u8]) -> [u8; 2 * USER_HASH_BYTES] {
    let mut digits = [0; 2 * USER_HASH_BYTES];
    let digest = Sha256::digest(user_id);
    hex::encode_to_slice(&digest[..USER_HASH_BYTES], &mut digits)
        .expect("a byte has two digits, and there is room for as many");
    digits
}

/// Whether a fold looks at an event's content hash: only an event that the id index remembers can meet another one of
/// its id. An id that was made by the collector is nobody else's, and its hash would be a quarter of its row.
pub(crate) fn needs_content_hash(kind: Kind, flags: Flags) -> bool {
    kind == Kind::Click || !flags.has(Flags::MINTED_ID)
}

/// The rows of a row group that are waiting to be written.
#[derive(Debug, Default)]
pub(crate) struct RowGroup {
    kind: Texts,
    sequence: Vec<i64>,
    position: Vec<i32>,
    broker_time: Vec<i64>,
    producer: Texts,
    epoch: Optional<i64>,
    counter: Optional<i64>,
    event_timestamp: Optional<i64>,
    arrival_timestamp: Optional<i64>,
    impression_id: IdColumn,
    click_id: IdColumn,
    conversion_id: IdColumn,
    order_id: Blobs,
    ad_id: Texts,
    campaign_id: Texts,
    advertiser_id: Texts,
    currency_code: Texts,
    utc_offset_s: Optional<i32>,
    creative: Texts,
    device_type: Texts,
    geo_country: Texts,
    geo_region: Texts,
    amount_micros: Optional<i64>,
    flags: Optional<i32>,
    verdict: Texts,
    is_fraudulent: Optional<bool>,
    fraud_score: Optional<f64>,
    content_hash: Optional<i64>,
    ip_hash: Optional<i64>,
    user_id_hash: Blobs,
    visitor_mark: Optional<i32>,
    user_agent: Texts,
    referrer_url: Texts,
    landing_url: Blobs,
    catalogue_revision: Optional<i64>,
    frame_checksum: Optional<i32>,
    watermark: Blobs,
    retired: Texts,
    subject: Texts,
    raw: Blobs,
}

/// Ids: UUIDs as their bytes, others as text.
#[derive(Debug, Default)]
struct IdColumn {
    uuid: Blobs,
    text: Blobs,
}

impl IdColumn {
    fn push(&mut self, id: Option<&EventId>) {
        match id {
            Some(EventId::Uuid(bytes)) => {
                self.uuid.push(Some(bytes));
                self.text.push(None);
            }
            Some(EventId::Text(id)) => {
                self.uuid.push(None);
                self.text.push(Some(id.as_str().as_bytes()));
            }
            None => self.skip(1),
        }
    }

    fn extend<'a>(&mut self, ids: impl Iterator<Item = Option<&'a EventId>>) {
        ids.for_each(|id| self.push(id));
    }

    fn skip(&mut self, rows: usize) {
        self.uuid.skip(rows);
        self.text.skip(rows);
    }
}

/// What a message is besides its events.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Envelope<'a> {
    pub(crate) sequence: u64,
    pub(crate) broker_ms: i64,
    pub(crate) crc: u32,
    pub(crate) subject: &'a str,
    pub(crate) payload: &'a [u8],
}

impl RowGroup {
    pub(crate) fn rows(&self) -> usize {
        self.sequence.len()
    }

    /// Bytes of what is not numbers, which is what may be large.
    pub(crate) fn blob_bytes(&self) -> usize {
        let columns = [
            &self.raw,
            &self.landing_url,
            &self.user_id_hash,
            &self.order_id,
        ];
        columns.into_iter().map(Blobs::size).sum()
    }

    /// Takes a frame; `raw`: its rows do not say all of it, so its bytes are kept too.
    pub(crate) fn frame(
        &mut self,
        of: Envelope<'_>,
        frame: &FoldFrame,
        cold: &ColdColumns,
        raw: bool,
    ) {
        let rows = frame.id.len();
        let Header {
            kind,
            producer,
            epoch,
            first,
            watermark,
            ..
        } = &frame.header;
        self.message(of, kind.name(), rows, raw);
        self.retired.skip(rows);
        self.author(producer, *epoch, watermark, rows);
        let counters = (*first..).take(rows).map(|counter| counter as i64);
        self.counter.levels.resize(self.counter.rows() + rows, 1);
        self.counter.values.extend(counters);
        self.event_timestamp
            .extend(frame.event_time_ms.iter().copied());
        self.arrival_timestamp
            .extend(frame.arrival_ms.iter().copied());
        self.accounts(frame);
        match kind {
            Kind::Conversion => self.unplaced(rows),
            Kind::Impression | Kind::Click => self.placed(frame),
        }
        self.ids(frame, cold);
        self.amount_micros
            .extend(frame.amount_micros.iter().copied());
        self.flags
            .extend(frame.flags.iter().map(|flags| i32::from(flags.0)));
        for (hash, flags) in frame.content_hash.iter().zip(&frame.flags) {
            let needed = needs_content_hash(*kind, *flags);
            self.content_hash.push(needed.then_some(*hash as i64));
        }
        self.visitors(frame, cold);
        self.cold(cold);
    }

    /// Takes an announcement.
    pub(crate) fn announcement(
        &mut self,
        of: Envelope<'_>,
        (producer, epoch): (&Id, Epoch),
        watermark: &Watermark,
        retired: Option<&str>,
        raw: bool,
    ) {
        self.message(of, WATERMARK, 1, raw);
        self.author(producer, epoch, watermark, 1);
        self.no_event();
        let reason = retired.map(|reason| self.retired.symbol(reason));
        self.retired.symbols.push(reason);
    }

    /// Takes a message of which rows cannot be made.
    pub(crate) fn opaque(&mut self, of: Envelope<'_>) {
        self.message(of, MESSAGE, 1, true);
        self.retired.skip(1);
        self.producer.skip(1);
        self.epoch.skip(1);
        self.watermark.skip(1);
        self.no_event();
    }

    fn message(&mut self, of: Envelope<'_>, kind: &str, rows: usize, raw: bool) {
        self.kind.repeat(kind, rows);
        let all = self.sequence.len() + rows;
        self.sequence.resize(all, of.sequence as i64);
        self.broker_time.resize(all, of.broker_ms);
        self.position.extend(0..rows as i32);
        self.frame_checksum.first_of(Some(of.crc as i32), rows);
        self.raw.first_of(raw.then_some(of.payload), rows);
        if raw {
            self.subject.repeat(of.subject, 1);
            self.subject.skip(rows - 1);
        } else {
            self.subject.skip(rows);
        }
    }

    fn author(&mut self, producer: &Id, epoch: Epoch, watermark: &Watermark, rows: usize) {
        self.producer.repeat(producer.as_str(), rows);
        self.epoch.extend(std::iter::repeat_n(epoch.0 as i64, rows));
        self.watermark.first_of(Some(&watermark.to_bytes()), rows);
    }

    fn accounts(&mut self, frame: &FoldFrame) {
        let mut entries = Vec::with_capacity(frame.ads.len());
        for ad in &frame.ads {
            let of = |texts: &mut Texts, id: &Option<Id>| {
                id.as_ref().map(|id| texts.symbol(id.as_str()))
            };
            let currency = ad.currency.as_ref();
            entries.push((
                [
                    of(&mut self.ad_id, &ad.ad_id),
                    of(&mut self.campaign_id, &ad.campaign_id),
                    of(&mut self.advertiser_id, &ad.advertiser_id),
                    currency.map(|code| self.currency_code.symbol(code.as_str())),
                ],
                ad.utc_offset_s,
            ));
        }
        for symbol in &frame.ad {
            let ([ad, campaign, advertiser, currency], offset) = entries[*symbol as usize];
            self.ad_id.symbols.push(ad);
            self.campaign_id.symbols.push(campaign);
            self.advertiser_id.symbols.push(advertiser);
            self.currency_code.symbols.push(currency);
            self.utc_offset_s.push(Some(offset));
        }
    }

    fn placed(&mut self, frame: &FoldFrame) {
        let creatives: Vec<u32> = frame
            .creatives
            .iter()
            .map(|text| self.creative.symbol(text))
            .collect();
        let regions = frame.regions.iter().map(|text| {
            let country = country(text).map(|country| self.geo_country.symbol(country));
            (self.geo_region.symbol(text), country)
        });
        let regions: Vec<(u32, Option<u32>)> = regions.collect();
        let devices = Device::ALL.map(|device| self.device_type.symbol(device.name()));
        let verdicts = EdgeReason::ALL.map(|reason| (reason, self.verdict.symbol(reason.name())));
        let placed = frame.creative.iter().map(|s| creatives[*s as usize]);
        self.creative.symbols.extend(placed);
        for symbol in &frame.region {
            let (region, country) = regions[*symbol as usize];
            self.geo_region.symbols.push(Some(region));
            self.geo_country.symbols.push(country);
        }
        let classes = frame.device.iter().map(|device| devices[*device as usize]);
        self.device_type.symbols.extend(classes);
        for verdict in &frame.verdict {
            let symbol = verdict.and_then(|v| verdicts.iter().find(|(reason, _)| *reason == v));
            self.verdict.symbols.push(symbol.map(|(_, symbol)| *symbol));
        }
        self.is_fraudulent
            .extend(frame.verdict.iter().map(Option::is_some));
        self.fraud_score.skip(frame.id.len());
    }

    /// Rows without a place: conversions, and messages without events.
    fn unplaced(&mut self, rows: usize) {
        for texts in [
            &mut self.creative,
            &mut self.device_type,
            &mut self.geo_country,
            &mut self.geo_region,
            &mut self.verdict,
        ] {
            texts.skip(rows);
        }
        self.is_fraudulent.skip(rows);
        self.fraud_score.skip(rows);
    }

    fn ids(&mut self, frame: &FoldFrame, cold: &ColdColumns) {
        let rows = frame.id.len();
        let own = frame.id.iter().map(Some);
        let cause = cold.cause_id.iter().map(Option::as_ref);
        match frame.header.kind {
            Kind::Impression => {
                self.impression_id.extend(own);
                self.click_id.skip(rows);
                self.conversion_id.skip(rows);
            }
            Kind::Click => {
                self.impression_id.extend(cause);
                self.click_id.extend(own);
                self.conversion_id.skip(rows);
            }
            Kind::Conversion => {
                self.impression_id.skip(rows);
                self.click_id.extend(cause);
                self.conversion_id.extend(own);
            }
        }
        match cold.order_id.is_empty() {
            true => self.order_id.skip(rows),
            false => cold.order_id.iter().for_each(|id| {
                let text = id.as_ref().map(EventId::to_id);
                self.order_id
                    .push(text.as_ref().map(|id| id.as_str().as_bytes()));
            }),
        }
        match cold.landing_url.is_empty() {
            true => self.landing_url.skip(rows),
            false => cold.landing_url.iter().for_each(|url| {
                self.landing_url.push(url.as_deref().map(str::as_bytes));
            }),
        }
    }

    /// What unique visitors are counted by, where the address does not say it.
    fn visitors(&mut self, frame: &FoldFrame, cold: &ColdColumns) {
        let placed = frame.header.kind != Kind::Conversion;
        for (visitor, user) in frame.visitor.iter().zip(&cold.user_id) {
            let named = placed && user.is_some();
            let mark = named.then(|| Coupon::of(*visitor).bits() as i32);
            self.visitor_mark.push(mark);
        }
    }

    fn cold(&mut self, cold: &ColdColumns) {
        for hash in &cold.address_hash {
            self.ip_hash.push(hash.map(|hash| hash as i64));
        }
        for user in &cold.user_id {
            let digits = user.as_ref().map(|id| match id {
                EventId::Text(id) => user_digits(id.as_str().as_bytes()),
                EventId::Uuid(_) => user_digits(id.to_id().as_str().as_bytes()),
            });
            self.user_id_hash
                .push(digits.as_ref().map(<[u8; _]>::as_slice));
        }
        of_dictionary(&mut self.user_agent, &cold.user_agent);
        of_dictionary(&mut self.referrer_url, &cold.referrer);
        self.catalogue_revision
            .extend(cold.catalogue_revision.iter().map(|r| *r as i64));
    }

    /// A row that is no event.
    fn no_event(&mut self) {
        self.counter.skip(1);
        self.event_timestamp.skip(1);
        self.arrival_timestamp.skip(1);
        for ids in [
            &mut self.impression_id,
            &mut self.click_id,
            &mut self.conversion_id,
        ] {
            ids.skip(1);
        }
        for texts in [
            &mut self.ad_id,
            &mut self.campaign_id,
            &mut self.advertiser_id,
            &mut self.currency_code,
            &mut self.user_agent,
            &mut self.referrer_url,
        ] {
            texts.skip(1);
        }
        self.order_id.skip(1);
        self.landing_url.skip(1);
        self.user_id_hash.skip(1);
        self.visitor_mark.skip(1);
        self.utc_offset_s.skip(1);
        self.unplaced(1);
        self.amount_micros.skip(1);
        self.flags.skip(1);
        self.content_hash.skip(1);
        self.ip_hash.skip(1);
        self.catalogue_revision.skip(1);
    }
}

fn of_dictionary(column: &mut Texts, texts: &OptionalTexts) {
    let entries = texts.entries.iter();
    let symbols: Vec<Option<u32>> = entries
        .map(|text| text.as_deref().map(|text| column.symbol(text)))
        .collect();
    for symbol in &texts.symbols {
        column.symbols.push(symbols[*symbol as usize]);
    }
}

/// The country of an ISO 3166-2 code; none of `other` and of no region.
fn country(region: &str) -> Option<&str> {
    let code = region.split('-').next()?;
    (code.len() == 2 && code.bytes().all(|b| b.is_ascii_uppercase())).then_some(code)
}
