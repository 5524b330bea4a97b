//! Bytes per event and speeds of the frame codec, on events as a busy shard sees them.
//!
//! `cargo run -p adtally-streams --example frame_figures`, or as a part of `make bench`.
//! Seeded: the bytes are the same on every machine, the rates are this core's, with the checksum alone as their
//! yardstick. With `--json` one object a line.

#![allow(clippy::print_stdout)] // Its output is what it is for.

use std::sync::Arc;
use std::time::{Duration, Instant};

use adtally_streams::event::{
    Body, ClickDetail, Device, EdgeReason, Event, Flags, Kind, Placement,
};
use adtally_streams::frame::{
    EventId, FoldMessage, Header, decode_events, decode_for_fold, encode, frame_crc,
};
use adtally_streams::id::{Epoch, Id};
use adtally_streams::money::Currency;
use adtally_streams::watermark::Watermark;

/// Frame sizes that are measured, in events.
const SIZES: [usize; 5] = [1, 16, 256, 1_024, 4_096];
/// Events that each size is averaged over.
const EVENTS: usize = 65_536;
/// How long each rate is measured.
const MEASURED_FOR: Duration = Duration::from_millis(300);

/// Ads of one shard, and how many of them share a campaign and an advertiser.
const ADS: usize = 2_000;
const ADS_PER_CAMPAIGN: usize = 5;
const ADS_PER_ADVERTISER: usize = 25;
/// Visitors, user agents and pages that events come from.
const VISITORS: u64 = 10_000_000;
const USER_AGENTS: usize = 3_000;
const REFERRERS: usize = 3_000;
const REGIONS: usize = 40;

/// splitmix64 (Steele, Lea, Flood 2014): enough randomness for traffic, and the same everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(n)) >> 64) as u64
    }

    fn percent(&mut self, n: u64) -> bool {
        self.below(100) < n
    }

    fn bytes<const N: usize>(&mut self) -> [u8; N] {
        std::array::from_fn(|_| self.next() as u8)
    }
}

/// Ranks with probability 1/rank, by a table of cumulative weights.
struct Zipf(Vec<f64>);

impl Zipf {
    fn new(n: usize) -> Self {
        let mut sum = 0.0;
        Self(
            (1..=n)
                .map(|rank| {
                    sum += 1.0 / rank as f64;
                    sum
                })
                .collect(),
        )
    }

    fn pick(&self, random: &mut Random) -> usize {
        let at = random.next() as f64 / u64::MAX as f64 * self.0[self.0.len() - 1];
        self.0
            .partition_point(|sum| *sum < at)
            .min(self.0.len() - 1)
    }
}

fn id(text: String) -> Id {
    Id::new(&text).expect("the figures' ids are of the contract's alphabet")
}

fn uuid_v7(random: &mut Random, at_ms: i64) -> Id {
    let mut bytes: [u8; 16] = random.bytes();
    bytes[..6].copy_from_slice(&at_ms.to_be_bytes()[2..]);
    bytes[6] = 0x70 | bytes[6] & 0x0f;
    bytes[8] = 0x80 | bytes[8] & 0x3f;
    EventId::Uuid(bytes).to_id()
}

/// Browsers as they announce themselves: a few engines, many versions and models.
fn user_agent(random: &mut Random) -> Arc<str> {
    let (major, minor, build) = (110 + random.below(36), random.below(7), random.below(200));
    let text = match random.below(10) {
        0..=3 => format!(
            "Mozilla/5.0 (Linux; Android {}; {}{}) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/{major}.0.{}.{build} Mobile Safari/537.36",
            9 + random.below(7),
            [
                "SM-A", "SM-G", "SM-S", "Pixel ", "moto g", "M2101K", "CPH2", "RMX3"
            ][random.below(8) as usize],
            100 + random.below(900),
            5000 + random.below(2000),
        ),
        4..=6 => format!(
            "Mozilla/5.0 (iPhone; CPU iPhone OS {0}_{1} like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/{0}.{1} Mobile/15E{build} Safari/604.1",
            14 + random.below(5),
            minor,
        ),
        7 | 8 => format!(
            "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/{major}.0.0.0 Safari/537.36 Edg/{major}.0.{}.{build}",
            1500 + random.below(1000)
        ),
        _ => format!(
            "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_{minor}) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/{}.{minor} Safari/605.1.15",
            13 + random.below(6)
        ),
    };
    Arc::from(text)
}

