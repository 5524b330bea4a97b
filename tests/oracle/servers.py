"""The three nats-servers, by the script that operators use: started, killed, cut off, and asked who leads."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

NODES = ("n1", "n2", "n3")
SCRIPT = Path(__file__).resolve().parents[2] / "nats" / "cluster" / "local"


class Servers:
    """A cluster in a folder."""

    def __init__(self, binary, folder, network):
        self.folder, self.network = Path(folder), network
        self.env = {**os.environ, "ADTALLY_NATS_SERVER": binary}
        args = ["--free"]
        for name in NODES:
            host, route_host, prefix = network.hosts(name)
            args += ["--host", f"{name}={host},{route_host},{' '.join(prefix)}"]
        self.run("create", *args)
        self.cluster = json.loads((self.folder / "cluster.json").read_text())
        self.url = self.cluster["urls"]

    def run(self, action, *args):
        """The script; raises with what it said."""
        done = subprocess.run([sys.executable, str(SCRIPT), action, str(self.folder), *args], capture_output=True, text=True, env=self.env, timeout=120)
        if done.returncode != 0:
            raise RuntimeError(f"nats/cluster/local {action} {' '.join(args)}: {done.stderr or done.stdout}")

    def password(self, user):
        """Of a user of the accounts file."""
        return self.cluster["passwords"][f"ADTALLY_{user.upper()}_PASSWORD"]

    def start(self, name=None, wait=True):
        """Starts one, or what does not run."""
        self.run("start", *([name] if name else []), *([] if wait else ["--no-wait"]))

    def stop(self, name=None):
        """A clean end."""
        self.run("stop", *([name] if name else []))

    def kill(self, *names):
        """kill -9, of all of them in one moment."""
        self.run("stop", "--kill", *names)

    def lose_disk(self, name):
        """Removes the store of a server that does not run."""
        shutil.rmtree(self.folder / name / "store")

    def page(self, name, path):
        """A monitoring page; empty where nothing answers."""
        node = self.cluster["nodes"][name]
        try:
            with urllib.request.urlopen(f"http://{node['host']}:{node['http_port']}/{path}", timeout=2) as answer:
                return json.loads(answer.read())
        except (OSError, ValueError):
            return {}

    def leaders(self):
        """Stream -> the server that leads it, as the servers say that run."""
        found = {}
        for name in NODES:
            for account in self.page(name, "jsz?accounts=true&streams=true").get("account_details", []):
                for stream in account.get("stream_detail", []):
                    leader = (stream.get("cluster") or {}).get("leader")
                    # Only a leader's own word: the others may not have heard yet.
                    if leader == name:
                        found[stream["name"]] = name
        return found

    def led(self):
        """Server -> how many EVENTS streams it leads."""
        leaders = self.leaders()
        return {name: sum(s.startswith("EVENTS_") and leader == name for s, leader in leaders.items()) for name in NODES}

    def leads_most(self):
        """The server whose loss moves most shards."""
        led = self.led()
        return max(led, key=led.get)

    def leads_least(self):
        """The server whose loss moves fewest."""
        led = self.led()
        return min(led, key=led.get)

    def leads_with_clients(self, user):
        """Among those that lead a shard, the one to which most connections of that user go."""
        led = self.led()

        def clients(name):
            connections = self.page(name, "connz?auth=true").get("connections", [])
            return sum(c.get("authorized_user") == user for c in connections)

        return max((name for name in NODES if led[name]), key=clients)

    def wait_current(self, timeout_s=90):
        """Waits until every server says that all its streams are led and caught up, as before the next restart."""
        until = time.monotonic() + timeout_s
        while True:
            states = {name: self.page(name, "healthz") for name in NODES}
            # A page of an unhealthy server comes with an error status, so it is empty here.
            if all(state.get("status") == "ok" for state in states.values()):
                return
            if time.monotonic() > until:
                raise RuntimeError(f"not all streams current within {timeout_s} s: {states}")
            time.sleep(0.2)

    def log_sizes(self):
        """Where each log ends now."""
        return {name: self.log(name).stat().st_size if self.log(name).exists() else 0 for name in NODES}

    def log(self, name):
        """A server's log."""
        return self.folder / name / "nats.log"

    def elections(self, since):
        """Elections that the logs tell of since then: of JetStream itself, and of streams."""
        text = ""
        for name in NODES:
            with open(self.log(name), errors="replace") as log:
                log.seek(since[name])
                text += log.read()
        return {
            "meta": len(re.findall(r"Self is new JetStream cluster metadata leader", text)),
            "stream": len(re.findall(r"JetStream cluster new stream leader for", text)),
        }
