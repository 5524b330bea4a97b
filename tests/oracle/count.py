"""The whole of a count: what is sent by every way in, what was left unanswered, and the comparison at the end."""

import asyncio
import base64
import json
import re
import sys
import time

import msgpack

from catalogue import Catalogue, document
from compare import GROUPINGS, Comparison
from tally import Tally
from traffic import Traffic
from wire import Wires

# Groupings that are compared by the minute as well, unless all of them are asked for.
BY_THE_MINUTE = [(), ("ad_id",), GROUPINGS[-1]]
# Nothing but the campaign, and every dimension: a difference in any other grouping is one in the last.
FEW = [(), GROUPINGS[-1]]
# Events of a batch while something happens beside them.
BATCH_BESIDE = 400


class Session:
    """Traffic into a running deployment, and the count of it."""

    def __init__(self, deployment, seed, faults, batch=1_000):
        self.deployment, self.batch, self.faults = deployment, batch, faults
        self.tally = Tally(Catalogue())
        self.traffic = Traffic(Catalogue(), seed, 0, collectors=len(deployment.collectors), minted=not faults)
        targets = [("127.0.0.1", n.port) for n in deployment.collectors]
        self.wires = Wires(targets, deployment.broker.url, self.tally, gives_up=faults)
        self.bads = []
        self.sent = 0
        self.differences = []

    async def open(self):
        """Connects."""
        await self.wires.open()

    async def send(self, events, batch=None):
        """Sends that many events and waits until each is answered or given up."""
        self.traffic.events = events
        self.sent += events
        self.bads += await drive(self.wires, self.traffic, batch or self.batch)

    async def during(self, work, *args):
        """Does blocking work in a thread with traffic beside it; gives back what the work gave."""
        working = asyncio.create_task(asyncio.to_thread(work, *args))
        while not working.done():
            await self.send(BATCH_BESIDE, BATCH_BESIDE)
        return working.result()

    def expect(self, what, holds):
        """A difference, unless it holds."""
        if not holds:
            self.differences.append(what)

    async def finish(self, by_the_minute=FEW, groupings=FEW, settled_s=180):
        """Compares everything; returns the report."""
        self.deployment.wait_ready()
        asked = self.deployment.asked
        comparison = Comparison(self.tally, "127.0.0.1", asked.port)
        unanswered = len(self.wires.maybe)
        if self.wires.maybe:
            await settle_unanswered(self.wires, self.tally, comparison)
        began = time.monotonic()
        await comparison.visible(settled_s)
        visible_s = time.monotonic() - began
        await comparison.all(by_the_minute, groupings)
        found, differences = await quarantined(self.wires, self.bads, once=not self.faults)
        conversions = conversions_recorded(asked)
        if conversions != self.tally.distinct["conversion"]:
            differences.append(f"conversions recorded: expected {self.tally.distinct['conversion']}, got {conversions}")
        self.differences += self.wires.wrong + comparison.differences + differences
        for line in self.differences[:20]:
            print(line, file=sys.stderr)
        return {
            "events": self.sent,
            "distinct": dict(self.tally.distinct),
            "refused": len([b for b in self.bads if b.answered]),
            "found_in_quarantine": found,
            "retries": self.wires.retries,
            "left_unanswered": unanswered,
            "not_counted_twice": duplicates(asked),
            "questions": comparison.questions,
            "cells_compared": comparison.cells,
            "visible_after_s": round(visible_s, 2),
            "differences": len(self.differences),
        }

    async def close(self):
        """Disconnects."""
        await self.wires.close()


def duplicates(node):
    """What the fold met again and did not count: by its ledger of counters, and by its index of ids."""
    sums = {}
    for labels, value in node.metrics("adtally_duplicates_total"):
        sums[labels["line"]] = sums.get(labels["line"], 0) + int(value)
    return sums


