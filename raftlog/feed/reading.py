"""changes() and achanges(): the entries that changed something, one after the other, from an index on.

A reader keeps nothing open between two reads, so that it holds up nobody, however slow it is. What it is told is in
the database that it reads: an app's next query sees at least what the change says.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Iterable, Iterator
from typing import Final

from asgiref.sync import sync_to_async
from django.db import connections, models
from django.db.utils import Error as DjangoDatabaseError

from raftlog.conf import load_settings
from raftlog.exceptions import ChangeFeedOff, InsideTransaction
from raftlog.feed.values import Change, Progress, Reset, rows_of
from raftlog.feed.watching import watch
from raftlog.log_fields import log_fields
from raftlog.node_process import current_node
from raftlog.replication.changes import EntryChanges, Stretch, read_feed
from raftlog.replication.client_session import is_own_session
from raftlog.runtime import clock

logger = logging.getLogger("raftlog.feed")

CHUNK: Final = 256  # transactions of apply that are read at once
PATIENCE: Final = 10.0  # seconds for which a database may lack a feed
RETRY: Final = 0.2  # seconds until a database that is not there is tried again
_NEWEST: Final = 2**62

Value = Change | Reset | Progress


class ChangeFeed(Iterator[Value], AsyncIterator[Value]):
    """See changes(). One thread, or one task, at a time.

    `index`: all that was changed up to it has been handed out; None: nothing has been read yet.
    """

    def __init__(
        self,
        since: int | None,
        tables: frozenset[str],
        timeout: float | None,
        progress: float | None,
    ) -> None:
        self.settings = load_settings()
        if not self.settings.change_feed_entries:
            raise ChangeFeedOff('the change feed is switched off: set RAFTLOG["CHANGE_FEED_ENTRIES"] above 0')
        self.index = since
        self._tables = tables
        self._timeout = timeout
        self._progress = progress
        self._cluster_id = ""
        self._next: deque[Value | int] = deque()  # an int: so far nothing is to be handed out
        self._told_at = clock.monotonic()
        # When the iteration ends, unless something changes; None: not known before the next call.
        self._ends_at: float | None = None
        self._trouble = ""
        self._lacks_since: float | None = None

    # Iterating

    def __iter__(self) -> ChangeFeed:
        return self

    def __next__(self) -> Value:
        deadline = self._deadline()
        while (value := self._take()) is None:
            if self._read():
                continue
            if (left := deadline - clock.monotonic()) <= 0:
                self._ends_at = None
                raise StopIteration
            if self._trouble or self.index is None:
                clock.sleep(min(left, RETRY))
            else:
                watch.wait(self.index, min(left, self._until_progress()))
        return value

    def __aiter__(self) -> ChangeFeed:
        return self

    async def __anext__(self) -> Value:
        deadline = self._deadline()
        while (value := self._take()) is None:
            if await sync_to_async(self._read)():
                continue
            if (left := deadline - clock.monotonic()) <= 0:
                self._ends_at = None
                raise StopAsyncIteration
            if self._trouble or self.index is None:
                await asyncio.sleep(min(left, RETRY))
            else:
                await watch.wait_async(self.index, min(left, self._until_progress()))
        return value

    def _deadline(self) -> float:
        if self._timeout is None:
            return float("inf")
        if self._ends_at is None:
            self._ends_at = clock.monotonic() + self._timeout
        return self._ends_at

    def _until_progress(self) -> float:
        """How long to wait at most, for the sake of Progress."""
        if self._progress is None:
            return float("inf")
        return max(self._told_at + self._progress - clock.monotonic(), 0.01)

    def _take(self) -> Value | None:
        """The next one of what has been read."""
        while self._next:
            value = self._next.popleft()
            if isinstance(value, int):
                self.index = max(self.index or 0, value)
                continue
            self.index, self._told_at, self._ends_at = value.index, clock.monotonic(), None
            return value
        now = clock.monotonic()
        if self._progress is not None and self.index is not None and now >= self._told_at + self._progress:
            self._told_at = now
            return Progress(self.index)
        return None

    # Reading

    @property
    def is_in_trouble(self) -> bool:
        """Whether the feed could not be read when it was last tried: then there may be more than was handed out."""
        return bool(self._trouble)

    def begin(self) -> None:
        """Without an index to begin after: begin here, if the database is there."""
        if self.index is None:
            self._read()

    def _read(self) -> bool:
        """Read what follows the index. Returns whether there is something to hand out, or to be read at once."""
        connection = connections[self.settings.database]
        if connection.in_atomic_block:
            raise InsideTransaction(
                "the change feed cannot be read inside a transaction, which sees the database as it was: "
                "leave atomic() first"
            )
        try:
            stretch = read_feed(connection, _NEWEST if self.index is None else self.index, CHUNK)
        except DjangoDatabaseError as error:
            connection.close()
            self._has_trouble(f"{type(error).__name__}: {error}")
            return False
        return self._digest(stretch)

    def _lacks_feed(self, applied_index: int) -> None:
        """A new database has none, and for a moment one whose image was just installed. Raises ChangeFeedOff."""
        if not applied_index:
            return
        now = clock.monotonic()
        self._lacks_since = self._lacks_since or now
        text = (
            f"DATABASES[{self.settings.database!r}] has no change feed: its node runs with "
            'RAFTLOG["CHANGE_FEED_ENTRIES"] = 0, or an ENGINE of Django\'s own, or was not started since the update'
        )
        if self._timeout == 0 or now - self._lacks_since > PATIENCE:
            raise ChangeFeedOff(text)
        self._has_trouble(text)

    def _has_trouble(self, text: str) -> None:
        if text and not self._trouble:
            logger.warning(
                "the change feed cannot be read, which is tried again: %s",
                text,
                extra=log_fields("database_unusable", reason=text),
            )
        self._trouble = text

    def _digest(self, stretch: Stretch) -> bool:
        if stretch.began_after is None:
            self._lacks_feed(stretch.applied_index)
            return False
        self._lacks_since = None
        self._has_trouble("")
        before, self._cluster_id = self._cluster_id, stretch.cluster_id or self._cluster_id
        if self.index is None:
            self.index = stretch.applied_index
            return False
        if self.index < stretch.began_after or before not in ("", self._cluster_id):
            self._next.append(Reset(stretch.applied_index))
            return True
        for entry in stretch.entries:
            if rows := rows_of(entry.groups, self._tables):
                self._next.append(Change(entry.index, rows, entry.command, _is_from_here(entry)))
        if not self._next:
            self.index = max(self.index, stretch.upto)
            return stretch.upto < stretch.applied_index
        self._next.append(stretch.upto)
        return True


def _is_from_here(entry: EntryChanges) -> bool:
    return current_node() is not None if entry.command else is_own_session(entry.session)


def changes(
    since: int | None = None,
    *,
    tables: Iterable[str] = (),
    models: Iterable[type[models.Model]] = (),
    timeout: float | None = None,
    progress: float | None = None,
) -> ChangeFeed:
    """What is applied to this host's database from now on, or after an index, entry by entry, in the order of the log.

        for change in raftlog.changes(since=saved):
            ...
            save(change.index)

    Yields Change, whole entries only: who saves the index of the one that was dealt with last, and goes on from it,
    misses nothing, and gets a change again only if it was not saved. Yields Reset where what follows `since` is not
    known any more. The object is an asynchronous iterator, too. It reads on its own thread's connection, between
    transactions: inside atomic() it raises InsideTransaction.

    Args:
        since: the index after which to begin; 0: as early as possible; None: now, which in asynchronous code is
            when it is first awaited.
        tables, models: only changes of these (with none: of all). A model stands for its parents' tables, too.
        timeout: seconds without a change after which the iteration ends; 0: where there is no more; None: never.
        progress: seconds without a change after which a Progress is yielded, again and again, with the index reached.

    Raises:
        ChangeFeedOff: this host keeps no feed.
    """
    wanted = frozenset(tables).union(*map(_tables_of, models))
    feed = ChangeFeed(since, wanted, timeout, progress)
    if since is None and not _is_async():
        feed.begin()
    return feed


achanges = changes  # by the name under which asynchronous code looks for it


def _tables_of(model: type[models.Model]) -> set[str]:
    return {each._meta.db_table for each in (model, *model._meta.all_parents)}


def _is_async() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
