//! The sample catalogue: four advertisers in four time zones, twelve campaigns, sixty ads.
//!
//! New York, Kolkata (half an hour off), Lord Howe (clocks change by half an hour) and UTC: the zones in which a
//! count by civil hour or day goes wrong first. Both pricing models, and one paused campaign.

use serde_json::{Value, json};

/// How a campaign bills.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pricing {
    /// Micros a click.
    PerClick(i64),
    /// Micros a thousand impressions; a multiple of 1,000.
    PerThousand(i64),
}

/// A campaign of the sample.
#[derive(Clone, Debug)]
pub struct Campaign {
    /// Its id.
    pub campaign_id: String,
    /// Index of its advertiser in [`Sample::advertisers`].
    pub advertiser: usize,
    /// How it bills.
    pub pricing: Pricing,
    /// Whether it is paused: what reaches it is recorded and not billed.
    pub paused: bool,
}

/// An advertiser of the sample.
#[derive(Clone, Debug)]
pub struct Advertiser {
    /// Its id.
    pub advertiser_id: String,
    /// ISO 4217.
    pub currency: &'static str,
    /// IANA name.
    pub time_zone: &'static str,
    /// For people.
    pub name: &'static str,
}

/// An ad of the sample.
#[derive(Clone, Debug)]
pub struct Ad {
    /// Its id.
    pub ad_id: String,
    /// Index of its campaign in [`Sample::campaigns`].
    pub campaign: usize,
}

/// The whole of it.
#[derive(Clone, Debug)]
pub struct Sample {
    /// Four advertisers.
    pub advertisers: Vec<Advertiser>,
    /// Three campaigns each.
    pub campaigns: Vec<Campaign>,
    /// Five ads each.
    pub ads: Vec<Ad>,
}

const ADVERTISERS: [(&str, &str, &str, &str); 4] = [
    ("ny", "Hudson Shoes", "USD", "America/New_York"),
    ("kolkata", "Howrah Tea", "INR", "Asia/Kolkata"),
    ("lordhowe", "Lord Howe Kayaks", "AUD", "Australia/Lord_Howe"),
    ("utc", "Meridian Books", "EUR", "UTC"),
];

const CAMPAIGNS: [(&str, Pricing); 3] = [
    ("search", Pricing::PerClick(350_000)),
    ("video", Pricing::PerThousand(4_200_000)),
    ("social", Pricing::PerClick(1_250_000)),
];

/// The paused one: the last campaign of the last advertiser.
const PAUSED: (&str, &str) = ("utc", "social");

/// Ads of each campaign.
const ADS_PER_CAMPAIGN: usize = 5;

/// The creative variants that every ad of the sample lists.
pub const CREATIVES: [&str; 3] = ["a", "b", "c"];

impl Sample {
    /// The sample with `prefix` before every id.
    pub fn new(prefix: &str) -> Self {
        let mut sample = Self {
            advertisers: Vec::new(),
            campaigns: Vec::new(),
            ads: Vec::new(),
        };
        for (short, name, currency, time_zone) in ADVERTISERS {
            let advertiser = sample.advertisers.len();
            sample.advertisers.push(Advertiser {
                advertiser_id: format!("{prefix}{short}"),
                currency,
                time_zone,
                name,
            });
            for (what, pricing) in CAMPAIGNS {
                let campaign = sample.campaigns.len();
                let paused = (short, what) == PAUSED;
                let campaign_id = format!("{prefix}{short}-{what}");
                for n in 1..=ADS_PER_CAMPAIGN {
                    sample.ads.push(Ad {
                        ad_id: format!("{campaign_id}-{n}"),
                        campaign,
                    });
                }
                sample.campaigns.push(Campaign {
                    campaign_id,
                    advertiser,
                    pricing,
                    paused,
                });
            }
        }
        sample
    }

    /// The campaign of an ad.
    pub fn campaign_of(&self, ad: usize) -> &Campaign {
        &self.campaigns[self.ads[ad].campaign]
    }

    /// The catalogue file that `adtally catalog apply` takes.
    pub fn catalogue(&self) -> Value {
        json!({
            "advertisers": self.advertisers.iter().map(Self::advertiser_document).collect::<Vec<_>>(),
            "campaigns": self.campaigns.iter().map(|c| self.campaign_document(c)).collect::<Vec<_>>(),
            "ads": self.ads.iter().map(|a| self.ad_document(a)).collect::<Vec<_>>(),
        })
    }

    fn advertiser_document(a: &Advertiser) -> Value {
        json!({
            "advertiser_id": a.advertiser_id,
            "name": a.name,
            "currency_code": a.currency,
            "time_zone": a.time_zone,
        })
    }

    fn campaign_document(&self, c: &Campaign) -> Value {
        let (model, price) = match c.pricing {
            Pricing::PerClick(p) => ("cpc", p),
            Pricing::PerThousand(p) => ("cpm", p),
        };
        json!({
            "campaign_id": c.campaign_id,
            "advertiser_id": self.advertisers[c.advertiser].advertiser_id,
            "name": c.campaign_id,
            "status": if c.paused { "paused" } else { "active" },
            "pricing": {"model": model, "price_micros": price},
            "daily_budget_micros": 500_000_000,
        })
    }

    fn ad_document(&self, a: &Ad) -> Value {
        json!({
            "ad_id": a.ad_id,
            "campaign_id": self.campaigns[a.campaign].campaign_id,
            "landing_url": "https://shop.example/{campaign_id}?click={click_id}&creative={creative}",
            "status": "active",
            "creatives": CREATIVES,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sample_is_what_its_description_says() {
        let sample = Sample::new("x-");
        assert_eq!(
            (
                sample.advertisers.len(),
                sample.campaigns.len(),
                sample.ads.len()
            ),
            (4, 12, 60)
        );
        assert_eq!(sample.campaigns.iter().filter(|c| c.paused).count(), 1);
        assert!(
            sample
                .ads
                .iter()
                .all(|a| a.ad_id.starts_with("x-") && a.ad_id.len() <= 64)
        );
        for campaign in &sample.campaigns {
            if let Pricing::PerThousand(price) = campaign.pricing {
                assert_eq!(price % 1_000, 0);
            }
        }
    }
}
