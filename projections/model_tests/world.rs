//! A small world that writes a log: producers that crash, forget, clone and resend, and a broker that forgets too.
//!
//! Everything is a function of the seed. It knows nothing of folds.

use std::collections::HashSet;

use adtally_streams::event::{
    Body, ClickDetail, ConversionDetail, Device, EdgeReason, Event, Flags, Kind, Placement,
};
use adtally_streams::frame::{Header, encode, encode_announcement};
use adtally_streams::id::{Epoch, Id, frame_message_id};
use adtally_streams::money::Currency;
use adtally_streams::watermark::Watermark;

const BEGIN_MS: i64 = 1_709_990_000_000;
const DAY_MS: i64 = 86_400_000;
/// Seconds east of UTC: New York in winter and summer, Kolkata, Lord Howe, UTC, and a local mean time.
const OFFSETS: [i32; 6] = [-18_000, -14_400, 19_800, 37_800, 0, 3_208];

/// SplitMix64.
pub struct Random(pub u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    pub fn percent(&mut self, p: u64) -> bool {
        self.below(100) < p
    }
}

/// What may happen in a world besides crashes and resends.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wild {
    /// The same id with other content; days without traffic, so that ids pass their horizon.
    pub conflicts_and_days: bool,
    /// More creatives of an ad than are counted by name.
    pub many_creatives: bool,
    /// Acknowledged messages that the broker loses.
    pub losses: bool,
}

/// What a message of the log says, as its writer knows it.
#[derive(Clone, Debug)]
pub enum Said {
    Frame {
        epoch: Epoch,
        kind: Kind,
        first: u64,
        events: Vec<Event>,
        watermark: Watermark,
    },
    Announcement {
        epoch: Epoch,
        watermark: Watermark,
    },
    Nothing,
}

/// A message of the log.
#[derive(Clone, Debug)]
pub struct Message {
    pub sequence: u64,
    pub broker_ms: i64,
    pub subject: String,
    pub payload: Vec<u8>,
    pub said: Said,
}

#[derive(Clone)]
struct Opening {
    producer: Id,
    epoch: Epoch,
    /// By kind: every event that was answered, by counter.
    lanes: [Vec<Event>; 3],
    /// By kind: counters below are known to be acknowledged.
    acked: [usize; 3],
    drained: bool,
}

impl Opening {
    fn watermark(&self, through_ms: i64) -> Watermark {
        Watermark {
            through_ms,
            acked: self.acked.map(|n| n as u64),
            heads: [0, 1, 2].map(|k| self.lanes[k].len() as u64),
            drained: self.drained,
        }
    }
}

pub struct World {
    pub random: Random,
    wild: Wild,
    /// Every opening of every producer's outbox; the last one of a producer takes new events.
    openings: Vec<Opening>,
    producers: u64,
    now_ms: i64,
    sequence: u64,
    known_ids: HashSet<String>,
    next_name: u64,
    /// Every event that was answered.
    pub answered: Vec<Event>,
    pub log: Vec<Message>,
}

fn id(text: String) -> Id {
    Id::new(&text).unwrap()
}

impl World {
    pub fn run(seed: u64, wild: Wild) -> Self {
        let mut world = Self {
            random: Random(seed),
            wild,
            openings: Vec::new(),
            producers: 2 + seed % 3,
            now_ms: BEGIN_MS,
            sequence: 0,
            known_ids: HashSet::new(),
            next_name: seed * 100_000,
            answered: Vec::new(),
            log: Vec::new(),
        };
        for producer in 0..world.producers {
            world.open(producer);
        }
        for _ in 0..60 + world.random.below(80) {
            world.step();
        }
        world.drain();
        if wild.losses {
            world.lose();
        }
        world
    }

    fn open(&mut self, producer: u64) {
        let epoch = Epoch(self.random.next());
        let producer = id(format!("producer-{producer}"));
        self.openings.push(Opening {
            producer,
            epoch,
            lanes: Default::default(),
            acked: [0; 3],
            drained: false,
        });
    }

