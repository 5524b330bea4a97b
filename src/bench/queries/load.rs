//! The year of events that is asked about: one large campaign of every combination of dimensions, and a tail of
//! campaigns as Zipf's law has them.
//!
//! A function of its seed and of the instant at which it ends, day after day, as a year would have brought it.

use std::fmt::Write as _;

use adtally_streams::names::CATALOG_PREFIX;
use serde_json::{Value, json};

use crate::simulate::rng::{Rng, Zipf};

/// Names in the catalogue.
pub const ADVERTISER: &str = "query-bench";
/// The campaign that has half of the cells.
pub const LARGE: &str = "large";
const LARGE_ADS: usize = 50;
const CREATIVES: [&str; 3] = ["a", "b", "c"];
const DEVICES: [&str; 4] = ["ios", "android", "desktop", "tablet"];
/// Its regions: the states of the USA, and countries.
const REGIONS: [&str; 60] = [
    "US-AL", "US-AK", "US-AZ", "US-AR", "US-CA", "US-CO", "US-CT", "US-DE", "US-FL", "US-GA",
    "US-HI", "US-ID", "US-IL", "US-IN", "US-IA", "US-KS", "US-KY", "US-LA", "US-ME", "US-MD",
    "US-MA", "US-MI", "US-MN", "US-MS", "US-MO", "US-MT", "US-NE", "US-NV", "US-NH", "US-NJ",
    "US-NM", "US-NY", "US-NC", "US-ND", "US-OH", "US-OK", "US-OR", "US-PA", "US-RI", "US-SC",
    "US-SD", "US-TN", "US-TX", "US-UT", "US-VT", "US-VA", "US-WA", "US-WV", "US-WI", "US-WY", "DE",
    "FR", "GB", "IN", "BR", "JP", "AU", "CA", "MX", "ES",
];
/// Campaigns of the tail, and the ads of each.
const TAIL: usize = 2_000;
/// Those that are there from the beginning: the whole is a hundred times as many.
pub const TAIL_FIRST: usize = TAIL / 100;
const TAIL_ADS: usize = 4;
/// The small campaign that is asked about, one of the first.
pub const SMALL: usize = TAIL_FIRST / 2;
/// What a click costs; impressions cost nothing.
const CLICK_MICROS: i64 = 250_000;
/// One of so many events is a click.
const CLICK_EVERY: u64 = 11;
/// How many days there are, how many of them have more events for their hours, and one for its minutes.
pub const DAYS: i64 = 365;
pub const HOUR_DAYS: i64 = 90;
pub const MINUTE_DAYS: i64 = 1;
const DAY_S: i64 = 86_400;
/// Shares of the events, in thousandths: each combination once a day; any hour of the last days; any minute of the
/// last; the tail, of which a hundredth of the campaigns comes first.
const SHARES: [u64; 4] = [500, 190, 140, 170];

/// The name of a campaign of the tail.
pub fn tail_campaign(n: usize) -> String {
    format!("tail-{n:04}")
}

/// One event.
#[derive(Clone, Copy, Debug)]
pub struct Event {
    /// A campaign of the tail; none is the large one.
    tail: Option<u16>,
    ad: u8,
    creative: u8,
    region: u8,
    device: u8,
    time_s: i64,
    is_click: bool,
    number: u64,
}

impl Event {
    fn campaign(&self) -> String {
        self.tail
            .map_or_else(|| LARGE.to_owned(), |n| tail_campaign(n.into()))
    }

    fn ad(&self, campaign: &str) -> String {
        format!("{campaign}-{}", self.ad)
    }

    /// Appends the event as a line of NDJSON. Its id is its number, so that no two are alike.
    pub fn post(&self, out: &mut String) {
        let (kind, id) = match self.is_click {
            true => ("click", "click_id"),
            false => ("impression", "impression_id"),
        };
        let _ = writeln!(
            out,
            r#"{{"kind":"{kind}","{id}":"q{:010}","ad_id":"{}","creative":"{}","geo":"{}","device":"{}","ts":{}}}"#,
            self.number,
            self.ad(&self.campaign()),
            CREATIVES[usize::from(self.creative)],
            REGIONS[usize::from(self.region)],
            DEVICES[usize::from(self.device)],
            self.time_s,
        );
    }

    /// Appends the event as a line of the yardsticks' CSV.
    pub fn csv(&self, out: &mut String) {
        let campaign = self.campaign();
        let _ = writeln!(
            out,
            "{campaign},{},{},{},{},{},{},{}",
            self.ad(&campaign),
            CREATIVES[usize::from(self.creative)],
            REGIONS[usize::from(self.region)],
            DEVICES[usize::from(self.device)],
            self.time_s,
            self.is_click,
            if self.is_click { CLICK_MICROS } else { 0 },
        );
    }
}

/// The first line of the yardsticks' CSV.
pub const CSV_HEAD: &str = "campaign_id,ad_id,creative,region,device,time_s,is_click,cost_micros\n";

