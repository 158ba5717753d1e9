"""Exactly-once: which sessions are open, and how their entries ended (rule 1; dissertation section 6.3).

The tables are the truth, `Sessions` is a copy of them in memory. A `Stage` collects what one database
transaction does to them: it is written in that transaction (`write`) and only after its commit taken over into
the copy (`Sessions.take`); after a rollback it is dropped.

Everything here follows from the log alone: sessions expire by log time, limits are constants of the code.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, NamedTuple

import msgspec

from raftlog.consensus.entries import ClientHeader
from raftlog.replication.failures import REFUSED_OTHERWISE, SESSION_EXPIRED
from raftlog.runtime.ports import APPLIED, REFUSED, Outcome

SESSION_TTL: Final = 24 * 3600 * 1_000_000  # microseconds of log time without an entry, after which a session expires
MAX_SESSIONS: Final = 16_384  # one more, and the one that was idle for longest is forgotten
MAX_SEQUENCE: Final = 2**63 - 1  # what the databases can store
MAX_RESULTS: Final = 65_536  # stored results of one session; its client acknowledges what it has been told

NONE_RESULT: Final = msgspec.msgpack.encode(None)


class Result(NamedTuple):
    """How an entry ended. `at` is the index of the entry that had the effect."""

    status: int
    at: int
    result: bytes


class Session:
    """One client session as committed."""

    __slots__ = ("acknowledged_below", "last_log_time", "opened_index", "results")

    def __init__(self, opened_index: int, last_log_time: int, acknowledged_below: int) -> None:
        self.opened_index = opened_index
        self.last_log_time = last_log_time
        self.acknowledged_below = acknowledged_below
        # Invariant: every key >= acknowledged_below.
        self.results: dict[int, Result] = {}


class StagedSession:
    """A session as this transaction leaves it: its committed base (None: opened here) and what is new."""

    __slots__ = ("acknowledged_below", "base", "last_log_time", "opened_index", "results")

    def __init__(self, base: Session | None, opened_index: int, last_log_time: int, acknowledged_below: int) -> None:
        self.base = base
        self.opened_index = opened_index
        self.last_log_time = last_log_time
        self.acknowledged_below = acknowledged_below
        self.results: dict[int, Result] = {}

    def result(self, sequence: int) -> Result | None:
        found = self.results.get(sequence)
        if found is None and self.base is not None:
            found = self.base.results.get(sequence)
        return found

    def is_full(self) -> bool:
        """Whether MAX_RESULTS are stored that are not acknowledged. Counted exactly only where it may be."""
        stored = [self.results] if self.base is None else [self.results, self.base.results]
        if sum(map(len, stored)) < MAX_RESULTS:
            return False
        return sum(sequence >= self.acknowledged_below for results in stored for sequence in results) >= MAX_RESULTS


class Sessions:
    """The committed sessions. Used by one thread."""

    def __init__(self) -> None:
        self.committed: dict[bytes, Session] = {}

    def load(self, cursor: Any) -> None:
        """Read everything from the tables."""
        committed: dict[bytes, Session] = {}
        cursor.execute("SELECT session, opened_index, last_log_time, acknowledged_below FROM raftlog_clientsession")
        for session_id, *fields in cursor.fetchall():
            committed[bytes(session_id)] = Session(*fields)
        cursor.execute("SELECT session, sequence, status, entry_index, result FROM raftlog_sessionresult")
        for session_id, sequence, status, index, result in cursor.fetchall():
            committed[bytes(session_id)].results[sequence] = Result(status, index, bytes(result))
        self.committed = committed

    def outcomes(self, keys: list[bytes]) -> list[Outcome]:
        """How the entries ended of those of these proposals that were applied (an image may have brought them)."""
        found = []
        for key in keys:
            session = self.committed.get(key[:16])
            if session is not None:
                sequence = int.from_bytes(key[16:], "big")
                is_open = sequence == 0 and Result(APPLIED, session.opened_index, NONE_RESULT)
                result = is_open or session.results.get(sequence)
                if result is not None:
                    found.append(Outcome(key, *result))
        return found

    def take(self, stage: Stage) -> None:
        """The transaction of `stage` is committed."""
        for session_id in stage.removed:
            self.committed.pop(session_id, None)
        for session_id, staged in stage.touched.items():
            session = staged.base
            if session is None:
                session = self.committed[session_id] = Session(staged.opened_index, 0, 0)
            session.last_log_time = staged.last_log_time
            session.results.update(staged.results)
            if staged.acknowledged_below > session.acknowledged_below:
                session.acknowledged_below = staged.acknowledged_below
                for sequence in [known for known in session.results if known < staged.acknowledged_below]:
                    del session.results[sequence]


class Stage:
    """What one transaction does to the sessions."""

    def __init__(self, sessions: Sessions) -> None:
        self._committed = sessions.committed
        self.touched: dict[bytes, StagedSession] = {}
        self.removed: set[bytes] = set()
        # What the last admit() changed: the session, its last_log_time and acknowledged_below before.
        self._admitted: tuple[StagedSession, int, int] | None = None

    def open(self, header: ClientHeader, index: int, log_time: int) -> Result:
        """An OPEN_SESSION entry. Opening an open session again changes nothing but its age.

        This is also when expired sessions are removed: at an entry, so that it happens alike on every node.
        """
        for session_id, known in list(self._live()):
            if log_time - known.last_log_time > SESSION_TTL:
                self._remove(session_id)
        staged = self._stage(header.session)
        if staged is None:
            self._make_room()
            staged = self.touched[header.session] = StagedSession(None, index, log_time, 0)
        staged.last_log_time = log_time
        return Result(APPLIED, staged.opened_index, NONE_RESULT)

    def admit(self, header: ClientHeader, log_time: int) -> Result | None:
        """Look an entry up before anything is run: the answer it gets without being run, or None (run it).

        Raises nothing; a refusal is an answer with status REFUSED, and is not recorded.
        """
        staged = self.touched.get(header.session) or self._stage(header.session)
        if staged is None or log_time - staged.last_log_time > SESSION_TTL:
            self._admitted = None
            return refused("its session is unknown, or has expired", SESSION_EXPIRED)
        self._admitted = (staged, staged.last_log_time, staged.acknowledged_below)
        staged.last_log_time = log_time
        sequence = header.sequence
        if sequence > MAX_SEQUENCE:
            return refused(f"sequence {sequence} is above {MAX_SEQUENCE}")
        acknowledged_below = min(header.acknowledged_below, sequence)
        if acknowledged_below > staged.acknowledged_below:
            staged.acknowledged_below = acknowledged_below
        if sequence < staged.acknowledged_below:
            return refused(
                f"sequence {sequence}, below {staged.acknowledged_below}, was answered before and is forgotten"
            )
        stored = staged.result(sequence)
        if stored is None and staged.is_full():
            return refused(f"{MAX_RESULTS} results of its session are not acknowledged")
        return stored

    def undo_admit(self) -> None:
        """The entry of the last admit() is left to a later transaction: it has not touched its session."""
        if self._admitted is not None:
            staged, last_log_time, acknowledged_below = self._admitted
            staged.last_log_time, staged.acknowledged_below = last_log_time, acknowledged_below

    def record(self, header: ClientHeader, result: Result) -> None:
        """How an entry that admit() let through ended."""
        self.touched[header.session].results[header.sequence] = result

    def write(self, cursor: Any) -> None:
        """Write the stage to the tables, in the caller's transaction: few statements for any number of entries."""
        if self.removed:
            ids = [(session_id,) for session_id in self.removed]
            cursor.executemany("DELETE FROM raftlog_sessionresult WHERE session = %s", ids)
            cursor.executemany("DELETE FROM raftlog_clientsession WHERE session = %s", ids)
        if not self.touched:
            return
        opened = [item for item in self.touched.items() if item[1].base is None]
        if opened:
            cursor.executemany(
                "INSERT INTO raftlog_clientsession (session, opened_index, last_log_time, acknowledged_below)"
                " VALUES (%s, %s, %s, %s)",
                [(key, s.opened_index, s.last_log_time, s.acknowledged_below) for key, s in opened],
            )
        kept = [item for item in self.touched.items() if item[1].base is not None]
        if kept:
            cursor.executemany(
                "UPDATE raftlog_clientsession SET last_log_time = %s, acknowledged_below = %s WHERE session = %s",
                [(s.last_log_time, s.acknowledged_below, key) for key, s in kept],
            )
        self._write_results(cursor)

    def _write_results(self, cursor: Any) -> None:
        forgotten = []
        rows = []
        for session_id, staged in self.touched.items():
            below = staged.acknowledged_below
            base = staged.base
            if base is not None and below > base.acknowledged_below and base.results:
                forgotten.append((session_id, below))
            rows += [(session_id, sequence, *end) for sequence, end in staged.results.items() if sequence >= below]
        if forgotten:
            cursor.executemany("DELETE FROM raftlog_sessionresult WHERE session = %s AND sequence < %s", forgotten)
        if rows:
            cursor.executemany(
                "INSERT INTO raftlog_sessionresult (session, sequence, status, entry_index, result)"
                " VALUES (%s, %s, %s, %s, %s)",
                rows,
            )

    def _stage(self, session_id: bytes) -> StagedSession | None:
        staged = self.touched.get(session_id)
        if staged is None and session_id not in self.removed:
            base = self._committed.get(session_id)
            if base is not None:
                staged = StagedSession(base, base.opened_index, base.last_log_time, base.acknowledged_below)
                self.touched[session_id] = staged
        return staged

    def _live(self) -> Iterator[tuple[bytes, Session | StagedSession]]:
        yield from self.touched.items()
        for session_id, session in self._committed.items():
            if session_id not in self.touched and session_id not in self.removed:
                yield session_id, session

    def _remove(self, session_id: bytes) -> None:
        staged = self.touched.pop(session_id, None)
        if staged is None or staged.base is not None:
            self.removed.add(session_id)

    def _make_room(self) -> None:
        live = list(self._live())
        if len(live) >= MAX_SESSIONS:
            idle_longest = min(live, key=lambda item: (item[1].last_log_time, item[1].opened_index))
            self._remove(idle_longest[0])


def refused(text: str, name: str = REFUSED_OTHERWISE) -> Result:
    return Result(REFUSED, 0, msgspec.msgpack.encode((name, text)))
