#!/usr/bin/env python3
"""Sends mixed traffic by every way in, with everything that goes wrong, and compares every cell of every grouping.

Usage: exact.py --adtally BIN --nats-server BIN [--events N] [--seed S] [--kills N] [--folder DIR]

With --kills the processes are killed with SIGKILL at random moments while traffic flows. What was answered must be
counted once; what was not, at most once. Ends with one line of JSON and exit status 0, or 1 where anything differs.
"""

import argparse
import asyncio
import json
import random
import sys
import tempfile
import threading
import time
from pathlib import Path

import msgpack

from catalogue import Catalogue, document
from compare import GROUPINGS, Comparison
from deployment import Broker, Node
from tally import Tally
from traffic import Traffic
from wire import Wires


class Killer(threading.Thread):
    """Kills one process after another at random moments and starts it again."""

    def __init__(self, kills, seed, processes):
        super().__init__(daemon=True)
        self.kills, self.rng, self.processes = kills, random.Random(seed), processes
        self.done = {name: 0 for name, _ in processes}
        self.error = None

    def run(self):
        """Until as many as asked for have been killed."""
        try:
            for n in range(self.kills):
                time.sleep(self.rng.uniform(0.3, 2.0))
                name, process = self.processes[n % len(self.processes)] if n < len(self.processes) else self.rng.choice(self.processes)
                process.kill()
                time.sleep(self.rng.uniform(0, 0.5))
                process.start()
                self.done[name] += 1
        except Exception as e:  # the run must end with the reason, not hang
            self.error = e


async def quarantined(wires, expected, once=True):
    """Every refused message must be in QUARANTINE with its reason, `once` unless it was sent more than once."""
    want = {b.marker: b.reason for b in expected}
    found, differences = {}, []
    js = wires.nc.jetstream()
    began = time.monotonic()
    while time.monotonic() - began < 60:
        info = await js.stream_info("QUARANTINE")
        if info.state.messages >= len(want):
            break
        await asyncio.sleep(0.2)
    sub = await js.subscribe("quarantine.>", stream="QUARANTINE", ordered_consumer=True)
    info = await js.stream_info("QUARANTINE")
    for _ in range(info.state.messages):
        message = await sub.next_msg(timeout=10)
        record = json.loads(message.data)
        text = record.get("payload") or ""
        if "payload_base64" in record:
            import base64

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
    import re

    return re.findall(r"bad-\d+-\d+-[0-9a-f]{8}", text)


async def drive(wires, traffic, args):
    """Sends everything; returns the bad ones that were answered."""
    bads = []
    packers = [lambda o: json.dumps(o).encode(), msgpack.packb]
    gate = asyncio.Semaphore(600)

    async def gated(coroutine):
        async with gate:
            await coroutine

    for firsts, twins, batch_bads in traffic.batches(size=args.batch):
        jobs = []
        posts = [[] for _ in wires.targets]
        for send in firsts:
            if send.way == "post":
                posts[send.target].append(send)
            elif send.way == "get":
                jobs.append(gated(wires.get(send)))
            else:
                jobs.append(gated(wires.publish(send, packers[send.target])))
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
                jobs.append(gated(wires.publish(send, packers[send.target])))
        await asyncio.gather(*jobs)
    return [b for b in bads if b.answered]


