"""What the vendors' halves tell the common one."""

from __future__ import annotations

from typing import NamedTuple


class Position(NamedTuple):
    """The row of raftlog_appliedindex, as far as images go by it."""

    cluster_id: str
    index: int  # type: ignore[assignment]  # a tuple's index(), which nobody misses here
    term: int
    tables_version: int
    diverged: str


class Contents(NamedTuple):
    """Of a database part that was made. `rows` of each table; `server`: the version of the database system."""

    position: Position
    rows: dict[str, int]
    server: str
