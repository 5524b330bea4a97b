"""Starts, kills, freezes and stops what is tried: adtally processes in whatever roles, and a nats-server of their own."""

import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path


# Commands that read the log of a folder whose process does not run.
NEEDS_LOG = {"replay", "archive", "verify"}
# Below the ports that the system hands to outgoing connections, which could take that of a process while it is dead.
PORTS = range(20_000, 32_000)
_given = set()


def free_port():
    """A port that was free a moment ago, given once."""
    while True:
        port = random.choice(PORTS)
        with socket.socket() as s:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                s.bind(("127.0.0.1", port))
            except OSError:
                continue
        if port not in _given:
            _given.add(port)
            return port


# What was counted is sealed while more still comes.
SETTINGS = {
    "ADTALLY_COLLECTOR_TRUSTED_PROXIES": "127.0.0.1/32",
    "ADTALLY_SEALING_MINUTES_AFTER": "1s",
    "ADTALLY_SEALING_HOURS_AFTER": "1s",
    "ADTALLY_SEALING_DAYS_AFTER": "1s",
}


class Node:
    """One adtally process with its data folder; the same port over restarts."""

    def __init__(self, binary, folder, roles=None, nats_url=None, env=None):
        self.binary, self.folder, self.roles, self.nats_url = binary, Path(folder), roles, nats_url
        self.port = free_port()
        self.process = None
        self.env = {**os.environ, **SETTINGS, **(env or {})}
        self.env.pop("NATS_URL", None)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.log = self.folder / "serve.log"

    def start(self, wait=True, fail_points=None):
        """Starts it, with fail points armed where some are given, and waits until it is ready."""
        args = [self.binary, "serve", "--data-dir", str(self.folder), "--listen", f"127.0.0.1:{self.port}"]
        if self.roles:
            args += ["--roles", self.roles]
        if self.nats_url:
            args += ["--server", self.nats_url]
        env = {**self.env, "ADTALLY_FAIL_POINTS": fail_points} if fail_points else self.env
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(args, stdout=log, stderr=log, env=env)
        if wait:
            self.wait_ready()

    def is_ready(self):
        """Whether /readyz says 200 now."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/readyz", timeout=2) as answer:
                return answer.status == 200
        except (urllib.error.URLError, OSError):
            return False

    def wait_ready(self, timeout_s=90):
        """Waits for /readyz."""
        began = time.monotonic()
        while time.monotonic() - began < timeout_s:
            if self.process.poll() is not None:
                raise RuntimeError(f"adtally ended with {self.process.returncode}: see {self.log}\n{self.tail()}")
            if self.is_ready():
                return
            time.sleep(0.05)
        raise RuntimeError(f"not ready within {timeout_s} s: see {self.log}\n{self.tail()}")

    def tail(self, lines=20):
        """The end of its log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def kill(self):
        """kill -9, as a power cut would; whether it ran until then."""
        running = self.process.poll() is None
        self.process.send_signal(signal.SIGKILL)
        return self.process.wait() == -signal.SIGKILL and running

    def is_frozen(self):
        """Whether it stands still by SIGSTOP."""
        with open(f"/proc/{self.process.pid}/stat") as stat:
            return stat.read().rsplit(")", 1)[1].split()[0] in "Tt"

    def thaw(self):
        """Lets it go on."""
        self.process.send_signal(signal.SIGCONT)

    def metrics(self, name):
        """Samples of a metric: labels as a dictionary, and the value."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=10) as answer:
            text = answer.read().decode()
        found = []
        for line in text.splitlines():
            if line.startswith((name + "{", name + " ")):
                labels = dict(re.findall(r'(\w+)="([^"]*)"', line))
                found.append((labels, float(line.rsplit(" ", 1)[1])))
        return found

    def producers(self):
        """Exit status and rows of `adtally producers list`."""
        done = self.run("producers", "list", "--json")
        return done.returncode, json.loads(done.stdout or "null")

    def stop(self, timeout_s=60):
        """SIGTERM; returns the exit status."""
        if self.process is None or self.process.poll() is not None:
            return self.process.returncode if self.process else None
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise RuntimeError(f"adtally did not stop within {timeout_s} s of SIGTERM: see {self.log}\n{self.tail()}") from None

    def run(self, *args, timeout_s=60, fail_points=None):
        """Runs a subcommand against this node, with fail points armed where some are given."""
        env = {**self.env, "ADTALLY_FAIL_POINTS": fail_points} if fail_points else self.env
        return subprocess.run(
            [self.binary, *args, *(["--server", self.nats_url] if self.nats_url and args[0] in NEEDS_LOG else []), "--data-dir", str(self.folder)],
            capture_output=True, text=True, timeout=timeout_s, env=env,
        )

    def cli(self, *args, timeout_s=60):
        """Runs a subcommand that must go well; returns what it printed."""
        done = self.run(*args, timeout_s=timeout_s)
        if done.returncode != 0:
            raise RuntimeError(f"adtally {' '.join(args)} ended with {done.returncode}: {done.stderr}")
        return done.stdout

    def get(self, path, timeout_s=60):
        """Status and JSON of a GET."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=timeout_s) as answer:
                return answer.status, json.loads(answer.read() or b"null")
        except urllib.error.HTTPError as e:
            return e.code, json.loads(e.read() or b"null")


