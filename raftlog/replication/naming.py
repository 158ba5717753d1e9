"""Naming a divergence: since which entry, by which command, in which tables and rows (rule 16).

Best effort within a time limit: the node has stopped serving before, and what cannot be found out is left out.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Final

import msgspec

from raftlog.consensus.entries import COMMAND, HEADER_BYTES, SCHEMA, TRANSACTION
from raftlog.exceptions import RaftlogError
from raftlog.replication import codec
from raftlog.replication.divergence import (
    MAX_ROWS,
    Divergence,
    RowDifference,
    TableReader,
    row_difference,
    row_differences,
    scan_table,
)
from raftlog.replication.running_hash import History, first_difference
from raftlog.replication.watch import Held

BY_HAND: Final = "not by an entry"
_KINDS: Final = {COMMAND: "command", TRANSACTION: "transaction", SCHEMA: "schema"}


class _TooLate(Exception):
    """The time for naming is over."""


class Namer:
    """Finds out what differs. Used once, by one thread.

    Args:
        reader: None where rows cannot be read.
        ask_peer: (peer, request, arguments) -> answer; raises RaftlogError, OSError.
        read_entry: payload of an entry of this node's log, None where it is gone.
    """

    def __init__(
        self,
        node_id: str,
        history: History,
        reader: TableReader | None,
        ask_peer: Callable[[str, str, dict[str, Any]], Any],
        peers: list[str],
        read_entry: Callable[[int], bytes | None],
        is_late: Callable[[], bool],
    ) -> None:
        self._node_id = node_id
        self._history = history
        self._reader = reader
        self._ask_peer = ask_peer
        self._peers = peers
        self._read_entry = read_entry
        self._is_late = is_late

    def since(self, differing: int, peer: str) -> Divergence:
        """This node's running hash is not the majority's, `peer` among it, at index `differing`."""
        index, is_exact = first_difference(self._history, lambda at: self._value_of(peer, at), differing)
        tables = self._tables_at(index, peer) if is_exact else self._all_tables()
        cause, command, version = self._entry(index) if is_exact else ("unknown", "", 0)
        if self._is_changed_by_hand(tables):
            return self._divergence(index, False, BY_HAND, tables, peer)
        return self._divergence(index, is_exact, cause, tables, peer, command=command, version=version)

    def refused(self, held: Held, peer: str) -> Divergence:
        """This node alone refused an entry, because of a row that is not as the log made it."""
        before = held.index - 1
        theirs, mine = self._value_of(peer, before), self._history.value_at(before)
        if theirs is not None and mine is not None and theirs != mine:
            return self.since(before, peer)
        tables = held.cause.table.split(", ")
        found: list[RowDifference] = []
        if held.cause.key is not None and self._reader is not None:
            reader, key = self._reader, list(held.cause.key)
            difference = self._asking(peer, lambda ask: row_difference(reader, ask, tables[0], key))
            found = [difference] if difference is not None else []
        return self._divergence(held.index, False, BY_HAND, tables, peer, rows=found)

    def changed_by_hand(self, table: str, index: int) -> Divergence:
        """The rows of a table are not those that the log made; noticed at `index`."""
        for peer in self._peers:
            rows = self._rows([table], peer)
            if rows or self._is_late():
                return self._divergence(index, False, BY_HAND, [table], peer if rows else "", rows=rows)
        return self._divergence(index, False, BY_HAND, [table], "", rows=[])

    # Pieces

    def _divergence(
        self,
        index: int,
        is_exact: bool,
        cause: str,
        tables: list[str],
        peer: str,
        *,
        command: str = "",
        version: int = 0,
        rows: list[RowDifference] | None = None,
    ) -> Divergence:
        rows = rows or (self._rows(tables, peer) if peer else [])
        if not is_exact:  # only those in which a difference was found
            tables = sorted({row.table for row in rows}) or (tables if cause == BY_HAND else [])
        return Divergence(self._node_id, index, is_exact, cause, command, version, tables, rows, peer)

    def _value_of(self, peer: str, index: int) -> bytes | None:
        answer = self._asking(peer, lambda ask: ask("fingerprint", {"index": index}))
        return answer["at"] if answer is not None else None

    def _tables_at(self, index: int, peer: str) -> list[str]:
        """Tables to which the entry did different things on the two nodes."""
        answer = self._asking(peer, lambda ask: ask("fingerprint", {"index": index}))
        theirs = answer["differences"] if answer is not None else {}
        mine = self._history.differences_at(index)
        return sorted(table for table in mine.keys() | theirs.keys() if mine.get(table) != theirs.get(table))

    def _all_tables(self) -> list[str]:
        if self._reader is None:
            return []
        with self._reader.snapshot() as snapshot:
            return snapshot.tables()

    def _entry(self, index: int) -> tuple[str, str, int]:
        """(kind, command, version) of an entry."""
        payload = self._read_entry(index)
        if payload is None:
            return "unknown", "", 0
        kind = _KINDS.get(payload[0], "unknown")
        if kind == "command":
            try:
                name, version, _ = codec.decode_command(memoryview(payload)[HEADER_BYTES:])
            except msgspec.DecodeError:
                return kind, "", 0
            return kind, name, version
        return kind, "", 0

    def _is_changed_by_hand(self, tables: list[str]) -> bool:
        """Whether one of the tables is not what its own sum says: then the entry only brought it to light."""
        if self._reader is None:
            return False
        try:
            for table in tables:
                with self._reader.snapshot() as snapshot:
                    kept = snapshot.kept().get(table)
                    if kept is not None and scan_table(snapshot, table, self._check_time) != kept:
                        return True
        except _TooLate:
            return False
        return False

    def _check_time(self) -> None:
        if self._is_late():
            raise _TooLate

    def _rows(self, tables: list[str], peer: str) -> list[RowDifference]:
        found: list[RowDifference] = []
        reader = self._reader
        if reader is None:
            return found
        for table in tables:
            compare = partial(row_differences, reader, table=table, is_late=self._is_late)
            found += self._asking(peer, compare) or []
            if len(found) >= MAX_ROWS or self._is_late():
                break
        return found[:MAX_ROWS]

    def _asking(self, peer: str, question: Callable[[Callable[[str, dict[str, Any]], Any]], Any]) -> Any:
        """What `question` gets of a peer; None where it does not answer."""
        try:
            return question(lambda name, arguments: self._ask_peer(peer, name, arguments))
        except (RaftlogError, OSError):
            return None
