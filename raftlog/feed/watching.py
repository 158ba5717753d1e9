"""How far this host's database is, as this process hears of it: so that readers of the feed need not ask all the time.

In the node's own process it is told by the apply thread. Elsewhere one thread a process asks the node, which answers
once more is applied; while no node answers (one voter without `raft run`, a restart) it looks at the database every
POLL_INTERVAL. The thread is started by the first reader that waits, and ends soon after the last.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import Callable
from typing import Final

from django.db import connections
from django.db.utils import Error as DjangoDatabaseError

from raftlog.conf import load_settings
from raftlog.exceptions import NodeUnavailable
from raftlog.node_process import current_node
from raftlog.runtime import clock
from raftlog.transport.client import NodeClient
from raftlog.transport.outstanding import RequestFailed

logger = logging.getLogger("raftlog.feed")

LONGEST_WAIT: Final = 5.0  # seconds after which a reader looks for itself, whatever was told
ASK_TIMEOUT: Final = 20.0  # seconds for which the node may keep a question
POLL_INTERVAL: Final = 0.05  # seconds between two looks at the database, while no node answers
POLL_TIME: Final = 1.0  # seconds of that before the node is tried again
MISSED: Final = 0.005  # seconds until a reader that missed what was told looks again
LINGER: Final = 2.0  # seconds that the thread stays without a reader

Wake = Callable[[], object]


class AppliedWatch:
    """One for each process. Thread-safe; made anew after a fork."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._index = 0  # the newest that was heard of
        self._waiting: set[Wake] = set()
        self._is_running = False
        self._client: NodeClient | None = None

    def wait(self, after: int, timeout: float) -> None:
        """Block until more than `after` is applied, or at most `timeout` seconds, or a little while for no reason."""
        reached = threading.Event()
        if not self._join(after, wake := reached.set):
            clock.sleep(min(timeout, MISSED))
            return
        reached.wait(min(timeout, LONGEST_WAIT))
        self._leave(wake)

    async def wait_async(self, after: int, timeout: float) -> None:
        """As wait(), without a thread that blocks."""
        reached, loop = asyncio.Event(), asyncio.get_running_loop()

        def wake() -> None:
            loop.call_soon_threadsafe(reached.set)

        if not self._join(after, wake):
            await asyncio.sleep(min(timeout, MISSED))
            return
        try:
            async with asyncio.timeout(min(timeout, LONGEST_WAIT)):
                await reached.wait()
        except TimeoutError:
            pass
        finally:
            self._leave(wake)

    def _join(self, after: int, wake: Wake) -> bool:
        """Have `wake` called; False: it is reached already."""
        with self._changed:
            if self._index > after:
                # Whoever asks has just read the database. What was heard may be of a log that is there no more.
                self._index = after
                return False
            self._waiting.add(wake)
            self._changed.notify_all()
            if not self._is_running:
                self._is_running = True
                threading.Thread(target=self._main, name="raftlog-feed", daemon=True).start()
            return True

    def _leave(self, wake: Wake) -> None:
        with self._changed:
            self._waiting.discard(wake)

    def _main(self) -> None:
        """Body of the thread."""
        try:
            while self._is_wanted():
                self._heard_of(self._ask())
        except BaseException:  # readers go on, looking for themselves, and start another one
            with self._changed:
                self._is_running = False
            raise
        finally:
            connections[load_settings().database].close()
            with self._changed:
                client, self._client = self._client, None
            if client is not None:
                client.close()

    def _is_wanted(self) -> bool:
        with self._changed:
            if not self._waiting:
                self._changed.wait_for(lambda: self._waiting, LINGER)
            self._is_running = bool(self._waiting)
            return self._is_running

    def _heard_of(self, index: int) -> None:
        """Whoever waits reads anew: a wake for no reason does no harm, and it may be another database by now."""
        with self._changed:
            if index == self._index:
                return
            self._index = index
            waiting, self._waiting = self._waiting, set()
        for wake in waiting:
            try:
                wake()
            except RuntimeError:  # an event loop that has ended
                logger.debug("a reader of the change feed is gone")

    def _ask(self) -> int:
        """What is applied, once it is more than was heard of, or after a while."""
        node = current_node()
        if node is not None:
            return node.applied.wait(self._index, ASK_TIMEOUT)
        try:
            arguments = {"index": self._index, "timeout": ASK_TIMEOUT}
            return int(self._node().request("applied_after", arguments, ASK_TIMEOUT + 1))
        except (NodeUnavailable, RequestFailed):
            return self._look()

    def _node(self) -> NodeClient:
        with self._changed:
            if self._client is None:
                settings = load_settings()
                # Its own: a question that is open for long would slow down the proposals beside it.
                self._client = NodeClient(f"unix:{settings.socket_path}", settings.secret_keys, settings.cluster)
            return self._client

    def _look(self) -> int:
        """For POLL_TIME, until the database has moved, or nobody waits any more."""
        deadline = clock.monotonic() + POLL_TIME
        index = self._index
        while index == self._index and self._waiting and clock.monotonic() < deadline:
            clock.sleep(POLL_INTERVAL)
            index = _applied_index(index)
        return index


def _applied_index(otherwise: int) -> int:
    connection = connections[load_settings().database]
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT applied_index FROM raftlog_appliedindex")
            row = cursor.fetchone()
    except DjangoDatabaseError:  # not there yet, or being replaced: readers that look for themselves say so
        connection.close()
        return otherwise
    return int(row[0]) if row else otherwise


watch = AppliedWatch()


def _forked() -> None:
    """The parent's thread does not exist here."""
    watch.__init__()  # type: ignore[misc]


os.register_at_fork(after_in_child=_forked)
