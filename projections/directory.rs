//! The directory: which names were seen together, as the log had them.
//!
//! Invariant: it only grows, and a row is there exactly when a counted event said so; an ad that moved has rows
//! with both campaigns. It answers what a query must visit, never what an event is counted under.

use adtally_streams::event::Kind;
use adtally_streams::money::Currency;
use rustc_hash::FxHashSet;

use crate::applied::{AdSymbols, Applied, Projection};
use crate::codec::{Damaged, Reader, put_u32, put_varint};
use crate::family::{Changes, Family};
use crate::symbols::{NONE, Symbol};

/// Distinct dictionary entries whose rows are known to be written, besides the last one of each of as many ads; past it
/// the memory starts anew, and rows are written once more, which changes nothing.
pub const MAX_KNOWN: usize = 65_536;

const CAMPAIGN: u8 = b'c';
const UNZONED: u8 = b'u';
const ADVERTISER_OF_CAMPAIGN: u8 = b'v';
const CAMPAIGN_OF_ADVERTISER: u8 = b'w';
const CURRENCY_OF_CAMPAIGN: u8 = b'y';
const CAMPAIGN_OF_AD: u8 = b'a';
const AD_OF_CAMPAIGN: u8 = b'b';
const CREATIVES_OF_AD: u8 = b'k';

/// A row of [`Family::Directory`] whose key is all there is to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fact {
    /// The campaign has counted events.
    Campaign(Symbol),
    /// It has counted events without an advertiser, under UTC: its hours and days may be of two zones, so they
    /// are answered from minutes.
    Unzoned(Symbol),
    /// The campaign, and an advertiser whom its events name.
    AdvertiserOfCampaign(Symbol, Symbol),
    /// The advertiser, and a campaign of theirs.
    CampaignOfAdvertiser(Symbol, Symbol),
    /// The campaign, and a currency of its events.
    CurrencyOfCampaign(Symbol, Currency),
    /// The ad, and a campaign that its events were counted under.
    CampaignOfAd(Symbol, Symbol),
    /// The campaign, and an ad that was counted under it.
    AdOfCampaign(Symbol, Symbol),
}

impl Fact {
    /// Appends the row's key.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let two = |out: &mut Vec<u8>, tag, a, b| {
            out.push(tag);
            put_u32(out, a);
            put_u32(out, b);
        };
        match *self {
            Fact::Campaign(c) => {
                out.push(CAMPAIGN);
                put_u32(out, c);
            }
            Fact::Unzoned(c) => {
                out.push(UNZONED);
                put_u32(out, c);
            }
            Fact::AdvertiserOfCampaign(c, v) => two(out, ADVERTISER_OF_CAMPAIGN, c, v),
            Fact::CampaignOfAdvertiser(v, c) => two(out, CAMPAIGN_OF_ADVERTISER, v, c),
            Fact::CurrencyOfCampaign(c, currency) => {
                out.push(CURRENCY_OF_CAMPAIGN);
                put_u32(out, c);
                out.extend_from_slice(currency.as_str().as_bytes());
            }
            Fact::CampaignOfAd(a, c) => two(out, CAMPAIGN_OF_AD, a, c),
            Fact::AdOfCampaign(c, a) => two(out, AD_OF_CAMPAIGN, c, a),
        }
    }

    /// Reads a row's key; none for a row of creatives, see [`creatives_key`].
    pub fn decode(key: &[u8]) -> Result<Option<Self>, Damaged> {
        let mut r = Reader::new(key, "directory");
        let (tag, a) = (r.u8()?, r.u32()?);
        let fact = match tag {
            CAMPAIGN => Fact::Campaign(a),
            UNZONED => Fact::Unzoned(a),
            ADVERTISER_OF_CAMPAIGN => Fact::AdvertiserOfCampaign(a, r.u32()?),
            CAMPAIGN_OF_ADVERTISER => Fact::CampaignOfAdvertiser(a, r.u32()?),
            CURRENCY_OF_CAMPAIGN => {
                let text = std::str::from_utf8(r.take(3)?).map_err(|_| r.damaged())?;
                Fact::CurrencyOfCampaign(a, Currency::new(text).map_err(|_| r.damaged())?)
            }
            CAMPAIGN_OF_AD => Fact::CampaignOfAd(a, r.u32()?),
            AD_OF_CAMPAIGN => Fact::AdOfCampaign(a, r.u32()?),
            CREATIVES_OF_AD => return Ok(None),
            _ => return Err(r.damaged()),
        };
        r.end()?;
        Ok(Some(fact))
    }
}

/// Prefix of all [`Fact::Campaign`] rows.
pub fn campaigns() -> Vec<u8> {
    vec![CAMPAIGN]
}

fn prefix(tag: u8, symbol: Symbol) -> Vec<u8> {
    let mut out = vec![tag];
    put_u32(&mut out, symbol);
    out
}

/// Prefix of a campaign's [`Fact::AdvertiserOfCampaign`] rows.
pub fn advertisers_of_campaign(campaign: Symbol) -> Vec<u8> {
    prefix(ADVERTISER_OF_CAMPAIGN, campaign)
}

/// Prefix of an advertiser's [`Fact::CampaignOfAdvertiser`] rows.
pub fn campaigns_of_advertiser(advertiser: Symbol) -> Vec<u8> {
    prefix(CAMPAIGN_OF_ADVERTISER, advertiser)
}

