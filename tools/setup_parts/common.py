"""What every part of the set-up uses."""

import os
import subprocess
import sys

PROJECT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


class Missing(Exception):
    """Something that the set-up cannot bring itself; the text says what to install."""


def say(text):
    """Progress goes to standard error, so that standard output stays for what a caller captures."""
    print("setup: " + text, file=sys.stderr, flush=True)


def cache_folder():
    """Returns the project's cache folder; it outlives a clone, because what it holds takes minutes to make."""
    named = os.environ.get("ADTALLY_CACHE")
    if named:
        return os.path.abspath(named)
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return os.path.join(base, "adtally")


def output(*command, **options):
    """Returns a command's standard output, or None when it is absent or fails."""
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True, **options)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.decode("utf-8", "replace").strip()


def set_by_hand(name, cache):
    """Tells whether a variable comes from the user and not from an env.sh that may by now be out of date."""
    value = os.environ.get(name)
    return bool(value) and not os.path.abspath(value).startswith(cache + os.sep)
