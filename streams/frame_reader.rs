//! Reads frames: checks before it trusts.
//!
//! The checksum comes first, then the map, then what the parts declare, and only then are bytes reserved: at most
//! [`HOT_MAX_BYTES`] and [`COLD_MAX_BYTES`], and a few dozen for each of at most [`FRAME_MAX_EVENTS_READ`] events.
//! A fold never unpacks the cold part.

use std::cell::RefCell;
use std::sync::Arc;

use zstd::bulk::Decompressor;

use crate::columns::{Bytes, Reader, text};
use crate::envelope::{ANNOUNCEMENT, COLD_PACKED, Envelope, HOT_PACKED, read_watermark};
use crate::event::{
    Body, ClickDetail, ConversionDetail, Device, EdgeReason, Event, Flags, Kind, Placement,
};
use crate::frame::{AdEntry, EventFrame, EventId, EventMessage, FoldFrame, FoldMessage, Header};
use crate::frame_error::FrameError;
use crate::frame_writer::{
    AMOUNT_BY_AD, AMOUNT_DICTIONARY, AMOUNT_EACH, LANDING_MAX_BYTES, LANDING_PLAIN,
    LANDING_TEMPLATES, NO_CURRENCY, OWN_ID,
};
use crate::id::{Epoch, Id};
use crate::id_column::read_ids;
use crate::money::{Currency, Micros};
use crate::names::FRAME_MAX_EVENTS_READ;
use crate::watermark::Watermark;

#[cfg(doc)]
use crate::frame::{COLD_MAX_BYTES, HOT_MAX_BYTES};

/// What a reader keeps from frame to frame: at most the two parts' limits a thread.
struct Scratch {
    zstd: Decompressor<'static>,
    hot: Vec<u8>,
    cold: Vec<u8>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::new(Scratch {
        zstd: Decompressor::new().expect("zstd's context takes some memory and nothing else"),
        hot: Vec::new(),
        cold: Vec::new(),
    });
}

/// What a message's map says before its parts are read.
enum Opened<'a> {
    Frame(Header, Envelope<'a>),
    Announcement(Id, Epoch, Watermark),
}

fn open(bytes: &[u8]) -> Result<Opened<'_>, FrameError> {
    let envelope = Envelope::open(bytes)?;
    let producer = Id::new(envelope.producer)?;
    let epoch = Epoch(envelope.epoch);
    let watermark = read_watermark(envelope.watermark)?;
    if envelope.kind == ANNOUNCEMENT {
        return Ok(Opened::Announcement(producer, epoch, watermark));
    }
    let kind = Kind::from_number(envelope.kind).ok_or(FrameError::UnknownKind(envelope.kind))?;
    let (first, count) = (envelope.first, envelope.count);
    if !(1..=FRAME_MAX_EVENTS_READ as u32).contains(&count)
        || first.checked_add(u64::from(count)).is_none()
    {
        return Err(FrameError::BadCount { first, count });
    }
    Ok(Opened::Frame(
        Header {
            kind,
            producer,
            epoch,
            first,
            count,
            watermark,
        },
        envelope,
    ))
}

/// Reads a message's header and none of its events; none for an announcement.
///
/// # Errors
/// When the bytes are not a message that this program can read; the checksum of the whole is checked.
pub fn decode_header(bytes: &[u8]) -> Result<Option<Header>, FrameError> {
    match open(bytes)? {
        Opened::Frame(header, _) => Ok(Some(header)),
        Opened::Announcement(..) => Ok(None),
    }
}

/// Reads what a fold needs of a message, and never unpacks the rest.
///
/// # Errors
/// When the bytes are not a message that this program can read.
pub fn decode_for_fold(bytes: &[u8]) -> Result<FoldMessage, FrameError> {
    match open(bytes)? {
        Opened::Announcement(producer, epoch, watermark) => Ok(FoldMessage::Announcement {
            producer,
            epoch,
            watermark,
        }),
        Opened::Frame(header, envelope) => SCRATCH.with_borrow_mut(|scratch| {
            let hot = unpack(&mut scratch.zstd, &mut scratch.hot, envelope.hot_part())?;
            Ok(FoldMessage::Frame(Box::new(
                read_hot(header, hot, envelope.raw)?.0,
            )))
        }),
    }
}

