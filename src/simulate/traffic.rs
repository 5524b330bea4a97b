//! Believable traffic: impressions, one click in fifty of them, conversions, double sends, bots, late and broken events.
//!
//! Pure: a seed and the time of each step in, events out. Which ad, which visitor, which fault depends on the seed
//! alone; the clock enters only into ids and times.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use adtally_streams::event::Kind;

use super::rng::{Rng, Zipf};
use super::sample::{CREATIVES, Sample};

/// Per mille of impressions by people that are clicked.
const CTR_PER_MILLE: u64 = 20;
/// Per mille of impressions by bots that are clicked.
const BOT_CTR_PER_MILLE: u64 = 200;
/// Per mille of impressions that bots fetch.
const BOTS_PER_MILLE: u64 = 15;
/// Per mille of clicks that convert.
const CONVERSION_PER_MILLE: u64 = 50;
/// Per mille of clicks that are sent twice under one id.
const DOUBLE_CLICK_PER_MILLE: u64 = 20;
/// Per mille of impressions that are sent twice under one id.
const DOUBLE_IMPRESSION_PER_MILLE: u64 = 5;
/// Per mille of events that are late.
const LATE_PER_MILLE: u64 = 10;
/// Per mille of events that are broken.
const BROKEN_PER_MILLE: u64 = 5;
/// How late a late event is: at least this, well past the five minutes from which it counts as late.
const LATE_AT_LEAST_MS: u64 = 10 * 60_000;
/// And at most three days, within the seven that the collector believes.
const LATE_AT_MOST_MS: u64 = 3 * 86_400_000;
/// How many events pass before the second send of one.
const DOUBLE_AFTER: u64 = 200;
/// How many events pass before a click that follows an impression, at most.
const CLICK_WITHIN: u64 = 50;
/// Distinct visitors; each has an address of its own in 198.18.0.0/15, the range for tests (RFC 2544).
const VISITORS: u64 = 131_072;

const BROWSERS: [(&str, &str); 7] = [
    (
        "ios",
        "Mozilla/5.0 (iPhone; CPU iPhone OS 18_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.5 Mobile/15E148 Safari/604.1",
    ),
    (
        "android",
        "Mozilla/5.0 (Linux; Android 15; Pixel 9) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/138.0.0.0 Mobile Safari/537.36",
    ),
    (
        "desktop",
        "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/138.0.0.0 Safari/537.36",
    ),
    (
        "desktop",
        "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.5 Safari/605.1.15",
    ),
    (
        "desktop",
        "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0",
    ),
    (
        "tablet",
        "Mozilla/5.0 (iPad; CPU OS 18_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.5 Mobile/15E148 Safari/604.1",
    ),
    (
        "tv",
        "Mozilla/5.0 (SMART-TV; Linux; Tizen 8.0) AppleWebKit/537.36 (KHTML, like Gecko) SamsungBrowser/7.0 TV Safari/537.36",
    ),
];

const BOTS: [&str; 3] = [
    "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)",
    "Mozilla/5.0 (compatible; bingbot/2.0; +http://www.bing.com/bingbot.htm)",
    "Mozilla/5.0 (compatible; AhrefsBot/7.0; +http://ahrefs.com/robot/)",
];

const REGIONS: [&str; 10] = [
    "US-NY", "US-CA", "US-TX", "IN-WB", "IN-KA", "AU-NSW", "DE", "FR", "GB", "JP",
];
const REFERRERS: [&str; 4] = [
    "https://news.example/",
    "https://video.example/watch",
    "https://blog.example/post/42",
    "https://mail.example/",
];

/// What is wrong with a broken event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// An ad that nobody knows, under no campaign.
    UnknownAd,
    /// No ad (a conversion: no advertiser) at all.
    NoKey,
    /// An id with a blank and a slash in it.
    BadId,
    /// A time that no calendar has.
    BadTime,
    /// A time an hour ahead.
    Future,
    /// A negative price or value.
    NegativeAmount,
    /// A number where a text belongs.
    WrongType,
}

const FAULTS: [Fault; 7] = [
    Fault::UnknownAd,
    Fault::NoKey,
    Fault::BadId,
    Fault::BadTime,
    Fault::Future,
    Fault::NegativeAmount,
    Fault::WrongType,
];

