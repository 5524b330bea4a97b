//! The cold part: what a fold passes over, put back beside what it reads, as whole events.

use std::sync::Arc;

use crate::columns::Reader;
use crate::event::{Body, ClickDetail, ConversionDetail, Event, Kind, Placement};
use crate::frame::{EventFrame, EventId, FoldFrame};
use crate::frame_columns::{LANDING_MAX_BYTES, LANDING_PLAIN, LANDING_TEMPLATES, OWN_ID};
use crate::frame_error::FrameError;
use crate::id::Id;
use crate::id_column::{optional_id, read_ids};

/// The cold part of a frame, in columns as long as the frame has events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ColdColumns {
    /// Sequence in CATALOG of the last document that the border had applied.
    pub catalogue_revision: Vec<u64>,
    /// Keyed hash of the client's address.
    pub address_hash: Vec<Option<u64>>,
    /// The visitor as the publisher names them.
    pub user_id: Vec<Option<EventId>>,
    /// The client's user agent.
    pub user_agent: OptionalTexts,
    /// The page that the client came from.
    pub referrer: OptionalTexts,
    /// The impression that a click names, the click that a conversion names; empty for impressions.
    pub cause_id: Vec<Option<EventId>>,
    /// The advertiser's order; empty but for conversions.
    pub order_id: Vec<Option<EventId>>,
    /// Where the visitor was sent; empty but for clicks.
    pub landing_url: Vec<Option<Arc<str>>>,
}

impl ColdColumns {
    /// Reads the cold part of a frame whose hot part is `fold`; `raw` is what belongs to it of the raw part.
    pub(crate) fn read(fold: &FoldFrame, cold: &[u8], raw: &[u8]) -> Result<Self, FrameError> {
        let count = fold.header.count as usize;
        let (mut from, mut raw) = (Reader::new(cold), Reader::new(raw));
        let times = [fold.event_time_ms.as_slice(), &fold.arrival_ms];
        let revisions = from.deltas(count)?;
        let mut columns = Self {
            catalogue_revision: revisions.into_iter().map(|r| r as u64).collect(),
            address_hash: read_hashes(&mut from, &mut raw, count)?,
            user_id: read_ids(&mut from, &mut raw, times, optional_id)?,
            user_agent: OptionalTexts::read(&mut from, count)?,
            referrer: OptionalTexts::read(&mut from, count)?,
            cause_id: Vec::new(),
            order_id: Vec::new(),
            landing_url: Vec::new(),
        };
        match fold.header.kind {
            Kind::Impression => {}
            Kind::Click => {
                columns.cause_id = read_ids(&mut from, &mut raw, times, optional_id)?;
                let ids: Vec<Id> = fold.id.iter().map(EventId::to_id).collect();
                columns.landing_url = read_landing_urls(&mut from, &ids)?;
            }
            Kind::Conversion => {
                columns.cause_id = read_ids(&mut from, &mut raw, times, optional_id)?;
                columns.order_id = read_ids(&mut from, &mut raw, times, optional_id)?;
            }
        }
        from.end()?;
        raw.end()?;
        Ok(columns)
    }
}

/// The events of a frame.
pub(crate) fn events_of(fold: FoldFrame, mut cold: ColdColumns) -> EventFrame {
    let id = |id: &Option<EventId>| id.as_ref().map(EventId::to_id);
    let mut events = Vec::with_capacity(fold.id.len());
    for i in 0..fold.id.len() {
        let ad = &fold.ads[fold.ad[i] as usize];
        let body = match fold.header.kind {
            Kind::Impression => Body::Impression(placement(&fold, i)),
            Kind::Click => Body::Click(
                placement(&fold, i),
                ClickDetail {
                    impression_id: id(&cold.cause_id[i]),
                    landing_url: cold.landing_url[i].take(),
                },
            ),
            Kind::Conversion => Body::Conversion(ConversionDetail {
                click_id: id(&cold.cause_id[i]),
                order_id: id(&cold.order_id[i]),
                value_micros: fold.amount_micros[i],
            }),
        };
        events.push(Event {
            id: fold.id[i].to_id(),
            event_time_ms: fold.event_time_ms[i],
            arrival_ms: fold.arrival_ms[i],
            advertiser_id: ad.advertiser_id.clone(),
            currency: ad.currency,
            utc_offset_s: ad.utc_offset_s,
            catalogue_revision: cold.catalogue_revision[i],
            content_hash: fold.content_hash[i],
            flags: fold.flags[i],
            address_hash: cold.address_hash[i],
            user_id: id(&cold.user_id[i]),
            user_agent: cold.user_agent.at(i),
            referrer: cold.referrer.at(i),
            body,
        });
    }
    EventFrame {
        header: fold.header,
        events,
    }
}