/// Reads all of a message.
///
/// # Errors
/// When the bytes are not a message that this program can read.
pub fn decode_events(bytes: &[u8]) -> Result<EventMessage, FrameError> {
    match open(bytes)? {
        Opened::Announcement(producer, epoch, watermark) => Ok(EventMessage::Announcement {
            producer,
            epoch,
            watermark,
        }),
        Opened::Frame(header, envelope) => SCRATCH.with_borrow_mut(|scratch| {
            let hot = unpack(&mut scratch.zstd, &mut scratch.hot, envelope.hot_part())?;
            let (fold, raw_cold) = read_hot(header, hot, envelope.raw)?;
            let cold = unpack(&mut scratch.zstd, &mut scratch.cold, envelope.cold_part())?;
            Ok(EventMessage::Frame(read_events(fold, cold, raw_cold)?))
        }),
    }
}

/// A part as its envelope describes it.
struct Part<'a> {
    name: &'static str,
    bytes: &'a [u8],
    packed: bool,
    /// Checked against the part's limit when the envelope was opened.
    length: usize,
}

impl<'a> Envelope<'a> {
    fn hot_part(&self) -> Part<'a> {
        Part {
            name: "hot",
            bytes: self.hot,
            packed: self.codec & HOT_PACKED != 0,
            length: self.hot_len as usize,
        }
    }

    fn cold_part(&self) -> Part<'a> {
        Part {
            name: "cold",
            bytes: self.cold,
            packed: self.codec & COLD_PACKED != 0,
            length: self.cold_len as usize,
        }
    }
}

/// The plain bytes of a part, in `buffer` where it was packed.
fn unpack<'b>(
    zstd: &mut Decompressor<'_>,
    buffer: &'b mut Vec<u8>,
    part: Part<'b>,
) -> Result<&'b [u8], FrameError> {
    let bad = FrameError::BadLength {
        part: part.name,
        said: part.length,
    };
    if !part.packed {
        return if part.bytes.len() == part.length {
            Ok(part.bytes)
        } else {
            Err(bad)
        };
    }
    if buffer.len() < part.length {
        buffer.resize(part.length, 0);
    }
    match zstd.decompress_to_buffer(part.bytes, &mut buffer[..part.length]) {
        Ok(found) if found == part.length => Ok(&buffer[..part.length]),
        _ => Err(bad),
    }
}

/// Reads the hot part; returned beside it is what of `raw` belongs to the cold one.
fn read_hot<'a>(
    header: Header,
    hot: &[u8],
    raw: &'a [u8],
) -> Result<(FoldFrame, &'a [u8]), FrameError> {
    let count = header.count as usize;
    let (mut from, mut raw) = (Reader::new(hot), Reader::new(raw));
    let arrival_ms = from.deltas(count)?;
    let mut event_time_ms = Vec::with_capacity(count);
    for arrival in &arrival_ms {
        event_time_ms.push(arrival.wrapping_sub(from.zigzag()?));
    }
    let placed = match header.kind {
        Kind::Impression | Kind::Click => read_placements(&mut from, count)?,
        Kind::Conversion => read_conversion_accounts(&mut from, count)?,
    };
    let flags = read_flags(&mut from, count)?;
    let amount_micros = read_amounts(&mut from, &placed.ad, placed.ads.len())?;
    let id = read_ids(&mut from, &mut raw, [&event_time_ms, &arrival_ms])?;
    let id = id
        .into_iter()
        .collect::<Option<Vec<EventId>>>()
        .ok_or(FrameError::UnknownNumber)?;
    let (hashes, _) = raw.take(count * 8)?.as_chunks::<8>();
    let content_hash = hashes.iter().map(|h| u64::from_be_bytes(*h)).collect();
    let raw_cold = raw.take(usize::try_from(from.varint()?).map_err(|_| FrameError::BadNumber)?)?;
    from.end()?;
    raw.end()?;
    let Placed {
        ads,
        ad,
        creatives,
        creative,
        regions,
        region,
        device,
        verdict,
    } = placed;
    let fold = FoldFrame {
        header,
        ads,
        creatives,
        regions,
        ad,
        creative,
        region,
        device,
        verdict,
        flags,
        event_time_ms,
        arrival_ms,
        amount_micros,
        id,
        content_hash,
    };
    Ok((fold, raw_cold))
}

