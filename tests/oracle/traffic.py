"""Believable traffic with everything that goes wrong in it, made from a seed.

Each `Send` is one thing put on a wire; several may carry the same event. What cannot be counted is a `Bad`, with
the reason that QUARANTINE must give for it.
"""

import json
import random
import time
import uuid
from dataclasses import dataclass, field
from datetime import datetime, timezone
from zoneinfo import ZoneInfo

import msgpack

MINUTE = 60_000
DAY = 86_400_000
DEVICES = ["ios", "android", "mobile", "tablet", "desktop", "tv", "other"]
REGIONS = ["US-CA", "US-NY", "DE", "DE-BY", "IN-KA", "IN-MH", "AU-NSW", "GB", "FR", "BR-SP", "JP-13", "CA-QC"]
BROWSER = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/131.0.0.0 Safari/537.36"
BOT = "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)"


@dataclass
class Send:
    """One delivery of one event."""

    way: str  # get, post, nats
    event: dict
    target: int = 0  # which collector
    twin: bool = False  # sent again on purpose: goes out after the first was acknowledged
    answered: bool = False
    first_ms: int | None = None  # when it was sent for the first time

    def begin(self):
        """It is sent now, for the first time or again."""
        self.first_ms = self.first_ms or int(time.time() * 1000)


@dataclass
class Bad:
    """A delivery that must be refused, with the reason and a marker to find it by."""

    way: str
    reason: str
    marker: str
    subject: str
    payload: bytes
    headers: dict = field(default_factory=dict)
    answered: bool = False


def changes_of_clock():
    """Moments around which events are placed: autumn in New York, spring and autumn on Lord Howe, a half hour."""
    ny = ZoneInfo("America/New_York")
    lh = ZoneInfo("Australia/Lord_Howe")
    return [
        int(datetime(2026, 11, 1, 0, 30, tzinfo=ny).timestamp() * 1000),
        int(datetime(2026, 10, 4, 0, 30, tzinfo=lh).timestamp() * 1000),
        int(datetime(2026, 4, 5, 0, 30, tzinfo=lh).timestamp() * 1000),
        int(datetime(2026, 3, 8, 0, 30, tzinfo=ny).timestamp() * 1000),
    ]