/// Prefix of a campaign's [`Fact::CurrencyOfCampaign`] rows.
pub fn currencies_of_campaign(campaign: Symbol) -> Vec<u8> {
    prefix(CURRENCY_OF_CAMPAIGN, campaign)
}

/// Prefix of an ad's [`Fact::CampaignOfAd`] rows.
pub fn campaigns_of_ad(ad: Symbol) -> Vec<u8> {
    prefix(CAMPAIGN_OF_AD, ad)
}

/// Prefix of a campaign's [`Fact::AdOfCampaign`] rows.
pub fn ads_of_campaign(campaign: Symbol) -> Vec<u8> {
    prefix(AD_OF_CAMPAIGN, campaign)
}

/// Row: the creatives of an ad that are counted by name, at most
/// [`adtally_streams::names::MAX_CREATIVES_PER_AD`], in log order. See [`decode_creatives`].
pub fn creatives_key(out: &mut Vec<u8>, ad: Symbol) {
    out.push(CREATIVES_OF_AD);
    put_u32(out, ad);
}

/// The ad of a key of [`creatives_key`]'s form.
pub fn ad_of_creatives_key(key: &[u8]) -> Option<Symbol> {
    match key {
        [CREATIVES_OF_AD, rest @ ..] => rest.try_into().ok().map(u32::from_be_bytes),
        _ => None,
    }
}

/// Writes an ad's creatives.
pub fn encode_creatives(out: &mut Vec<u8>, creatives: &[Symbol]) {
    creatives
        .iter()
        .for_each(|c| put_varint(out, u64::from(*c)));
}

/// Reads an ad's creatives.
pub fn decode_creatives(value: &[u8]) -> Result<Vec<Symbol>, Damaged> {
    let mut r = Reader::new(value, "directory");
    let mut out = Vec::new();
    while !r.rest().is_empty() {
        out.push(r.varint32()?);
    }
    Ok(out)
}

/// The projection of impressions and clicks into the directory.
#[derive(Debug, Default)]
pub struct Directory {
    known: FxHashSet<AdSymbols>,
    /// By ad, as far as symbols are low: the entry that was known last.
    last: Vec<Option<AdSymbols>>,
    new: Vec<AdSymbols>,
    seen: Vec<bool>,
}

impl Projection for Directory {
    fn apply(&mut self, frame: &Applied<'_>) {
        if frame.kind() == Kind::Conversion {
            return;
        }
        self.seen.clear();
        self.seen.resize(frame.ads.len(), false);
        frame
            .events
            .iter()
            .for_each(|at| self.seen[frame.frame.ad[*at as usize] as usize] = true);
        for (entry, _) in frame.ads.iter().zip(&self.seen).filter(|(_, seen)| **seen) {
            // The offset changes with the season and says nothing here.
            let entry = AdSymbols {
                utc_offset_s: 0,
                ..*entry
            };
            let ad = entry.ad as usize;
            if self.last.get(ad) == Some(&Some(entry)) {
                continue;
            }
            if self.known.insert(entry) {
                self.new.push(entry);
            }
            if ad < MAX_KNOWN {
                if ad >= self.last.len() {
                    self.last.resize(ad + 1, None);
                }
                self.last[ad] = Some(entry);
            }
        }
    }

    fn finish(&mut self, out: &mut Changes) {
        let mut fact = |fact: Fact| out.put(Family::Directory, |k| fact.encode(k), |_| ());
        for AdSymbols {
            ad,
            campaign,
            advertiser,
            currency,
            ..
        } in self.new.drain(..)
        {
            fact(Fact::Campaign(campaign));
            fact(Fact::CampaignOfAd(ad, campaign));
            fact(Fact::AdOfCampaign(campaign, ad));
            match advertiser {
                NONE => fact(Fact::Unzoned(campaign)),
                advertiser => {
                    fact(Fact::AdvertiserOfCampaign(campaign, advertiser));
                    fact(Fact::CampaignOfAdvertiser(advertiser, campaign));
                }
            }
            if let Some(currency) = currency {
                fact(Fact::CurrencyOfCampaign(campaign, currency));
            }
        }
        if self.known.len() > MAX_KNOWN {
            self.known.clear();
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn facts_return_and_stand_under_their_prefixes() {
        let usd = Currency::new("USD").unwrap();
        let all = [
            (Fact::Campaign(7), campaigns()),
            (Fact::AdvertiserOfCampaign(7, 9), advertisers_of_campaign(7)),
            (Fact::CampaignOfAdvertiser(9, 7), campaigns_of_advertiser(9)),
            (Fact::CurrencyOfCampaign(7, usd), currencies_of_campaign(7)),
            (Fact::CampaignOfAd(3, 7), campaigns_of_ad(3)),
            (Fact::AdOfCampaign(7, 3), ads_of_campaign(7)),
            (Fact::Unzoned(7), prefix(UNZONED, 7)),
        ];
        for (fact, prefix) in all {
            let mut key = Vec::new();
            fact.encode(&mut key);
            assert!(key.starts_with(&prefix), "{fact:?}");
            assert_eq!(Fact::decode(&key), Ok(Some(fact)));
        }
    }
}
