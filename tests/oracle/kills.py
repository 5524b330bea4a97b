#!/usr/bin/env python3
"""Kills every process with SIGKILL, at each fail point in turn and at random, under mixed traffic by every way in.

Usage: kills.py --adtally BIN --nats-server BIN [--kills N] [--seed S] [--folder DIR]

Two collectors, an intake, a projector, an API and an archiver, each a process of its own, and one nats-server. Counts
are sealed while more come, checkpoints are made every few seconds, the streams are archived and purged half a minute
later, and the projector is replayed on the way. What was answered must be counted once; what was not, at most once,
and exactly once after it was sent again. A document that a PUT has answered must count for the next click. At the end
both folds are compared with the count, and `verify` with the log and the archive. Ends with one line of JSON and exit
status 0, or 1 where anything differs or a fail point was never met.
"""

import argparse
import asyncio
import json
import random
import shutil
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from catalogue import document
from count import Session
from deployment import Deployment
from traffic import Send
from wire import RETRY, Http

ROLES = {
    "collector": "collector",
    "collector-2": "collector",
    "intake": "intake",
    "projector": "projector",
    "api": "api",
    "archiver": "archiver",
}
# So little is kept of what is sent that deleting it is met too.
LITTLE = {"ADTALLY_OUTBOX_KEEP_SENT": "16KiB"}
CHECKPOINTS = {"ADTALLY_CHECKPOINTS_EVERY": "5s", "ADTALLY_CHECKPOINTS_KEEP": "6"}
# So soon that whoever is dead or behind for a while is overtaken by a purge.
ARCHIVE = {"ADTALLY_ARCHIVE_KEEP_IN_STREAM": "30s"}
ENV = {"collector-2": LITTLE, "intake": LITTLE, "projector": CHECKPOINTS, "api": CHECKPOINTS, "archiver": ARCHIVE}
# Processes that may be in the middle of dying at once.
TURNS_AT_ONCE = 2
# Deaths of one process in one turn: one at random, then at fail points.
CHAIN = 4
# How long an armed process may take to meet its point; then it is killed where it stands.
MEETS_WITHIN_S = 90
# How long a replay may take.
REPLAY_S = 300

OPENING = ["epoch.chosen", "epoch.recorded", "epoch.announced", "epoch.told-drained", "epoch.drained"]
WRITING = ["outbox.queued", "outbox.batched", "outbox.written", "outbox.synced", "outbox.answered", "outbox.marked"]
SHIPPING = ["shipper.cut", "shipper.sent", "shipper.acknowledged", "shipper.noted"]
FOLDING = ["fold.built", "fold.written", "fold.shown", "seal.built", "seal.written", "checkpoint.linked", "checkpoint.made"]
# Met only in a folder that lacks something; what is removed is made again from the log or the broker.
ANEW = {
    "generation.made": "shards",
    "day-keys.written": "day-keys",
}
# Met only by a clean end.
AT_THE_END = {"fold.flushed"}
# Met by a command on the folder of a process that was killed just before.
ARCHIVE_NOW = ["archive", "run", "--open-hour"]
BY_COMMAND = {
    "archive.built": ARCHIVE_NOW,
    "archive.put": ARCHIVE_NOW,
    "archive.verified": ARCHIVE_NOW,
    "archive.committed": ARCHIVE_NOW,
    "generation.written": ["replay", "--from", "beginning"],
    "generation.named": ["replay", "--from", "beginning"],
    "generation.replayed": ["replay", "--from", "20s"],
    "fold.day-made": ["replay", "--from", "beginning"],
}
# Met only when something was archived so long ago that it is purged.
PURGING = ["archive.purging", "archive.purged"]
# Passed once or a few times after a start; others are met at a random one of their first passings.
ONCE = {*OPENING, *ANEW, *AT_THE_END, *PURGING, "epoch.forgotten", "catalogue.written", "catalogue.copied"}
# Met in tests/backup.rs, which says what is left in the folder.
ELSEWHERE = {"backup.copied", "backup.named", "restore.copied"}
POINTS = {
    "collector": [*OPENING, *WRITING, "collector.answering", *SHIPPING, "quarantine.cut", "quarantine.acknowledged",
                  "catalogue.written", "catalogue.copied", "day-keys.written"],
    "collector-2": [*OPENING, "epoch.forgotten", *WRITING, "outbox.evicted", "collector.answering", *SHIPPING],
    "intake": [*OPENING, "epoch.forgotten", *WRITING, "outbox.evicted", "intake.received", "intake.durable",
               "intake.acknowledged", *SHIPPING, "quarantine.cut", "quarantine.acknowledged"],
    "projector": [*FOLDING, "fold.flushed", "generation.made", "generation.written", "generation.named",
                  "generation.replayed", "fold.day-made"],
    "api": [*FOLDING, "catalogue.written", "catalogue.copied", "catalogue.published"],
    "archiver": ["archive.built", "archive.put", "archive.verified", "archive.committed", *PURGING],
}
# Where a process stands still while nats-server is killed under it.
UNDER = {
    "collector": ["epoch.recorded", "epoch.told-drained", "outbox.synced", "shipper.cut", "shipper.sent", "shipper.acknowledged", "quarantine.acknowledged"],
    "intake": ["intake.received", "intake.durable", "intake.acknowledged", "shipper.sent"],
    "projector": ["fold.built", "fold.written"],
    "api": ["catalogue.published"],
    "archiver": ["archive.purging"],
}
BROKER = "nats-server"
AT_RANDOM = "at random"


