#!/usr/bin/env python3
"""Makes adtally's minute, hour and day cells of the same events with DuckDB or ClickHouse, on one thread.

    batch.py parquet    EVENTS.csv EVENTS.parquet    what `adtally bench` wrote, as Parquet
    batch.py duckdb     EVENTS.parquet FOLDER        one batch: minutes from events, hours from minutes, days from hours
    batch.py clickhouse EVENTS.parquet FOLDER        one insert through three views into SummingMergeTree tables

The last two print one JSON object: name, cpu_s and wall_s of making the cells (not of checking them), and for each
grain what `adtally bench` holds against its own cells: how many, their events, the squares of each cell's events,
their cost. Neither of them keeps a ledger, an index of ids or a position; they only sum.
"""

import json
import os
import resource
import sys
import time

COLUMNS = ("campaign_id VARCHAR, ad_id VARCHAR, creative VARCHAR, region VARCHAR, device VARCHAR, "
           "time_ms BIGINT, offset_s INTEGER, cost_micros BIGINT, is_click BOOLEAN")
# Buckets as adtally has them: UTC minutes, hours and days of the advertiser's clock.
GRAINS = ("minute", "hour", "day")
LENGTH_S = {"minute": 60, "hour": 3600, "day": 86400}
DIMENSIONS = "ad_id, creative, region, device"
SUMS = "sum(impressions) AS impressions, sum(clicks) AS clicks, sum(cost_micros) AS cost_micros"


class Measured:
    """Processor and wall time of what happens inside; the processor's of all threads of this process."""

    def __enter__(self):
        self.cpu, self.wall = self.used(), time.monotonic()
        return self

    def __exit__(self, *_):
        self.cpu, self.wall = self.used() - self.cpu, time.monotonic() - self.wall

    @staticmethod
    def used():
        usage = resource.getrusage(resource.RUSAGE_SELF)
        return usage.ru_utime + usage.ru_stime


def parquet(csv, path):
    import duckdb
    names = [column.split() for column in COLUMNS.split(", ")]
    types = "{%s}" % ", ".join("'%s': '%s'" % (name, kind) for name, kind in names)
    duckdb.execute("COPY (SELECT * FROM read_csv('%s', header = true, columns = %s)) TO '%s' "
                   "(FORMAT parquet, COMPRESSION zstd)" % (csv, types, path))


def duck(path, folder):
    import duckdb
    db = duckdb.connect(os.path.join(folder, "cells.duckdb"))
    db.execute("SET threads = 1")
    db.execute("SET preserve_insertion_order = false")
    with Measured() as measured:
        db.execute("""CREATE TABLE minute AS
            SELECT campaign_id, time_ms // 60000 AS bucket, offset_s, %s,
                   count(*) FILTER (NOT is_click) AS impressions, count(*) FILTER (is_click) AS clicks,
                   sum(cost_micros)::BIGINT AS cost_micros
            FROM read_parquet('%s') GROUP BY ALL""" % (DIMENSIONS, path))
        for grain, finer, local in (("hour", "minute", "bucket * 60 + offset_s"), ("day", "hour", "bucket * 3600")):
            db.execute("""CREATE TABLE %s AS
                SELECT campaign_id, (%s) // %d AS bucket, offset_s, %s, sum(impressions)::BIGINT AS impressions,
                       sum(clicks)::BIGINT AS clicks, sum(cost_micros)::BIGINT AS cost_micros
                FROM %s GROUP BY ALL""" % (grain, local, LENGTH_S[grain], DIMENSIONS, finer))
        db.execute("CHECKPOINT")
    check = "SELECT count(*), sum(n), sum(n * n), sum(cost_micros) FROM (SELECT impressions + clicks AS n, cost_micros FROM %s)"
    told = [db.execute(check % grain).fetchone() for grain in GRAINS]
    return "DuckDB " + duckdb.__version__, measured, told


def clickhouse(path, folder):
    from chdb import session
    import chdb
    db = session.Session(os.path.join(folder, "clickhouse"))
    db.query("CREATE DATABASE b")
    text = "LowCardinality(String)"
    db.query("""CREATE TABLE b.events (campaign_id {0}, ad_id {0}, creative {0}, region {0}, device {0}, time_ms Int64,
                offset_s Int32, cost_micros Int64, is_click Bool) ENGINE = Null""".format(text))
    for grain in GRAINS:
        offset = "" if grain == "minute" else " + offset_s"
        db.query("""CREATE TABLE b.{0} (campaign_id {1}, bucket Int64, ad_id {1}, creative {1}, region {1}, device {1},
                    impressions Int64, clicks Int64, cost_micros Int64)
                    ENGINE = SummingMergeTree ORDER BY (campaign_id, bucket, {2})""".format(grain, text, DIMENSIONS))
        db.query("""CREATE MATERIALIZED VIEW b.to_{0} TO b.{0} AS
                    SELECT campaign_id, intDiv(intDiv(time_ms, 1000){1}, {2}) AS bucket, {3},
                           countIf(NOT is_click) AS impressions, countIf(is_click) AS clicks, sum(cost_micros) AS cost_micros
                    FROM b.events GROUP BY campaign_id, bucket, {3}""".format(grain, offset, LENGTH_S[grain], DIMENSIONS))
    with Measured() as measured:
        db.query("INSERT INTO b.events SELECT * FROM file('%s', Parquet) "
                 "SETTINGS max_threads = 1, max_insert_threads = 1, parallel_view_processing = 0" % path)
    told = []
    for grain in GRAINS:
        check = """SELECT count(), sum(n), sum(n * n), sum(cost) FROM (SELECT sum(impressions + clicks) AS n,
                   sum(cost_micros) AS cost FROM b.{0} GROUP BY campaign_id, bucket, {1})""".format(grain, DIMENSIONS)
        told.append([int(n) for n in str(db.query(check, "TSV")).split()])
    version = str(db.query("SELECT version()", "TSV")).strip()
    return "ClickHouse %s (chdb %s)" % (version, chdb.__version__), measured, told


def main(words):
    if len(words) != 3 or words[0] not in ("parquet", "duckdb", "clickhouse"):
        print(__doc__, file=sys.stderr)
        return 2
    if words[0] == "parquet":
        parquet(words[1], words[2])
        return 0
    os.makedirs(words[2], exist_ok=True)
    name, measured, told = {"duckdb": duck, "clickhouse": clickhouse}[words[0]](os.path.abspath(words[1]), words[2])
    grains = [dict(zip(("cells", "events", "squares", "cost_micros"), map(int, row))) for row in told]
    print(json.dumps({"name": name, "cpu_s": measured.cpu, "wall_s": measured.wall, "grains": grains}))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
