"""What the parent process says by the environment, and the settings that follow from it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

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
    if IN_MEMORY:
        return {"ENGINE": engine}
    name = FOLDER / f"{alias}.sqlite3"
    return {"ENGINE": engine, "NAME": name, "OPTIONS": SQLITE_OPTIONS, "TEST": {"NAME": str(test_file(alias))}}


def test_file(alias: str) -> Path:
    """The test database; of the default alias it is the one of node a."""
    return node_folder("a") / "db.sqlite3" if alias == "default" else FOLDER / f"{alias}.sqlite3-test"


def node_folder(name: str) -> Path:
    folder = FOLDER / name
    folder.mkdir(exist_ok=True)
    return folder


# Time-outs for a machine that does other things too. Members' addresses are only used by node processes.
RAFTLOG = {
    "CLUSTER": "suite",
    "NODE_ID": "a",
    "DATA_DIR": FOLDER / "a" / "raft",
    "MEMBERS": {name: f"ws://127.0.0.1:{number}" for number, name in enumerate(NODES, 1)},
    "SECRET_KEYS": ["of a cluster that lives as long as one run of tests"],
    "PROPOSAL_TIMEOUT": 120,
    "ELECTION_TIMEOUT": 2.0,
}
