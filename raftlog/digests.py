"""The node's side of `raft digest`: at one entry, the same on every node, hash the rows of all replicated tables.

Who asks sends every node the key of a marker, an entry that is proposed next. Each node waits with a pin, opens a
snapshot when it has applied just that entry, lets apply go on, and hashes. A node that stands still, since it has
diverged or cannot apply an entry, takes its snapshot where it stands. The snapshot is kept for questions about rows
until it is not needed any more.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from raftlog.exceptions import RaftlogError
from raftlog.log_fields import log_fields
from raftlog.replication.digest import DONE, ENDED, FAILED, HASHING, QUESTIONS, WAITING, PinnedReader, hash_table
from raftlog.replication.divergence import TableReader
from raftlog.replication.watch import Watch
from raftlog.runtime import clock
from raftlog.runtime.pins import Pin, Pins

logger = logging.getLogger("raftlog.digest")

KEPT: Final = 60.0  # seconds that a snapshot is kept while nobody asks
LONGEST_WAIT: Final = 300.0  # seconds for the marker
POLL: Final = 0.2
REST: Final = 0.5  # times as long as a chunk took
MAX_REST: Final = 0.1  # seconds


class _Ended(Exception):
    """Nobody wants it any more."""


class Digest:
    """One digest on this node: a thread of its own, from start() to end()."""

    def __init__(self, reader: PinnedReader, pin: Pin, tables: list[str], stands_still: Callable[[], str]) -> None:
        self._reader = reader
        self._pin = pin
        self._tables = tables
        self._stands_still = stands_still
        self._ended = threading.Event()
        self._asked_at = self._rested_at = clock.monotonic()
        self.state = WAITING
        self.error = ""
        self.index = 0
        self.standing = ""  # why this node stands still, and so may stand at another entry
        self.rows = 0
        self.found: dict[str, dict[str, Any]] = {}
        self._thread = threading.Thread(target=self._main, name="raftlog-digest", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def end(self) -> None:
        self._ended.set()
        self._pin.let_go()

    def join(self, timeout: float) -> None:
        self._thread.join(timeout)

    def status(self) -> dict[str, Any]:
        self._asked_at = clock.monotonic()
        return {
            "state": self.state,
            "error": self.error,
            "index": self.index,
            "standing": self.standing,
            "rows": self.rows,
            "tables": dict(self.found) if self.state == DONE else {},
        }

    def ask(self, name: str, arguments: dict[str, Any]) -> Any:
        """A question about rows of the snapshot. Raises RaftlogError where it is gone."""
        self._asked_at = clock.monotonic()
        return QUESTIONS[name](self._reader, arguments)

    def _main(self) -> None:
        """Body of the thread."""
        try:
            self._wait_for_marker()
            self._hash()
            self.state = DONE
            while clock.monotonic() < self._asked_at + KEPT and not self._ended.wait(POLL):
                pass
            self.state = ENDED
        except _Ended:
            self.state = ENDED
        except Exception as error:  # noqa: BLE001  (of the driver, whichever it is: who asks is told)
            self.state, self.error = FAILED, f"{type(error).__name__}: {error}"
            logger.warning("a digest failed: %s", self.error, extra=log_fields("digest_failed", reason=self.error))
        finally:
            self._pin.let_go()
            self._reader.close()

    def _wait_for_marker(self) -> None:
        deadline = clock.monotonic() + LONGEST_WAIT
        while not self._pin.reached.wait(POLL):
            self._refuse_ended()
            if standing := self._stands_still():
                self.standing = standing
                break
            if clock.monotonic() > deadline:
                raise RaftlogError(f"the entry to hash at was not applied within {LONGEST_WAIT:g} s")
        snapshot = self._reader.pin()
        self._pin.let_go()
        self.index = snapshot.applied_index
        if self._pin.index not in (0, self.index):
            raise RaftlogError(f"entry {self._pin.index} was left before a snapshot was opened; try again")
        self._kept = snapshot.kept()
        self._tables = self._tables or snapshot.tables()
        self._rested_at = clock.monotonic()
        self.state = HASHING

    def _hash(self) -> None:
        for table in sorted(self._tables):
            rows, total = hash_table(self._reader, table, self._count)
            self.found[table] = {"rows": rows, "sum": total, "kept": self._kept.get(table)}

    def _count(self, rows: int) -> None:
        """After each chunk: rest in proportion, since the other threads of the node want the interpreter too."""
        self.rows += rows
        self._refuse_ended()
        self._ended.wait(min(MAX_REST, (clock.monotonic() - self._rested_at) * REST))
        self._rested_at = clock.monotonic()

    def _refuse_ended(self) -> None:
        if self._ended.is_set():
            raise _Ended


class Digests:
    """At most one at a time on a node; a new one ends the last. Any thread."""

    def __init__(
        self, open_reader: Callable[[], TableReader | None], pins: Pins, watch: Watch, stuck: Callable[[], str]
    ) -> None:
        self._open_reader = open_reader
        self._pins = pins
        self._watch = watch
        self._stuck = stuck
        self._lock = threading.Lock()
        self._key = b""
        self._digest: Digest | None = None
        self._pin: Pin | None = None

    def requests(self) -> dict[str, Callable[[dict[str, Any]], Any]]:
        return {
            "digest_prepare": self._prepare,
            "digest_status": lambda arguments: self._find(arguments).status(),
            "digest_end": self._end,
            **{f"digest_{name.removeprefix('fingerprint_')}": partial(self._ask, name) for name in QUESTIONS},
        }

    def stop(self) -> None:
        with self._lock:
            digest = self._digest
            self._drop()
        if digest is not None:
            digest.join(2.0)

    def _prepare(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """{"key": of the marker, "tables": [] for all}."""
        reader = self._open_reader()
        if reader is None:
            raise RaftlogError("this node's ENGINE is none of raftlog's, so it does not know which rows are replicated")
        with self._lock:
            self._drop()
            self._key = arguments["key"]
            self._pin = self._pins.add(self._key)
            self._digest = Digest(PinnedReader(reader), self._pin, list(arguments["tables"]), self._stands_still)
            self._digest.start()
        return {}

    def _stands_still(self) -> str:
        return self._watch.diverged or self._stuck()

    def _find(self, arguments: dict[str, Any]) -> Digest:
        with self._lock:
            digest = self._digest if arguments["key"] == self._key else None
        if digest is None:
            raise RaftlogError("this digest is not known (any more): the node was restarted, or another one was begun")
        return digest

    def _ask(self, name: str, arguments: dict[str, Any]) -> Any:
        digest = self._find(arguments)
        # Of the row, where the question is about one.
        return digest.ask(name, {**arguments, "key": arguments.get("row_key")})

    def _end(self, arguments: dict[str, Any]) -> dict[str, Any]:
        with self._lock:
            if arguments["key"] == self._key:
                self._drop()
        return {}

    def _drop(self) -> None:
        """Lock: held."""
        if self._digest is not None:
            self._digest.end()
        if self._pin is not None:
            self._pins.remove(self._pin)
        self._key, self._digest, self._pin = b"", None, None