const WORDS: [&str; 24] = [
    "travel", "news", "summer", "guide", "best", "review", "city", "home", "garden", "sport",
    "match", "result", "price", "phone", "camera", "recipe", "pasta", "weather", "market", "stock",
    "music", "album", "health", "running",
];

fn referrer(random: &mut Random) -> Arc<str> {
    let mut word = || WORDS[random.below(WORDS.len() as u64) as usize];
    let (host, section, slug) = (word(), word(), [word(), word(), word()].join("-"));
    Arc::from(format!(
        "https://www.{host}-{section}.example/{section}/{slug}-{}.html",
        random.below(100_000)
    ))
}

/// The traffic of one shard.
struct Traffic {
    random: Random,
    now_ms: i64,
    ads: Zipf,
    user_agents: (Zipf, Vec<Arc<str>>),
    referrers: (Zipf, Vec<Arc<str>>),
    regions: Zipf,
}

impl Traffic {
    fn new() -> Self {
        let mut random = Random(2026);
        let user_agents = (0..USER_AGENTS).map(|_| user_agent(&mut random)).collect();
        let referrers = (0..REFERRERS).map(|_| referrer(&mut random)).collect();
        Self {
            random,
            now_ms: 1_772_323_200_000,
            ads: Zipf::new(ADS),
            user_agents: (Zipf::new(USER_AGENTS), user_agents),
            referrers: (Zipf::new(REFERRERS), referrers),
            regions: Zipf::new(REGIONS),
        }
    }

    fn placement(&mut self, kind: Kind, ad: usize) -> Placement {
        let random = &mut self.random;
        let campaign = ad / ADS_PER_CAMPAIGN;
        let price = 1_000 * (200 + (campaign as i64 * 37) % 900);
        // Every other campaign pays by impression.
        let cost_micros = match (kind, campaign % 2) {
            (Kind::Impression, 0) => price / 1_000,
            (Kind::Click, 1) => price,
            _ => 0,
        };
        Placement {
            ad_id: id(format!("ad-{:06}", (ad * 7_919) % 1_000_000)),
            campaign_id: id(format!("campaign-{campaign:04}")),
            creative: Arc::from(format!("v{}", random.below(4))),
            region: Arc::from(format!("US-{:02}", self.regions.pick(random))),
            device: Device::ALL[[0, 0, 0, 1, 1, 1, 4, 4, 3, 6][random.below(10) as usize]],
            cost_micros,
            verdict: random.percent(2).then_some(EdgeReason::KnownBot),
        }
    }

    fn event(&mut self, kind: Kind) -> Event {
        self.now_ms += self.random.below(3) as i64;
        let ad = self.ads.pick(&mut self.random);
        let placement = self.placement(kind, ad);
        let random = &mut self.random;
        // Half is minted by the collector at arrival; the rest was made a moment before by whoever sent it.
        let minted = random.percent(50);
        let event_time_ms = if minted {
            self.now_ms
        } else {
            self.now_ms - 5 - random.below(400) as i64
        };
        let own = uuid_v7(random, event_time_ms);
        let body = match kind {
            Kind::Click => {
                let shown_ms = event_time_ms - 1_000 - random.below(60_000) as i64;
                let page = format!(
                    "https://shop-{}.example/landing?utm_source=adtally",
                    ad / ADS_PER_ADVERTISER
                );
                let page = if ad.is_multiple_of(2) {
                    format!("{page}&click_id={own}")
                } else {
                    page
                };
                let impression_id = random.percent(90).then(|| uuid_v7(random, shown_ms));
                Body::Click(
                    placement,
                    ClickDetail {
                        impression_id,
                        landing_url: Some(Arc::from(page)),
                    },
                )
            }
            Kind::Impression | Kind::Conversion => Body::Impression(placement),
        };
        Event {
            id: own,
            event_time_ms,
            arrival_ms: self.now_ms,
            advertiser_id: Some(id(format!("advertiser-{:03}", ad / ADS_PER_ADVERTISER))),
            currency: Some(
                Currency::new(["USD", "EUR", "INR"][ad / ADS_PER_ADVERTISER % 3])
                    .expect("a currency"),
            ),
            utc_offset_s: [-18_000, 3_600, 19_800][ad / ADS_PER_ADVERTISER % 3],
            catalogue_revision: 41_200,
            content_hash: random.next(),
            flags: if minted {
                Flags::MINTED_ID
            } else {
                Flags::default()
            },
            address_hash: Some(random.next()),
            user_id: random
                .percent(50)
                .then(|| id(format!("user-{}", random.below(VISITORS)))),
            user_agent: Some(self.user_agents.1[self.user_agents.0.pick(random)].clone()),
            referrer: random
                .percent(80)
                .then(|| self.referrers.1[self.referrers.0.pick(random)].clone()),
            body,
        }
    }
}

