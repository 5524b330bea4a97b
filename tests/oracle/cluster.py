#!/usr/bin/env python3
"""Roles in processes of their own against three nats-servers: every fault of a cluster, and an equal count after each.

Usage: cluster.py --adtally BIN --nats-server BIN [--network auto|loopback|namespaces] [SCENARIO...]

Two collectors, two intakes and a projector with the API, each as its own user of nats/accounts.conf, on streams of
three copies, from nats/cluster/local. Traffic by every way in goes on through each scenario; what was answered is
counted here, and compared cell by cell afterwards. In namespaces (root, Linux) the servers have networks of their
own, so that cables can be pulled; where the kernel allows none, those scenarios are left out and named with the
reason. Ends with one line of JSON: the figures of each scenario. Exit status 0, or 1 where anything differs.
"""

import argparse
import asyncio
import contextlib
import json
import os
import secrets
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from urllib.parse import urlencode

from catalogue import Catalogue, document
from compare import GROUPINGS, Comparison, spans_of
from count import conversions_recorded, drive, quarantined
from deployment import Node
from networks import Loopback, Namespaces, NoNamespaces
from servers import NODES, Servers
from tally import Tally
from traffic import Send, Traffic, query_of
from wire import RETRY, Http, Wires

# Events of a batch, and the pause after it: some hundred events a second, which two cores with three fsyncs each bear.
BATCH = 150
PAUSE_S = 0.3
# How long traffic runs before a fault, and how long after everything is well again.
BEFORE_S = 2.0
AFTER_S = 2.0


class WebTraffic(Traffic):
    """Everything that goes to collectors, second deliveries too: it must be answered with no broker at all."""

    def twin(self, send):
        twin = super().twin(send)
        if twin.way == "nats":
            twin.way = "post"
        return twin


class ClusterWires(Wires):
    """Publishes as the publisher of the accounts file, on whichever server is there."""

    def __init__(self, targets, servers, tally):
        super().__init__(targets, servers.url, tally)
        self.servers = servers

    async def connect(self, user="publisher", **options):
        return await super().connect(user=user, password=self.servers.password(user), **options)