/// One event as its publisher knows it.
#[derive(Clone, Debug)]
pub struct Event {
    /// What happened.
    pub kind: Kind,
    /// Its own id, a UUIDv7.
    pub id: String,
    /// Index of the ad in the sample; a conversion's is that of its click's ad.
    pub ad: usize,
    /// When it happened, where the publisher says so: only for late ones.
    pub ts_ms: Option<i64>,
    /// Creative variant.
    pub creative: &'static str,
    /// ISO 3166 code.
    pub geo: &'static str,
    /// Device class, where the publisher says so.
    pub device: Option<&'static str>,
    /// The visitor.
    pub visitor: u64,
    /// Their user agent.
    pub user_agent: &'static str,
    /// The page.
    pub referrer: &'static str,
    /// A click's impression, a conversion's click.
    pub parent_id: Option<String>,
    /// A conversion's value.
    pub value_micros: i64,
    /// Whether `user_agent` is a crawler's.
    pub bot: bool,
    /// What is wrong with it.
    pub fault: Option<Fault>,
    /// Whether an earlier event of this run has the same id and content.
    pub second_send: bool,
    /// Set once one of its sends is acknowledged; shared by the two sends of a double one.
    pub counted: Arc<AtomicBool>,
}

impl Event {
    /// The visitor's address, in the range for tests.
    pub fn address(&self) -> String {
        let n = self.visitor % VISITORS;
        format!("198.{}.{}.{}", 18 + (n >> 16), (n >> 8) & 255, n & 255)
    }

    /// The visitor's id.
    pub fn user_id(&self) -> String {
        format!("u{}", self.visitor)
    }

    /// True for the first acknowledgement among all sends of this event.
    pub fn count_once(&self) -> bool {
        !self.counted.swap(true, Ordering::Relaxed)
    }
}

/// The stream of events of one run.
#[derive(Debug)]
pub struct Traffic {
    rng: Rng,
    zipf: Zipf,
    step: u64,
    /// Events that follow from earlier ones, with the step from which each is due; sorted by it.
    due: VecDeque<(u64, Event)>,
}

/// The most events that wait to follow from earlier ones: past it the oldest is due at once.
const MAX_DUE: usize = 65_536;

impl Traffic {
    /// The traffic of `seed` over the ads of `sample`.
    pub fn new(seed: u64, sample: &Sample) -> Self {
        let zipf = Zipf::new(sample.ads.len());
        Self {
            rng: Rng::new(seed),
            zipf,
            step: 0,
            due: VecDeque::new(),
        }
    }

    /// The next event, as of `now_ms` (Unix milliseconds).
    pub fn next(&mut self, now_ms: i64) -> Event {
        self.step += 1;
        if (self.due.len() > MAX_DUE || self.due.front().is_some_and(|(at, _)| *at <= self.step))
            && let Some((_, mut event)) = self.due.pop_front()
        {
            self.restamp(&mut event, now_ms);
            self.follow(&event);
            return event;
        }
        let event = self.impression(now_ms);
        self.follow(&event);
        event
    }

    /// A click or conversion that waited gets its id when it happens; a second send keeps the first one's.
    fn restamp(&mut self, event: &mut Event, now_ms: i64) {
        if event.id.is_empty() {
            event.id = self.mint(now_ms);
            self.late_or_broken(event, now_ms);
        }
    }

    fn mint(&mut self, now_ms: i64) -> String {
        let bytes = self.rng.ten_bytes();
        uuid::Builder::from_unix_timestamp_millis(now_ms.max(0) as u64, &bytes)
            .into_uuid()
            .to_string()
    }

    fn impression(&mut self, now_ms: i64) -> Event {
        let ad = self.zipf.draw(&mut self.rng);
        let bot = self.rng.chance(BOTS_PER_MILLE);
        let (device, browser) = self.rng.pick(&BROWSERS);
        let user_agent = if bot { self.rng.pick(&BOTS) } else { browser };
        let mut event = Event {
            kind: Kind::Impression,
            id: self.mint(now_ms),
            ad,
            ts_ms: None,
            creative: self.rng.pick(&CREATIVES),
            geo: self.rng.pick(&REGIONS),
            device: self.rng.chance(700).then_some(device),
            visitor: self.rng.below(VISITORS),
            user_agent,
            referrer: self.rng.pick(&REFERRERS),
            parent_id: None,
            value_micros: 0,
            bot,
            fault: None,
            second_send: false,
            counted: Arc::default(),
        };
        self.late_or_broken(&mut event, now_ms);
        event
    }

