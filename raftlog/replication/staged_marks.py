"""When things last changed, while one transaction of apply runs: read once, written once for all its entries.

What an entry records, the next one sees here. It is right because the transaction holds SQLite's write lock, so
nobody else changes these tables meanwhile, and because an entry records only once nothing can refuse it any more. A
transaction that is rolled back takes what was staged with it: the next begins with begin().
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence

from raftlog.replication.certify import LastChanged, Positions, TableMarks


class StagedMarks(LastChanged):
    """Between begin() and set_applied(), which writes what is staged. Thread-safety: as its connection."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        super().__init__(connection)
        self.begin()

    def begin(self) -> None:
        self._positions: Positions | None = None
        self._known: dict[str, TableMarks] = {}
        self._set: set[str] = set()  # names in _known that are to be written
        self._slots: dict[int, int] = {}

    def positions(self) -> Positions:
        if self._positions is None:
            self._positions = super().positions()
        return self._positions

    def set_last_data(self, index: int) -> None:
        self._positions = self.positions()._replace(last_data=index)

    def set_last_schema(self, index: int) -> None:
        self._positions = self.positions()._replace(last_schema=index)

    def table(self, name: str) -> TableMarks:
        found = self._known.get(name)
        if found is None:
            found = self._known[name] = super().table(name)
        return found

    def set_table(self, name: str, marks: TableMarks) -> None:
        self._known[name] = marks
        self._set.add(name)

    def tables(self) -> dict[str, TableMarks]:
        return super().tables() | {name: self._known[name] for name in self._set}

    def mark_slots(self, slots: Iterable[int], index: int) -> None:
        self._slots.update(dict.fromkeys(slots, index))

    def newest_slot(self, slots: Sequence[int]) -> int:
        return max(super().newest_slot(slots), *(self._slots.get(slot, 0) for slot in slots), 0)

    def set_applied(self, index: int) -> None:
        self._cursor.execute(
            "UPDATE raftlog_positions SET applied = ?, last_data = ?, last_schema = ?", (index, *self.positions()[1:])
        )
        self._cursor.executemany(
            "INSERT OR REPLACE INTO raftlog_tables VALUES (?, ?, ?, ?, ?, ?)",
            [(name, *self._known[name]) for name in sorted(self._set)],
        )
        self._cursor.executemany("INSERT OR REPLACE INTO raftlog_slots VALUES (?, ?)", sorted(self._slots.items()))
        self.begin()
