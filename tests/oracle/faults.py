#!/usr/bin/env python3
"""One night at a time: disks full, cloned, lost and flipped, a clock that is wrong, a stream that is another one.

Usage: faults.py --adtally BIN --nats-server BIN [--seed S] [--folder DIR] [SCENARIO ...]

Each scenario has traffic before, during and after, and ends with the same independent count. What an operator sees
and types is in docs/; each scenario asserts that it is what really happens. A line of JSON a scenario; exit status 0,
or 1 where anything differs. A scenario that cannot be had on this machine says why and counts as skipped.
"""

import argparse
import asyncio
import errno
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
import uuid
from contextlib import asynccontextmanager
from pathlib import Path

from catalogue import document
from compare import instant_of
from count import Session
from deployment import Deployment, Node
from traffic import Send

ROLES = {"edge": "collector,intake", "edge-2": "collector", "fold": "projector,api"}
EDGE_2 = 1  # edge-2's place among the collectors
MIB = 1 << 20


class Skipped(Exception):
    """This machine cannot have the fault."""


class Night:
    """A deployment, its traffic, and what was seen."""

    def __init__(self, args, folder, roles=None, env=None):
        self.deployment = Deployment(args, folder, roles or ROLES, env)
        self.session = Session(self.deployment, args.seed, faults=True)
        self.broker, self.nodes = self.deployment.broker, self.deployment.nodes
        self.seen, self.clicks = {}, 0

    def see(self, what, value, holds=True):
        """Notes what was seen; a difference, unless it is what the page says."""
        self.seen[what] = value
        self.session.expect(f"{what}: {value}", holds)

    async def click(self, target):
        """One click, tried once."""
        self.clicks += 1
        now_ms = int(time.time() * 1000)
        ads = [a for a, ad in self.session.tally.catalogue.ads.items() if ad["campaign_id"] == "adv-utc-cpc"]
        event = {
            "kind": "click", "id": str(uuid.uuid4()), "ad_id": ads[self.clicks % len(ads)], "ts": now_ms,
            "user_id": f"n{self.clicks}", "region": "", "device_class": "desktop",
        }
        return await self.session.wires.once(Send("get", event, target, twin=True))

    async def clicks_until(self, target, holds, at_most_s=60):
        """Clicks until a status is what is waited for; how often each status came. 0 is no answer."""
        statuses, began = {}, time.monotonic()
        while time.monotonic() - began < at_most_s:
            status, headers = await self.click(target)
            statuses[status] = statuses.get(status, 0) + 1
            if holds(status):
                return statuses, headers
            await asyncio.sleep(0.01)
        raise AssertionError(f"waited in vain; statuses of {self.clicks} clicks: {statuses}")

    async def listed(self, holds, at_most_s=60):
        """`producers list`, again and again until it is as waited for, or for long enough."""
        began = time.monotonic()
        while True:
            status, rows = await asyncio.to_thread(self.nodes["fold"].producers)
            if holds(status, rows) or time.monotonic() - began > at_most_s:
                return status, rows
            await asyncio.sleep(0.5)

    def end_of(self, node, timeout_s=30):
        """Waits for a process to end by itself; its exit status and last words."""
        status = node.process.wait(timeout_s)
        return status, node.tail(3)


@asynccontextmanager
async def night(args, folder, **more):
    """A night that begins well."""
    made = Night(args, folder, **more)
    try:
        made.deployment.start(document())
        await made.session.open()
        await made.session.send(2_000)
        yield made
        await made.session.close()
    finally:
        made.deployment.stop()


async def morning(made):
    """Traffic afterwards, and the count."""
    await made.session.send(2_000)
    report = await made.session.finish()
    # One that could not be done (3) says nothing yet: the process was busy.
    exit_status, _ = await made.listed(lambda status, _: status != 3)
    made.see("producers list ends with", exit_status, exit_status == 0)
    report["differences"] = len(made.session.differences)
    return {**made.seen, **report}


