"""The host's turn to write: one blocking lock a database file, for all threads of all processes (rule 14).

SQLite's busy handler polls, and the unlucky wait for seconds. A `flock` blocks in the kernel and wakes
whoever waits. The lock file names the holder's pid. In-memory databases have a lock in the process.
"""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Callable

from raftlog.runtime import clock

_memory_locks: dict[str, threading.Lock] = {}
_memory_locks_guard = threading.Lock()


class Turn:
    """One connection's claim on the turn. Not shared between threads, except expire() by the watchdog."""

    def __init__(self, database: str, *, in_memory: bool) -> None:
        self.held = False
        self._path = "" if in_memory else f"{database}-turn"
        self._descriptor = -1
        self._descriptor_pid = 0
        self.held_since = 0.0
        if in_memory:
            with _memory_locks_guard:
                self._lock = _memory_locks.setdefault(database, threading.Lock())

    def take(self) -> None:
        """Block until it is this connection's turn."""
        if self.held:
            return
        if self._path:
            fcntl.flock(self._open(), fcntl.LOCK_EX)
            os.pwrite(self._descriptor, b"%-20d\n" % os.getpid(), 0)
        else:
            self._lock.acquire()
        self.held = True
        self.held_since = clock.monotonic()

    def give_back(self) -> None:
        if not self.held:
            return
        self.held = False
        if self._path:
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)
        else:
            self._lock.release()

    def holder_pid(self) -> int:
        """Process that took the turn last (0: unknown). For messages; it may have given it back."""
        if not self._path:
            return os.getpid()
        text = os.pread(self._open(), 20, 0).strip()
        return int(text) if text.isdigit() else 0

    def close(self) -> None:
        self.give_back()
        if self._descriptor >= 0 and self._descriptor_pid == os.getpid():
            os.close(self._descriptor)
        self._descriptor = -1

    def __del__(self) -> None:
        # A connection that nobody closed, of a thread that has ended: its turn must not outlive it.
        self.close()

    def _open(self) -> int:
        # A descriptor inherited over a fork shares its lock with the parent: a process opens its own.
        if self._descriptor < 0 or self._descriptor_pid != os.getpid():
            self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            self._descriptor_pid = os.getpid()
        return self._descriptor


class Watchdog:
    """Calls back for each turn that is held for longer than its limit. One thread a process, made when needed."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._watched: dict[Turn, tuple[float, Callable[[], None]]] = {}
        self._thread: threading.Thread | None = None
        self._pid = 0

    def watch(self, turn: Turn, limit: float, on_expired: Callable[[], None]) -> None:
        with self._condition:
            self._watched[turn] = (clock.monotonic() + limit, on_expired)
            if self._thread is None or self._pid != os.getpid():
                self._pid = os.getpid()
                self._thread = threading.Thread(target=self._run, name="raftlog-turn-watchdog", daemon=True)
                self._thread.start()
            elif len(self._watched) == 1:
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
        while not self._watched:
            self._condition.wait()
        now = clock.monotonic()
        expired = [turn for turn, (deadline, _) in self._watched.items() if deadline <= now]
        if not expired:
            # Deadlines only grow older while one waits, so nobody needs to wake this thread for a later one.
            self._condition.wait(min(deadline for deadline, _ in self._watched.values()) - now)
            return []
        return [self._watched.pop(turn)[1] for turn in expired]


watchdog = Watchdog()