async def quarantined(wires, sent, once=True):
    """Every refused message must be in QUARANTINE with its reason, `once` unless it was sent more than once."""
    want = {b.marker: b.reason for b in sent if b.answered}
    found, differences = {}, []
    # A busy machine may take long, and that is not what is tried.
    js = wires.nc.jetstream(timeout=60)
    began = time.monotonic()
    while time.monotonic() - began < 60:
        info = await js.stream_info("QUARANTINE")
        if info.state.messages >= len(want):
            break
        await asyncio.sleep(0.2)
    sub = await js.subscribe("quarantine.>", stream="QUARANTINE", ordered_consumer=True)
    info = await js.stream_info("QUARANTINE")
    for _ in range(info.state.messages):
        message = await sub.next_msg(timeout=60)
        record = json.loads(message.data)
        text = record.get("payload") or ""
        if "payload_base64" in record:
            text = base64.b64decode(record["payload_base64"]).decode("latin-1")
        marker = next((part for part in text_markers(text)), None)
        if marker in want:
            if marker in found and once:
                differences.append(f"{marker} is in QUARANTINE twice")
            found[marker] = record["reason"]
            if record["reason"] != want[marker]:
                differences.append(f"{marker}: expected {want[marker]}, got {record['reason']} ({record['detail']})")
    missing = want.keys() - found.keys()
    differences += [f"{m} ({want[m]}) is not in QUARANTINE" for m in sorted(missing)[:10]]
    return len(found), differences


def text_markers(text):
    """The markers in a payload."""
    return re.findall(r"bad-\d+-\d+-[0-9a-f]{8}", text)


async def drive(wires, traffic, batch):
    """Sends everything; returns the bad ones."""
    bads = []
    packers = [lambda o: json.dumps(o).encode(), msgpack.packb]
    gate = asyncio.Semaphore(600)

    async def gated(coroutine):
        async with gate:
            await coroutine

    for firsts, twins, batch_bads in traffic.batches(size=batch):
        jobs = []
        posts = [[] for _ in wires.targets]
        for send in firsts:
            if send.way == "post":
                posts[send.target].append(send)
            elif send.way == "get":
                jobs.append(gated(wires.get(send)))
            else:
                jobs.append(gated(wires.publish(send, packers[send.target % len(packers)])))
        post_bads = [b for b in batch_bads if b.way == "post"]
        for target, sends in enumerate(posts):
            for at in range(0, len(sends), 500):
                jobs.append(gated(wires.post(sends[at : at + 500], post_bads if target == 0 and at == 0 else [], target)))
        if post_bads and not posts[0]:
            jobs.append(gated(wires.post([], post_bads, 0)))
        jobs += [gated(wires.publish_bad(b)) for b in batch_bads if b.way == "nats"]
        await asyncio.gather(*jobs)
        bads += batch_bads
        # A twin goes out when its first was answered: it is the same click again, not a race for being first.
        jobs = []
        for send in twins:
            if send.event["id"] is None:
                continue
            if send.way == "post":
                jobs.append(gated(wires.post([send], [], send.target)))
            elif send.way == "get":
                jobs.append(gated(wires.get(send)))
            else:
                jobs.append(gated(wires.publish(send, packers[send.target % len(packers)])))
        await asyncio.gather(*jobs)
    return bads


async def settle_unanswered(wires, tally, comparison):
    """What was not answered counts at most once, now; and exactly once after it was sent again."""
    counted = tally.distinct["impression"] + tally.distinct["click"]
    maybe = {(s.event["kind"], s.event["id"]) for s in wires.maybe if s.event["kind"] != "conversion"}
    await comparison.between(counted, counted + len(maybe))
    again, wires.maybe, wires.gives_up = wires.maybe, [], False
    for at in range(0, len(again), 500):
        posted = [s for s in again[at : at + 500] if s.way != "get"]
        if posted:
            await wires.post(posted, [], 0)
    await asyncio.gather(*(wires.get(s) for s in again if s.way == "get"))


def conversions_recorded(node):
    """Distinct conversions that the fold applied, from /metrics."""
    folded = [v for labels, v in node.metrics("adtally_events_folded_total") if labels.get("kind") == "conversion"]
    return int(sum(folded)) if folded else None