    fn step(&mut self) {
        match self.random.below(100) {
            0..45 => self.accept(),
            45..80 => self.ship(),
            80..84 => {
                // A crash: a new epoch, and what was known of acknowledgements is partly lost.
                let producer = self.random.below(self.producers);
                self.open(producer);
                let at = self.random.below(self.openings.len() as u64) as usize;
                for k in 0..3 {
                    let forgotten = self.random.below(5) as usize;
                    let acked = &mut self.openings[at].acked[k];
                    *acked = acked.saturating_sub(forgotten);
                }
            }
            // The broker forgets message ids: its window passed, or it was killed.
            84..88 => self.known_ids.clear(),
            88..91 => self.resend(),
            91..95 => self.announce(),
            95..97 => self.publish(
                None,
                "events.0.click".to_owned(),
                b"not a frame".to_vec(),
                Said::Nothing,
            ),
            _ if self.wild.conflicts_and_days => {
                self.now_ms += DAY_MS * (1 + self.random.below(5) as i64)
            }
            _ => self.now_ms += 60_000,
        }
    }

    /// A producer answers a few events; some of them another producer has answered before.
    fn accept(&mut self) {
        for _ in 0..1 + self.random.below(12) {
            let again = !self.answered.is_empty() && self.random.percent(12);
            let mut event = match again {
                true => {
                    self.answered[self.random.below(self.answered.len() as u64) as usize].clone()
                }
                false => self.event(),
            };
            if again && event.flags.has(Flags::MINTED_ID) && event.kind() != Kind::Click {
                // An id that was minted here never comes by another way.
                continue;
            }
            if again && self.wild.conflicts_and_days && self.random.percent(30) {
                event.content_hash ^= 1;
            }
            let name = format!("producer-{}", self.random.below(self.producers));
            let opening = self
                .openings
                .iter_mut()
                .rev()
                .find(|o| o.producer.as_str() == name)
                .unwrap();
            opening.lanes[event.kind() as usize].push(event.clone());
            self.answered.push(event);
        }
    }

    fn event(&mut self) -> Event {
        self.next_name += 1;
        let r = &mut self.random;
        let kind = Kind::ALL[r.below(3) as usize];
        let ad = r.below(5);
        let creative = match r.below(4) {
            0 => String::new(),
            1 => "other".to_owned(),
            _ if self.wild.many_creatives => format!("v{}", r.below(2_000)),
            _ => format!("v{}", r.below(4)),
        };
        let placement = Placement {
            ad_id: id(format!("ad-{ad}")),
            campaign_id: id(format!(
                "campaign-{}",
                if r.percent(5) { 9 } else { ad / 2 }
            )),
            creative: creative.into(),
            region: ["", "DE", "US-CA", "other"][r.below(4) as usize].into(),
            device: Device::ALL[r.below(7) as usize],
            cost_micros: [0, 1, 2_500_000][r.below(3) as usize],
            verdict: if r.percent(20) {
                EdgeReason::from_number(1 + r.below(4) as u8)
            } else {
                None
            },
        };
        let age = if r.percent(20) {
            r.below(3 * DAY_MS as u64)
        } else {
            r.below(20_000)
        };
        let event_time_ms = if r.percent(3) {
            -1 - r.below(9_000_000) as i64
        } else {
            self.now_ms - age as i64
        };
        let advertiser =
            (kind == Kind::Conversion || ad > 0).then(|| id(format!("advertiser-{}", ad / 2)));
        let mut flags = Flags::default();
        if r.percent(50) {
            flags.set(Flags::MINTED_ID);
        }
        let text = match r.percent(50) {
            true => format!("event:{}", self.next_name),
            false => format!("018f0203-0405-7607-8809-{:012x}", self.next_name),
        };
        Event {
            id: id(text),
            event_time_ms,
            arrival_ms: self.now_ms,
            currency: advertiser
                .is_some()
                .then(|| Currency::new(["USD", "EUR"][ad as usize % 2]).unwrap()),
            utc_offset_s: if advertiser.is_some() {
                OFFSETS[r.below(6) as usize]
            } else {
                0
            },
            advertiser_id: advertiser,
            catalogue_revision: 0,
            content_hash: self.next_name << 1,
            flags,
            address_hash: (self.next_name % 4 < 2).then_some(self.next_name % 7),
            user_id: match self.next_name % 3 {
                0 => Some(id(format!("user-{}", self.next_name % 11))),
                1 => Some(id(format!(
                    "018f0203-0405-7607-8809-{:012x}",
                    self.next_name % 13
                ))),
                _ => None,
            },
            user_agent: None,
            referrer: None,
            body: match kind {
                Kind::Impression => Body::Impression(placement),
                Kind::Click => Body::Click(placement, ClickDetail::default()),
                Kind::Conversion => {
                    let value_micros = placement.cost_micros;
                    Body::Conversion(ConversionDetail {
                        click_id: None,
                        order_id: None,
                        value_micros,
                    })
                }
            },
        }
    }

