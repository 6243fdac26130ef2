"""cluster.sql, from schema.sql: the same tables on shards and replicas.

python3 -m monitoring.clickhouse.cluster          rewrites it
"""

from __future__ import annotations

import re
from pathlib import Path

HERE = Path(__file__).parent
LOCAL, ALL = "tcpnewconn_local", "tcpnewconn"
# The tables that readers ask, and the key by which a row finds its shard: all of a host is on one.
_ASKED = ("events", "notices", "hours", "addresses", "edges_now")
_SHARD = "cityHash64(JSONExtractString(event, 'host.name'))"
_HEAD = f"""\
-- The tables of schema.sql on shards and replicas, made from it by `python3 -m monitoring.clickhouse.cluster`. Never run,
-- for want of a cluster; the syntax of each statement is checked (docs/clickhouse.md).
--
-- Macros of each node (config.xml): cluster, shard, replica. The cluster has internal_replication. Run it with
-- clickhouse-client on one node of each shard, then the second part, from "CREATE DATABASE ... {ALL}" on, on every node.
--
-- All of a host is on one shard, so each shard counts its own edges. In a Replicated database one replica refreshes at a time.

"""


def cluster() -> str:
    text = (HERE / "schema.sql").read_text(encoding="utf-8")
    text = text[text.index("CREATE DATABASE") :]
    text = text.replace(f"{ALL}.", f"{LOCAL}.")
    engine = f"Replicated('/clickhouse/databases/{LOCAL}/{{shard}}', '{{shard}}', '{{replica}}')"
    text = text.replace(
        f"CREATE DATABASE IF NOT EXISTS {ALL};", f"CREATE DATABASE IF NOT EXISTS {LOCAL} ENGINE = {engine};"
    )
    text = re.sub(r"ENGINE = (Replacing|Aggregating)MergeTree", r"ENGINE = Replicated\1MergeTree", text)
    lines = ["", f"CREATE DATABASE IF NOT EXISTS {ALL};", ""]
    lines += [
        "-- A row goes to the shard of its host.",
        f"CREATE TABLE IF NOT EXISTS {ALL}.incoming (event String)",
        f"ENGINE = Distributed('{{cluster}}', {LOCAL}, incoming, {_SHARD});",
    ]
    for name in _ASKED:
        lines += ["", f"CREATE TABLE IF NOT EXISTS {ALL}.{name} AS {LOCAL}.{name}"]
        lines += [f"ENGINE = Distributed('{{cluster}}', {LOCAL}, {name});"]
    return _HEAD + text.rstrip() + "\n" + "\n".join(lines) + "\n"


def main() -> None:
    (HERE / "cluster.sql").write_text(cluster(), encoding="utf-8")


if __name__ == "__main__":
    main()
