"""FIRE_AND_FORGET: writes that nobody waits for, gathered while those before them are on their way.

One thread for each process proposes them, as few entries as there can be: of a key only the newest write is left. It
lives as long as something waits, and is no daemon: a process that ends as it should waits for it.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from typing import Any, Final

from django.db import connections

from raftlog.contrib.cache.pending import Change, in_entries
from raftlog.log_fields import log_fields

logger = logging.getLogger("raftlog.cache")

Propose = Callable[[list[Change]], Any]

MAX_WAITING: Final = 10_000  # keys of one location; who writes more waits for room


class Writer:
    """Thread-safe; one for each process."""

    def __init__(self) -> None:
        self._start_over()

    def _start_over(self) -> None:
        """Also in a forked child: what the parent was given is the parent's to write."""
        self._changed = threading.Condition()
        # All below: with _changed held. Location -> key -> its newest write, a "set" or a "delete".
        self._waiting: dict[str, dict[str, Change]] = {}
        self._under_way: dict[str, dict[str, Change]] = {}
        self._propose: dict[str, Propose] = {}
        self._thread: threading.Thread | None = None

    def put(self, location: str, propose: Propose, changes: list[Change]) -> None:
        """Blocks only where very much waits. `propose` is called in the thread, also for what others put there."""
        with self._changed:
            self._changed.wait_for(lambda: len(self._waiting.get(location, ())) < MAX_WAITING)
            if self._thread is None:
                thread = threading.Thread(target=self._run, name="raftlog-cache")
                thread.start()  # first of all: where it raises RuntimeError, nothing may wait that nobody would write
                self._thread = thread
            self._waiting.setdefault(location, {}).update({change[1]: change for change in changes})
            self._propose[location] = propose

    def newest(self, location: str, keys: list[str]) -> list[Change]:
        """What waits for these keys. Ask before the database is read: what is not here any more is there."""
        if self._thread is None:  # as most often
            return []
        with self._changed:
            batches = [self._under_way.get(location, {}), self._waiting.get(location, {})]
            return [batch[key] for batch in batches for key in keys if key in batch]

    def flush(self, location: str, timeout: float | None = None) -> bool:
        """Wait until all that was put so far is in the log, or failed; False: not within `timeout` seconds."""
        with self._changed:
            return self._changed.wait_for(
                lambda: location not in self._waiting and location not in self._under_way, timeout
            )

    # The thread

    def _run(self) -> None:
        try:
            while batch := self._take():
                for location, changes in batch.items():
                    self._write(location, list(changes.values()))
        finally:
            connections.close_all()

    def _take(self) -> dict[str, dict[str, Change]]:
        """All that waits; nothing: the thread's end, seen by all at once."""
        with self._changed:
            self._under_way, self._waiting = self._waiting, {}
            if not self._under_way:
                self._thread = None
            self._changed.notify_all()
            return self._under_way

    def _write(self, location: str, changes: list[Change]) -> None:
        for some in in_entries(changes):
            try:
                self._propose[location](some)
            except Exception:  # (the thread goes on: others write too)
                keys = ", ".join(str(change[1]) for change in some[:20])
                logger.exception(
                    "cache %s: not written: %s",
                    *(location, keys),
                    extra=log_fields("cache_not_written", about=location),
                )


writer = Writer()
os.register_at_fork(after_in_child=writer._start_over)
