"""What only tests and benchmarks want, and was not written with adtally. Each is optional, and said when absent."""

import hashlib
import os
import shutil
import subprocess
import sys

from common import PROJECT, output, say

EXPORTS = {
    "--tests": ("export ADTALLY_NATS_CLI=", "export ADTALLY_TEST_PYTHON="),
    "--bench": ("export ADTALLY_BENCH_PYTHON=",),
}


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
    """A NATS client and MessagePack for Python, pinned by hashes."""
    python = environment(cache, "Python client", "test-requirements.txt", "import msgpack, nats",
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
