"""The count, made from what was sent: a plain dictionary of cells, and the questions asked of it.

A cell is (campaign, ad, creative, region, device, UTC minute) -> metrics. Hours, days and totals are sums of
minutes under the clock of the advertiser, so nothing here resembles how the service keeps them.
"""

from bisect import bisect_left
from collections import defaultdict
from datetime import datetime, timedelta, timezone
from fractions import Fraction
from zoneinfo import ZoneInfo

LATE_MS = 5 * 60_000
DIMENSIONS = ("campaign_id", "ad_id", "creative", "region", "device")
COUNTS = (
    "impressions",
    "invalid_impressions",
    "gross_clicks",
    "general_invalid_clicks",
    "cost_micros",
    "late_events",
    # Events that may be late or not: sent several times, and nobody knows which time it was taken.
    "late_or_not",
)


class Tally:
    """Cells of every event that counts, each id once."""

    def __init__(self, catalogue):
        self.catalogue = catalogue
        self.cells = defaultdict(lambda: [0] * len(COUNTS))
        self.seen = set()
        self.reasons = defaultdict(lambda: [0, 0])
        self.distinct = defaultdict(int)
        self.sorted = None

    def add(self, event, arrival_ms, first_ms=None):
        """Counts an event as the contract says; an id that was counted before is nothing new.

        It arrived at `arrival_ms`, or as early as `first_ms` where an earlier delivery of it was left unanswered.
        """
        kind = event["kind"]
        if event["id"] is not None:
            identity = (kind, event.get("ad_id") or event["advertiser_id"], event["id"])
            if identity in self.seen:
                return
            self.seen.add(identity)
        self.distinct[kind] += 1
        if kind == "conversion":
            return
        ad = self.catalogue.ads.get(event["ad_id"])
        campaign_id = ad["campaign_id"] if ad else event["campaign_id"]
        campaign = self.catalogue.campaigns.get(campaign_id)
        reason = None
        if event.get("bot"):
            reason = "known_bot"
        elif event.get("prefetch"):
            reason = "prefetch"
        elif campaign and campaign["status"] != "active":
            reason = "campaign_inactive"
        cost = self.price(event, ad, campaign)
        creative = event.get("creative") or ""
        if creative and ad and ad.get("creatives") and creative not in ad["creatives"]:
            creative = "other"
        key = (
            campaign_id,
            event["ad_id"],
            creative,
            event["region"],
            event["device_class"],
            event["ts"] // 60_000,
        )
        cell = self.cells[key]
        if kind == "impression":
            cell[1 if reason else 0] += 1
        else:
            cell[2] += 1
            if reason:
                cell[3] += 1
                row = self.reasons[(campaign_id, reason)]
                row[0] += 1
                row[1] += cost
        if not reason:
            cell[4] += cost
        late_at_last = arrival_ms - event["ts"] > LATE_MS
        late_at_first = (first_ms or arrival_ms) - event["ts"] > LATE_MS
        cell[5] += late_at_first
        cell[6] += late_at_last and not late_at_first

    @staticmethod
    def price(event, ad, campaign):
        """The event's own price, else its campaign's; an ad outside the catalogue has only its own."""
        if event.get("cost_micros") is not None:
            return event["cost_micros"]
        if not ad:
            return 0
        pricing = campaign["pricing"]
        if event["kind"] == "click":
            return pricing["price_micros"] if pricing["model"] == "cpc" else 0
        return pricing["price_micros"] // 1000 if pricing["model"] == "cpm" else 0

    def of(self, campaign_id, start_ms, end_ms):
        """A campaign's cells of [start, end), in order of time. Sorted once, when counting is over."""
        if self.sorted is None or self.sorted[0] != len(self.cells):
            by_campaign = defaultdict(list)
            for key, counts in self.cells.items():
                by_campaign[key[0]].append((key[5], key, counts))
            for cells in by_campaign.values():
                cells.sort(key=lambda cell: cell[0])
            self.sorted = (len(self.cells), by_campaign)
        cells = self.sorted[1][campaign_id]
        first = bisect_left(cells, -(-start_ms // 60_000), key=lambda cell: cell[0])
        last = bisect_left(cells, -(-end_ms // 60_000), key=lambda cell: cell[0])
        return cells[first:last]

    def zone(self, campaign_id):
        """The clock of a campaign's advertiser; UTC where the catalogue knows none."""
        campaign = self.catalogue.campaigns.get(campaign_id)
        if not campaign:
            return ZoneInfo("UTC")
        return ZoneInfo(self.catalogue.advertisers[campaign["advertiser_id"]]["time_zone"])

    def rows(self, campaign_id, granularity, group_by, start_ms, end_ms, zone=None):
        """Expected rows of one campaign: (label, group values) -> counts. `total` is labelled None."""
        zone = zone or self.zone(campaign_id)
        out = defaultdict(lambda: [0] * len(COUNTS))
        places = [DIMENSIONS.index(d) for d in group_by]
        labels = {}
        for minute, key, counts in self.of(campaign_id, start_ms, end_ms):
            label = labels.get(minute)
            if label is None:
                label = labels[minute] = label_of(minute * 60, granularity, zone)
            group = tuple(key[place] for place in places)
            row = out[(label, group)]
            for i, n in enumerate(counts):
                row[i] += n
        return {k: metrics_of(v) for k, v in out.items()}


def rfc3339(instant, offset):
    """`2024-02-09T14:05:00Z`, or with the offset where it is not zero hours of UTC itself."""
    local = datetime(1970, 1, 1) + timedelta(seconds=instant) + offset
    if offset == timedelta(0):
        return local.strftime("%Y-%m-%dT%H:%M:%S") + "Z"
    seconds = int(offset.total_seconds())
    sign = "+" if seconds >= 0 else "-"
    hours, rest = divmod(abs(seconds), 3600)
    return local.strftime("%Y-%m-%dT%H:%M:%S") + f"{sign}{hours:02d}:{rest // 60:02d}"


def label_of(instant, granularity, zone):
    """The bucket's start on the zone's clock under the offset in force at `instant` (Unix seconds)."""
    at = datetime.fromtimestamp(instant, timezone.utc).astimezone(zone)
    offset = at.utcoffset()
    if granularity == "minute":
        return rfc3339(instant, offset)
    if granularity == "hour":
        into = at.minute * 60 + at.second
        return rfc3339(instant - into, offset)
    if granularity == "day":
        midnight = datetime(at.year, at.month, at.day, tzinfo=zone)
        return rfc3339(int(midnight.timestamp()), midnight.utcoffset())
    return None


def half_up(numerator, denominator):
    """An average in micros, rounded half up; None where there is nothing to divide by."""
    if denominator == 0:
        return None
    return int((Fraction(numerator, denominator) + Fraction(1, 2)).__floor__())


def ratio(numerator, denominator):
    """A plain ratio; None where there is nothing to divide by."""
    return numerator / denominator if denominator else None


def metrics_of(counts):
    """The contract's metrics out of the counts."""
    impressions, invalid_impressions, gross, general, cost, late, late_or_not = counts
    clicks = gross - general
    return {
        "impressions": impressions,
        "invalid_impressions": invalid_impressions,
        "clicks": clicks,
        "gross_clicks": gross,
        "invalid_clicks": general,
        "general_invalid_clicks": general,
        "sophisticated_invalid_clicks": 0,
        "invalid_click_rate": ratio(general, gross),
        "ctr": ratio(clicks, impressions),
        "cost_micros": cost,
        "average_cpc_micros": half_up(cost, clicks),
        "average_cpm_micros": half_up(cost * 1000, impressions),
        "conversions": None,
        "conversions_value_micros": None,
        "cost_per_conversion_micros": None,
        "late_events": late if not late_or_not else range(late, late + late_or_not + 1),
    }


def differs(expected, got):
    """Names of the metrics in which an answered row is not the expected one."""
    bad = []
    for name, value in expected.items():
        if name not in got:
            bad.append(f"{name} missing")
        elif isinstance(value, range):
            if got[name] not in value:
                bad.append(f"{name}: expected {value.start} to {value.stop - 1}, got {got[name]}")
        elif isinstance(value, float):
            if got[name] is None or abs(got[name] - value) > 1e-9:
                bad.append(f"{name}: expected {value}, got {got[name]}")
        elif got[name] != value:
            bad.append(f"{name}: expected {value}, got {got[name]}")
    return bad
