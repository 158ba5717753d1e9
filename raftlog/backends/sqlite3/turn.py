"""The host's turn to write: one blocking lock a database file, for all threads of all processes (rule 14).

SQLite's busy handler polls, and the unlucky wait for seconds. A `flock` blocks in the kernel and wakes
whoever waits; it ends with its process. The lock file names the holder's pid. The state machine goes before writers
that wait. In-memory databases have a lock in the process.
"""

from __future__ import annotations

import fcntl
import logging
import os
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Final

from raftlog.log_fields import log_fields
from raftlog.runtime import clock

logger = logging.getLogger("raftlog.apply")

LONG_WAIT: Final = 2.0  # seconds after which the state machine's wait for the turn is a problem of the node

_memory_locks: dict[str, threading.Lock] = {}
_memory_locks_guard = threading.Lock()


class Turn:
    """One connection's claim on the turn. Not shared between threads, except what watches it from outside.

    Writers queue for one lock, and only the first of them waits for the turn itself; before that it lets pass whoever
    `goes_first`. So the state machine waits for the one transaction that is under way, and for nobody in the queue.
    """

    def __init__(self, database: str, *, in_memory: bool) -> None:
        self.held = False
        self.held_since = 0.0
        # Set for the connection that applies the log.
        self.goes_first = False
        # Since when it has been waiting (0: it does not), for status.
        self.waiting_since = 0.0
        self._in_memory = in_memory
        self._is_queued = False
        self._turn, self._queue, self._first = (
            _Lock(f"{database}-turn{suffix}") for suffix in ("", "-queue", "-first")
        )
        if in_memory:
            with _memory_locks_guard:
                self._lock = _memory_locks.setdefault(database, threading.Lock())
        _turns.add(self)

    def take(self, *, ahead: bool = False) -> None:
        """Block until it is this connection's turn.

        `ahead`: it has the cluster's turn, for which the queue would wait at its commits, so it goes before the queue.
        """
        if self.held:
            return
        if self._in_memory:
            self._lock.acquire()
        elif self.goes_first:
            self._take_first()
        else:
            if not ahead:
                self._queue.take()
                self._is_queued = True
            self._first.take(shared=True)
            self._first.give_back()
            self._turn.take()
        if not self._in_memory:
            self._turn.write(b"%-20d\n" % os.getpid())
        self.held = True
        self.held_since = clock.monotonic()

    def _take_first(self) -> None:
        if self._turn.try_take():
            return
        self.waiting_since = clock.monotonic()
        watchdog.watch(self, LONG_WAIT, self._tell_of_wait)
        self._first.take()
        self._turn.take()
        self._first.give_back()
        watchdog.forget(self)
        self.waiting_since = 0.0

    def give_back(self) -> None:
        if not self.held:
            return
        self.held = False
        if self._in_memory:
            self._lock.release()
            return
        self._turn.give_back()
        if self._is_queued:
            self._is_queued = False
            self._queue.give_back()

    def holder_pid(self) -> int:
        """Process that took the turn last (0: unknown). For messages; it may have given it back."""
        if self._in_memory:
            return os.getpid()
        text = self._turn.read(20).strip()
        return int(text) if text.isdigit() else 0

    def waits_for(self) -> str:
        """Who has kept this connection waiting for long, in words; "" if nobody has. Any thread."""
        since = self.waiting_since
        waited = clock.monotonic() - since
        if not since or waited < LONG_WAIT:
            return ""
        pid = self.holder_pid()
        stopped = f" (it is stopped: kill -CONT {pid} lets it go on, kill -9 {pid} frees the turn)"
        return (
            f"the write turn of this host has been held by process {pid} for {waited:.0f} s, nothing is applied"
            f"{stopped if is_stopped(pid) else ''}"
        )

    def _tell_of_wait(self) -> None:
        if words := self.waits_for():
            logger.error(
                "%s", words, extra=log_fields("apply_held_up", about=f"process {self.holder_pid()}", reason=words)
            )

    def close(self) -> None:
        self.give_back()
        for lock in (self._turn, self._queue, self._first):
            lock.close()

    def __del__(self) -> None:
        # A connection that nobody closed, of a thread that has ended: its turn must not outlive it.
        self.close()

    def forked(self) -> None:
        """In the child: descriptors share their locks with the parent's, so the child may not touch them."""
        self.held = self._is_queued = False
        for lock in (self._turn, self._queue, self._first):
            lock.close()


class _Lock:
    """A file whose lock belongs to one connection."""

    __slots__ = ("_descriptor", "_path")

    def __init__(self, path: str) -> None:
        self._path = path
        self._descriptor = -1

    def take(self, *, shared: bool = False) -> None:
        fcntl.flock(self._open(), fcntl.LOCK_SH if shared else fcntl.LOCK_EX)

    def try_take(self) -> bool:
        try:
            fcntl.flock(self._open(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def give_back(self) -> None:
        fcntl.flock(self._descriptor, fcntl.LOCK_UN)

    def write(self, text: bytes) -> None:
        os.pwrite(self._open(), text, 0)

    def read(self, count: int) -> bytes:
        return os.pread(self._open(), count, 0)

    def _open(self) -> int:
        if self._descriptor < 0:
            self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        return self._descriptor

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def is_stopped(pid: int) -> bool:
    """Whether a process is stopped (SIGSTOP, a debugger), where the system has /proc to say so."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] in "Tt"


class Watchdog:
    """Calls back for each turn that is held for longer than its limit. One thread a process, made when needed."""

    def __init__(self) -> None:
        self.start_over()

    def start_over(self) -> None:
        """Also in a forked child, where neither the thread nor the parent's turns exist."""
        self._condition = threading.Condition()
        self._watched: dict[Turn, tuple[float, Callable[[], None]]] = {}
        self._thread: threading.Thread | None = None
        # When the thread looks again (inf: it waits for something to watch); no need to wake it for later deadlines.
        self._wakes_at = float("inf")

    def watch(self, turn: Turn, limit: float, on_expired: Callable[[], None]) -> None:
        deadline = clock.monotonic() + limit
        with self._condition:
            self._watched[turn] = (deadline, on_expired)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="raftlog-turn-watchdog", daemon=True)
                self._thread.start()
            elif deadline < self._wakes_at:
                self._condition.notify()

    def forget(self, turn: Turn) -> None:
        with self._condition:
            self._watched.pop(turn, None)

    def _run(self) -> None:
        while True:
            with self._condition:
                expired = self._wait()
            for on_expired in expired:
                on_expired()

    def _wait(self) -> list[Callable[[], None]]:
        now = clock.monotonic()
        expired = [turn for turn, (deadline, _) in self._watched.items() if deadline <= now]
        if not expired:
            self._wakes_at = min((deadline for deadline, _ in self._watched.values()), default=float("inf"))
            self._condition.wait(self._wakes_at - now if self._watched else None)
            return []
        return [self._watched.pop(turn)[1] for turn in expired]


watchdog = Watchdog()
_turns: weakref.WeakSet[Turn] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    watchdog.start_over()
    for turn in list(_turns):
        turn.forked()


os.register_at_fork(after_in_child=_after_fork_in_child)