/// Which ads, and with which dimensions.
struct Placed {
    ads: Vec<AdEntry>,
    ad: Vec<u32>,
    creatives: Vec<Arc<str>>,
    creative: Vec<u32>,
    regions: Vec<Arc<str>>,
    region: Vec<u32>,
    device: Vec<Device>,
    verdict: Vec<Option<EdgeReason>>,
}

/// The accounts, as ad entries without an ad.
fn read_accounts(from: &mut Reader<'_>, most: usize) -> Result<Vec<AdEntry>, FrameError> {
    let len = from.len(1, most)?;
    let advertisers = from.slices(len)?;
    let mut entries = Vec::with_capacity(len);
    for advertiser in advertisers {
        let advertiser_id = if advertiser.is_empty() {
            None
        } else {
            Some(Id::new(text(advertiser)?)?)
        };
        let currency = match from.byte()? {
            NO_CURRENCY => None,
            first => {
                let rest = from.take(2)?;
                let code = [first, rest[0], rest[1]];
                if !code.iter().all(u8::is_ascii_uppercase) {
                    return Err(FrameError::BadCurrency);
                }
                Some(Currency::new(text(&code)?).map_err(|_| FrameError::BadCurrency)?)
            }
        };
        let utc_offset_s = i32::try_from(from.zigzag()?).map_err(|_| FrameError::BadNumber)?;
        entries.push(AdEntry {
            ad_id: None,
            campaign_id: None,
            advertiser_id,
            currency,
            utc_offset_s,
        });
    }
    Ok(entries)
}

fn read_conversion_accounts(from: &mut Reader<'_>, count: usize) -> Result<Placed, FrameError> {
    let ads = read_accounts(from, count)?;
    Ok(Placed {
        ad: from.symbols(count, ads.len())?,
        ads,
        creatives: vec![Arc::from("")],
        creative: vec![0; count],
        regions: vec![Arc::from("")],
        region: vec![0; count],
        device: vec![Device::Other; count],
        verdict: vec![None; count],
    })
}

fn read_placements(from: &mut Reader<'_>, count: usize) -> Result<Placed, FrameError> {
    let accounts = read_accounts(from, count)?;
    let len = from.len(1, count)?;
    let campaign_ids = read_id_texts(from, len)?;
    let of_account = from.symbols(len, accounts.len())?;
    let len = from.len(1, count)?;
    let ad_ids = read_id_texts(from, len)?;
    let of_campaign = from.symbols(len, campaign_ids.len())?;
    let ads = ad_ids
        .into_iter()
        .zip(of_campaign)
        .map(|(ad_id, campaign)| AdEntry {
            ad_id: Some(ad_id),
            campaign_id: Some(campaign_ids[campaign as usize].clone()),
            ..accounts[of_account[campaign as usize] as usize].clone()
        });
    let ads: Vec<AdEntry> = ads.collect();
    let ad = from.symbols(count, ads.len())?;
    let len = from.len(1, count)?;
    let creatives = from.texts(len)?;
    let creative = from.symbols(count, len)?;
    let len = from.len(1, count)?;
    let regions = from.texts(len)?;
    let region = from.symbols(count, len)?;
    let device = from.enums(count, Device::from_number)?;
    let verdict = from.enums(count, |n| match n {
        0 => Some(None),
        n => EdgeReason::from_number(n).map(Some),
    })?;
    Ok(Placed {
        ads,
        ad,
        creatives,
        creative,
        regions,
        region,
        device,
        verdict,
    })
}

fn read_id_texts(from: &mut Reader<'_>, count: usize) -> Result<Vec<Id>, FrameError> {
    from.slices(count)?
        .into_iter()
        .map(|bytes| Ok(Id::new(text(bytes)?)?))
        .collect()
}

fn read_flags(from: &mut Reader<'_>, count: usize) -> Result<Vec<Flags>, FrameError> {
    let len = from.len(1, count)?;
    let mut entries = Vec::with_capacity(len);
    for _ in 0..len {
        entries.push(Flags(
            u16::try_from(from.varint()?).map_err(|_| FrameError::BadNumber)?,
        ));
    }
    if let [only] = entries[..] {
        return Ok(vec![only; count]);
    }
    Ok(from
        .symbols(count, len)?
        .into_iter()
        .map(|s| entries[s as usize])
        .collect())
}