/// The placement of event `i` of an impression or click frame.
fn placement(fold: &FoldFrame, i: usize) -> Placement {
    let ad = &fold.ads[fold.ad[i] as usize];
    let known = "the ad entries of an impression or click frame are read with an ad and a campaign";
    Placement {
        ad_id: ad.ad_id.clone().expect(known),
        campaign_id: ad.campaign_id.clone().expect(known),
        creative: fold.creatives[fold.creative[i] as usize].clone(),
        region: fold.regions[fold.region[i] as usize].clone(),
        device: fold.device[i],
        cost_micros: fold.amount_micros[i],
        verdict: fold.verdict[i],
    }
}

/// The hashes of a column in which each event has one or none.
pub(crate) fn read_hashes(
    from: &mut Reader<'_>,
    raw: &mut Reader<'_>,
    count: usize,
) -> Result<Vec<Option<u64>>, FrameError> {
    let present = from.bytes(count)?;
    let mut hashes = Vec::with_capacity(count);
    for i in 0..count {
        hashes.push(match present.at(i) {
            0 => None,
            1 => Some(u64::from_be_bytes(*raw.array()?)),
            _ => return Err(FrameError::UnknownNumber),
        });
    }
    Ok(hashes)
}

/// A dictionary of texts and of none, and its symbols.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OptionalTexts {
    /// The distinct texts.
    pub entries: Vec<Option<Arc<str>>>,
    /// Index into them, of each event.
    pub symbols: Vec<u32>,
}

impl OptionalTexts {
    fn read(from: &mut Reader<'_>, count: usize) -> Result<Self, FrameError> {
        let len = from.len(1, count)?;
        let mut lengths = Vec::with_capacity(len);
        for _ in 0..len {
            lengths.push(from.varint()?);
        }
        // A length is written as one more, and zero means none.
        let texts = from.split(lengths.iter().map(|n| n.saturating_sub(1)))?;
        let entry = |(text, length): (&str, &u64)| (*length > 0).then(|| Arc::from(text));
        let entries = texts.into_iter().zip(&lengths).map(entry).collect();
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
pub(crate) fn read_landing_urls(
    from: &mut Reader<'_>,
    ids: &[Id],
) -> Result<Vec<Option<Arc<str>>>, FrameError> {
    let templates = match from.byte()? {
        LANDING_PLAIN => false,
        LANDING_TEMPLATES => true,
        _ => return Err(FrameError::UnknownNumber),
    };
    let pages = OptionalTexts::read(from, ids.len())?;
    if !templates {
        return Ok((0..ids.len()).map(|i| pages.at(i)).collect());
    }
    let split = |page: &Option<Arc<str>>| page.as_deref()?.bytes().position(|b| b == OWN_ID);
    let holes: Vec<Option<usize>> = pages.entries.iter().map(split).collect();
    let mut left = LANDING_MAX_BYTES;
    let mut urls = Vec::with_capacity(ids.len());
    for (i, id) in ids.iter().enumerate() {
        urls.push(match (pages.at(i), holes[pages.symbols[i] as usize]) {
            (Some(page), Some(hole)) => {
                let bytes = page.len() - 1 + id.as_str().len();
                let too_large = FrameError::TooLarge {
                    part: "landing page",
                    said: bytes as u64,
                    most: LANDING_MAX_BYTES,
                };
                left = left.checked_sub(bytes).ok_or(too_large)?;
                Some(Arc::from(
                    [&page[..hole], id.as_str(), &page[hole + 1..]].concat(),
                ))
            }
            (page, _) => page,
        });
    }
    Ok(urls)
}
