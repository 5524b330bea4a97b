//! Reads a frame's hot part: the columns that a fold needs, each checked as it is read.
//!
//! The lengths before it have been checked by whoever unpacked it; here every number is within its dictionary, every
//! text is one, and nothing is left over.

use std::sync::Arc;

use crate::columns::Reader;
use crate::event::{Device, EdgeReason, Flags, Kind};
use crate::frame::{AdEntry, FoldFrame, Header};
use crate::frame_columns::{AMOUNT_BY_AD, AMOUNT_DICTIONARY, AMOUNT_EACH, NO_CURRENCY};
use crate::frame_error::FrameError;
use crate::id::Id;
use crate::id_column::{event_id, read_ids};
use crate::money::{Currency, Micros};

/// Reads the hot part, which knows no visitors; returned beside it is what of `raw` belongs to the cold one.
pub(crate) fn read_hot<'a>(
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
    let id = read_ids(&mut from, &mut raw, [&event_time_ms, &arrival_ms], event_id)?;
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
        visitor: Vec::new(),
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
    let advertisers = from.texts(len)?;
    let mut entries = Vec::with_capacity(len);
    for advertiser in advertisers {
        let advertiser_id = if advertiser.is_empty() {
            None
        } else {
            Some(Id::new(advertiser)?)
        };
        let currency = match from.byte()? {
            NO_CURRENCY => None,
            first => {
                let [second, third] = *from.array()?;
                Some(Currency::from_code([first, second, third]).ok_or(FrameError::BadCurrency)?)
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
    let creatives = read_shared_texts(from, len)?;
    let creative = from.symbols(count, len)?;
    let len = from.len(1, count)?;
    let regions = read_shared_texts(from, len)?;
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
    let texts = from.texts(count)?;
    texts.into_iter().map(|text| Ok(Id::new(text)?)).collect()
}

fn read_shared_texts(from: &mut Reader<'_>, count: usize) -> Result<Vec<Arc<str>>, FrameError> {
    Ok(from.texts(count)?.into_iter().map(Arc::from).collect())
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
