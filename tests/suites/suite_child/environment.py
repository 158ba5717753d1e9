"""What the parent process says by the environment, and the settings that follow from it."""

from __future__ import annotations

import os
import zlib
from pathlib import Path
from typing import Any

from suite_child import postgresql

ENGINE = os.environ.get("SUITE_ENGINE", "stock")  # or "raftlog"
VENDOR = os.environ.get("SUITE_VENDOR", "sqlite3")
LOG = os.environ.get("SUITE_LOG", "nodes")  # or "inline", "processes"
FOLDER = Path(os.environ.get("SUITE_FOLDER", "."))
IN_MEMORY = os.environ.get("SUITE_MEMORY") == "1"
NODES = ("a", "b", "c")
# Databases that hold nothing to keep: the disk's speed is not what is compared.
SQLITE_OPTIONS = {"init_command": "PRAGMA synchronous = OFF"}


def engine() -> str:
    return f"django.db.backends.{VENDOR}" if ENGINE == "stock" else f"raftlog.backends.{VENDOR}"


def databases(*aliases: str) -> dict[str, dict[str, Any]]:
    """DATABASES of the test process."""
    return {alias: database(engine(), alias) for alias in aliases}


def database(engine: str, alias: str) -> dict[str, Any]:
    if VENDOR == "postgresql":
        return {"ENGINE": engine, "NAME": postgresql.DATABASE, "TEST": {"NAME": test_name(alias)}, **postgresql.SERVER}
    if IN_MEMORY:
        return {"ENGINE": engine}
    name = FOLDER / f"{alias}.sqlite3"
    return {"ENGINE": engine, "NAME": name, "OPTIONS": SQLITE_OPTIONS, "TEST": {"NAME": test_name(alias)}}


def test_name(alias: str) -> str:
    """NAME of the test database; of the default alias it is the one of node a."""
    return node_database("a") if alias == "default" else database_name(alias)


def node_database(node: str) -> str:
    """NAME of a node's database."""
    return database_name(f"node-{node}")


def database_name(words: str) -> str:
    if VENDOR == "postgresql":
        return f"suite-{zlib.crc32(str(FOLDER).encode()):08x}-{words}"
    return str(FOLDER / f"{words}.sqlite3")


def node_folder(node: str) -> Path:
    """Where a node keeps its log."""
    folder = FOLDER / node
    folder.mkdir(exist_ok=True)
    return folder / "raft"


# Time-outs for a machine that does other things too. Members' addresses are only used by node processes.
RAFTLOG = {
    "CLUSTER": "suite",
    "NODE_ID": "a",
    "DATA_DIR": str(FOLDER / "a" / "raft"),
    "MEMBERS": {name: f"ws://127.0.0.1:{number}" for number, name in enumerate(NODES, 1)},
    "SECRET_KEYS": ["of a cluster that lives as long as one run of tests"],
    "PROPOSAL_TIMEOUT": 120,
    "ELECTION_TIMEOUT": 2.0,
}
