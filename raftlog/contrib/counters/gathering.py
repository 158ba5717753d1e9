"""What a process has counted and not yet proposed, and the thread that proposes it.

The thread lives as long as there is something to propose, and is no daemon: a process that ends waits for it, so
that nothing is lost but to a kill. A batch goes on until its outcome is known, under the same proposal id, so that it
is applied once whatever happens to leaders and connections.
"""

from __future__ import annotations

import logging
import os
import threading
from typing import Any, Final

from django.conf import settings
from django.db import connections

from raftlog import NotProposed, OutcomeUnknown, SessionExpired
from raftlog.contrib.counters.commands import LARGEST, add_in_command, refuse_without_table
from raftlog.log_fields import log_fields

logger = logging.getLogger("raftlog.counters")

INTERVAL: Final = 0.5  # seconds that changes are gathered
PAUSE: Final = 0.2  # seconds between two attempts of a batch
BATCH: Final = 1000  # names in one command
MAX_NAMES: Final = 100_000  # that wait; a process whose node is away for long must not grow without bound


class Gatherer:
    """Thread-safe; one for each process."""

    def __init__(self) -> None:
        self._start_over()

    def _start_over(self) -> None:
        """Also in a forked child: what the parent gathered is the parent's to propose."""
        self._changed = threading.Condition()
        # All below: with _changed held.
        self._waiting: dict[str, int] = {}
        self._thread: threading.Thread | None = None
        self._added = 0  # calls of add()
        self._settled = 0  # those of them whose batch is in the log, or lost
        self._hurry = False
        self._has_table = False  # as far as is known; the thread's
        self._interval = INTERVAL
        self._taken = 0  # value of _added when the batch under way was taken

    def add(self, name: str, n: int) -> None:
        """Raises ValueError where RAFTLOG_COUNTERS_INTERVAL is none."""
        with self._changed:
            if name not in self._waiting and len(self._waiting) >= MAX_NAMES:
                logger.error(
                    "counters: %d names wait for the log already; %s is not counted (%+d)",
                    *(MAX_NAMES, name, n),
                    extra=log_fields("counter_not_counted", about=name),
                )
                return
            if self._thread is None:
                self._interval = interval()
                thread = threading.Thread(target=self._run, name="raftlog-counters")
                thread.start()  # first of all: where it raises RuntimeError, nothing may wait that nobody would propose
                self._thread = thread
            self._waiting[name] = min(max(self._waiting.get(name, 0) + n, -LARGEST), LARGEST)
            self._added += 1

    def flush(self, timeout: float | None) -> bool:
        with self._changed:
            goal = self._added
            if self._settled >= goal:
                return True
            self._hurry = True
            self._changed.notify_all()
            return self._changed.wait_for(lambda: self._settled >= goal, timeout)

    # The thread

    def _run(self) -> None:
        try:
            while changes := self._take():
                self._settle(changes)
        finally:
            connections.close_all()

    def _take(self) -> dict[str, int]:
        """What was gathered, after a while; nothing: the thread's end, seen by all at once."""
        with self._changed:
            if not self._waiting:
                self._thread, self._settled = None, self._added
                return {}
            self._changed.wait_for(lambda: self._hurry or not _main_lives(), self._interval)
            changes, self._waiting = self._waiting, {}
            self._taken, self._hurry = self._added, False
            return changes

    def _settle(self, changes: dict[str, int]) -> None:
        names = list(changes)
        for start in range(0, len(names), BATCH):
            self._propose({name: changes[name] for name in names[start : start + BATCH]})
        with self._changed:
            self._settled = self._taken
            self._changed.notify_all()

    def _propose(self, changes: dict[str, int]) -> None:
        """Until its outcome is known. A process that ends tries once more, and says what is lost."""
        proposal_id = ""
        warned = False
        while True:
            is_last = not _main_lives()
            try:
                if not self._has_table:
                    refuse_without_table()
                    self._has_table = True
                add_in_command.with_options(proposal_id=proposal_id).propose(changes=changes)
                return
            except OutcomeUnknown as error:
                proposal_id, problem = error.proposal_id, error
            except SessionExpired as error:
                logger.error(
                    "counters: whether these were counted is not known any more: %s (%s)",
                    *(changes, error),
                    extra=log_fields("counter_not_counted", reason=str(error)),
                )
                return
            except NotProposed as error:
                problem = error
            except Exception as error:  # noqa: BLE001  (the thread goes on: others count too)
                logger.error(
                    "counters: not counted: %s (%s: %s)",
                    *(changes, type(error).__name__, error),
                    extra=log_fields("counter_not_counted", reason=str(error)),
                )
                return
            if is_last:
                logger.error(
                    "counters: the process ends and the log is out of reach; lost: %s (%s)",
                    *(changes, problem),
                    extra=log_fields("counter_not_counted", reason=str(problem)),
                )
                return
            if not warned:
                logger.warning(
                    "counters: %d names wait: %s",
                    *(len(changes), problem),
                    extra=log_fields("counter_delayed", reason=str(problem)),
                )
                warned = True
            threading.Event().wait(PAUSE)


def _main_lives() -> bool:
    return threading.main_thread().is_alive()


def interval() -> float:
    """0: each addition is proposed at once, by the caller's thread. Raises ValueError where the setting is none."""
    found: Any = getattr(settings, "RAFTLOG_COUNTERS_INTERVAL", INTERVAL)
    if isinstance(found, bool) or not isinstance(found, (int, float)) or not 0 <= found <= 60:
        raise ValueError(f"RAFTLOG_COUNTERS_INTERVAL is {found!r}; it must be from 0 to 60 seconds")
    return float(found)


gatherer = Gatherer()
os.register_at_fork(after_in_child=gatherer._start_over)