class Deployment:
    """The servers, the roles, the traffic and the count."""

    def __init__(self, args, folder, network):
        self.servers = Servers(args.nats_server, folder / "nats", network)
        self.adtally, self.folder = args.adtally, folder
        self.seed = args.seed
        self.nodes = {
            "collector-1": self.node("collector-1", "border", "collector"),
            "collector-2": self.node("collector-2", "border", "collector"),
            "intake-1": self.node("intake-1", "border", "intake"),
            "intake-2": self.node("intake-2", "border", "intake"),
            "projector": self.node("projector", "projector", "projector,api"),
        }
        self.tally = Tally(Catalogue())
        self.bads = []
        self.traffic_wrong = []

    def node(self, name, user, roles):
        env = {"ADTALLY_NATS_USER": user, "ADTALLY_NATS_PASSWORD": self.servers.password(user), "ADTALLY_OUTBOX_CAPACITY": "256MiB"}
        return Node(self.adtally, self.folder / name, roles=roles, nats_url=self.servers.url, env=env)

    def command(self, user, *args):
        """A subcommand as that user."""
        done = subprocess.run(
            [self.adtally, *args, "--server", self.servers.url, "--user", user, "--password", self.servers.password(user)],
            capture_output=True, text=True, timeout=90,
        )
        if done.returncode != 0:
            raise RuntimeError(f"adtally {' '.join(args)} ended with {done.returncode}: {done.stderr}")
        return done.stdout

    async def open(self):
        """Everything up, traffic not yet."""
        self.servers.start()
        self.command("operator", "streams", "apply", "--replicas", "3")
        catalogue = self.folder / "catalogue.json"
        catalogue.write_text(json.dumps(document()))
        self.command("catalogue", "catalog", "apply", str(catalogue))
        for node in self.nodes.values():
            node.start(wait=False)
        for node in self.nodes.values():
            await asyncio.to_thread(node.wait_ready)
        collectors = [("127.0.0.1", self.nodes[n].port) for n in ("collector-1", "collector-2")]
        self.wires = ClusterWires(collectors, self.servers, self.tally)
        await self.wires.open()
        self.web = WebTraffic(Catalogue(), self.seed, 0, ways=(("post", 65), ("get", 35)), minted=False)
        self.pub = Traffic(Catalogue(), self.seed + 1, 0, ways=(("nats", 1),), minted=False)
        self.comparison = Comparison(self.tally, "127.0.0.1", self.nodes["projector"].port)

    async def close(self):
        """Everything down."""
        with contextlib.suppress(Exception):
            await self.wires.close()
        for node in self.nodes.values():
            try:
                await asyncio.to_thread(node.stop)
            except RuntimeError as e:
                print(e, file=sys.stderr)
        self.servers.stop()

    async def flow(self, traffic, stop):
        """Sends batches until told to stop; the last one is answered before this ends."""
        while not stop.is_set():
            traffic.events = BATCH
            self.bads += await drive(self.wires, traffic, BATCH)
            await asyncio.sleep(PAUSE_S)

    async def probe(self, target, stop, answers):
        """A click every 50 ms: when it was asked, and what came at the first try. What was not answered comes again."""
        ad = "adv-utc-cpc-ad0"
        while not stop.is_set():
            now = int(time.time() * 1000)
            event = {"kind": "click", "id": f"probe-{target}-{secrets.token_hex(8)}", "ts": now, "ad_id": ad, "region": "DE", "geo": "DE", "device": "ios", "device_class": "ios"}
            began = time.monotonic()
            first = await self.first_try(event, target)
            answers.append((time.monotonic() - began, first))
            await self.wires.get(Send("get", event, target))
            await asyncio.sleep(0.05)

    async def first_try(self, event, target):
        """What a click is answered at once, 302 it should be; over a connection of its own, as a browser's first."""
        path, params, headers = query_of(event)
        # An address of its own each time: the limit on one address is not what is tried here.
        headers["X-Forwarded-For"] = ".".join(["10", *(str(b) for b in secrets.token_bytes(3))])
        connection = Http(*self.wires.targets[target])
        try:
            status, _, body = await connection.request("GET", f"{path}?{urlencode(params)}", headers)
            return status if status == 302 else f"{status} {body[:200].decode(errors='replace')}"
        except RETRY as e:
            return repr(e)
        finally:
            connection.close()

    def metrics(self, name):
        """The metrics page of a role as name{labels} -> value; empty where nothing answers."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.nodes[name].port}/metrics", timeout=2) as answer:
                text = answer.read().decode()
        except OSError:
            return {}
        pairs = (line.rsplit(" ", 1) for line in text.splitlines() if line and not line.startswith("#"))
        return {name: float(value) for name, value in pairs}

    def readyz(self, name):
        """Status and text of a role's /readyz."""
        try:
            return self.nodes[name].get("/readyz", timeout_s=3)
        except OSError as e:
            return 0, str(e)

    async def all_ready(self, timeout_s=120):
        """Waits until every role says that it is."""
        for node in self.nodes.values():
            await asyncio.to_thread(node.wait_ready, timeout_s)

    async def count(self):
        """Compares everything answered so far; the differences."""
        await self.comparison.visible()
        for campaign in sorted({key[0] for key in self.tally.cells}):
            spans = spans_of(sorted({key[5] for key in self.tally.cells if key[0] == campaign}))
            for span in spans:
                await self.comparison.one(campaign, "minute", GROUPINGS[-1], *span)
            whole = (spans[0][0], spans[-1][1])
            for grouping in ((), GROUPINGS[-1]):
                await self.comparison.one(campaign, "total", grouping, *whole)
            await self.comparison.fraud(campaign, *whole)
        operator = await self.wires.connect(user="operator")

        class AsOperator:
            nc = operator

        answered = [b for b in self.bads if b.answered]
        _, differences = await quarantined(AsOperator, answered, once=False)
        await operator.close()
        conversions = await asyncio.to_thread(conversions_recorded, self.nodes["projector"])
        if conversions != self.tally.distinct["conversion"]:
            differences.append(f"conversions recorded: expected {self.tally.distinct['conversion']}, got {conversions}")
        differences += self.wires.wrong + self.comparison.differences
        self.wires.wrong, self.comparison.differences = [], []
        return differences


class Watch:
    """What the metrics and the logs of a scenario say."""

    def __init__(self, deployment):
        self.deployment = deployment
        self.oldest, self.sums, self.last = 0.0, {}, {}
        self.last_stuck = None
        self.logs = deployment.servers.log_sizes()

    async def run(self, stop):
        """Looks until told to stop, and once more."""
        while True:
            ended = stop.is_set()
            for name in self.deployment.nodes:
                self.look(name, await asyncio.to_thread(self.deployment.metrics, name))
            if ended:
                return
            await asyncio.sleep(0.2)

    def look(self, name, page):
        for key, value in page.items():
            metric = key.partition("{")[0]
            if metric == "adtally_outbox_oldest_unacked_seconds":
                self.oldest = max(self.oldest, value)
                if value > 1.5:
                    self.last_stuck = time.monotonic()
            if metric in ("adtally_publish_retries_total", "adtally_duplicates_total", "adtally_reader_rebuilds_total", "adtally_nats_servers_left_total"):
                before = self.last.get((name, key))
                # A process that was started again counts from nothing.
                grown = 0 if before is None else value - before if value >= before else value
                self.sums[key] = self.sums.get(key, 0) + grown
                self.last[(name, key)] = value

    def figures(self, began):
        """By name."""

        def total(metric, label=""):
            return int(sum(v for k, v in self.sums.items() if k.startswith(metric) and label in k))

        elections = self.deployment.servers.elections(self.logs)
        return {
            "elections_meta": elections["meta"],
            "elections_streams": elections["stream"],
            "longest_unacked_s": round(self.oldest, 1),
            "publishing_well_after_s": round(self.last_stuck - began, 1) if self.last_stuck else 0.0,
            "frames_sent_again": total("adtally_publish_retries_total"),
            "dropped_by_ledger": total("adtally_duplicates_total", "ledger"),
            "dropped_by_id": total("adtally_duplicates_total", '"id"'),
            "readers_rebuilt": total("adtally_reader_rebuilds_total"),
            "servers_left": total("adtally_nats_servers_left_total"),
        }


