"""Asks the service every question and holds each answer against the tally."""

import asyncio
import itertools
import json
import time
from datetime import datetime
from urllib.parse import quote

from tally import COUNTS, DIMENSIONS, differs, metrics_of
from wire import Http

GROUPINGS = [g for n in range(len(DIMENSIONS) + 1) for g in itertools.combinations(DIMENSIONS, n)]


def instant_of(text):
    """Unix milliseconds of an RFC 3339 text."""
    return int(datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp() * 1000)


def iso(ms):
    """An instant as a parameter."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(ms // 1000))


class Comparison:
    """Counts the cells compared and keeps the first differences."""

    def __init__(self, tally, host, port, key=None):
        self.tally = tally
        self.http = Http(host, port)
        self.headers = {"Authorization": f"Bearer {key}"} if key else {}
        self.cells = 0
        self.questions = 0
        self.differences = []

    async def ask(self, path):
        """JSON of a GET that must succeed."""
        status, _, body = await self.http.ask(path, self.headers)
        answer = json.loads(body)
        if status != 200:
            self.differences.append(f"{path}: {status} {answer}")
            return None
        self.questions += 1
        return answer

    async def between(self, least, most, timeout_s=120):
        """Waits until the sum of all campaigns is at least `least` and holds still; it must not pass `most`."""
        began, last = time.monotonic(), None
        while time.monotonic() - began < timeout_s:
            got = sum(await self.sums())
            if got >= least and got == last:
                break
            last = got
            await asyncio.sleep(2)
        if not least <= got <= most:
            self.differences.append(f"while some were unanswered: expected {least} to {most} events, got {got}")
        return got

    async def sums(self):
        """Impressions, invalid impressions and clicks over all campaigns, as the service answers them now."""
        got = [0, 0, 0]
        for campaign in sorted({k[0] for k in self.tally.cells}):
            path = f"/api/v1/analytics?campaign_id={campaign}&start=2020-01-01T00:00Z&end=2027-06-01T00:00Z&granularity=total&time_zone=UTC"
            status, _, body = await self.http.ask(path, self.headers)
            if status == 200:
                totals = json.loads(body)["totals"]
                got = [a + totals[n] for a, n in zip(got, ("impressions", "invalid_impressions", "gross_clicks"))]
        return got

    async def visible(self, timeout_s=120):
        """Waits until every counted event is visible, as a sum over all campaigns."""
        want = [sum(c[i] for c in self.tally.cells.values()) for i in range(3)]
        began = time.monotonic()
        got = None
        while time.monotonic() - began < timeout_s:
            got = await self.sums()
            if got == want:
                return True
            if all(a >= b for a, b in zip(got, want)):
                break
            await asyncio.sleep(0.2)
        self.differences.append(f"sums over all campaigns: expected {want}, got {got}")
        return False

    async def one(self, campaign, granularity, group_by, start_ms, end_ms):
        """One question; every row of the answer, and every row that should be there."""
        path = f"/api/v1/analytics?campaign_id={campaign}&start={iso(start_ms)}&end={iso(end_ms)}&granularity={granularity}&fill=none"
        if group_by:
            path += f"&group_by={','.join(group_by)}"
        answer = await self.ask(path)
        if answer is None:
            return
        used = [instant_of(answer[side]) for side in ("start", "end")]
        bucket = {"minute": 60_000, "hour": 3_600_000, "day": 25 * 3_600_000, "total": 60_000}[granularity]
        if not (0 <= start_ms - used[0] < bucket and 0 <= used[1] - end_ms < bucket):
            self.differences.append(f"{path}: answered for {answer['start']} to {answer['end']}")
        start_ms, end_ms = used
        expected = self.tally.rows(campaign, granularity, group_by, start_ms, end_ms)
        got = {}
        for row in answer["rows"]:
            label = None if granularity == "total" else row["time"]
            key = (label, tuple(row[d] for d in group_by))
            if key in got:
                self.differences.append(f"{path}: row {key} twice")
            got[key] = row
        for key in expected.keys() | got.keys():
            self.cells += 1
            if key not in got:
                self.differences.append(f"{path}: row {key} is missing, expected {expected[key]}")
            elif key not in expected:
                if any(got[key][m] for m in ("impressions", "invalid_impressions", "gross_clicks")):
                    self.differences.append(f"{path}: row {key} should not be there: {got[key]}")
            elif bad := differs(expected[key], got[key]):
                self.differences.append(f"{path}: row {key}: {'; '.join(bad)}")
        sums = [0] * len(COUNTS)
        for _, _, counts in self.tally.of(campaign, start_ms, end_ms):
            sums = [a + b for a, b in zip(sums, counts)]
        if bad := differs(metrics_of(sums), answer["totals"]):
            self.differences.append(f"{path}: totals: {'; '.join(bad)}")

    async def all(self, minute_groupings=GROUPINGS, groupings=GROUPINGS):
        """Every campaign, granularity and grouping, over the days on which anything happened."""
        for campaign in sorted({k[0] for k in self.tally.cells}):
            minutes = sorted({k[5] for k in self.tally.cells if k[0] == campaign})
            spans = spans_of(minutes)
            whole = (spans[0][0], spans[-1][1])
            for grouping in groupings:
                for granularity in ("day", "total"):
                    await self.one(campaign, granularity, grouping, *whole)
                for span in spans:
                    await self.one(campaign, "hour", grouping, *span)
            for grouping in minute_groupings:
                for span in spans:
                    await self.one(campaign, "minute", grouping, *span)
            await self.fraud(campaign, *whole)

    async def fraud(self, campaign, start_ms, end_ms):
        """Invalid clicks by reason, and their cost that was not charged."""
        answer = await self.ask(f"/api/v1/fraud?campaign_id={quote(campaign)}&start={iso(start_ms)}&end={iso(end_ms)}")
        if answer is None:
            return
        got = {r["reason"]: [r["invalid_clicks"], r["cost_micros"]] for r in answer["rows"] if r["invalid_clicks"]}
        expected = {reason: row for (c, reason), row in self.tally.reasons.items() if c == campaign}
        self.cells += len(expected)
        if got != expected:
            self.differences.append(f"fraud of {campaign}: expected {expected}, got {got}")


def spans_of(minutes):
    """Runs of days on which something happened, as [start, end) in ms, widened so that whole buckets fit every clock."""
    day = 1440
    days = sorted({m // day for m in minutes})
    spans, first, last = [], days[0], days[0]
    for d in days[1:]:
        if d - last > 2 or d - first > 2:
            spans.append((first, last))
            first = d
        last = d
    spans.append((first, last))
    return [((a - 1) * day * 60_000, (b + 2) * day * 60_000) for a, b in spans]
