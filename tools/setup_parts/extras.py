"""What only the tests want: clients that were not written with adtally. Each is optional, and said when absent."""

import hashlib
import os
import shutil
import subprocess
import sys

from common import PROJECT, output, say

EXPORTS = ("export ADTALLY_NATS_CLI=", "export ADTALLY_TEST_PYTHON=")
REQUIREMENTS = os.path.join(PROJECT, "tools", "test-requirements.txt")


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
    """A virtual environment with a NATS client and MessagePack for Python, pinned by hashes."""
    with open(REQUIREMENTS, "rb") as file:
        # Another Python or another pin is another environment.
        key = hashlib.sha256(file.read() + sys.version.encode()).hexdigest()[:12]
    home = os.path.join(cache, "python-" + key)
    python = os.path.join(home, "bin", "python")
    ready = os.path.join(home, "ready")
    if not os.path.exists(ready):
        # A virtual environment does not survive a rename, so it is made in place and marked when it is whole.
        shutil.rmtree(home, ignore_errors=True)
        say("Python client: installing")
        commands = ([sys.executable, "-m", "venv", home],
                    [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--only-binary=:all:",
                     "--require-hashes", "--requirement", REQUIREMENTS])
        if any(subprocess.run(command).returncode for command in commands):
            say("Python client: could not be installed, so the tests that use it are skipped")
            return {}
        if output(python, "-c", "import msgpack, nats") is None:
            say("Python client: does not run here, so the tests that use it are skipped")
            return {}
        open(ready, "w").close()
    say("Python client: %s" % python)
    return {"ADTALLY_TEST_PYTHON": python}
