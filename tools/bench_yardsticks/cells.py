#!/usr/bin/env python3
"""Keeps the cells of the same events in DuckDB or ClickHouse and asks them what `adtally bench --only queries` asks.

    cells.py parquet    EVENTS.csv EVENTS.parquet
    cells.py duckdb     EVENTS.parquet FOLDER QUESTIONS.json    cells of minutes, hours and days in sorted tables
    cells.py clickhouse EVENTS.parquet FOLDER QUESTIONS.json    the same in SummingMergeTree tables, and for each grain
                                                                two cuboids: by region and device, by ad and creative

QUESTIONS.json has {"kept_from_s": {grain: seconds}, "questions": [{name, campaign, grain, start_s, end_s, group_by, device,
runs}]}; grain "total" is answered from days. The last two print one JSON object: name, load_s, cells, bytes, and for each
question name, rows, digest, p50_ms, p99_ms. The digest is SHA-256 over the sorted lines `time|group...|impressions|clicks|cost_micros`
(time in seconds of the epoch), so that an answer is compared with adtally's without either knowing the other's format.
"""

import hashlib
import json
import os
import sys
import time

COLUMNS = ("campaign_id VARCHAR, ad_id VARCHAR, creative VARCHAR, region VARCHAR, device VARCHAR, "
           "time_s BIGINT, is_click BOOLEAN, cost_micros BIGINT")
GRAINS = {"minute": 60, "hour": 3600, "day": 86400}
DIMENSIONS = ("ad_id", "creative", "region", "device")
CUBOIDS = {"region_device": ("region", "device"), "ad_creative": ("ad_id", "creative")}
# Before a question is timed.
WARM_UP = 3


def parquet(csv, path):
    import duckdb
    names = [column.split() for column in COLUMNS.split(", ")]
    types = "{%s}" % ", ".join("'%s': '%s'" % (name, kind) for name, kind in names)
    duckdb.execute("COPY (SELECT * FROM read_csv('%s', header = true, columns = %s)) TO '%s' "
                   "(FORMAT parquet, COMPRESSION zstd)" % (csv, types, path))


def sql(question, table):
    """The question on a table, with its rows as the digest wants them."""
    where = ["campaign_id = '%s'" % question["campaign"], "bucket >= %d" % question["start_s"], "bucket < %d" % question["end_s"]]
    if question["device"]:
        where.append("device = '%s'" % question["device"])
    group = list(question["group_by"])
    if question["grain"] != "total":
        group.insert(0, "bucket")
    text = "SELECT %s, sum(impressions) AS i, sum(clicks) AS c, sum(cost_micros) AS m FROM %s WHERE %s" % (
        ", ".join(group) or "0 AS bucket", table, " AND ".join(where))
    return text + (" GROUP BY " + ", ".join(group) if group else "")


def digest(question, rows):
    """Rows as tuples of texts or numbers, as `sql` selects them."""
    lines = []
    for row in rows:
        if question["grain"] == "total":
            row = (question["start_s"],) + tuple(row)
        lines.append("|".join(str(field) for field in row))
    lines.sort()
    return hashlib.sha256("".join(line + "\n" for line in lines).encode()).hexdigest(), len(lines)