fn read_amounts(from: &mut Reader<'_>, ad: &[u32], ads: usize) -> Result<Vec<Micros>, FrameError> {
    let count = ad.len();
    let numbers = |from: &mut Reader<'_>, n: usize| {
        let mut numbers = Vec::with_capacity(n);
        for _ in 0..n {
            numbers.push(from.zigzag()?);
        }
        Ok::<_, FrameError>(numbers)
    };
    match from.byte()? {
        AMOUNT_BY_AD => {
            let by_ad = numbers(from, ads)?;
            Ok(ad.iter().map(|symbol| by_ad[*symbol as usize]).collect())
        }
        AMOUNT_DICTIONARY => {
            let len = from.len(1, count)?;
            let entries = numbers(from, len)?;
            Ok(from
                .symbols(count, len)?
                .into_iter()
                .map(|s| entries[s as usize])
                .collect())
        }
        AMOUNT_EACH => numbers(from, count),
        _ => Err(FrameError::UnknownNumber),
    }
}

/// What stands in the cold part for every kind.
struct Cold {
    revisions: Vec<i64>,
    address_hashes: Vec<Option<u64>>,
    user_ids: Vec<Option<Id>>,
    user_agents: OptionalTexts,
    referrers: OptionalTexts,
}

fn read_events(fold: FoldFrame, cold: &[u8], raw: &[u8]) -> Result<EventFrame, FrameError> {
    let count = fold.header.count as usize;
    let (mut from, mut raw) = (Reader::new(cold), Reader::new(raw));
    let times = [fold.event_time_ms.as_slice(), &fold.arrival_ms];
    let cold = Cold {
        revisions: from.deltas(count)?,
        address_hashes: read_hashes(&mut from, &mut raw, count)?,
        user_ids: read_optional_ids(&mut from, &mut raw, times)?,
        user_agents: OptionalTexts::read(&mut from, count)?,
        referrers: OptionalTexts::read(&mut from, count)?,
    };
    let ids: Vec<Id> = fold.id.iter().map(EventId::to_id).collect();
    let bodies: Vec<Body> = match fold.header.kind {
        Kind::Impression => (0..count)
            .map(|i| Body::Impression(fold.placement(i)))
            .collect(),
        Kind::Click => {
            let impressions = read_optional_ids(&mut from, &mut raw, times)?;
            let landing_urls = read_landing_urls(&mut from, &ids)?;
            let details = impressions.into_iter().zip(landing_urls).enumerate();
            let body = |(i, (impression_id, landing_url))| {
                Body::Click(
                    fold.placement(i),
                    ClickDetail {
                        impression_id,
                        landing_url,
                    },
                )
            };
            details.map(body).collect()
        }
        Kind::Conversion => {
            let click_ids = read_optional_ids(&mut from, &mut raw, times)?;
            let order_ids = read_optional_ids(&mut from, &mut raw, times)?;
            let details = click_ids
                .into_iter()
                .zip(order_ids)
                .zip(&fold.amount_micros);
            let body = |((click_id, order_id), value): (_, &Micros)| {
                Body::Conversion(ConversionDetail {
                    click_id,
                    order_id,
                    value_micros: *value,
                })
            };
            details.map(body).collect()
        }
    };
    from.end()?;
    raw.end()?;
    let events = assemble(&fold, cold, ids, bodies);
    Ok(EventFrame {
        header: fold.header,
        events,
    })
}

fn assemble(fold: &FoldFrame, cold: Cold, ids: Vec<Id>, bodies: Vec<Body>) -> Vec<Event> {
    let mut events = Vec::with_capacity(ids.len());
    let own = ids.into_iter().zip(bodies).zip(cold.user_ids).enumerate();
    for (i, ((id, body), user_id)) in own {
        let ad = &fold.ads[fold.ad[i] as usize];
        events.push(Event {
            id,
            event_time_ms: fold.event_time_ms[i],
            arrival_ms: fold.arrival_ms[i],
            advertiser_id: ad.advertiser_id.clone(),
            currency: ad.currency,
            utc_offset_s: ad.utc_offset_s,
            catalogue_revision: cold.revisions[i] as u64,
            content_hash: fold.content_hash[i],
            flags: fold.flags[i],
            address_hash: cold.address_hashes[i],
            user_id,
            user_agent: cold.user_agents.at(i),
            referrer: cold.referrers.at(i),
            body,
        });
    }
    events
}