def mount(folder, size_bytes):
    """A small file system at a folder; what can be put there ends."""
    folder.mkdir(parents=True, exist_ok=True)
    if os.geteuid() != 0:
        raise Skipped("a file system can be mounted by root only")
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size_bytes}", "tmpfs", str(folder)], capture_output=True, text=True)
    if done.returncode != 0:
        raise Skipped(f"no file system can be mounted here: {done.stderr.strip()}")


def mount_image(image, size_bytes, folder):
    """A file system in a sparse file: it may promise more room than there is below it."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(image, "wb") as file:
        file.truncate(size_bytes)
    for command in (["mkfs.ext4", "-q", "-O", "^has_journal", str(image)], ["mount", "-o", "loop", str(image), str(folder)]):
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            raise Skipped(f"no loop file system can be mounted here: {done.stderr.strip()}")


def unmount(folder):
    """Ends a file system of ours, where there is one."""
    subprocess.run(["umount", "-l", str(folder)], check=False, stderr=subprocess.DEVNULL)


def fill(folder, leave_bytes):
    """Takes all but so many bytes of a file system; gives back the file to remove."""
    path = folder / "filler"
    stat = os.statvfs(folder)
    take = stat.f_bavail * stat.f_frsize - leave_bytes
    block = b"\0" * MIB
    with open(path, "wb", buffering=0) as file:
        try:
            while take > 0:
                take -= file.write(block[: min(take, MIB)])
        except OSError as error:
            # Somebody else, or the file system itself, has taken the rest meanwhile: as full as it was to be.
            if error.errno != errno.ENOSPC or leave_bytes > 0:
                raise
    return path


async def outbox_disk_full(args, folder):
    """The outbox's disk: first below its reserve, then full to the last byte."""
    disk = folder / "edge-2" / "outbox-collector"
    mount(disk, 700 * MIB)
    try:
        async with night(args, folder) as made:
            node = made.nodes["edge-2"]
            # Below the reserve of 256 MiB: refused before anything is written, and nothing else is touched.
            filler = fill(disk, 200 * MIB)
            statuses, headers = await made.clicks_until(EDGE_2, lambda s: s == 503)
            made.see("below the reserve", statuses, set(statuses) <= {302, 503})
            made.see("Retry-After", headers.get("retry-after"), bool(headers.get("retry-after")))
            await asyncio.to_thread(made.broker.kill)
            status, _ = await made.click(EDGE_2)
            made.see("still refused while the broker is away", status, status == 503)
            await asyncio.to_thread(made.broker.start)
            filler.unlink()
            statuses, _ = await made.clicks_until(EDGE_2, lambda s: s == 302)
            made.see("with room again", statuses)
            await made.session.send(1_000)
            # Full to the last byte at once: the next look at the disk refuses, and until then the writes have room in
            # the log that was laid out ahead.
            filler = fill(disk, 0)
            statuses, _ = await made.clicks_until(EDGE_2, lambda s: s == 503)
            made.see("full to the last byte", statuses, set(statuses) <= {302, 503})
            await asyncio.to_thread(node.kill)
            # Started on a full disk it cannot open its outbox, and says so; nothing is lost by trying.
            await asyncio.to_thread(node.start, False)
            again, words = await asyncio.to_thread(made.end_of, node)
            made.see("exit status on a full disk", again, again == 3)
            made.see("last words on a full disk", words.splitlines()[-1][:200])
            filler.unlink()
            await asyncio.to_thread(node.start)
            return await morning(made)
    finally:
        unmount(disk)


async def outbox_sync_fails(args, folder):
    """A disk that has promised more room than it has: a write is taken and its fsync fails."""
    disk, thin = folder / "edge-2" / "outbox-collector", folder / "thin"
    mount(thin, 160 * MIB)
    try:
        mount_image(thin / "image", 1_024 * MIB, disk)
        async with night(args, folder) as made:
            node = made.nodes["edge-2"]
            filler = fill(thin, 0)
            statuses, _ = await made.clicks_until(EDGE_2, lambda s: s == 0)
            made.see("until a sync failed", statuses, set(statuses) <= {302, 0})
            exit_status, words = await asyncio.to_thread(made.end_of, node)
            made.see("exit status", exit_status, exit_status == 3)
            said = "a write of the outbox failed" in words
            made.see("it said that a write failed", said, said)
            filler.unlink()
            await asyncio.to_thread(node.start)
            return await morning(made)
    finally:
        unmount(disk)
        unmount(thin)