async def run(args, folder):
    """One run; returns the report."""
    broker = Broker(args.nats_server, folder / "broker", None)
    broker.start()
    one = Node(args.adtally, folder / "one", nats_url=broker.url)
    two = Node(args.adtally, folder / "two", roles="collector,intake", nats_url=broker.url)
    started = time.time()
    killer = None
    try:
        one.start()
        two.start()
        catalogue_file = folder / "catalogue.json"
        catalogue_file.write_text(json.dumps(document()))
        one.cli("catalog", "apply", str(catalogue_file))
        tally = Tally(Catalogue())
        traffic = Traffic(Catalogue(), args.seed, args.events, minted=not args.kills)
        wires = Wires([("127.0.0.1", one.port), ("127.0.0.1", two.port)], broker.url, tally, gives_up=bool(args.kills))
        await wires.open()
        if args.kills:
            restartable = [("adtally", Restart(one)), ("collector", Restart(two)), ("nats-server", broker)]
            killer = Killer(args.kills, args.seed, restartable)
            killer.start()
        sending = time.time()
        bads = await drive(wires, traffic, args)
        while killer and killer.is_alive():
            traffic.events += 2_000
            bads += await drive(wires, traffic_more(traffic, 2_000), args)
        if killer and killer.error:
            raise killer.error
        sent_s = time.time() - sending
        if killer:
            one.wait_ready()
            two.wait_ready()
        if args.restart:
            # A restart in the middle of everything must not change a number.
            assert two.stop() == 0, "SIGTERM must end with 0"
            two.start()
        comparison = Comparison(tally, "127.0.0.1", one.port)
        unanswered = len(wires.maybe)
        if wires.maybe:
            await settle_unanswered(wires, tally, comparison)
        await comparison.visible()
        visible_s = time.time() - sending - sent_s
        await comparison.all(GROUPINGS if args.all_minutes else [(), ("ad_id",), GROUPINGS[-1]])
        found, differences = await quarantined(wires, bads, once=not args.kills)
        conversions = conversions_recorded(one)
        if conversions != tally.distinct["conversion"]:
            differences.append(f"conversions recorded: expected {tally.distinct['conversion']}, got {conversions}")
        await wires.close()
        differences = wires.wrong + comparison.differences + differences
        report = {
            "events": args.events,
            "seed": args.seed,
            "distinct": dict(tally.distinct),
            "refused": len(bads),
            "found_in_quarantine": found,
            "kills": killer.done if killer else {},
            "retries": wires.retries,
            "left_unanswered": unanswered,
            "questions": comparison.questions,
            "cells_compared": comparison.cells,
            "sent_in_s": round(sent_s, 1),
            "visible_after_s": round(visible_s, 2),
            "total_s": round(time.time() - started, 1),
            "differences": len(differences),
        }
        for line in differences[:20]:
            print(line, file=sys.stderr)
        return report
    finally:
        for node in (two, one):
            try:
                node.stop()
            except RuntimeError as e:
                print(e, file=sys.stderr)
        broker.stop()


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


class Restart:
    """A node as the killer sees it: started again without waiting for it."""

    def __init__(self, node):
        self.node = node

    def kill(self):
        """SIGKILL."""
        self.node.kill()

    def start(self):
        """Started, not awaited."""
        self.node.start(wait=False)


def traffic_more(traffic, events):
    """The same generator, for a few more events."""
    traffic.events = events
    return traffic


def conversions_recorded(node):
    """Distinct conversions that the fold applied, from /metrics."""
    import urllib.request

    with urllib.request.urlopen(f"http://127.0.0.1:{node.port}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    lines = [l for l in text.splitlines() if l.startswith("adtally_events_folded_total{") and 'kind="conversion"' in l]
    return sum(int(float(l.rsplit(" ", 1)[1])) for l in lines) if lines else None


def main():
    """Parses, runs, prints the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--adtally", required=True)
    parser.add_argument("--nats-server", required=True)
    parser.add_argument("--events", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kills", type=int, default=0)
    parser.add_argument("--batch", type=int, default=5_000)
    parser.add_argument("--restart", action="store_true")
    parser.add_argument("--all-minutes", action="store_true", help="every grouping by minute as well, not only three")
    parser.add_argument("--folder")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="adtally-exact-") as scratch:
        folder = Path(args.folder or scratch)
        report = asyncio.run(run(args, folder))
    print(json.dumps(report))
    return 1 if report["differences"] else 0


if __name__ == "__main__":
    sys.exit(main())
