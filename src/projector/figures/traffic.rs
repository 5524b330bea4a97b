//! The measured traffic: impressions or clicks of one shard, a function of their seed.
//!
//! Shape: [`ADS`] ads of which the nth has a part that falls as 1/n, as that of real ads does; regions likewise;
//! devices by usual shares; three creatives an ad. At [`EVENTS_A_MINUTE`] that is about 0.6 distinct minute cells
//! an event: 10 million events over two hours make 6 million of them, which is hard on a fold. More events in a
//! minute would be easier, since more of them meet in a cell.

use adtally_streams::event::{Body, ClickDetail, Device, Event, Flags, Kind, Placement};
use adtally_streams::frame::{Header, encode};
use adtally_streams::id::{Epoch, Id};
use adtally_streams::money::Currency;
use adtally_streams::watermark::Watermark;

use super::{Framed, Load};

/// Ads of the measured traffic.
const ADS: u64 = 4_096;
/// Ads of one campaign.
const ADS_PER_CAMPAIGN: u64 = 8;
/// Campaigns of one advertiser.
const CAMPAIGNS_PER_ADVERTISER: u64 = 4;
/// Regions, each under a name of ISO 3166-2's form.
const REGIONS: u64 = 50;
/// Creatives of an ad.
const CREATIVES: u64 = 3;
/// Parts in a hundred of the device classes, in the order of [`Device::ALL`].
const DEVICE_PARTS: [u64; 7] = [30, 35, 5, 5, 20, 3, 2];
/// Events in a minute of the measured traffic.
pub const EVENTS_A_MINUTE: u64 = 83_333;
/// 2026-01-01, when the measured traffic begins.
const BEGIN_MS: i64 = 1_767_225_600_000;
/// The advertisers' offset from UTC.
const OFFSET_S: i32 = -18_000;

/// A generator by multiplication and shifts (SplitMix64), so that figures need no crate and repeat.
fn random(seed: &mut u64) -> u64 {
    *seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (*seed ^ (*seed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Draws a place in proportion to its weight.
#[derive(Debug)]
struct Weighted(Vec<u64>);

impl Weighted {
    fn new(weights: impl Iterator<Item = u64>) -> Self {
        let mut sum = 0;
        Self(
            weights
                .map(|w| {
                    sum += w;
                    sum
                })
                .collect(),
        )
    }

    /// The nth has a part that falls as 1/n.
    fn zipf(n: u64) -> Self {
        Self::new((1..=n).map(|rank| (1 << 32) / rank))
    }

    fn draw(&self, r: u64) -> usize {
        let at = r % self.0.last().copied().unwrap_or(1);
        self.0.partition_point(|upto| *upto <= at)
    }
}

/// The events of a load, in order.
#[derive(Debug)]
pub struct Traffic {
    load: Load,
    seed: u64,
    next: u64,
    a_minute: u64,
    ads: Weighted,
    regions: Weighted,
    devices: Weighted,
    names: Vec<(Id, Id, Id)>,
    region_names: Vec<String>,
    producer: Id,
    epoch: Epoch,
}

impl Traffic {
    /// The traffic of a load, from its beginning. Ads of other `shard`s have other names.
    pub fn new(load: Load, shard: u16) -> Self {
        let id = |text: String| Id::new(&text).expect("names of the measured traffic are ids");
        let names = |ad: u64| {
            let campaign = ad / ADS_PER_CAMPAIGN;
            let advertiser = campaign / CAMPAIGNS_PER_ADVERTISER;
            (
                id(format!("ad-{shard}-{ad}")),
                id(format!("campaign-{shard}-{campaign}")),
                id(format!("advertiser-{shard}-{advertiser}")),
            )
        };
        let letter = |n: u64| char::from(b'A' + (n % 26) as u8);
        Self {
            load,
            seed: load.seed,
            next: 0,
            a_minute: EVENTS_A_MINUTE,
            ads: Weighted::zipf(ADS),
            regions: Weighted::zipf(REGIONS),
            devices: Weighted::new(DEVICE_PARTS.into_iter()),
            names: (0..ADS).map(names).collect(),
            region_names: (0..REGIONS)
                .map(|n| format!("US-{}{}", letter(n / 26), letter(n)))
                .collect(),
            producer: id("figures".to_owned()),
            epoch: Epoch(7 + load.kind as u64),
        }
    }

    /// The same with as many events a minute.
    pub fn at_rate(self, events_a_minute: u64) -> Self {
        Self {
            a_minute: events_a_minute.max(1),
            ..self
        }
    }

    fn time_ms(&self) -> i64 {
        BEGIN_MS + (self.next * 60_000 / self.a_minute) as i64
    }

    /// The next event.
    pub fn event(&mut self) -> Event {
        let time_ms = self.time_ms();
        self.next += 1;
        let seed = &mut self.seed;
        let ad = self.ads.draw(random(seed));
        let (ad_id, campaign_id, advertiser_id) = &self.names[ad];
        let region = &self.region_names[self.regions.draw(random(seed))];
        let r = random(seed);
        let uuid = (u128::from(time_ms as u64) << 80)
            | (0x7 << 76)
            | (0x2 << 62)
            | u128::from(random(seed) >> 2);
        let placement = Placement {
            ad_id: ad_id.clone(),
            campaign_id: campaign_id.clone(),
            creative: format!("v{}", (r >> 24) % CREATIVES).into(),
            region: region.as_str().into(),
            device: Device::ALL[self.devices.draw(r >> 40)],
            cost_micros: 2_500 * (1 + (ad as i64 % 7)),
            verdict: None,
        };
        let id = uuid::Uuid::from_u128(uuid).to_string();
        Event {
            id: Id::new(&id).expect("a UUID is an id"),
            event_time_ms: time_ms,
            arrival_ms: time_ms + (r >> 48) as i64 % 900,
            advertiser_id: Some(advertiser_id.clone()),
            currency: Currency::new("USD").ok(),
            utc_offset_s: OFFSET_S,
            catalogue_revision: 1,
            content_hash: random(seed),
            flags: Flags::MINTED_ID,
            address_hash: Some(random(seed)),
            user_id: None,
            user_agent: None,
            referrer: None,
            body: match self.load.kind {
                Kind::Click => Body::Click(placement, ClickDetail::default()),
                _ => Body::Impression(placement),
            },
        }
    }

    /// The next frames, of `events` events in all (fewer where the load ends).
    pub fn frames(&mut self, events: u64) -> Vec<Framed> {
        let end = self.load.events.min(self.next + events);
        let mut out = Vec::new();
        while self.next < end {
            let first = self.next;
            let count = u64::from(self.load.frame_events).min(end - first);
            let events: Vec<Event> = (0..count).map(|_| self.event()).collect();
            let header = Header {
                kind: self.load.kind,
                producer: self.producer.clone(),
                epoch: self.epoch,
                first,
                count: count as u32,
                watermark: Watermark::default(),
            };
            out.push(Framed {
                kind: self.load.kind,
                broker_ms: self.time_ms(),
                payload: encode(&header, &events),
            });
        }
        out
    }
}