fn header(kind: Kind, first: u64, events: &[Event]) -> Header {
    let last = events.last().map_or(0, |e| e.arrival_ms);
    let counters = [9_000_000, 180_000, 4_000];
    Header {
        kind,
        producer: id("collector-7f3a".to_owned()),
        epoch: Epoch(0x8c1f_22d0_9b7e_4411),
        first,
        count: events.len() as u32,
        watermark: Watermark {
            through_ms: last - 12,
            acked: counters,
            heads: counters,
            drained: false,
        },
    }
}

/// Events a second of `work`, which is given one frame after another.
fn rate<T>(frames: &[T], events: usize, mut work: impl FnMut(&T)) -> f64 {
    let started = Instant::now();
    let mut done = 0usize;
    while started.elapsed() < MEASURED_FOR {
        frames.iter().for_each(&mut work);
        done += events;
    }
    done as f64 / started.elapsed().as_secs_f64()
}

fn main() {
    let json = std::env::args().any(|a| a == "--json");
    if !json {
        println!(
            "{:<11} {:>6} {:>12} {:>12} {:>12} {:>12} {:>12}",
            "kind", "events", "bytes/event", "encode M/s", "fold M/s", "events M/s", "crc32c M/s"
        );
    }
    for kind in [Kind::Impression, Kind::Click] {
        let mut traffic = Traffic::new();
        let events: Vec<Event> = (0..EVENTS).map(|_| traffic.event(kind)).collect();
        for size in SIZES {
            let cut: Vec<(Header, &[Event])> = events
                .chunks(size)
                .enumerate()
                .map(|(i, run)| (header(kind, 8_000_000 + (i * size) as u64, run), run))
                .collect();
            let messages: Vec<Vec<u8>> = cut.iter().map(|(h, run)| encode(h, run)).collect();
            let bytes = messages.iter().map(Vec::len).sum::<usize>() as f64 / EVENTS as f64;
            let encoded = rate(&cut, EVENTS, |(h, run)| assert!(!encode(h, run).is_empty()));
            let folded = rate(&messages, EVENTS, |m| {
                assert!(matches!(decode_for_fold(m), Ok(FoldMessage::Frame(_))))
            });
            let decoded = rate(&messages, EVENTS, |m| assert!(decode_events(m).is_ok()));
            let summed = rate(&messages, EVENTS, |m| assert!(frame_crc(m) != 1));
            let [encoded, folded, decoded, summed] =
                [encoded, folded, decoded, summed].map(|r| r / 1e6);
            if json {
                println!(
                    r#"{{"kind":"{kind}","frame_events":{size},"bytes_per_event":{bytes:.1},"encode_m_per_s":{encoded:.2},"fold_m_per_s":{folded:.2},"events_m_per_s":{decoded:.2},"crc32c_m_per_s":{summed:.1}}}"#
                );
            } else {
                println!(
                    "{:<11} {size:>6} {bytes:>12.1} {encoded:>12.2} {folded:>12.2} {decoded:>12.2} {summed:>12.1}",
                    kind.name()
                );
            }
        }
    }
}