async def broker_disk_full(args, folder):
    """The disk of the broker's store is full to the last byte while clicks come in."""
    disk = folder / "broker" / "store"
    mount(disk, 160 * MIB)
    small = {f"ADTALLY_STREAMS_{name}_MAX_BYTES": "64MiB" for name in ("EVENTS", "INTAKE", "QUARANTINE")}
    try:
        made = Night(args, folder, env={name: small for name in ROLES})
        try:
            made.deployment.start(document())
            await made.session.open()
            await made.session.send(2_000)
            filler = fill(disk, 0)
            began, statuses = time.monotonic(), {}
            while time.monotonic() - began < 20:
                for target in range(2):
                    status, _ = await made.click(target)
                    statuses[status] = statuses.get(status, 0) + 1
                await asyncio.sleep(0.01)
            made.see("while the broker's disk is full", statuses, set(statuses) == {302})
            ready = {name: node.is_ready() for name, node in made.nodes.items()}
            made.see("ready", ready, not ready["edge-2"] and ready["fold"])
            code, problem = made.nodes["edge-2"].get("/readyz")
            made.see("readyz says", problem.get("detail", "")[:300])
            filler.unlink()
            # A stream whose write failed takes nothing more until nats-server is started again.
            await asyncio.to_thread(made.broker.stop)
            await asyncio.to_thread(made.broker.start)
            return await morning(made)
        finally:
            await made.session.close()
            made.deployment.stop()
    finally:
        unmount(disk)


def another_clock(folder):
    """The library that gives a process another clock, built from `clock.c` beside this file."""
    library, source = folder / "clock.so", Path(__file__).with_name("clock.c")
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if sys.platform != "linux" or not compiler:
        raise Skipped("another clock for one process needs Linux and a C compiler")
    subprocess.run([compiler, "-O1", "-shared", "-fPIC", "-o", str(library), str(source), "-ldl"], check=True)
    return str(library)


async def clock(args, folder, shifts):
    """A collector's clock steps by hours while it runs. No other clock on this machine is touched."""
    said = folder / "clock"
    folder.mkdir(parents=True, exist_ok=True)
    said.write_text("0\n")
    env = {"edge-2": {"LD_PRELOAD": another_clock(folder), "ADTALLY_TEST_CLOCK": str(said)}}
    async with night(args, folder, env=env) as made:
        fold, wires = made.nodes["fold"], made.session.wires
        minted, log_times, through = set(), [], []
        for shift in shifts:
            said.write_text(f"{shift}\n")
            await asyncio.sleep(2.5)
            # Two hours old: late under every one of these clocks, so that what is late is known beforehand. The id
            # is left to the collector to mint.
            for n in range(150):
                now_ms = int(time.time() * 1000)
                event = {"kind": "click", "id": None, "ad_id": "adv-utc-cpc-ad0", "ts": now_ms - 2 * 3_600_000, "user_id": f"c{shift}-{n}", "region": "", "device_class": "desktop"}
                status, headers = await wires.once(Send("get", event, EDGE_2))
                made.session.expect(f"click at {shift:+d} s: {status}", status == 302)
                made.session.expect(f"the id {headers.get('x-click-id')} was minted twice", headers.get("x-click-id") not in minted)
                minted.add(headers.get("x-click-id"))
            await asyncio.to_thread(time.sleep, 1)
            log_times.append(max(v for _, v in fold.metrics("adtally_shard_log_time_seconds")) if fold.metrics("adtally_shard_log_time_seconds") else None)
            _, answer = fold.get("/api/v1/analytics?campaign_id=adv-utc-cpc&granularity=total")
            through.append(answer["complete_through"])
            # The others' clocks are right, so nothing is complete past now.
            made.session.expect(f"complete through {answer['complete_through']}, ahead of the clock", at(answer["complete_through"]) <= time.time() + 1)
        said.write_text("0\n")
        steps = [line.split("seconds=")[1] for line in made.nodes["edge-2"].tail(10_000).splitlines() if "clock has stepped" in line]
        wanted = [b - a for a, b in zip(shifts, shifts[1:])]
        near = len(steps) == len(wanted) and all(abs(int(s) - w) <= 3 for s, w in zip(steps, wanted))
        made.see("steps that the log names, in seconds", steps, near)
        made.see("ids minted", len(minted))
        made.see("log times", log_times, log_times == sorted(log_times))
        made.see("complete through", through)
        # A restart under the right clock begins with it.
        await asyncio.to_thread(made.nodes["edge-2"].stop)
        await asyncio.to_thread(made.nodes["edge-2"].start)
        return await morning(made)


