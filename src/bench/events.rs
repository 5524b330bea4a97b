//! Stamped events as a collector's border makes them, for figures that begin behind the border.
//!
//! A function of its seed, and quick to make: ads, campaigns, user agents and pages are made once and shared.

use std::sync::Arc;

use adtally_streams::event::{Body, ClickDetail, Device, Event, Flags, Placement};
use adtally_streams::id::Id;
use adtally_streams::money::Currency;
use adtally_streams::names::shard_of;

use crate::simulate::rng::{Rng, Zipf};

/// Ads of the measured traffic over all shards, and how many of them share a campaign and an advertiser.
const ADS: usize = 8_192;
const ADS_PER_CAMPAIGN: usize = 8;
const ADS_PER_ADVERTISER: usize = 32;
/// Different user agents, pages that visitors came from, and visitors.
const USER_AGENTS: usize = 2_000;
const REFERRERS: usize = 2_000;
const VISITORS: u64 = 10_000_000;
/// One event in so many is a click: ten impressions to a click.
const CLICK_EVERY: u64 = 11;
/// Events of one millisecond.
const EVENTS_PER_MS: u64 = 100;
/// 2026-01-01, when the measured traffic begins.
const BEGIN_MS: i64 = 1_767_225_600_000;

/// An ad as the border stamps it.
struct Ad {
    shard: u16,
    ad_id: Id,
    campaign_id: Id,
    advertiser_id: Id,
    landing_url: String,
    price_micros: i64,
    per_click: bool,
}

/// The measured traffic.
pub struct Events {
    rng: Rng,
    n: u64,
    popularity: Zipf,
    ads: Vec<Ad>,
    creatives: Vec<Arc<str>>,
    regions: Vec<Arc<str>>,
    user_agents: Vec<Arc<str>>,
    referrers: Vec<Arc<str>>,
    currency: Option<Currency>,
}

fn id(text: &str) -> Id {
    Id::new(text).expect("names of the measured traffic are ids")
}

fn ad(n: usize, shards: u16) -> Ad {
    let (campaign, advertiser) = (n / ADS_PER_CAMPAIGN, n / ADS_PER_ADVERTISER);
    let ad_id = format!("ad-{n:05}");
    Ad {
        shard: shard_of(&ad_id, "", 1, shards),
        ad_id: id(&ad_id),
        campaign_id: id(&format!("campaign-{campaign:04}")),
        advertiser_id: id(&format!("advertiser-{advertiser:03}")),
        landing_url: format!("https://shop-{advertiser}.example/landing?click="),
        price_micros: 1_000 * (200 + (campaign as i64 * 37) % 900),
        per_click: campaign.is_multiple_of(2),
    }
}

fn user_agent(rng: &mut Rng) -> Arc<str> {
    let (major, build) = (110 + rng.below(36), rng.below(200));
    Arc::from(match rng.below(3) {
        0 => format!(
            "Mozilla/5.0 (Linux; Android {}; SM-A{}) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/{major}.0.0.{build} Mobile Safari/537.36",
            9 + rng.below(7),
            100 + rng.below(900)
        ),
        1 => format!(
            "Mozilla/5.0 (iPhone; CPU iPhone OS {0}_{1} like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/{0}.{1} Mobile/15E{build} Safari/604.1",
            14 + rng.below(5),
            rng.below(7)
        ),
        _ => format!(
            "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/{major}.0.0.0 Safari/537.36 Edg/{major}.0.{}.{build}",
            1_500 + rng.below(1_000)
        ),
    })
}

impl Events {
    /// The traffic of that seed over the ads of `shards` shards.
    pub fn new(seed: u64, shards: u16) -> Self {
        let mut rng = Rng::new(seed);
        let texts = |texts: &[&str]| texts.iter().map(|text| Arc::from(*text)).collect();
        Self {
            n: 0,
            popularity: Zipf::new(ADS),
            ads: (0..ADS).map(|n| ad(n, shards)).collect(),
            creatives: texts(&["a", "b", "c", "d"]),
            regions: texts(&[
                "US-CA", "US-NY", "US-TX", "DE", "FR", "IN-KA", "BR", "GB-ENG",
            ]),
            user_agents: (0..USER_AGENTS).map(|_| user_agent(&mut rng)).collect(),
            referrers: (0..REFERRERS)
                .map(|n| {
                    Arc::from(format!(
                        "https://www.news-{}.example/story/{n}.html",
                        n % 200
                    ))
                })
                .collect(),
            currency: Currency::new("USD").ok(),
            rng,
        }
    }

    /// The next event and its shard.
    pub fn next(&mut self) -> (u16, Event) {
        let rng = &mut self.rng;
        self.n += 1;
        let ad = &self.ads[self.popularity.draw(rng)];
        let arrival_ms = BEGIN_MS + (self.n / EVENTS_PER_MS) as i64;
        let minted = rng.chance(500);
        let event_time_ms = if minted {
            arrival_ms
        } else {
            arrival_ms - rng.below(400) as i64
        };
        let own = uuid(rng, event_time_ms);
        let is_click = self.n.is_multiple_of(CLICK_EVERY);
        let placement = Placement {
            ad_id: ad.ad_id.clone(),
            campaign_id: ad.campaign_id.clone(),
            creative: self.creatives[rng.index(self.creatives.len())].clone(),
            region: self.regions[rng.index(self.regions.len())].clone(),
            device: rng.pick(&Device::ALL),
            cost_micros: match (is_click, ad.per_click) {
                (true, true) => ad.price_micros,
                (false, false) => ad.price_micros / 1_000,
                _ => 0,
            },
            verdict: None,
        };
        let landing_url = || Some(Arc::from(format!("{}{own}", ad.landing_url)));
        let body = if is_click {
            let detail = ClickDetail {
                impression_id: Some(uuid(rng, event_time_ms - 2_000)),
                landing_url: landing_url(),
            };
            Body::Click(placement, detail)
        } else {
            Body::Impression(placement)
        };
        let mut flags = Flags::default();
        if minted {
            flags.set(Flags::MINTED_ID);
        }
        let event = Event {
            id: own,
            event_time_ms,
            arrival_ms,
            advertiser_id: Some(ad.advertiser_id.clone()),
            currency: self.currency,
            utc_offset_s: -18_000,
            catalogue_revision: 41_200,
            content_hash: rng.next(),
            flags,
            address_hash: Some(rng.next()),
            user_id: rng
                .chance(500)
                .then(|| id(&format!("user-{}", rng.below(VISITORS)))),
            user_agent: Some(self.user_agents[rng.index(USER_AGENTS)].clone()),
            referrer: rng
                .chance(800)
                .then(|| self.referrers[rng.index(REFERRERS)].clone()),
            body,
        };
        (ad.shard, event)
    }
}

fn uuid(rng: &mut Rng, at_ms: i64) -> Id {
    let uuid = uuid::Builder::from_unix_timestamp_millis(at_ms.max(0) as u64, &rng.ten_bytes());
    let mut text = uuid::Uuid::encode_buffer();
    id(uuid.into_uuid().hyphenated().encode_lower(&mut text))
}
