"""One simulated host: its SQLite database, its applications' processes, and what a power failure does to both.

The database is a real one, on a file system in memory: in WAL mode, where a reader's snapshot stays as it is while
the log is applied. Its last transactions are not synced: after a power failure its write-ahead log may end anywhere
behind the last checkpoint, and SQLite's own recovery finds the last whole transaction before that.
"""

from __future__ import annotations

import os
import random
import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from django.db import connections

from raftlog.backends.log import use_log
from raftlog.replication.key_blocks import KeyBlocks
from raftlog.testing.sql.engine.base import turns
from raftlog.testing.sql.turn import HostTurn

if TYPE_CHECKING:
    from raftlog.testing.sql.client import SqlClient
    from raftlog.testing.sql.log import HostLog
    from raftlog.testing.sql.workload import SqlWorkload

ENGINE: Final = "raftlog.testing.sql.engine"


class Host:
    """One machine, until its disk is lost."""

    def __init__(self, workload: SqlWorkload, alias: str, path: Path, log: HostLog) -> None:
        self.alias = alias
        self.clients: list[SqlClient] = []
        self.turn = turns[alias] = HostTurn(workload.simulation.after)
        self.log = log
        self._path = str(path)
        self._wal = f"{path}-wal"
        use_log(alias, log)
        declare(alias, self._path)
        connection = sqlite3.connect(path, isolation_level=None)
        connection.execute("PRAGMA page_size = 1024")
        connection.execute("PRAGMA journal_mode = WAL").fetchall()
        connection.close()
        # Up to here the write-ahead log is on the disk, bytes.
        self._synced = 0
        self._open()

    def _open(self) -> None:
        # Stays open, so that no other connection is the last, which would empty the write-ahead log on closing.
        self.reader = sqlite3.connect(self._path, isolation_level=None, timeout=0, check_same_thread=False)
        self.reader.execute("PRAGMA wal_autocheckpoint = 0").fetchall()
        self.reader.execute("SELECT count(*) FROM sqlite_master").fetchall()

    def checkpoint(self) -> None:
        """Write-ahead log to database; all of it, if nobody reads or writes just now."""
        self.reader.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        self._synced = os.path.getsize(self._wal)

    def kill_applications(self) -> None:
        """Every process that uses the database through Django, but for the node."""
        for client in self.clients:
            client.die()
        self.log.key_blocks = KeyBlocks()
        self.turn.reset()

    def lose_power(self, rng: random.Random) -> None:
        """The processes end, the database loses some of its last transactions. The node's connection is closed."""
        database, wal = Path(self._path).read_bytes(), Path(self._wal).read_bytes()
        self.kill_applications()
        self.reader.close()
        if rng.random() < 0.7:
            wal = wal[: rng.randrange(min(self._synced, len(wal)), len(wal) + 1)]
        Path(self._path).write_bytes(database)
        Path(self._wal).write_bytes(wal)
        Path(f"{self._path}-shm").unlink(missing_ok=True)
        self._open()

    def close(self) -> None:
        """For good: the disk is lost, or the simulation is over."""
        for client in self.clients:
            client.retire()
        self.reader.close()
        forget(self.alias)


def declare(alias: str, name: str) -> None:
    options: dict[str, Any] = {"init_command": "PRAGMA synchronous = OFF; PRAGMA wal_autocheckpoint = 0", "timeout": 0}
    connections.databases[alias] = {
        **connections.databases["default"],
        "ENGINE": ENGINE,
        "NAME": name,
        "OPTIONS": options,
    }


def forget(alias: str) -> None:
    connections[alias].close()
    del connections[alias]
    del connections.databases[alias]
    del turns[alias]
