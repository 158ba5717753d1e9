"""Clusters of raftlog's node processes, as the cases of growth need them."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from raftlog.testing.processes import ProcessCluster

SETTINGS = "raftlog.testing.bench_site.settings"
TIMEOUT = 60.0  # seconds

# Figures with fsync on, and with compaction often enough to be seen in minutes.
COMPACTS_OFTEN = {
    "SEGMENT_BYTES": 1 << 20,
    "COMPACT_LOG_BYTES": 4 << 20,
    "KEEP_LOG_BYTES": 1 << 20,
    "KEEP_LOG_ENTRIES": 1000,
}


@contextmanager
def started(
    folder: Path,
    count: int = 3,
    machine: Literal["log", "database"] = "log",
    *,
    command: Sequence[str] = (sys.executable, "-m", "django"),
    environments: dict[str, dict[str, str]] | None = None,
    node_options: dict[str, dict[str, Any]] | None = None,
    **options: Any,
) -> Iterator[ProcessCluster]:
    """`count` nodes that have a leader, with their tables where they have a database; stopped at the end.

    Args:
        machine: "log" applies nothing, "database" writes rows.
        command: runs a management command.
        environments: further variables of one node each, by its id.
        node_options: keys of RAFTLOG of one node each, by its id.
        options: further keys of RAFTLOG of all nodes.
    """
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", SETTINGS)
    shared = {"CLUSTER": "bench", "STATE_MACHINE": machine, **options}
    with ProcessCluster(
        count, folder, settings_module=SETTINGS, command=command, options=shared, node_options=node_options
    ) as cluster:
        for node_id, variables in (environments or {}).items():
            cluster[node_id].environment |= variables
        cluster.start()
        leader = cluster.wait_for_leader(TIMEOUT)
        if machine == "database":
            cluster[leader].manage("migrate", "--run-syncdb", "--verbosity=0")
            cluster.wait_all_applied(TIMEOUT)
        yield cluster