def at(text):
    """Unix seconds of an RFC 3339 text."""
    return instant_of(text) / 1000


async def clock_forward(args, folder):
    """One hour ahead, and right again."""
    return await clock(args, folder, [0, 3_600, 0])


async def clock_back(args, folder):
    """One hour behind, and right again."""
    return await clock(args, folder, [0, -3_600, 0])


def forget_state(node):
    """Removes what a stopped projector has folded: it is folded again from the log."""
    shutil.rmtree(node.folder / "shards")


def blocks_of(store):
    """The blocks of every EVENTS stream, largest first."""
    return sorted(store.glob("jetstream/*/streams/EVENTS_*/msgs/*.blk"), key=lambda p: -p.stat().st_size)


def flip(store, block):
    """Flips one bit in the middle of a block; names the place."""
    with open(block, "r+b") as file:
        place = block.stat().st_size // 2
        file.seek(place)
        byte = file.read(1)[0]
        file.seek(place)
        file.write(bytes([byte ^ 0x10]))
    return f"{block.relative_to(store)} at {place}"


async def flipped(args, folder, running):
    """A bit of a stream's block is another one."""
    async with night(args, folder) as made:
        fold, store = made.nodes["fold"], folder / "broker" / "store"
        await made.session.send(2_000)
        await made.session.finish([()], [()])
        for node in made.nodes.values():
            await asyncio.to_thread(node.stop)
        if running:
            # Nobody speaks, so the server lets go of the block in memory (after 10 s) and reads it from disk next time.
            await asyncio.to_thread(time.sleep, 20)
        else:
            await asyncio.to_thread(made.broker.stop)
        made.see("flipped", flip(store, blocks_of(store)[0]))
        if not running:
            await asyncio.to_thread(made.broker.start)
        # The state that is there has the events already; only who folds from the beginning meets the damage.
        forget_state(fold)
        for node in made.nodes.values():
            await asyncio.to_thread(node.start)
        await made.session.send(500)
        await heal(made)
        return await morning(made)


async def heal(made):
    """What is missing is named counter by counter, and sent again by the outboxes that still hold it."""
    fold = made.nodes["fold"]
    status, rows = await made.listed(lambda status, rows: status == 1)
    lost = [gap for row in rows for gap in row["gaps"] if gap["fate"] == "lost"]
    missing, named = total(rows, "missing"), sum(gap["last"] - gap["first"] + 1 for gap in lost)
    made.see("producers list ends, while something is missing, with", status, status == 1)
    made.see("missing events", missing, missing > 0 and missing == named)
    made.see("of which an outbox holds", sum(gap["healable"] for gap in lost))
    bad = json.loads(fold.run("events", "bad", "--json").stdout or "[]")
    made.see("events bad names", len(bad))
    resent = await asyncio.to_thread(fold.run, "producers", "resend")
    made.see("resend ends with", resent.returncode, resent.returncode == 0)
    if resent.returncode != 0:
        made.seen["resend said"] = (resent.stdout + resent.stderr)[-500:]
    status, rows = await made.listed(lambda status, rows: status == 0)
    made.see("missing after that", total(rows, "missing"), total(rows, "missing") == 0)


