"""The catalogue that the oracle applies: four advertisers on four clocks, priced by click and by thousand.

The oracle is another program in another language on purpose: it shares no code with what it counts against.
"""

ADVERTISERS = [
    ("adv-ny", "USD", "America/New_York"),
    ("adv-ko", "INR", "Asia/Kolkata"),
    ("adv-lh", "AUD", "Australia/Lord_Howe"),
    ("adv-utc", "EUR", "UTC"),
]

# Suffix of the campaign, pricing model, price in micros, status.
CAMPAIGNS = [
    ("cpc", "cpc", 250_000, "active"),
    ("cpm", "cpm", 3_000_000, "active"),
    ("off", "cpc", 400_000, "paused"),
]

ADS_PER_CAMPAIGN = 4


def document():
    """The file that `adtally catalog apply` takes."""
    advertisers, campaigns, ads = [], [], []
    for advertiser, currency, zone in ADVERTISERS:
        advertisers.append(
            {"advertiser_id": advertiser, "name": advertiser, "currency_code": currency, "time_zone": zone}
        )
        for suffix, model, price, status in CAMPAIGNS:
            campaign = f"{advertiser}-{suffix}"
            campaigns.append(
                {
                    "campaign_id": campaign,
                    "advertiser_id": advertiser,
                    "name": campaign,
                    "status": status,
                    "pricing": {"model": model, "price_micros": price},
                    "daily_budget_micros": 50_000_000,
                }
            )
            for n in range(ADS_PER_CAMPAIGN):
                ad = {
                    "ad_id": f"{campaign}-ad{n}",
                    "campaign_id": campaign,
                    "landing_url": "https://shop.example/{ad_id}?click={click_id}&v={creative}",
                    "status": "active",
                }
                if n == 1:
                    ad["creatives"] = ["red", "blue"]
                if n == 2:
                    ad["spread"] = 3
                ads.append(ad)
    return {"advertisers": advertisers, "campaigns": campaigns, "ads": ads}


class Catalogue:
    """What the oracle knows of the catalogue, by id."""

    def __init__(self):
        doc = document()
        self.advertisers = {a["advertiser_id"]: a for a in doc["advertisers"]}
        self.campaigns = {c["campaign_id"]: c for c in doc["campaigns"]}
        self.ads = {a["ad_id"]: a for a in doc["ads"]}