    /// A lane sends what waits: one frame, or two of which the second arrives first. An acknowledgement may be lost,
    /// and then the same events come again in a frame cut elsewhere.
    fn ship(&mut self) {
        let at = self.random.below(self.openings.len() as u64) as usize;
        let k = self.random.below(3) as usize;
        let (acked, head) = (self.openings[at].acked[k], self.openings[at].lanes[k].len());
        if acked == head {
            return;
        }
        let end = head.min(acked + 1 + self.random.below(8) as usize);
        let middle = acked + self.random.below((end - acked) as u64) as usize;
        if middle > acked && self.random.percent(30) {
            self.frame(at, k, middle, end);
            self.frame(at, k, acked, middle);
        } else {
            self.frame(at, k, acked, end);
        }
        if self.random.percent(80) {
            self.openings[at].acked[k] = end;
        }
    }

    /// A cloned disk, or an operator, sends an epoch's events again.
    fn resend(&mut self) {
        let at = self.random.below(self.openings.len() as u64) as usize;
        for k in 0..3 {
            let mut first = 0;
            while first < self.openings[at].acked[k] {
                let end =
                    self.openings[at].acked[k].min(first + 1 + self.random.below(10) as usize);
                self.frame(at, k, first, end);
                first = end;
            }
        }
    }

    fn announce(&mut self) {
        let at = self.random.below(self.openings.len() as u64) as usize;
        let opening = &self.openings[at];
        let (epoch, producer) = (opening.epoch, opening.producer.clone());
        let watermark = opening.watermark(self.now_ms - 1);
        let payload = encode_announcement(&producer, epoch, &watermark);
        let said = Said::Announcement { epoch, watermark };
        self.publish(None, "events.0.watermark".to_owned(), payload, said);
    }

    fn frame(&mut self, at: usize, k: usize, first: usize, end: usize) {
        let opening = &self.openings[at];
        let (kind, epoch, producer) = (Kind::ALL[k], opening.epoch, opening.producer.clone());
        let events = opening.lanes[k][first..end].to_vec();
        let watermark = opening.watermark(self.now_ms - 1_000);
        let (first, count) = (first as u64, (end - first) as u32);
        let header = Header {
            kind,
            producer,
            epoch,
            first,
            count,
            watermark,
        };
        let payload = encode(&header, &events);
        let message_id = frame_message_id(epoch, kind, first, end as u64 - 1);
        let said = Said::Frame {
            epoch,
            kind,
            first,
            events,
            watermark,
        };
        self.publish(Some(message_id), format!("events.0.{kind}"), payload, said);
    }

    fn publish(
        &mut self,
        message_id: Option<String>,
        subject: String,
        payload: Vec<u8>,
        said: Said,
    ) {
        if let Some(message_id) = message_id
            && !self.known_ids.insert(message_id)
        {
            return;
        }
        self.sequence += 1 + u64::from(self.random.percent(5));
        self.now_ms += self.random.below(2_000) as i64;
        // At a failover the broker's clock steps back.
        let back = if self.random.percent(10) {
            self.random.below(5_000) as i64
        } else {
            0
        };
        let broker_ms = self.now_ms - back;
        self.log.push(Message {
            sequence: self.sequence,
            broker_ms,
            subject,
            payload,
            said,
        });
    }

    /// Everybody sends everything, and says so.
    fn drain(&mut self) {
        for at in 0..self.openings.len() {
            for k in 0..3 {
                let (acked, head) = (self.openings[at].acked[k], self.openings[at].lanes[k].len());
                if acked < head {
                    self.frame(at, k, acked, head);
                    self.openings[at].acked[k] = head;
                }
            }
            self.openings[at].drained = true;
            let opening = &self.openings[at];
            let (epoch, producer, watermark) = (
                opening.epoch,
                opening.producer.clone(),
                opening.watermark(self.now_ms),
            );
            let payload = encode_announcement(&producer, epoch, &watermark);
            let said = Said::Announcement { epoch, watermark };
            self.publish(None, "events.0.watermark".to_owned(), payload, said);
        }
    }

    /// The broker loses a few messages that it had acknowledged.
    fn lose(&mut self) {
        for _ in 0..3 {
            let at = self.random.below(self.log.len() as u64) as usize;
            self.log.remove(at);
        }
    }
}