def timed(question, ask):
    for _ in range(WARM_UP):
        ask()
    took = []
    for _ in range(question["runs"]):
        began = time.perf_counter()
        ask()
        took.append((time.perf_counter() - began) * 1e3)
    took.sort()
    return {"p50_ms": took[len(took) // 2], "p99_ms": took[min(len(took) - 1, int(len(took) * 0.99))]}


def duck(path, folder, asked):
    import duckdb
    file = os.path.join(folder, "cells.duckdb")
    db = duckdb.connect(file)
    began = time.monotonic()
    cells = {}
    for grain, seconds in GRAINS.items():
        order = ("campaign_id", "bucket") + DIMENSIONS
        db.execute("""CREATE TABLE {0} AS SELECT campaign_id, (time_s // {1}) * {1} AS bucket, {2},
            count(*) FILTER (NOT is_click) AS impressions, count(*) FILTER (is_click) AS clicks,
            sum(cost_micros)::BIGINT AS cost_micros FROM read_parquet('{3}') WHERE time_s >= {4}
            GROUP BY ALL ORDER BY {5}""".format(grain, seconds, ", ".join(DIMENSIONS), path, asked["kept_from_s"][grain], ", ".join(order)))
        cells[grain] = db.execute("SELECT count(*) FROM " + grain).fetchone()[0]
    db.execute("CHECKPOINT")
    loaded = time.monotonic() - began
    answers = []
    for question in asked["questions"]:
        text = sql(question, "day" if question["grain"] == "total" else question["grain"])
        told, rows = digest(question, db.execute(text).fetchall())
        # The whole answer is made by `execute`; turning it into Python's objects is not DuckDB's work.
        answers.append({"name": question["name"], "rows": rows, "digest": told, **timed(question, lambda: db.execute(text))})
    return {"name": "DuckDB " + duckdb.__version__, "load_s": loaded, "cells": cells, "bytes": os.path.getsize(file), "answers": answers}


def covering(question):
    """The smallest of the tables that has what is grouped and filtered by."""
    wanted = set(question["group_by"]) | ({"device"} if question["device"] else set())
    for name, dimensions in CUBOIDS.items():
        if wanted <= set(dimensions):
            return "_" + name
    return ""


def clickhouse(path, folder, asked):
    from chdb import session
    import chdb
    db = session.Session(os.path.join(folder, "clickhouse"))
    db.query("CREATE DATABASE b")
    text = "LowCardinality(String)"
    began = time.monotonic()
    cells = {}
    for grain, seconds in GRAINS.items():
        for name, dimensions in [("", DIMENSIONS)] + [("_" + name, of) for name, of in CUBOIDS.items()]:
            table = "b.%s%s" % (grain, name)
            db.query("""CREATE TABLE {0} (campaign_id {1}, bucket UInt32, {2}, impressions UInt64, clicks UInt64, cost_micros Int64)
                        ENGINE = SummingMergeTree ORDER BY (campaign_id, bucket, {3})""".format(
                table, text, ", ".join("%s %s" % (d, text) for d in dimensions), ", ".join(dimensions)))
            source = "file('%s', Parquet) WHERE time_s >= %d" % (path, asked["kept_from_s"][grain])
            bucket, sums = "intDiv(time_s, %d) * %d" % (seconds, seconds), "countIf(NOT is_click), countIf(is_click), sum(cost_micros)"
            if name:
                source, bucket, sums = "b." + grain, "bucket", "sum(impressions), sum(clicks), sum(cost_micros)"
            db.query("INSERT INTO {0} SELECT campaign_id, {1} AS k, {2}, {3} FROM {4} GROUP BY campaign_id, k, {2}".format(
                table, bucket, ", ".join(dimensions), sums, source))
            db.query("OPTIMIZE TABLE %s FINAL" % table)
        cells[grain] = int(str(db.query("SELECT count() FROM b." + grain, "TSV")))
    loaded = time.monotonic() - began
    size = int(str(db.query("SELECT sum(bytes_on_disk) FROM system.parts WHERE active AND database = 'b'", "TSV")))
    answers = []
    for question in asked["questions"]:
        table = "b." + ("day" if question["grain"] == "total" else question["grain"]) + covering(question)
        text = sql(question, table)
        rows = [line.split("\t") for line in str(db.query(text, "TSV")).splitlines()]
        told, count = digest(question, rows)
        answers.append({"name": question["name"], "rows": count, "digest": told, **timed(question, lambda: db.query(text, "RowBinary"))})
    version = str(db.query("SELECT version()", "TSV")).strip()
    return {"name": "ClickHouse %s (chdb %s)" % (version, chdb.__version__), "load_s": loaded, "cells": cells, "bytes": size, "answers": answers}


def main(words):
    if len(words) == 3 and words[0] == "parquet":
        parquet(words[1], words[2])
        return 0
    if len(words) != 4 or words[0] not in ("duckdb", "clickhouse"):
        print(__doc__, file=sys.stderr)
        return 2
    os.makedirs(words[2], exist_ok=True)
    with open(words[3]) as file:
        asked = json.load(file)
    print(json.dumps({"duckdb": duck, "clickhouse": clickhouse}[words[0]](os.path.abspath(words[1]), words[2], asked)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