def uncovered():
    """Fail points of the documentation, which a test holds against the code, that no run meets."""
    file = Path(__file__).resolve().parents[2] / "docs" / "fail-points.md"
    documented = {line.split("`")[1] for line in file.read_text().splitlines() if line.startswith("| `")}
    met = {point for points in POINTS.values() for point in points}
    return documented ^ (met | ELSEWHERE)


@dataclass(frozen=True)
class Death:
    """What dies, and where: at a fail point of its own, at one of another process, or at random."""

    process: str
    point: str | None = None
    under: str | None = None


def plan(kills, rng):
    """Turns: each a list of deaths, all of one process. Every point before any is met a second time."""
    queues = {name: [] for name in ROLES}
    for _ in range(1 + kills // sum(map(len, POINTS.values()))):
        for name, points in POINTS.items():
            queues[name] += rng.sample(points, len(points))
    broker = [Death(BROKER, point, name) for name, points in UNDER.items() for point in points]
    rng.shuffle(broker)
    turns, planned, weights = [], 0, {name: len(points) for name, points in POINTS.items()}
    while planned < kills:
        # A fifth of the turns is the broker's.
        if rng.random() < 0.2:
            turn = [Death(broker[0].under), broker[0], Death(BROKER)]
            broker.append(broker.pop(0))
        else:
            name = max(queues, key=lambda n: len(queues[n]) / weights[n])
            points, queues[name] = queues[name][: CHAIN - 1], queues[name][CHAIN - 1 :]
            turn = [Death(name), *(Death(name, point) for point in points)]
        turn = turn[: kills - planned]
        turns.append(turn)
        planned += len(turn)
    return turns


class Killer:
    """Takes the turns, a few at once and never two of one process."""

    def __init__(self, deployment, kills, seed):
        self.deployment, self.seed = deployment, seed
        self.turns = plan(kills, random.Random(seed))
        self.done, self.missed, self.errors = Counter(), [], []
        self.replays = Counter()
        self.lock = threading.Lock()
        self.busy = set()

    def run(self):
        """Until every turn is taken; raises what went wrong."""
        threads = [threading.Thread(target=self.work, args=(n,)) for n in range(TURNS_AT_ONCE)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if self.errors:
            raise self.errors[0]

    def work(self, number):
        """Takes turns until there are none, or something is wrong."""
        rng = random.Random(f"{self.seed}-{number}")
        while not self.errors:
            with self.lock:
                turn = next((t for t in self.turns if not self.processes(t) & self.busy), None)
                if turn:
                    self.turns.remove(turn)
                    self.busy |= self.processes(turn)
                elif not self.turns:
                    return
            if not turn:
                time.sleep(0.05)
                continue
            try:
                self.take(turn, rng)
            except Exception as e:  # the run must end with the reason, not hang
                self.errors.append(e)
            with self.lock:
                self.busy -= self.processes(turn)
            time.sleep(rng.uniform(0.1, 0.6))

    @staticmethod
    def processes(turn):
        """Whom a turn needs for itself."""
        return {d.process for d in turn} | {d.under for d in turn if d.under}

    def take(self, turn, rng):
        """One turn; its process runs and is ready at the end."""
        for death in turn:
            if death.process != BROKER:
                # What is left dead here is started again below, or by the broker's death under it.
                self.kill_node(self.deployment.nodes[death.process], death, rng)
            elif death.under:
                self.kill_broker_under(self.deployment.nodes[death.under], death, rng)
            else:
                time.sleep(rng.uniform(0.2, 1.2))
                self.deployment.broker.kill()
                self.count(death)
                time.sleep(rng.uniform(0, 0.5))
                self.deployment.broker.start()
        node = self.deployment.nodes[turn[0].process]
        if node.process.poll() is not None:
            self.start(node)

    def start(self, node, fail_points=None, until=None):
        """Starts it until it is ready, or armed until something holds; whether that came true in time.

        One that a purge has overtaken while it was dead says so and ends; then it gets what that says.
        """
        began = node.log.stat().st_size if node.log.exists() else 0
        node.start(wait=False, fail_points=fail_points)
        held = self.wait(lambda: node.process.poll() is not None or (until() if until else node.is_ready()))
        if node.process.poll() == 3 and b"`adtally replay --from beginning" in node.log.read_bytes()[began:]:
            self.replay(node, "overtaken", "beginning")
            return self.start(node, fail_points, until)
        if not until:
            assert held and node.process.poll() is None, f"it ended with {node.process.poll()}: {node.tail()}"
        return held

    def replay(self, node, why, since):
        """Replays its stopped folder; again while the broker is dead."""
        for args in (["--from", since], ["--prune"]):
            done = []

            def is_done(args=args, done=done):
                done.append(node.run("replay", *args, timeout_s=REPLAY_S))
                return done[-1].returncode == 0

            assert self.wait(is_done), f"replay {' '.join(args)} ended with {done[-1].returncode}: {done[-1].stderr}"
        with self.lock:
            self.replays[why] += 1

    def kill_node(self, node, death, rng):
        """Leaves the process dead: killed where it stands, or started armed and dead by itself."""
        if not death.point:
            time.sleep(rng.uniform(0.2, 1.2))
            assert node.kill(), f"{death.process} had ended by itself: {node.tail()}"
            self.count(death)
        elif death.point in BY_COMMAND:
            self.kill_command(node, death, rng)
        else:
            time.sleep(rng.uniform(0, 0.3))
            if death.point in ANEW:
                remove(node.folder / ANEW[death.point])
            if death.point in PURGING:
                self.archive(node)
            at = 1 if death.point in ONCE else rng.randint(1, 6)
            armed = f"{death.point}=kill@{at}"
            if death.point in AT_THE_END:
                self.start(node, armed, node.is_ready)
                node.process.terminate()
                ended = self.wait(lambda: node.process.poll() is not None)
            else:
                ended = self.start(node, armed, lambda: False)
            self.ended(node, death, ended)
            if ANEW.get(death.point) == "shards":
                # What was purged is in no folder that begins anew.
                remove(node.folder / "shards")
                self.replay(node, "anew", "beginning")

    def ended(self, node, death, ended):
        """Counts it, where it died of its point."""
        if ended:
            assert node.process.returncode == -9, f"{death.process} at {death.point} ended with {node.process.returncode}: {node.tail()}"
            self.count(death)
        else:
            node.kill()
            self.count(Death(death.process))
            self.missed.append(f"{death.process} {death.point}")

    def kill_command(self, node, death, rng):
        """A command that is killed at its point; the process of the folder is dead before, and replays afterwards."""
        command = BY_COMMAND[death.point]
        of_projector = command[0] == "replay"
        at = rng.randint(1, 3)

        def dies():
            # It has nothing to do, or no broker, now and then.
            done = node.run(*command, timeout_s=REPLAY_S, fail_points=f"{death.point}=kill@{at}")
            return done.returncode == -9

        if self.wait(dies):
            self.count(death)
        else:
            self.missed.append(f"{death.process} {death.point}")
        if of_projector:
            self.replay(node, f"from {command[2]}", command[2])

    def archive(self, node):
        """Archives everything up to now, so that it is purged soon."""
        assert self.wait(lambda: node.run(*ARCHIVE_NOW).returncode == 0), "nothing can be archived"

    def kill_broker_under(self, node, death, rng):
        """The broker is killed while the process, which is dead before, stands still at a point."""
        if death.point in PURGING:
            self.archive(node)
        at = 1 if death.point in ONCE else rng.randint(1, 6)
        met = self.start(node, f"{death.point}=stop@{at}", node.is_frozen)
        assert node.process.poll() is None, f"{death.under} ended with {node.process.returncode}: {node.tail()}"
        self.deployment.broker.kill()
        self.count(death if met else Death(BROKER))
        if not met:
            self.missed.append(f"{BROKER} under {death.under} {death.point}")
        before = rng.random() < 0.5
        if before:
            node.thaw()
        time.sleep(rng.uniform(0, 0.4))
        self.deployment.broker.start()
        if not before:
            node.thaw()

    @staticmethod
    def wait(holds):
        """Whether it comes true in time."""
        began = time.monotonic()
        while time.monotonic() - began < MEETS_WITHIN_S:
            if holds():
                return True
            time.sleep(0.02)
        return False

    def count(self, death):
        """One more death; a process that the points have been tried in is named with them."""
        where = f"{death.under} at {death.point}" if death.under else death.point or AT_RANDOM
        with self.lock:
            self.done[(death.process, where)] += 1

    def report(self):
        """Deaths by process and by step."""
        by_process, by_step = Counter(), Counter()
        for (process, where), n in self.done.items():
            by_process[process] += n
            by_step[where] += n
        return {
            "kills": sum(by_process.values()),
            "by_process": dict(by_process),
            "by_step": dict(sorted(by_step.items())),
            "pairs_of_process_and_step": len(self.done),
            "never_met": self.missed,
            "replays": dict(self.replays),
        }


def remove(path):
    """Removes a file or folder that is made again by itself."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


class Editor:
    """Writes the catalogue while everything dies: an ad that a PUT has answered takes the next click."""

    def __init__(self, session):
        self.session, self.written = session, 0

    async def run(self, stop):
        """One ad after another until told to stop."""
        while not stop.is_set():
            await self.one(f"late-{self.written}", stop)
            self.written += 1
            await asyncio.sleep(0.5)

    async def one(self, ad_id, stop):
        """Writes an ad and clicks on it; gives it up, unwritten, where it is told to stop and nobody answers."""
        ad = {"ad_id": ad_id, "campaign_id": "adv-utc-cpc", "landing_url": "https://shop.example/{ad_id}", "status": "active"}
        body, api = json.dumps(ad).encode(), self.session.deployment.asked
        while True:
            try:
                conn = Http("127.0.0.1", api.port)
                status, _, content = await conn.request("PUT", f"/api/v1/catalog/ads/{ad_id}", {"Content-Type": "application/json"}, body, timeout=15)
                conn.close()
            except RETRY:
                status = 503
            if status in (200, 201):
                break
            if status != 503:
                self.session.differences.append(f"PUT {ad_id}: {status} {content[:200]!r}")
                return
            if stop.is_set() and self.session.wires.deadline_s == 0:
                return
            await asyncio.sleep(0.1)
        self.session.tally.catalogue.ads[ad_id] = ad
        now_ms = int(time.time() * 1000)
        event = {"kind": "click", "id": f"on-{ad_id}", "ad_id": ad_id, "ts": now_ms - now_ms % 3 + 1, "region": "", "device_class": "desktop", "user_id": "editor"}
        await self.session.wires.get(Send("get", event, self.written % len(self.session.wires.targets), twin=True))


def archived(node):
    """Segments and events of the archive."""
    entries = json.loads(node.cli("archive", "list", "--json"))
    return {"segments": len(entries), "events": sum(sum(e["rows"][k] for k in ("impression", "click", "conversion")) for e in entries)}


async def run(args, folder):
    """One run; returns the report."""
    started = time.time()
    assert not uncovered(), f"fail points that are not met, or not there: {sorted(uncovered())}"
    archive = {"ADTALLY_ARCHIVE_URL": f"file://{folder.resolve()}/archive"}
    (folder / "archive").mkdir(parents=True)
    deployment = Deployment(args, folder, ROLES, {name: {**archive, **ENV.get(name, {})} for name in ROLES})
    session, stop = Session(deployment, args.seed, faults=True), asyncio.Event()
    try:
        deployment.start(document())
        await session.open()
        await session.send(1_000)
        killer, editor = Killer(deployment, args.kills, args.seed), Editor(session)
        editing = asyncio.create_task(editor.run(stop))
        killing = time.time()
        await session.during(killer.run)
        stop.set()
        await editing
        killing_s = time.time() - killing
        report = await session.finish()
        # The other fold was killed too, and must say the same.
        projector = deployment.nodes["projector"]
        projector.stop()
        projector.roles = "projector,api"
        projector.start()
        deployment.asked, first = projector, session.differences
        session.differences, session.bads = [], []
        again = await session.finish([()], [()])
        # Sequences that are in no stream any more, in files only.
        verdict = json.loads(projector.cli("verify", "--json", timeout_s=REPLAY_S))
        await session.close()
        return {
            **killer.report(),
            **report,
            "documents_written": editor.written,
            "verified": {"equal": verdict["equal"], "lost": verdict["lost_events"], "archived": archived(projector)},
            "cells_compared": report["cells_compared"] + again["cells_compared"],
            "differences": len(first) + again["differences"] + len(killer.missed) + (not verdict["equal"]),
            "seed": args.seed,
            "killing_s": round(killing_s, 1),
            "total_s": round(time.time() - started, 1),
        }
    except BaseException:
        # At once, since those who retry take their time to see that nobody answers any more.
        traceback.print_exc()
        raise
    finally:
        stop.set()
        session.wires.deadline_s = 0
        deployment.stop()


def main():
    """Parses, runs, prints the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--adtally", required=True)
    parser.add_argument("--nats-server", required=True)
    parser.add_argument("--kills", type=int, default=24)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="adtally-kills-") as scratch:
        report = asyncio.run(run(args, Path(args.folder or scratch)))
    print(json.dumps(report))
    return 1 if report["differences"] else 0


if __name__ == "__main__":
    sys.exit(main())
