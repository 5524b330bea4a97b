"""Where the three nats-servers stand: all on loopback, or each in a network namespace of its own.

In namespaces every server hangs on two bridges, one for its clients and one for the other servers, so that either
cable can be pulled without a word to anybody: no refusal, no reset, only silence. All of it lives in a namespace
that this process enters, and goes away with it.
"""

import os
import subprocess
import sys


class NoNamespaces(Exception):
    """Why there are none here."""


class Loopback:
    """One host for all."""

    def hosts(self, name):
        """Address for clients, address for the other servers, and what starts a program there."""
        return "127.0.0.1", "127.0.0.1", []


def ip(*args):
    """Runs `ip`; raises with what it said."""
    done = subprocess.run(["ip", *args], capture_output=True, text=True)
    if done.returncode != 0:
        raise NoNamespaces(f"ip {' '.join(args)}: {done.stderr.strip()}")


class Namespaces:
    """A namespace for each server: clients over 10.78.0.0/24, routes over 10.79.0.0/24."""

    MARK = "ADTALLY_TEST_IN_NAMESPACE"

    @classmethod
    def enter(cls):
        """Starts this very program again within a namespace, and builds the networks there."""
        if not os.environ.get(cls.MARK):
            if os.geteuid() != 0:
                raise NoNamespaces("network namespaces need root")
            try:
                tried = subprocess.run(["unshare", "--net", "--mount", "true"], capture_output=True, text=True)
            except OSError as e:
                raise NoNamespaces(f"unshare: {e}") from e
            if tried.returncode != 0:
                raise NoNamespaces(f"the kernel does not allow them: {tried.stderr.strip()}")
            os.environ[cls.MARK] = "1"
            # The mounts of `ip netns` stay private to it as well.
            os.execvp("unshare", ["unshare", "--net", "--mount", "--propagation", "private", sys.executable, *sys.argv])
        os.makedirs("/run/netns", exist_ok=True)
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", "/run/netns"], check=True)
        return cls()

    def __init__(self):
        ip("link", "set", "lo", "up")
        for bridge in ("clients", "routes"):
            ip("link", "add", bridge, "type", "bridge")
            ip("link", "set", bridge, "up")
        ip("addr", "add", "10.78.0.254/24", "dev", "clients")
        for number in (1, 2, 3):
            name = f"n{number}"
            ip("netns", "add", name)
            ip("-n", name, "link", "set", "lo", "up")
            for bridge, net in (("clients", 78), ("routes", 79)):
                outer, inner = f"{name}-{bridge}", bridge
                ip("link", "add", outer, "type", "veth", "peer", "name", inner, "netns", name)
                ip("link", "set", outer, "master", bridge, "up")
                ip("-n", name, "addr", "add", f"10.{net}.0.{number}/24", "dev", inner)
                ip("-n", name, "link", "set", inner, "up")

    def hosts(self, name):
        """Address for clients, address for the other servers, and what starts a program there."""
        return f"10.78.0.{name[1]}", f"10.79.0.{name[1]}", ["ip", "netns", "exec", name]

    def cut(self, name, routes, clients):
        """Pulls cables out of the bridges."""
        for bridge in ("routes",) * routes + ("clients",) * clients:
            ip("link", "set", f"{name}-{bridge}", "nomaster")

    def heal(self, name):
        """Puts them in again."""
        for bridge in ("routes", "clients"):
            ip("link", "set", f"{name}-{bridge}", "master", bridge)
