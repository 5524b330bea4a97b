"""Starts, kills and stops what is tried: adtally with its own nats-server, and a second collector beside it."""

import json
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path


def free_port():
    """A port that was free a moment ago."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Node:
    """One adtally process with its data folder; the same port over restarts."""

    def __init__(self, binary, folder, roles=None, nats_url=None, env=None):
        self.binary, self.folder, self.roles, self.nats_url = binary, Path(folder), roles, nats_url
        self.port = free_port()
        self.process = None
        self.env = {**os.environ, "ADTALLY_COLLECTOR_TRUSTED_PROXIES": "127.0.0.1/32", **(env or {})}
        self.env.pop("NATS_URL", None)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.log = self.folder / "serve.log"

    def start(self, wait=True):
        """Starts it, and waits until it is ready."""
        args = [self.binary, "serve", "--data-dir", str(self.folder), "--listen", f"127.0.0.1:{self.port}"]
        if self.roles:
            args += ["--roles", self.roles]
        if self.nats_url:
            args += ["--server", self.nats_url]
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(args, stdout=log, stderr=log, env=self.env)
        if wait:
            self.wait_ready()

    def wait_ready(self, timeout_s=90):
        """Waits for /readyz."""
        began = time.monotonic()
        while time.monotonic() - began < timeout_s:
            if self.process.poll() is not None:
                raise RuntimeError(f"adtally ended with {self.process.returncode}: see {self.log}\n{self.tail()}")
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/readyz", timeout=2) as answer:
                    if answer.status == 200:
                        return
            except (urllib.error.URLError, OSError):
                pass
            time.sleep(0.05)
        raise RuntimeError(f"not ready within {timeout_s} s: see {self.log}\n{self.tail()}")

    def tail(self, lines=20):
        """The end of its log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def kill(self):
        """kill -9, as a power cut would."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

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

    def cli(self, *args, timeout_s=60, check=True):
        """Runs a subcommand against this node; returns what it printed."""
        done = subprocess.run(
            [self.binary, *args, "--data-dir", str(self.folder)],
            capture_output=True, text=True, timeout=timeout_s, env=self.env,
        )
        if check and done.returncode != 0:
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

    def __init__(self, binary, folder, config):
        self.binary, self.folder = binary, Path(folder)
        self.port = free_port()
        self.folder.mkdir(parents=True, exist_ok=True)
        self.config = self.folder / "nats.conf"
        self.config.write_text(
            config
            or f'listen: "127.0.0.1:{self.port}"\njetstream {{ store_dir: "{self.folder}/store", sync_interval: always }}\n'
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