def total(rows, name):
    """A figure of `producers list` over all epochs and kinds."""
    return sum(kind[name] for row in rows for kind in row["kinds"].values())


async def flipped_byte_stopped(args, folder):
    """The disk of a stopped nats-server flips a bit."""
    return await flipped(args, folder, running=False)


async def flipped_byte_running(args, folder):
    """The disk of a running nats-server flips a bit."""
    return await flipped(args, folder, running=True)


async def outbox_cloned(args, folder):
    """A second machine is started from a copy of a collector's disk that has unsent events in it."""
    async with night(args, folder) as made:
        node = made.nodes["edge-2"]
        await asyncio.to_thread(made.broker.kill)
        for _ in range(300):
            await made.click(EDGE_2)
        await asyncio.to_thread(node.kill)
        clone = Node(node.binary, folder / "edge-2-clone", roles=node.roles, nats_url=node.nats_url)
        shutil.copytree(node.folder, clone.folder, dirs_exist_ok=True)
        made.nodes["edge-2-clone"] = clone
        await asyncio.to_thread(made.broker.start)
        await asyncio.to_thread(node.start)
        await asyncio.to_thread(clone.start)
        made.session.wires.add_target("127.0.0.1", clone.port)
        made.session.traffic.collectors = 3
        await made.session.send(3_000)
        report = await morning(made)
        _, rows = made.nodes["fold"].producers()
        same = [row for row in rows if row["producer"].startswith("collector-")]
        by_producer = {}
        for row in same:
            by_producer.setdefault(row["producer"], []).append((row["epoch"], row["drained"]))
        open_epochs = {p: [e for e, drained in epochs if not drained] for p, epochs in by_producer.items()}
        twins = [epochs for epochs in open_epochs.values() if len(epochs) == 2]
        made.see("open epochs of the cloned producer", twins, len(twins) == 1 and len(set(twins[0])) == 2)
        # Within the broker's window of message ids its own dedup drops what both ship; past it the ledger does.
        dropped = report["not_counted_twice"]["ledger"]
        made.see("dropped by the ledger", dropped)
        return {**report, **made.seen, "differences": len(made.session.differences)}


async def outbox_lost(args, folder):
    """A collector's disk is lost with events in it that were answered, announced and not sent."""
    async with night(args, folder) as made:
        node, fold = made.nodes["edge-2"], made.nodes["fold"]
        await asyncio.to_thread(node.stop)
        # Frames are held back, announcements are not: the log hears of events that it never gets.
        await asyncio.to_thread(node.start, True, "shipper.cut=sleep:3600000")
        tally, lost, stale = made.session.tally, 0, 0
        kept = {k: list(v) for k, v in tally.cells.items()}, dict(tally.distinct), {k: list(v) for k, v in tally.reasons.items()}
        while lost < 250:
            status, _ = await made.click(EDGE_2)
            stale += status == 0
            # A connection that was kept from before the restart answers nothing, once each.
            if status == 0 and stale <= 100:
                continue
            made.session.expect(f"a click while nothing is sent: {status}", status == 302)
            lost += 1
        # What is lost is not to be counted: the tally forgets those clicks.
        tally.cells.clear(), tally.cells.update(kept[0])
        tally.distinct.clear(), tally.distinct.update(kept[1])
        tally.reasons.clear(), tally.reasons.update(kept[2])
        tally.sorted = None
        _, rows = await made.listed(lambda _, rows: total(rows, "outstanding") >= lost)
        made.see("announced before the disk was lost", total(rows, "outstanding"), total(rows, "outstanding") == lost)
        await asyncio.to_thread(node.kill)
        shutil.rmtree(node.folder / "outbox-collector")
        await asyncio.to_thread(node.start)
        await made.session.send(1_000)
        # The epoch that went with the disk is still open, and says how many of its events the log has not got.
        status, rows = await made.listed(lambda _, rows: total(rows, "outstanding") == lost)
        named = [row for row in rows if not row["drained"] and total([row], "outstanding")]
        made.see("named by producers list", total(named, "outstanding"), total(named, "outstanding") == lost and len(named) == 1)
        before = fold.get("/api/v1/analytics?campaign_id=adv-utc-cpc&granularity=total")[1]["complete_through"]
        await asyncio.to_thread(time.sleep, 3)
        stands = fold.get("/api/v1/analytics?campaign_id=adv-utc-cpc&granularity=total")[1]["complete_through"]
        made.see("complete_through stands still", [before, stands], before == stands)
        words = ["--producer", named[0]["producer"], "--epoch", named[0]["epoch"], "--reason", "its disk is lost", "--force"]
        retired = await asyncio.to_thread(fold.run, "producers", "retire", *words)
        made.see("retire ends with", retired.returncode, retired.returncode == 0)
        if retired.returncode != 0:
            made.seen["retire said"] = retired.stderr[-300:]
        now = time.time()
        for _ in range(40):
            passed = fold.get("/api/v1/analytics?campaign_id=adv-utc-cpc&granularity=total")[1]["complete_through"]
            if at(passed) > now:
                break
            await asyncio.sleep(0.5)
        made.see("complete_through goes on", passed, at(passed) > now)
        await made.session.send(1_000)
        report = await made.session.finish()
        status, rows = await asyncio.to_thread(fold.producers)
        missing = total(rows, "missing")
        made.see("missing after retire", missing, missing == lost)
        made.see("producers list ends with", status, status == 1)
        return {**report, **made.seen, "differences": len(made.session.differences)}


