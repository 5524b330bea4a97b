//! Clients: what they want to say, how they say it, and that they say it again when nobody answers.

use adtally_streams::event::Kind;

use crate::catalogue::{ADS, ADVERTISERS, ad_id, campaign_id};
use crate::random::Random;

/// An event that a client means, one of the world's list.
pub type SpecId = u32;

/// What is wrong with an event, and so why it is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flaw {
    /// It is neither JSON nor MessagePack.
    NotAnObject,
    /// The subject and the payload name different ads.
    Mismatch,
    /// Its id has a blank.
    BadId,
    /// It happens in an hour.
    Future,
    /// An amount below zero.
    BadAmount,
}

impl Flaw {
    /// The contract's name of the reason.
    pub fn reason(self) -> &'static str {
        match self {
            Flaw::NotAnObject => "invalid_payload",
            Flaw::Mismatch => "subject_mismatch",
            Flaw::BadId => "bad_id",
            Flaw::Future => "ts_in_future",
            Flaw::BadAmount => "bad_amount",
        }
    }
}

/// An event as a client means it.
#[derive(Clone, Debug)]
pub struct Spec {
    /// What happened.
    pub kind: Kind,
    /// Its id; none when the collector is to make one.
    pub id: Option<String>,
    /// The ad, or a conversion's advertiser.
    pub key: String,
    /// The campaign that the client names.
    pub campaign: Option<String>,
    /// The variant as given.
    pub creative: Option<&'static str>,
    /// The region as given, and as it is counted.
    pub region: Option<(&'static str, &'static str)>,
    /// The device class as given, and as it is counted.
    pub device: Option<(&'static str, &'static str)>,
    /// When it happened, Unix milliseconds.
    pub ts_ms: Option<i64>,
    /// Its price, or a conversion's value, in micros.
    pub amount_micros: Option<i64>,
    /// The user agent is a crawler's.
    pub is_bot: bool,
    /// What is wrong with it.
    pub flaw: Option<Flaw>,
}

const CREATIVES: [&str; 3] = ["blue", "red", "green"];
const REGIONS: [(&str, &str); 4] = [
    ("us-ca", "US-CA"),
    ("DE", "DE"),
    ("Atlantis", "other"),
    ("IN-KA", "IN-KA"),
];
const DEVICES: [(&str, &str); 3] = [("iOS", "ios"), ("desktop", "desktop"), ("toaster", "other")];

impl Spec {
    /// An event that nobody has meant before; `n` makes its id.
    pub fn new(n: u64, now_ms: i64, random: &mut Random) -> Self {
        let kind = *random.pick(&[Kind::Impression, Kind::Click, Kind::Click, Kind::Conversion]);
        let id = match random.below(8) {
            0 if kind != Kind::Conversion => None,
            1..4 => Some(format!("018d0000-0000-7000-8000-{n:012x}")),
            _ => Some(format!("e{n}")),
        };
        let key = match kind {
            Kind::Conversion => ADVERTISERS[random.index(ADVERTISERS.len())].0.to_owned(),
            _ => ad_id(random.index(ADS)),
        };
        let age_ms = match random.below(10) {
            0 => random.between(300_001, 3 * 86_400_000),
            _ => random.between(0, 20_000),
        };
        let some = |random: &mut Random| random.permille(500);
        Self {
            kind,
            id,
            key,
            campaign: some(random).then(|| campaign_id(random.index(4))),
            creative: some(random).then(|| *random.pick(&CREATIVES)),
            region: some(random).then(|| *random.pick(&REGIONS)),
            device: some(random).then(|| *random.pick(&DEVICES)),
            ts_ms: random.permille(700).then_some(now_ms - age_ms),
            amount_micros: random.permille(300).then(|| 10 * random.between(0, 90_000)),
            is_bot: random.permille(80),
            flaw: None,
        }
    }

    /// The same event under the same id, but its content is another.
    pub fn with_other_content(&self) -> Self {
        Self {
            amount_micros: Some(self.amount_micros.unwrap_or(0) + 10),
            ..self.clone()
        }
    }

    /// The event with something wrong with it.
    pub fn spoilt(self, flaw: Flaw, now_ms: i64) -> Self {
        Self {
            flaw: Some(flaw),
            ts_ms: if flaw == Flaw::Future {
                Some(now_ms + 3_600_000)
            } else {
                self.ts_ms
            },
            id: if flaw == Flaw::BadId {
                Some("not an id".to_owned())
            } else {
                self.id
            },
            amount_micros: if flaw == Flaw::BadAmount {
                Some(-1)
            } else {
                self.amount_micros
            },
            ..self
        }
    }

    /// The payload of its message, under that id.
    pub fn payload(&self, id: &str) -> String {
        if self.flaw == Some(Flaw::NotAnObject) {
            return format!("[{id}");
        }
        let key = if self.flaw == Some(Flaw::Mismatch) {
            "somebody-else"
        } else {
            &self.key
        };
        let (id_field, key_field, amount_field) = match self.kind {
            Kind::Impression => ("impression_id", "ad_id", "cost_micros"),
            Kind::Click => ("click_id", "ad_id", "cost_micros"),
            Kind::Conversion => ("conversion_id", "advertiser_id", "value_micros"),
        };
        let kind = self.kind.name();
        let mut out = format!(
            r#"{{"kind":"{kind}","{id_field}":"{id}","{key_field}":"{key}","user_id":"u1""#
        );
        let mut text = |name: &str, value: Option<&str>| {
            if let Some(value) = value {
                out.push_str(&format!(r#","{name}":"{value}""#));
            }
        };
        text("campaign_id", self.campaign.as_deref());
        text("creative", self.creative);
        text("geo", self.region.map(|(given, _)| given));
        text("device", self.device.map(|(given, _)| given));
        for (name, value) in [("ts", self.ts_ms), (amount_field, self.amount_micros)] {
            if let Some(value) = value {
                out.push_str(&format!(r#","{name}":{value}"#));
            }
        }
        out.push('}');
        out
    }
}

/// Where a client turns to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// A collector, one of the world's.
    Collector,
    /// INTAKE.
    Intake,
}

/// A request that a client makes until it is answered or gives up.
#[derive(Clone, Debug)]
pub struct Send {
    /// How.
    pub way: Way,
    /// What.
    pub specs: Vec<SpecId>,
    /// Tries that are left.
    pub tries: u32,
    /// Tries so far: an answer to an earlier one is an answer.
    pub tried: u32,
    /// It is answered.
    pub is_answered: bool,
    /// It will not be tried again.
    pub is_over: bool,
}
