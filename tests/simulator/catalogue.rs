//! The stream CATALOG: documents as people publish them, and beside each the plain catalogue that it makes.
//!
//! The plain one is the oracle's: strings and numbers, no rule of the code under test.

use std::collections::BTreeMap;
use std::rc::Rc;

use adtally_streams::catalogue::Catalogue;

use crate::random::Random;

/// An advertiser's id, currency, time zone and, in the months of the simulation, its offset from UTC in seconds.
pub const ADVERTISERS: [(&str, &str, &str, i32); 3] = [
    ("acme", "USD", "America/New_York", -18_000),
    ("bharat", "INR", "Asia/Kolkata", 19_800),
    ("corvo", "EUR", "UTC", 0),
];
/// Campaigns that there are.
const CAMPAIGNS: usize = 5;
/// Ads that are published at the beginning.
const FIRST_ADS: usize = 7;
/// Ads that there may be.
pub const ADS: usize = 10;

/// A campaign, plainly.
#[derive(Clone, Debug)]
pub struct PlainCampaign {
    /// Index into [`ADVERTISERS`].
    pub advertiser: usize,
    /// Clicks are billed; else impressions, at a thousandth.
    pub per_click: bool,
    /// The price, in micros.
    pub price_micros: i64,
    /// Whether it is billed at all.
    pub is_active: bool,
}

/// An ad, plainly.
#[derive(Clone, Debug)]
pub struct PlainAd {
    /// Its campaign.
    pub campaign: String,
    /// Whether it is billed at all.
    pub is_active: bool,
    /// Variants that are counted by name; empty: any.
    pub creatives: Vec<&'static str>,
}

/// All of it at one revision.
#[derive(Clone, Debug, Default)]
pub struct Plain {
    /// By id.
    pub campaigns: BTreeMap<String, PlainCampaign>,
    /// By id.
    pub ads: BTreeMap<String, PlainAd>,
}

#[derive(Debug)]
struct Document {
    subject: String,
    payload: String,
}

/// The stream and what it means after each of its messages.
#[derive(Debug)]
pub struct History {
    documents: Vec<Document>,
    plain: Vec<Rc<Plain>>,
    /// The catalogue after the first documents, which every process starts with.
    first: Catalogue,
}

/// The id of campaign `n`.
pub fn campaign_id(n: usize) -> String {
    format!("camp-{n}")
}

/// The id of ad `n`.
pub fn ad_id(n: usize) -> String {
    format!("ad-{n}")
}

impl History {
    /// The stream with its first documents.
    pub fn new(random: &mut Random) -> Self {
        let mut history = Self {
            documents: Vec::new(),
            plain: vec![Rc::default()],
            first: Catalogue::default(),
        };
        for (id, currency, zone, _) in ADVERTISERS {
            let payload = format!(
                r#"{{"advertiser_id":"{id}","currency_code":"{currency}","time_zone":"{zone}"}}"#
            );
            history.publish(format!("catalog.advertiser.{id}"), payload, |_| ());
        }
        for n in 0..CAMPAIGNS {
            history.campaign(n, random);
        }
        for n in 0..FIRST_ADS {
            history.ad(n, random);
        }
        history.first = history.read_from(Catalogue::default());
        history
    }

    /// The plain catalogue after that many documents.
    pub fn plain_at(&self, revision: u64) -> &Rc<Plain> {
        &self.plain[revision as usize]
    }

    /// The catalogue that a process starts with.
    pub fn first(&self) -> Catalogue {
        self.first.clone()
    }

    /// Applies whatever a catalogue lacks.
    pub fn read_from(&self, mut catalogue: Catalogue) -> Catalogue {
        let from = catalogue.revision() as usize;
        for (at, document) in self.documents.iter().enumerate().skip(from) {
            let applied = catalogue.apply(
                at as u64 + 1,
                &document.subject,
                document.payload.as_bytes(),
            );
            assert!(applied.is_ok(), "{document:?}: {applied:?}");
        }
        catalogue
    }

    /// Somebody changes a price, pauses something, moves an ad or publishes a new one.
    pub fn change(&mut self, random: &mut Random) {
        if random.permille(400) {
            let n = random.index(CAMPAIGNS);
            self.campaign(n, random);
        } else {
            let n = random.index(ADS);
            self.ad(n, random);
        }
    }

    fn campaign(&mut self, n: usize, random: &mut Random) {
        let campaign = PlainCampaign {
            advertiser: n % ADVERTISERS.len(),
            per_click: n.is_multiple_of(2),
            price_micros: 1_000 * random.between(1, 900),
            is_active: random.permille(850),
        };
        let id = campaign_id(n);
        let payload = format!(
            r#"{{"campaign_id":"{id}","advertiser_id":"{}","status":"{}","pricing":{{"model":"{}","price_micros":{}}}}}"#,
            ADVERTISERS[campaign.advertiser].0,
            if campaign.is_active {
                "active"
            } else {
                "paused"
            },
            if campaign.per_click { "cpc" } else { "cpm" },
            campaign.price_micros,
        );
        self.publish(format!("catalog.campaign.{id}"), payload, |plain| {
            plain.campaigns.insert(id, campaign);
        });
    }

    fn ad(&mut self, n: usize, random: &mut Random) {
        let ad = PlainAd {
            campaign: campaign_id(random.index(CAMPAIGNS)),
            is_active: random.permille(900),
            creatives: if n == 0 { vec!["blue", "red"] } else { vec![] },
        };
        let id = ad_id(n);
        let creatives: Vec<_> = ad.creatives.iter().map(|c| format!("\"{c}\"")).collect();
        let payload = format!(
            r#"{{"ad_id":"{id}","campaign_id":"{}","landing_url":"https://acme.example/","status":"{}","creatives":[{}]}}"#,
            ad.campaign,
            if ad.is_active { "active" } else { "paused" },
            creatives.join(","),
        );
        self.publish(format!("catalog.ad.{id}"), payload, |plain| {
            plain.ads.insert(id, ad);
        });
    }

    fn publish(&mut self, subject: String, payload: String, change: impl FnOnce(&mut Plain)) {
        let mut plain = Plain::clone(self.plain.last().expect("there is one before the first"));
        change(&mut plain);
        self.documents.push(Document { subject, payload });
        self.plain.push(Rc::new(plain));
    }
}