class Traffic:
    """The plan of one run."""

    def __init__(self, catalogue, seed, events, ways=(("post", 60), ("get", 30), ("nats", 10)), collectors=2, minted=True):
        self.rng = random.Random(seed)
        self.catalogue = catalogue
        self.ads = list(catalogue.ads)
        self.weights = [1 / (n + 1) ** 0.9 for n in range(len(self.ads))]
        self.rng.shuffle(self.ads)
        self.seed = seed
        self.events = events
        self.ways = [w for w, _ in ways]
        self.way_weights = [n for _, n in ways]
        self.collectors = collectors
        self.minted = minted
        self.changes = changes_of_clock()
        self.picked = iter(())
        self.sequence = 0

    def ad(self):
        """An ad by Zipf's law, drawn a thousand at a time."""
        ad = next(self.picked, None)
        if ad is None:
            self.picked = iter(self.rng.choices(self.ads, self.weights, k=1000))
            ad = next(self.picked)
        return ad

    def new_id(self, now_ms):
        """A UUIDv7 mostly, another legal id sometimes."""
        if self.rng.random() < 0.1:
            return f"x{self.seed}:{self.sequence}-{self.rng.getrandbits(32):08x}"
        value = (now_ms << 80) | (7 << 76) | (self.rng.getrandbits(12) << 64) | (2 << 62) | self.rng.getrandbits(62)
        return str(uuid.UUID(int=value))

    def time_of(self, now_ms, way):
        """Mostly now; 1% late by up to three days; around a change of clock where any past time is allowed."""
        draw = self.rng.random()
        if draw < 0.01:
            return now_ms - 10 * MINUTE - self.rng.randrange(3 * DAY - 20 * MINUTE)
        if draw < 0.03 and way != "get":
            return self.rng.choice(self.changes) + self.rng.randrange(4 * 3_600_000)
        return now_ms - self.rng.randrange(30_000)

    def event(self, now_ms, way):
        """One event that counts."""
        rng = self.rng
        self.sequence += 1
        kind = rng.choices(("impression", "click", "conversion"), (70, 25, 5))[0]
        event = {"kind": kind, "id": self.new_id(now_ms), "ts": self.time_of(now_ms, way), "user_id": f"u{rng.randrange(50_000)}"}
        if kind == "conversion":
            event["advertiser_id"] = rng.choice(list(self.catalogue.advertisers))
            event["click_id"] = self.new_id(now_ms)
            event["value_micros"] = rng.randrange(100_000_000)
            event["currency_code"] = self.catalogue.advertisers[event["advertiser_id"]]["currency_code"]
            return event
        event["ad_id"] = self.ad()
        if rng.random() < 0.02 and way != "get":
            # An ad that the catalogue does not know, under a campaign that it knows or does not.
            event["ad_id"] = f"foreign-{rng.randrange(5)}"
            event["campaign_id"] = rng.choice(["adv-ny-cpc", "nobody-1"])
            if rng.random() < 0.5:
                event["cost_micros"] = rng.randrange(1_000_000)
        elif rng.random() < 0.05:
            event["cost_micros"] = rng.randrange(1_000_000)
            if way == "get":
                del event["cost_micros"]
        if rng.random() < 0.5:
            event["creative"] = rng.choice(["red", "blue", "green"])
        geo = rng.choice(REGIONS + ["Atlantis"]) if rng.random() < 0.9 else rng.choice(REGIONS).lower()
        event["geo"], event["region"] = geo, geo.upper() if geo != "Atlantis" else "other"
        event["device"] = rng.choice(DEVICES)
        event["device_class"] = event["device"]
        if rng.random() < 0.03:
            event["bot"] = True
        elif way == "get" and rng.random() < 0.02:
            event["prefetch"] = True
        if way == "get" and kind == "impression" and self.minted and rng.random() < 0.5:
            event["id"] = None
        return event

    def batches(self, size=5_000):
        """Batches of (first sends, twins, bad ones); made late, so that `now` is now."""
        made = 0
        while made < self.events:
            now_ms = int(time.time() * 1000)
            firsts, twins, bads = [], [], []
            for _ in range(min(size, self.events - made)):
                made += 1
                way = self.rng.choices(self.ways, self.way_weights)[0]
                if self.rng.random() < 0.005:
                    bads.append(self.bad(way if way != "get" else "post", now_ms))
                    continue
                event = self.event(now_ms, way)
                send = Send(way, event, self.rng.randrange(self.collectors))
                firsts.append(send)
                if event["kind"] == "click" and self.rng.random() < 0.02:
                    twins.append(self.twin(send))
            yield firsts, twins, bads

    def twin(self, send):
        """The same click again: another collector, or another way in."""
        portable = not send.event.get("prefetch") and send.event["ad_id"] in self.catalogue.ads and "cost_micros" not in send.event
        ways = ["get", "post", "nats"] if portable else [send.way]
        now_ms = int(time.time() * 1000)
        if now_ms - send.event["ts"] > 6 * DAY and "get" in ways:
            ways.remove("get")
        return Send(self.rng.choice(ways), send.event, self.rng.randrange(self.collectors), twin=True)

    def bad(self, way, now_ms):
        """One of twenty ways to be wrong."""
        self.sequence += 1
        marker = f"bad-{self.seed}-{self.sequence}-{self.rng.getrandbits(32):08x}"
        ad = self.ads[0]
        good = {"kind": "click", "click_id": self.new_id(now_ms), "ad_id": ad, "ts": now_ms, "note": marker}
        subject = f"ads.click.{ad}"
        reason, change = self.rng.choice(FAULTS)
        payload, subject = change(dict(good), subject, marker)
        if way == "post" and not isinstance(payload, dict):
            way = "nats"
        if way == "post" and reason in ("bad_subject", "unknown_kind", "subject_mismatch") and subject != f"ads.click.{ad}":
            way = "nats"
        if isinstance(payload, dict):
            if way == "nats":
                payload.pop("kind", None)
                packed = self.rng.random() < 0.3
                payload = msgpack.packb(payload) if packed else json.dumps(payload).encode()
            else:
                payload = json.dumps(payload).encode()
        return Bad(way, reason, marker, subject, payload)