/// What the catalogue has to know: subjects and documents, in their order.
pub fn catalogue() -> Vec<(String, Value)> {
    let campaigns: Vec<(String, usize)> = std::iter::once((LARGE.to_owned(), LARGE_ADS))
        .chain((0..TAIL).map(|n| (tail_campaign(n), TAIL_ADS)))
        .collect();
    let advertiser = json!({"advertiser_id": ADVERTISER, "name": "Queries", "currency_code": "USD", "time_zone": "UTC"});
    let mut documents = vec![(
        format!("{CATALOG_PREFIX}.advertiser.{ADVERTISER}"),
        advertiser,
    )];
    for (id, _) in &campaigns {
        let document = json!({"campaign_id": id, "advertiser_id": ADVERTISER, "name": id, "status": "active",
            "pricing": {"model": "cpc", "price_micros": CLICK_MICROS}, "daily_budget_micros": 0});
        documents.push((format!("{CATALOG_PREFIX}.campaign.{id}"), document));
    }
    for (campaign, ads) in &campaigns {
        for at in 0..*ads {
            let id = format!("{campaign}-{at}");
            let document = json!({"ad_id": id, "campaign_id": campaign, "landing_url": "https://shop.example/",
                "status": "active", "creatives": CREATIVES});
            documents.push((format!("{CATALOG_PREFIX}.ad.{id}"), document));
        }
    }
    documents
}

/// Which events of the year.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The large campaign, and the first ones of the tail.
    First,
    /// The rest of the tail.
    Rest,
}

/// The events of a year.
#[derive(Debug)]
pub struct Year {
    rng: Rng,
    popularity: Zipf,
    part: Part,
    events: u64,
    end_s: i64,
    day: i64,
    number: u64,
}

impl Year {
    /// About `events` events of both parts that end before `end_s`, the end of a day of UTC.
    pub fn new(events: u64, end_s: i64, part: Part) -> Self {
        let (first, campaigns) = match part {
            Part::First => (0, TAIL_FIRST),
            Part::Rest => (1 << 32, TAIL - TAIL_FIRST),
        };
        Self {
            rng: Rng::new(1 + first),
            popularity: Zipf::new(campaigns),
            part,
            events,
            end_s,
            day: 0,
            number: first,
        }
    }

    fn share(&self, at: usize, days: i64) -> u64 {
        self.events * SHARES[at] / 1_000 / days as u64
    }

    fn event(&mut self, tail: Option<usize>, place: u64, time_s: i64) -> Event {
        self.number += 1;
        let (creative, place) = (place % 3, place / 3);
        let (region, place) = (place % 60, place / 60);
        let (device, ad) = (place % 4, place / 4);
        Event {
            tail: tail.map(|n| n as u16),
            ad: ad as u8,
            creative: creative as u8,
            region: region as u8,
            device: device as u8,
            time_s,
            is_click: self.number.is_multiple_of(CLICK_EVERY),
            number: self.number,
        }
    }

    fn large(&mut self, out: &mut Vec<Event>, from_s: i64, left: i64) {
        const COMBINATIONS: u64 = (LARGE_ADS * 3 * 60 * 4) as u64;
        let per_million = (self.share(0, DAYS) * 1_000_000 / COMBINATIONS).min(1_000_000);
        for place in 0..COMBINATIONS {
            if self.rng.below(1_000_000) < per_million {
                let time_s = from_s + self.rng.below(DAY_S as u64) as i64;
                out.push(self.event(None, place, time_s));
            }
        }
        let mut more = 0;
        if left <= HOUR_DAYS {
            more += self.share(1, HOUR_DAYS);
        }
        if left <= MINUTE_DAYS {
            more += self.share(2, MINUTE_DAYS);
        }
        for _ in 0..more {
            let place = self.rng.below(COMBINATIONS);
            let time_s = from_s + self.rng.below(DAY_S as u64) as i64;
            out.push(self.event(None, place, time_s));
        }
    }
}

impl Iterator for Year {
    type Item = Vec<Event>;

    /// The events of the next day.
    fn next(&mut self) -> Option<Vec<Event>> {
        if self.day == DAYS {
            return None;
        }
        let left = DAYS - self.day;
        let from_s = self.end_s - left * DAY_S;
        self.day += 1;
        let mut out = Vec::new();
        let tail = self.share(3, DAYS);
        let (first, tail) = match self.part {
            // As Zipf's law has it, the first hundredth of two thousand has 44% of the tail.
            Part::First => (0, tail * 44 / 100),
            Part::Rest => (TAIL_FIRST, tail * 56 / 100),
        };
        if self.part == Part::First {
            self.large(&mut out, from_s, left);
        }
        for _ in 0..tail {
            let campaign = first + self.popularity.draw(&mut self.rng);
            let place = self.rng.below((TAIL_ADS * 3 * 60 * 4) as u64);
            let time_s = from_s + self.rng.below(DAY_S as u64) as i64;
            out.push(self.event(Some(campaign), place, time_s));
        }
        Some(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_year_has_about_its_events_all_of_them_different_and_within_it() {
        let end_s = 20_500 * DAY_S;
        let mut numbers = std::collections::HashSet::new();
        for part in [Part::First, Part::Rest] {
            for event in Year::new(200_000, end_s, part).flatten() {
                assert!(numbers.insert(event.number));
                assert!((end_s - DAYS * DAY_S..end_s).contains(&event.time_s));
                assert!(usize::from(event.ad) < LARGE_ADS);
                assert!(event.tail.is_none() || usize::from(event.ad) < TAIL_ADS);
            }
        }
        assert!(
            (190_000..210_000).contains(&numbers.len()),
            "{}",
            numbers.len()
        );
    }
}