class Broker:
    """A nats-server of the test's own, so that it can be killed apart from adtally."""

    def __init__(self, binary, folder, config=None):
        self.binary, self.folder = binary, Path(folder)
        self.port = free_port()
        self.folder.mkdir(parents=True, exist_ok=True)
        self.config = self.folder / "nats.conf"
        self.config.write_text(
            config
            # What the streams may hold together is not to depend on what is free on this machine's disk.
            or f'listen: "127.0.0.1:{self.port}"\njetstream {{ store_dir: "{self.folder}/store", sync_interval: always, max_file_store: 1TB }}\n'
        )
        self.url = f"nats://127.0.0.1:{self.port}"
        self.process = None

    def start(self):
        """Starts it and waits for its port."""
        with open(self.folder / "nats.log", "ab") as log:
            self.process = subprocess.Popen([self.binary, "-c", str(self.config)], stdout=log, stderr=log)
        for _ in range(400):
            try:
                socket.create_connection(("127.0.0.1", self.port), 0.5).close()
                return
            except OSError:
                time.sleep(0.05)
        raise RuntimeError("nats-server did not listen within 20 s")

    def kill(self):
        """kill -9."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def stop(self):
        """A clean end."""
        if self.process and self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            self.process.wait(30)


class Deployment:
    """A nats-server and adtally processes in their roles, by name."""

    def __init__(self, args, folder, roles, env=None):
        self.folder = Path(folder)
        self.broker = Broker(args.nats_server, self.folder / "broker")
        env = env or {}
        self.nodes = {
            name: Node(args.adtally, self.folder / name, roles=r, nats_url=self.broker.url, env=env.get(name))
            for name, r in roles.items()
        }
        with_role = lambda role: [n for n in self.nodes.values() if n.roles is None or role in n.roles.split(",")]
        self.collectors, self.asked = with_role("collector"), with_role("api")[0]

    def start(self, document):
        """Starts everything and applies the catalogue."""
        self.broker.start()
        # One after the other: all of them at once would make the streams at once, which is not what is tried here.
        for node in self.nodes.values():
            node.start()
        file = self.folder / "catalogue.json"
        file.write_text(json.dumps(document))
        self.asked.cli("catalog", "apply", str(file))

    def wait_ready(self):
        """Waits until every process is."""
        for node in self.nodes.values():
            node.wait_ready()

    def stop(self):
        """A clean end of everything, collectors first; what did not go well is said on stderr."""
        for name, node in self.nodes.items():
            try:
                if node.process and node.process.poll() is None and node.is_frozen():
                    node.thaw()
                status = node.stop()
                if status not in (0, None):
                    print(f"{name} ended with {status}", file=sys.stderr)
            except RuntimeError as e:
                print(e, file=sys.stderr)
        self.broker.stop()
