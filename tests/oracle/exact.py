#!/usr/bin/env python3
"""Sends mixed traffic by every way in, with everything that goes wrong, and compares every cell of every grouping.

Usage: exact.py --adtally BIN --nats-server BIN [--events N] [--seed S] [--folder DIR]

Ends with one line of JSON and exit status 0, or 1 where anything differs. See kills.py and faults.py for the same
count while processes, disks and clocks fail.
"""

import argparse
import asyncio
import json
import sys
import tempfile
import time
from pathlib import Path

from catalogue import document
from compare import GROUPINGS
from count import BY_THE_MINUTE, Session
from deployment import Deployment

# One process with every role, and a second one with the ways in.
ROLES = {"two": "collector,intake", "one": None}


async def run(args, folder):
    """One run; returns the report."""
    started = time.time()
    deployment = Deployment(args, folder, ROLES)
    try:
        deployment.start(document())
        session = Session(deployment, args.seed, faults=False, batch=args.batch)
        await session.open()
        sending = time.time()
        await session.send(args.events)
        sent_s = time.time() - sending
        if args.restart:
            # A restart in the middle of everything must not change a number.
            two = deployment.nodes["two"]
            assert two.stop() == 0, "SIGTERM must end with 0"
            two.start()
        report = await session.finish(GROUPINGS if args.all_minutes else BY_THE_MINUTE, GROUPINGS)
        await session.close()
        return {**report, "seed": args.seed, "sent_in_s": round(sent_s, 1), "total_s": round(time.time() - started, 1)}
    finally:
        deployment.stop()


def main():
    """Parses, runs, prints the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--adtally", required=True)
    parser.add_argument("--nats-server", required=True)
    parser.add_argument("--events", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--batch", type=int, default=5_000)
    parser.add_argument("--restart", action="store_true")
    parser.add_argument("--all-minutes", action="store_true", help="every grouping by minute as well, not only three")
    parser.add_argument("--folder")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="adtally-exact-") as scratch:
        folder = Path(args.folder or scratch)
        report = asyncio.run(run(args, folder))
    print(json.dumps(report))
    return 1 if report["differences"] else 0


if __name__ == "__main__":
    sys.exit(main())