def with_field(name, value):
    """A fault that gives a field another value."""

    def change(event, subject, marker):
        event[name] = value
        return event, subject

    return change


def without(name):
    """A fault that leaves a field out."""

    def change(event, subject, marker):
        del event[name]
        return event, subject

    return change


def raw(make):
    """A fault that is no object at all."""
    return lambda event, subject, marker: (make(marker), subject)


def on_subject(subject):
    """A fault in the subject."""
    return lambda event, _, marker: (event, subject)


def future(event, subject, marker):
    """Ten minutes ahead of the clock."""
    event["ts"] = int(time.time() * 1000) + 600_000
    return event, subject


def as_conversion(**fields):
    """A conversion with these fields."""

    def change(event, subject, marker):
        event = {"kind": "conversion", "conversion_id": event["click_id"], "note": marker, "advertiser_id": "adv-ny", **fields}
        return event, "ads.conversion.adv-ny"

    return change


FAULTS = [
    ("invalid_payload", raw(lambda m: b"not json " + m.encode())),
    ("invalid_payload", raw(lambda m: b'{"ad_id":"x","note":"' + m.encode())),
    ("invalid_payload", raw(lambda m: b"[1,2,\"" + m.encode() + b'"]')),
    ("invalid_payload", raw(lambda m: b"\xff\xfe\x00" + m.encode())),
    ("missing_event_id", without("click_id")),
    ("bad_id", with_field("click_id", "has space")),
    ("bad_id", with_field("click_id", "x" * 65)),
    ("bad_id", with_field("campaign_id", "semi;colon")),
    ("bad_type", with_field("click_id", 12345)),
    ("bad_type", with_field("ad_id", ["a"])),
    ("bad_ts", with_field("ts", "yesterday")),
    ("bad_ts", with_field("ts", "2024-02-30T10:00:00Z")),
    ("bad_type", with_field("ts", True)),
    ("ts_in_future", future),
    ("bad_amount", with_field("cost_micros", -1)),
    ("bad_type", with_field("cost_micros", "12")),
    ("unknown_ad", lambda e, s, m: ({**e, "ad_id": "no-such-ad"}, "ads.click.no-such-ad")),
    ("subject_mismatch", on_subject("ads.click.another")),
    ("unknown_kind", on_subject("ads.view.adv")),
    ("bad_subject", on_subject("ads.click.adv-ny-cpc-ad0.extra")),
    ("missing_click_or_user", as_conversion()),
    ("bad_currency", as_conversion(click_id="c1", currency_code="EURO")),
    ("bad_amount", as_conversion(click_id="c1", value_micros=-5)),
]


def object_of(event, with_kind):
    """The event as foreign clients write it."""
    kind = event["kind"]
    out = {k: event[k] for k in ("ad_id", "advertiser_id", "campaign_id", "creative", "user_id", "device", "geo", "click_id", "value_micros", "currency_code", "cost_micros") if event.get(k) is not None}
    out[f"{kind}_id"] = event["id"]
    ts = event["ts"]
    out["ts"] = ts if ts % 2 else datetime.fromtimestamp(ts / 1000, timezone.utc).isoformat(timespec="milliseconds")
    if event.get("bot"):
        out["user_agent"] = BOT
    if with_kind:
        out["kind"] = kind
    return out


def query_of(event):
    """The event as a browser asks for it: path, parameters, headers."""
    kind = event["kind"]
    if kind == "conversion":
        names = ("advertiser_id", "click_id", "user_id", "value_micros", "currency_code", "ts")
        path = "/conversion"
    else:
        names = ("ad_id", "campaign_id", "creative", "user_id", "device", "geo", "ts")
        path = "/i" if kind == "impression" else "/click"
    params = {n: event[n] for n in names if event.get(n) is not None}
    if event["id"] is not None:
        params[f"{kind}_id"] = event["id"]
    headers = {"User-Agent": BOT if event.get("bot") else BROWSER}
    if event.get("prefetch"):
        headers["Sec-Purpose"] = "prefetch"
    return path, params, headers