async def scenario(deployment, name, fault, must_answer):
    """Traffic, a fault, traffic, a count. `must_answer`: no click may be turned away or wait for a second try."""
    stop, answers = asyncio.Event(), []
    watch = Watch(deployment)
    before = dict(deployment.tally.distinct)
    jobs = [
        asyncio.create_task(deployment.flow(deployment.web, stop)),
        asyncio.create_task(deployment.flow(deployment.pub, stop)),
        asyncio.create_task(deployment.probe(0, stop, answers)),
        asyncio.create_task(deployment.probe(1, stop, answers)),
    ]
    watch_stop = asyncio.Event()
    watching = asyncio.create_task(watch.run(watch_stop))
    await asyncio.sleep(BEFORE_S)
    began = time.monotonic()
    try:
        said = await fault(deployment) or {}
        await deployment.all_ready()
        well_s = time.monotonic() - began
        await asyncio.sleep(AFTER_S)
    except BaseException:
        # What nobody answers any more would be waited for until its deadline.
        for job in (*jobs, watching):
            job.cancel()
        raise
    stop.set()
    await asyncio.gather(*jobs)
    differences = await deployment.count()
    watch_stop.set()
    await watching
    tried_again = [first for _, first in answers if first != 302]
    if must_answer and tried_again:
        differences.append(f"{len(tried_again)} of {len(answers)} clicks were not answered at the first try: {tried_again[:3]}")
    late = sorted(took for took, _ in answers)
    return {
        "scenario": name,
        **said,
        "all_ready_after_s": round(well_s, 1),
        **watch.figures(began),
        "clicks_probed": len(answers),
        "clicks_tried_again": len(tried_again),
        "click_p99_ms": round(1000 * late[int(len(late) * 0.99)], 1),
        "click_longest_ms": round(1000 * late[-1], 1),
        "counted": {kind: n - before.get(kind, 0) for kind, n in deployment.tally.distinct.items()},
        "differences": len(differences),
    }, differences


async def away(deployment, lost, away_s, with_disk=False):
    """A server is killed, perhaps with its disk, and started again; the scenario ends when all copies are current."""
    servers = deployment.servers
    servers.kill(lost)
    await asyncio.sleep(away_s)
    if with_disk:
        servers.lose_disk(lost)
    await asyncio.to_thread(servers.start, lost)
    await asyncio.to_thread(servers.wait_current)
    return {"lost": lost}


async def leader_killed(deployment):
    """The server that leads the most shards is killed, and started again."""
    return await away(deployment, deployment.servers.leads_most(), 8)


async def follower_killed(deployment):
    """The server that leads the fewest shards."""
    return await away(deployment, deployment.servers.leads_least(), 5)


async def disk_lost(deployment):
    """A server comes back under its name with nothing: it fetches everything from the two others."""
    return await away(deployment, deployment.servers.leads_most(), 5, with_disk=True)


async def quorum_lost(deployment):
    """Two of three are killed: collectors go on, and say why they are not ready."""
    left = deployment.servers.leads_least()
    lost = [n for n in NODES if n != left]
    for name in lost:
        deployment.servers.kill(name)
    reasons = {}
    # Looks, not seconds: silence is said after 10 s, and a machine under load may stand still for longer than that.
    for _ in range(80):
        if len(reasons) == len(deployment.nodes):
            break
        for name in deployment.nodes:
            status, answer = await asyncio.to_thread(deployment.readyz, name)
            if status == 503 and "no leader" in answer["detail"]:
                reasons[name] = answer["detail"]
        await asyncio.sleep(0.5)
    missing = deployment.nodes.keys() - reasons.keys()
    if missing:
        raise AssertionError(f"ready without a quorum: {sorted(missing)}")
    for name in lost:
        await asyncio.to_thread(deployment.servers.start, name, False)
    await asyncio.to_thread(deployment.servers.wait_current)
    return {"lost": lost, "readyz": reasons["collector-1"]}


