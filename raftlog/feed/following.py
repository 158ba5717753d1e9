"""Django signals for what is applied: a thread that reads the feed and sends `rows_changed`."""

from __future__ import annotations

import itertools
import logging
import os
import threading
from collections.abc import Iterator
from typing import Final

from django.db import connections

from raftlog import signals
from raftlog.exceptions import ChangeFeedOff
from raftlog.feed.reading import changes
from raftlog.feed.values import Change, ChangedRow, Reset
from raftlog.log_fields import log_fields

logger = logging.getLogger("raftlog.feed")

LOOK_INTERVAL: Final = 1.0  # seconds after which the thread notices at the latest that it is to stop


class Follower:
    """The thread of follow_changes(). Thread-safe."""

    def __init__(self, since: int | None) -> None:
        self._feed = changes(since, timeout=LOOK_INTERVAL)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._main, name="raftlog-follower", daemon=True)
        self._thread.start()

    @property
    def index(self) -> int | None:
        """All signals up to this index have been sent, but for the entry that is being told."""
        return self._feed.index

    @property
    def is_alive(self) -> bool:
        return self._thread.is_alive()

    def stop(self, timeout: float = 5.0) -> None:
        """End it; returns once it has ended, or after `timeout` seconds."""
        self._stopping.set()
        self._thread.join(timeout)

    def _main(self) -> None:
        try:
            while not self._stopping.is_set():
                for value in self._feed:
                    if isinstance(value, Reset):
                        signals.send_logged(signals.changes_reset, logger, sender=None, index=value.index)
                    elif isinstance(value, Change):
                        send_signals(value)
                    if self._stopping.is_set():
                        break
        except ChangeFeedOff as error:
            logger.error("no more signals of changes: %s", error, extra=log_fields("feed_ended", reason=str(error)))
        finally:
            connections[self._feed.settings.database].close()


def send_signals(change: Change) -> None:
    """`rows_changed` for each run of rows to which the same was done."""
    for (table, operation, columns), rows in _runs(change.rows):
        signals.send_logged(
            signals.rows_changed,
            logger,
            sender=rows[0].model,
            table=table,
            model=rows[0].model,
            operation=operation,
            keys=[row.pk for row in rows if row.key],
            columns=columns,
            index=change.index,
            command=change.command,
            from_here=change.from_here,
        )


def _runs(rows: tuple[ChangedRow, ...]) -> Iterator[tuple[tuple[str, str, tuple[str, ...]], list[ChangedRow]]]:
    for what, found in itertools.groupby(rows, lambda row: (row.table, row.operation, row.columns)):
        yield what, list(found)


_follower: Follower | None = None
_guard = threading.Lock()


def follow_changes(since: int | None = None) -> Follower:
    """Send `raftlog.signals.rows_changed` in this process for what is applied from now on, or after an index.

    Starts one thread, once in a process: the next calls return the same. The node's process calls it by itself where
    there are receivers. Call it where a process that serves begins (post_fork of gunicorn, asgi.py; not in
    AppConfig.ready(), which every manage.py runs, nor before a fork, which no thread survives).
    Raises ChangeFeedOff.
    """
    global _follower
    with _guard:
        if _follower is None or not _follower.is_alive:
            _follower = Follower(since)
        return _follower


def _forked() -> None:
    global _follower, _guard
    _follower, _guard = None, threading.Lock()


os.register_at_fork(after_in_child=_forked)
