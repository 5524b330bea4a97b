//! The cold part: what a fold passes over, put back beside what it reads, as whole events.

use std::sync::Arc;

use crate::columns::Reader;
use crate::event::{Body, ClickDetail, ConversionDetail, Event, Kind, Placement};
use crate::frame::{EventFrame, EventId, FoldFrame};
use crate::frame_columns::{LANDING_MAX_BYTES, LANDING_PLAIN, LANDING_TEMPLATES, OWN_ID};
use crate::frame_error::FrameError;
use crate::id::Id;
use crate::id_column::{optional_id, read_ids};

/// Reads the cold part of a frame whose hot part is `fold`; `raw` is what belongs to it of the raw part.
pub(crate) fn read_events(
    fold: FoldFrame,
    cold: &[u8],
    raw: &[u8],
) -> Result<EventFrame, FrameError> {
    let count = fold.header.count as usize;
    let (mut from, mut raw) = (Reader::new(cold), Reader::new(raw));
    let times = [fold.event_time_ms.as_slice(), &fold.arrival_ms];
    let ids: Vec<Id> = fold.id.iter().map(EventId::to_id).collect();
    let revisions = from.deltas(count)?;
    let address_hashes = read_hashes(&mut from, &mut raw, count)?;
    let user_ids = read_ids(&mut from, &mut raw, times, optional_id)?;
    let user_agents = OptionalTexts::read(&mut from, count)?;
    let referrers = OptionalTexts::read(&mut from, count)?;
    let mut body = read_bodies(&fold, &ids, &mut from, &mut raw)?;
    from.end()?;
    raw.end()?;
    let mut events = Vec::with_capacity(count);
    for (i, (id, user_id)) in ids.iter().zip(user_ids).enumerate() {
        let ad = &fold.ads[fold.ad[i] as usize];
        events.push(Event {
            id: id.clone(),
            event_time_ms: fold.event_time_ms[i],
            arrival_ms: fold.arrival_ms[i],
            advertiser_id: ad.advertiser_id.clone(),
            currency: ad.currency,
            utc_offset_s: ad.utc_offset_s,
            catalogue_revision: revisions[i] as u64,
            content_hash: fold.content_hash[i],
            flags: fold.flags[i],
            address_hash: address_hashes[i],
            user_id,
            user_agent: user_agents.at(i),
            referrer: referrers.at(i),
            body: body(i),
        });
    }
    drop(body);
    Ok(EventFrame {
        header: fold.header,
        events,
    })
}

/// What makes the body of each event, asked once for each in their order.
type Bodies<'a> = Box<dyn FnMut(usize) -> Body + 'a>;

fn read_bodies<'a>(
    fold: &'a FoldFrame,
    ids: &[Id],
    from: &mut Reader<'_>,
    raw: &mut Reader<'_>,
) -> Result<Bodies<'a>, FrameError> {
    let times = [fold.event_time_ms.as_slice(), &fold.arrival_ms];
    Ok(match fold.header.kind {
        Kind::Impression => Box::new(|i| Body::Impression(placement(fold, i))),
        Kind::Click => {
            let mut impression_ids = read_ids(from, raw, times, optional_id)?;
            let mut landing_urls = read_landing_urls(from, ids)?;
            Box::new(move |i| {
                let (impression_id, landing_url) =
                    (impression_ids[i].take(), landing_urls[i].take());
                Body::Click(
                    placement(fold, i),
                    ClickDetail {
                        impression_id,
                        landing_url,
                    },
                )
            })
        }
        Kind::Conversion => {
            let mut click_ids = read_ids(from, raw, times, optional_id)?;
            let mut order_ids = read_ids(from, raw, times, optional_id)?;
            Box::new(move |i| {
                let (click_id, order_id) = (click_ids[i].take(), order_ids[i].take());
                let value_micros = fold.amount_micros[i];
                Body::Conversion(ConversionDetail {
                    click_id,
                    order_id,
                    value_micros,
                })
            })
        }
    })
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
struct OptionalTexts {
    entries: Vec<Option<Arc<str>>>,
    symbols: Vec<u32>,
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
