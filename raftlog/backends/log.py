"""The port from a backend to the log: where a transaction's entry goes at commit."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Protocol

from raftlog.conf import load_settings
from raftlog.replication import written
from raftlog.replication.certify import Verdict, VerdictKind
from raftlog.replication.key_blocks import KeyBlocks
from raftlog.replication.write_set import WriteSet


class Applier(Protocol):
    """What InlineLog needs of a connection's TransactionApplier, of either vendor."""

    @property
    def applied_index(self) -> int: ...

    def apply_alone(self, index: int, body: bytes) -> Verdict: ...


class TransactionLog(Protocol):
    """Takes the entries of one database."""

    # The committing connection keeps the host's turn until the entry is applied.
    holds_turn: bool
    # Blocks of automatic keys of this process; None: SQLite gives keys, since nobody else writes meanwhile.
    key_blocks: KeyBlocks | None

    def commit(self, write_set: WriteSet, body: bytes, applier: Applier) -> Verdict:
        """Propose an entry and return once this host's database has applied it, or with the verdict against it.

        Raises TransactionOutcomeUnknown, NotProposed. `applier` is the calling connection's own; only a log
        that applies inline uses it.
        """
        ...

    def cluster_turn(self, timeout: float, *, is_fence: bool = False) -> AbstractContextManager[bool]:
        """Inside, this host's node has the cluster's write turn (rule 15), and has applied all that came before it.

        Waits at most `timeout` seconds; False: it was not granted, which is no reason not to go on, since every
        entry is certified as ever. A commit of the calling thread uses it up. `is_fence`: for schema changes; it is
        kept, whatever is committed, until the end. Taken without the host's turn, and only where not `holds_turn`.
        """
        ...

    def reserve(self, table: str, count: int) -> Verdict:
        """Reserve keys through the log; its verdict says which. Called without the turn, and only with key_blocks."""
        ...

    def make_database(self, path: str) -> None:
        """The database file is missing: have the node make it. Raises DatabaseMissing, which says what to do."""
        ...

    def connected(self, cluster_id: str) -> None:
        """A connection to the database of this cluster ("": not known yet) was made."""
        ...


class InlineLog:
    """Applies each entry at once, on the connection that made it, under its turn: for test databases and tests.

    The next index is the applied index plus one, so any number of processes may do this on one file.
    `observers` are called, in order, with each entry that got an index: (index, body, verdict).
    """

    holds_turn = True
    key_blocks: KeyBlocks | None = None

    def __init__(self) -> None:
        self.observers: list[Callable[[int, bytes, Verdict], None]] = []

    def commit(self, write_set: WriteSet, body: bytes, applier: Applier) -> Verdict:
        index = applier.applied_index + 1
        verdict = applier.apply_alone(index, body)
        for observer in self.observers:
            observer(index, body, verdict)
        if verdict.kind is VerdictKind.APPLIED:
            written.note(index)
        return verdict

    def cluster_turn(self, timeout: float, *, is_fence: bool = False) -> AbstractContextManager[bool]:
        return nullcontext(True)  # the host's turn is all there is

    def reserve(self, table: str, count: int) -> Verdict:
        raise NotImplementedError("who applies inline needs no blocks of keys")

    def make_database(self, path: str) -> None:
        raise NotImplementedError("who applies inline makes the file itself")

    def connected(self, cluster_id: str) -> None:
        """There is no cluster."""


_logs: dict[str, TransactionLog] = {}
_guard = threading.Lock()


def log_for(alias: str) -> TransactionLog:
    """The log of a database alias: what use_log() said, else the cluster's for the alias that is replicated."""
    with _guard:
        log = _logs.get(alias)
        if log is None:
            log = _logs[alias] = _cluster_log() if load_settings().database == alias else InlineLog()
        return log


def _cluster_log() -> TransactionLog:
    from raftlog.backends.node_log import NodeLog

    return NodeLog()


def use_log(alias: str, log: TransactionLog) -> None:
    """From now on transactions of `alias` go to `log`; connections that are open keep the one they have."""
    with _guard:
        _logs[alias] = log


def use_default_log(alias: str, log: TransactionLog) -> None:
    """As use_log(), unless use_log() has been called for this alias."""
    with _guard:
        _logs.setdefault(alias, log)


@contextmanager
def log_replaced(alias: str, log: TransactionLog) -> Iterator[None]:
    """For tests: inside, new connections of `alias` go to `log`; afterwards it is as if nothing had been said."""
    with _guard:
        before = _logs.get(alias)
        _logs[alias] = log
    try:
        yield
    finally:
        with _guard:
            if before is None:
                del _logs[alias]
            else:
                _logs[alias] = before