    fn late_or_broken(&mut self, event: &mut Event, now_ms: i64) {
        if self.rng.chance(LATE_PER_MILLE) {
            let back = LATE_AT_LEAST_MS + self.rng.below(LATE_AT_MOST_MS - LATE_AT_LEAST_MS);
            event.ts_ms = Some(now_ms - back as i64);
        }
        if self.rng.chance(BROKEN_PER_MILLE) {
            event.fault = Some(self.rng.pick(&FAULTS));
        }
    }

    /// Queues what follows from `event`: its second send, its click, its conversion.
    fn follow(&mut self, event: &Event) {
        if event.fault.is_some() || event.second_send {
            return;
        }
        let twice = match event.kind {
            Kind::Impression => DOUBLE_IMPRESSION_PER_MILLE,
            Kind::Click => DOUBLE_CLICK_PER_MILLE,
            Kind::Conversion => 0,
        };
        let next = match event.kind {
            Kind::Impression
                if self.rng.chance(if event.bot {
                    BOT_CTR_PER_MILLE
                } else {
                    CTR_PER_MILLE
                }) =>
            {
                Some(Kind::Click)
            }
            Kind::Click if self.rng.chance(CONVERSION_PER_MILLE) => Some(Kind::Conversion),
            _ => None,
        };
        if let Some(kind) = next {
            let mut child = Event {
                kind,
                id: String::new(),
                ts_ms: None,
                counted: Arc::default(),
                ..event.clone()
            };
            child.parent_id = Some(event.id.clone());
            if kind == Kind::Conversion {
                child.value_micros = 1_000_000 * (1 + self.rng.below(200) as i64);
            }
            let wait = 1 + self.rng.below(CLICK_WITHIN);
            self.queue(wait, child);
        }
        if self.rng.chance(twice) {
            self.queue(
                DOUBLE_AFTER,
                Event {
                    second_send: true,
                    ..event.clone()
                },
            );
        }
    }

    fn queue(&mut self, wait: u64, event: Event) {
        let at = self.step + wait;
        let place = self.due.partition_point(|(due, _)| *due <= at);
        self.due.insert(place, (at, event));
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    const NOW: i64 = 1_760_000_000_000;

    fn run(seed: u64, n: usize) -> Vec<Event> {
        let mut traffic = Traffic::new(seed, &Sample::new(""));
        (0..n).map(|_| traffic.next(NOW)).collect()
    }

    #[test]
    fn a_seed_gives_the_same_traffic_every_time_and_another_seed_another() {
        let texts = |seed| {
            run(seed, 5_000)
                .iter()
                .map(|e| format!("{} {} {}", e.id, e.ad, e.visitor))
                .collect()
        };
        let (a, b, c): (Vec<String>, Vec<String>, Vec<String>) = (texts(7), texts(7), texts(8));
        assert_eq!(a, b);
        assert_ne!(a, c);
    }

    #[test]
    fn the_traffic_is_believable() {
        let events = run(1, 200_000);
        let share = |f: &dyn Fn(&Event) -> bool| {
            events.iter().filter(|e| f(e)).count() as f64 / events.len() as f64
        };
        let clicks = share(&|e| e.kind == Kind::Click) / share(&|e| e.kind == Kind::Impression);
        assert!(
            (0.018..0.028).contains(&clicks),
            "clicks per impression: {clicks}"
        );
        assert!(
            (0.008..0.012).contains(&share(&|e| e.ts_ms.is_some())),
            "late"
        );
        assert!(
            (0.003..0.007).contains(&share(&|e| e.fault.is_some())),
            "broken"
        );
        assert!(share(&|e| e.kind == Kind::Conversion) > 0.0005);
        let mut sends: HashMap<&str, u32> = HashMap::new();
        for event in &events {
            *sends.entry(&event.id).or_default() += 1;
        }
        let double = sends.values().filter(|n| **n > 1).count();
        assert!((500..2_000).contains(&double), "double sends: {double}");
        assert!(sends.values().all(|n| *n <= 2));
    }

    #[test]
    fn what_is_sent_twice_is_counted_once() {
        let events = run(3, 50_000);
        let counted = events.iter().filter(|e| e.count_once()).count();
        let distinct: std::collections::HashSet<&str> =
            events.iter().map(|e| e.id.as_str()).collect();
        assert_eq!(counted, distinct.len());
        assert!(counted < events.len());
    }
}