async def all_killed(deployment):
    """All three at once, as when the power goes."""
    deployment.servers.kill(*NODES)
    await asyncio.sleep(3)
    await asyncio.to_thread(deployment.servers.start)
    await asyncio.to_thread(deployment.servers.wait_current)
    return {"lost": list(NODES)}


async def rolling(deployment):
    """Every server and every process is stopped in turn and started again, as for a new version."""
    took = {}
    for name in NODES:
        began = time.monotonic()
        await asyncio.to_thread(deployment.servers.stop, name)
        await asyncio.to_thread(deployment.servers.start, name)
        await asyncio.to_thread(deployment.servers.wait_current)
        took[name] = round(time.monotonic() - began, 1)
    for name, node in deployment.nodes.items():
        began = time.monotonic()
        status = await asyncio.to_thread(node.stop)
        if status != 0:
            raise AssertionError(f"{name} ended with {status} after SIGTERM: {node.tail()}")
        await asyncio.to_thread(node.start)
        took[name] = round(time.monotonic() - began, 1)
    return {"restart_s": took}


async def routes_cut(deployment):
    """A leader is cut off from its peers and not from its clients: it still thinks that it leads."""
    cut = deployment.servers.leads_with_clients("border")
    deployment.servers.network.cut(cut, routes=True, clients=False)
    await asyncio.sleep(20)
    deployment.servers.network.heal(cut)
    await asyncio.to_thread(deployment.servers.wait_current)
    return {"cut": cut}


async def cut_off(deployment):
    """A leader is cut off from everybody: nothing is refused, everything is silent."""
    cut = deployment.servers.leads_with_clients("border")
    deployment.servers.network.cut(cut, routes=True, clients=True)
    await asyncio.sleep(25)
    deployment.servers.network.heal(cut)
    await asyncio.to_thread(deployment.servers.wait_current)
    return {"cut": cut}


# Name -> what happens, whether each click is answered at its first try, and whether cables must be cut.
SCENARIOS = {
    "leader-killed": (leader_killed, True, False),
    "follower-killed": (follower_killed, True, False),
    "disk-lost": (disk_lost, True, False),
    "quorum-lost": (quorum_lost, True, False),
    "all-killed": (all_killed, True, False),
    "rolling": (rolling, False, False),
    "routes-cut": (routes_cut, True, True),
    "cut-off": (cut_off, True, True),
}


async def run(args, folder, network):
    """The scenarios, one after the other on the same deployment."""
    deployment = Deployment(args, folder, network)
    figures, differences = [], []
    try:
        await deployment.open()
        for name in args.scenarios:
            fault, must_answer, _ = SCENARIOS[name]
            found, wrong = await scenario(deployment, name, fault, must_answer)
            print(json.dumps(found), flush=True)
            for line in wrong[:20]:
                print(f"{name}: {line}", file=sys.stderr, flush=True)
            figures.append(found)
            differences += wrong
        # The operator's own question: exit 1 when anything is missing.
        deployment.command("operator", "producers", "list")
        return figures, differences
    finally:
        await deployment.close()


def main():
    """Parses, runs, prints the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--adtally", required=True)
    parser.add_argument("--nats-server", required=True)
    parser.add_argument("--network", choices=("auto", "loopback", "namespaces"), default="auto")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder")
    parser.add_argument("scenarios", metavar="SCENARIO", nargs="*", help=", ".join(SCENARIOS))
    args = parser.parse_args()
    if unknown := [s for s in args.scenarios if s not in SCENARIOS]:
        parser.error(f"{', '.join(unknown)}: the scenarios are {', '.join(SCENARIOS)}")
    args.scenarios = args.scenarios or list(SCENARIOS)
    skipped, network = {}, Loopback()
    if args.network != "loopback" and any(SCENARIOS[s][2] for s in args.scenarios):
        try:
            network = Namespaces.enter()
        except NoNamespaces as e:
            skipped = {s: str(e) for s in args.scenarios if SCENARIOS[s][2]}
    elif args.network == "loopback":
        skipped = {s: "cables are pulled in namespaces only" for s in args.scenarios if SCENARIOS[s][2]}
    for name, why in skipped.items():
        print(f"SKIPPED {name}: {why}", file=sys.stderr)
    args.scenarios = [s for s in args.scenarios if s not in skipped]
    if not args.scenarios or (skipped and args.network == "namespaces"):
        return 3
    os.environ.pop("NATS_URL", None)
    with tempfile.TemporaryDirectory(prefix="adtally-cluster-") as scratch:
        figures, differences = asyncio.run(run(args, Path(args.folder or scratch), network))
    report = {"scenarios": figures, "skipped": skipped, "network": type(network).__name__.lower(), "differences": len(differences)}
    print(json.dumps(report))
    return 1 if differences else 0


if __name__ == "__main__":
    sys.exit(main())