async def state_lost(args, folder):
    """The projector's disk is lost: it folds again from the log."""
    async with night(args, folder) as made:
        fold = made.nodes["fold"]

        def lose():
            fold.kill()
            forget_state(fold)
            fold.start()

        await made.session.during(lose)
        return await morning(made)


async def stream_remade(args, folder):
    """A stream is deleted and made anew under a running deployment."""
    async with night(args, folder) as made:
        fold, js = made.nodes["fold"], made.session.wires.nc.jetstream(timeout=60)
        await made.session.finish([()], [()])
        config = (await js.stream_info("EVENTS_3")).config
        await js.delete_stream("EVENTS_3")
        await js.add_stream(config)
        exit_status, words = await asyncio.to_thread(made.end_of, fold, 60)
        made.see("the projector ends with", exit_status, exit_status == 3)
        made.see("it names the stream", words[-400:], "EVENTS_3" in words)
        # Set the state of that shard aside, and have everything sent again that the outboxes still hold.
        shutil.rmtree(fold.folder / "shards" / "3")
        await asyncio.to_thread(fold.start)
        await heal(made)
        return await morning(made)


SCENARIOS = {f.__name__.replace("_", "-"): f for f in (
    outbox_disk_full, outbox_sync_fails, broker_disk_full, clock_forward, clock_back, flipped_byte_stopped, flipped_byte_running,
    outbox_cloned, outbox_lost, state_lost, stream_remade,
)}


def main():
    """Runs the scenarios that are named, or all; a line of JSON each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--adtally", required=True)
    parser.add_argument("--nats-server", required=True)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder")
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO", help=", ".join(SCENARIOS))
    args = parser.parse_args()
    if unknown := [s for s in args.scenarios if s not in SCENARIOS]:
        parser.error(f"no scenario {unknown[0]}: there are {', '.join(SCENARIOS)}")
    failed = False
    for name in args.scenarios or SCENARIOS:
        began = time.time()
        with tempfile.TemporaryDirectory(prefix="adtally-faults-", ignore_cleanup_errors=True) as scratch:
            try:
                report = asyncio.run(SCENARIOS[name](args, Path(args.folder or scratch) / name))
            except Skipped as why:
                report = {"skipped": str(why), "differences": 0}
            except Exception as error:  # the other scenarios are to be tried, too
                traceback.print_exc()
                report = {"failed": str(error)[-600:], "differences": 1}
        failed |= report["differences"] > 0
        print(json.dumps({"scenario": name, **report, "total_s": round(time.time() - began, 1)}), flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
