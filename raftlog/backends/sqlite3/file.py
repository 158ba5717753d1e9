"""The database's file: opened only where it exists, and noticed when it is deleted, renamed or replaced (rule 17).

SQLite goes on reading and writing a file that has lost its name, and would make an empty one in its place. Here only
the node makes the file; everybody else opens it with `mode=rw`, and looks before each transaction whether the path
still names the file that is open. One os.stat(): about a microsecond.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar
from urllib.parse import quote

from raftlog.backends.exceptions import DatabaseReplaced

Raw = TypeVar("Raw", bound=sqlite3.Connection)

ATTEMPTS: Final = 5  # of opening a file that is replaced meanwhile
FILLING: Final = "-filling"  # name of an empty file beside the database, after that


class DatabaseFile:
    """The file that one connection has open. Thread-safe. `path` "": a database in memory, always the same."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._identity = self._found()

    def is_same(self) -> bool:
        return not self.path or self._found() == self._identity is not None

    def check(self) -> None:
        """Raises DatabaseReplaced where the path names another file by now, or none."""
        if self.is_same():
            return
        what = "is gone" if self._found() is None else "was replaced by another one"
        raise DatabaseReplaced(
            f"the database file {self.path} {what} while it was open; nothing was written to the old one. The node "
            "builds it again from its log or from its peers: try again. Never move or copy the file under a running "
            "process"
        )

    def _found(self) -> tuple[int, int] | None:
        try:
            found = os.stat(self.path)
        except OSError:
            return None
        return found.st_dev, found.st_ino


def begin_filling(path: str) -> None:
    """Unless it is there, a database file is going to be made and filled from the log: no application may open it.

    What an older one left beside it goes: it would be taken for the new one's.
    """
    in_memory = path.startswith("file:") or os.path.basename(path) == ":memory:"
    if not in_memory and not os.path.exists(path):
        Path(path + FILLING).touch()
        for suffix in ("-wal", "-shm", "-journal"):
            Path(path + suffix).unlink(missing_ok=True)


def end_filling(path: str) -> None:
    Path(path + FILLING).unlink(missing_ok=True)


def is_complete(path: str) -> bool:
    """Whether there is a database file that is not being filled."""
    return os.path.exists(path) and not os.path.exists(path + FILLING)


def opened(path: str, connect: Callable[[str], Raw]) -> tuple[Raw, DatabaseFile]:
    """Connect to the file at `path`, which must exist, and say which one that was. Raises sqlite3.Error."""
    for _ in range(ATTEMPTS):
        file = DatabaseFile(path)
        connection = connect(f"file:{quote(path)}?mode=rw")
        if file.is_same():
            return connection, file
        connection.close()
    raise DatabaseReplaced(f"the database file {path} is replaced again and again; nothing was done")


def cluster_id_of(cursor: sqlite3.Cursor) -> str:
    """The cluster whose log the database stands in; "" where that is not known yet."""
    if not cursor.execute("SELECT 1 FROM main.sqlite_master WHERE name = 'raftlog_appliedindex'").fetchall():
        return ""
    found = cursor.execute("SELECT cluster_id FROM main.raftlog_appliedindex").fetchall()
    return str(found[0][0]) if found else ""