impl FoldFrame {
    /// The placement of event `i` of an impression or click frame.
    fn placement(&self, i: usize) -> Placement {
        let ad = &self.ads[self.ad[i] as usize];
        let known = "a placement's ad entries were read with an ad and a campaign";
        Placement {
            ad_id: ad.ad_id.clone().expect(known),
            campaign_id: ad.campaign_id.clone().expect(known),
            creative: self.creatives[self.creative[i] as usize].clone(),
            region: self.regions[self.region[i] as usize].clone(),
            device: self.device[i],
            cost_micros: self.amount_micros[i],
            verdict: self.verdict[i],
        }
    }
}

fn read_hashes(
    from: &mut Reader<'_>,
    raw: &mut Reader<'_>,
    count: usize,
) -> Result<Vec<Option<u64>>, FrameError> {
    let present: Bytes<'_> = from.bytes(count)?;
    let mut hashes = Vec::with_capacity(count);
    for i in 0..count {
        hashes.push(match present.at(i) {
            0 => None,
            1 => Some(u64::from_be_bytes(
                raw.take(8)?.try_into().map_err(|_| FrameError::Short)?,
            )),
            _ => return Err(FrameError::UnknownNumber),
        });
    }
    Ok(hashes)
}

fn read_optional_ids(
    from: &mut Reader<'_>,
    raw: &mut Reader<'_>,
    times: [&[i64]; 2],
) -> Result<Vec<Option<Id>>, FrameError> {
    let ids = read_ids(from, raw, times)?;
    Ok(ids.into_iter().map(|id| id.map(|id| id.to_id())).collect())
}

/// A dictionary of texts and of none, and its symbols.
struct OptionalTexts {
    entries: Vec<Option<Arc<str>>>,
    symbols: Vec<u32>,
}

impl OptionalTexts {
    fn read(from: &mut Reader<'_>, count: usize) -> Result<Self, FrameError> {
        let len = from.len(1, count)?;
        let mut lengths = Vec::with_capacity(len);
        for _ in 0..len {
            lengths.push(usize::try_from(from.varint()?).map_err(|_| FrameError::BadNumber)?);
        }
        let mut entries = Vec::with_capacity(len);
        for length in lengths {
            entries.push(match length.checked_sub(1) {
                None => None,
                Some(length) => Some(Arc::from(text(from.take(length)?)?)),
            });
        }
        Ok(Self {
            symbols: from.symbols(count, len)?,
            entries,
        })
    }

    fn at(&self, i: usize) -> Option<Arc<str>> {
        self.entries[self.symbols[i] as usize].clone()
    }
}

/// Reads landing pages and puts each click's own id back. What that makes of them has a limit, since a small part
/// could ask for a great deal.
fn read_landing_urls(
    from: &mut Reader<'_>,
    ids: &[Id],
) -> Result<Vec<Option<Arc<str>>>, FrameError> {
    let filled = match from.byte()? {
        LANDING_PLAIN => false,
        LANDING_TEMPLATES => true,
        _ => return Err(FrameError::UnknownNumber),
    };
    let texts = OptionalTexts::read(from, ids.len())?;
    let holes: Vec<usize> = match filled {
        false => vec![0; texts.entries.len()],
        true => texts
            .entries
            .iter()
            .map(|t| t.as_ref().map_or(0, |t| t.matches(OWN_ID).count()))
            .collect(),
    };
    let mut left = LANDING_MAX_BYTES;
    let mut urls = Vec::with_capacity(ids.len());
    for (i, id) in ids.iter().enumerate() {
        let url = texts.at(i);
        let holes = holes[texts.symbols[i] as usize];
        urls.push(match url {
            Some(template) if holes > 0 => {
                let bytes = template.len() + holes * id.as_str().len();
                let said = bytes as u64;
                left = left.checked_sub(bytes).ok_or(FrameError::TooLarge {
                    part: "landing page",
                    said,
                    most: LANDING_MAX_BYTES,
                })?;
                Some(Arc::from(template.replace(OWN_ID, id.as_str())))
            }
            url => url,
        });
    }
    Ok(urls)
}
