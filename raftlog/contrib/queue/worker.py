"""A worker: claims tasks in batches, runs them in threads, and records how they ended, also in batches.

Threads: the one that calls run() claims, renews and prunes; `threads` others run tasks; one records outcomes. They
share `_changed`, which guards everything below it. Who waits for the cluster does so without it.
"""

from __future__ import annotations

import logging
import os
import secrets
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Final, NamedTuple

from django.db import DatabaseError, close_old_connections, connections
from django.utils import timezone

from raftlog import clock
from raftlog.contrib.queue import commands
from raftlog.contrib.queue.insist import Insistent
from raftlog.contrib.queue.models import QueuedTask, State
from raftlog.contrib.queue.running import Attempt
from raftlog.log_fields import log_fields

logger = logging.getLogger("raftlog.queue")

SHORTEST_PAUSE: Final = 0.05  # seconds between two looks at the local database while nothing is due
LONGEST_PAUSE: Final = 0.4
TROUBLE_PAUSE: Final = 1.0  # seconds after the database could not be read
MAX_BATCH: Final = 200  # tasks that one claim asks for
QUICK: Final = 0.2  # seconds: a batch that is through faster is followed by a larger one
MAX_OUTCOME_BYTES: Final = 512 << 10  # of one `complete`, about
MAX_OUTCOMES: Final = 500
SURPLUS_AFTER: Final = 1.0  # seconds after which tasks that still wait here are left to other workers
PRUNE_INTERVAL: Final = 20.0  # seconds


class Counts(NamedTuple):
    """What a worker has done: tasks completed, attempts that failed, and those whose claim had ended."""

    completed: int = 0
    failed: int = 0
    lost: int = 0


class Held:
    """A claim of this worker that is not settled yet."""

    __slots__ = ("attempt", "is_running", "renewed_at")

    def __init__(self, row: QueuedTask, now: float) -> None:
        self.attempt = Attempt(row)
        self.renewed_at = now
        self.is_running = False

    @property
    def claim(self) -> list[Any]:
        return [self.attempt.id.hex, self.attempt.token]

    @property
    def key(self) -> tuple[str, int]:
        return self.attempt.id.hex, self.attempt.token

    def wants_renewal(self, now: float) -> bool:
        # Renewing changes the row, which the transaction of a transactional task has read: it would conflict.
        if self.is_running and self.attempt.row.transactional:
            return False
        return bool(now - self.renewed_at > self.attempt.row.visibility / 2)


class Worker:
    """run() once, in the thread that may wait. stop() from any thread or signal handler.

    Args:
        queues: which to serve; none: all.
        threads: how many tasks are run at once.
        burst: end as soon as nothing is due any more.
        name: unique among all workers.
        tell: called with a line about progress now and then, in the thread of run().
    """

    def __init__(
        self,
        queues: Iterable[str] = (),
        *,
        threads: int = 1,
        burst: bool = False,
        name: str = "",
        tell: Callable[[str], None] = lambda line: None,
        tell_interval: float = 10.0,
    ) -> None:
        if threads < 1:
            raise ValueError(f"threads is {threads!r}; at least 1 is needed")
        self.queues = sorted(set(queues))
        self.burst = burst
        self.name = name or f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(3)}"
        self._tell = tell
        self._tell_interval = tell_interval
        self._threads = [threading.Thread(target=self._work, name=f"queue-{n + 1}") for n in range(threads)]
        self._recorder = threading.Thread(target=self._record, name="queue-record")
        self._batch = threads
        self._stopping = threading.Event()
        self._insistent = Insistent()
        self._told_at = self._pruned_at = self._claimed_at = clock.monotonic()
        self._changed = threading.Condition()
        # All below: with _changed held.
        self._held: dict[tuple[str, int], Held] = {}
        self._todo: deque[Held] = deque()
        self._outcomes: list[list[Any]] = []
        self._no_more_tasks = False
        self._no_more_outcomes = False
        self._counts = Counts()
        self._died: BaseException | None = None

    @property
    def counts(self) -> Counts:
        return self._counts

    def stop(self) -> None:
        """Claim no more, give back what was not begun, finish what was; then run() returns."""
        self._stopping.set()

    def run(self) -> Counts:
        """Until stop(), or, in burst mode, until nothing is due. Raises what a thread of it died of."""
        for thread in (*self._threads, self._recorder):
            thread.start()
        try:
            self._feed()
        finally:
            self._finish()
        if self._died is not None:
            raise self._died
        return self._counts

    # The thread of run()

    def _feed(self) -> None:
        pause = SHORTEST_PAUSE
        while not self._stopping.is_set() and self._died is None:
            try:
                claimed = self._claim()
                self._look_after()
            except DatabaseError as error:
                logger.warning(
                    "worker %s cannot use its database, and tries again: %s",
                    *(self.name, error),
                    extra=log_fields("database_unusable", about=self.name, reason=str(error)),
                )
                close_old_connections()
                self._stopping.wait(TROUBLE_PAUSE)
                continue
            with self._changed:
                if claimed:
                    pause = SHORTEST_PAUSE
                    continue
                if not self._held:
                    if self.burst and not self._is_due():
                        return
                    pause = min(pause * 1.3, LONGEST_PAUSE)
                else:
                    pause = SHORTEST_PAUSE
                self._changed.wait(pause)

    def _claim(self) -> int:
        """Claim as many as will be run soon, if anything is due. Returns how many it got."""
        with self._changed:
            waiting = len(self._todo)
            idle = len(self._threads) - sum(held.is_running for held in self._held.values())
        if self._batch <= len(self._threads):  # tasks take long: leave what is due to those who are idle
            wanted = idle - waiting
        else:
            wanted = self._batch - waiting if waiting <= self._batch // 2 else 0
        if wanted < 1:
            return 0
        if not self._is_due():
            return 0
        now = clock.monotonic()
        self._adapt(now - self._claimed_at)
        arguments = {"worker": self.name, "queues": self.queues, "count": wanted}
        ids = self._insistent.propose(commands.claim, arguments, self._stopping) or []
        self._claimed_at = now = clock.monotonic()
        rows = QueuedTask.objects.in_bulk(ids)
        claimed = [Held(row, now) for row in rows.values() if row.worker == self.name and row.state == State.RUNNING]
        order = {task_id: place for place, task_id in enumerate(ids)}
        claimed.sort(key=lambda held: order[held.attempt.id.hex])
        with self._changed:
            self._held |= {held.key: held for held in claimed}
            self._todo += claimed
            self._changed.notify_all()
        return len(claimed)

    def _adapt(self, took: float) -> None:
        """Short tasks are claimed many at once; of long ones nobody should wait for this worker."""
        if took < QUICK:
            self._batch = min(self._batch * 2, MAX_BATCH)
        elif took > 2 * QUICK:
            self._batch = max(self._batch // 2, len(self._threads))

    def _is_due(self) -> bool:
        """By this host's database and clock, which cost nothing to ask. The claim decides, by log time."""
        now = timezone.now()
        due = QueuedTask.objects.filter(state=State.READY, run_after__lte=now)
        if self.queues:
            due = due.filter(queue__in=self.queues)
        return due.exists() or QueuedTask.objects.filter(claimed_until__lte=now).exists()

    def _look_after(self) -> None:
        now = clock.monotonic()
        if now - self._claimed_at > SURPLUS_AFTER:
            self._give_back(len(self._threads))
        with self._changed:
            old = [held for held in self._held.values() if held.wants_renewal(now)]
        if old:
            claims = [held.claim for held in old]
            answers = self._insistent.propose(commands.renew, {"claims": claims}, self._stopping) or []
            for held, is_held in zip(old, answers, strict=False):
                held.renewed_at = now
                if not is_held:
                    self._forget(held)
        if now - self._pruned_at > PRUNE_INTERVAL:
            self._pruned_at = now
            if QueuedTask.objects.filter(keep_until__lte=timezone.now()).exists():
                self._insistent.propose(commands.prune, {}, self._stopping)
        if now - self._told_at > self._tell_interval:
            self._told_at = now
            self._tell(self.words())

    def words(self) -> str:
        counts = self._counts
        with self._changed:
            running, waiting = len(self._held) - len(self._todo), len(self._todo)
        return (
            f"{self.name}: {counts.completed} completed, {counts.failed} failed, {counts.lost} lost; "
            f"{running} running, {waiting} claimed"
        )

    def _forget(self, held: Held) -> None:
        """Its claim has ended. If it runs, it goes on, and its completion is refused."""
        with self._changed:
            if held in self._todo:
                self._todo.remove(held)
                self._held.pop(held.key, None)
                self._count(lost=1)

    def _give_back(self, kept: int) -> None:
        """Let other workers have what was claimed and not begun, apart from the next `kept`."""
        with self._changed:
            unused = list(self._todo)[kept:]
            for held in unused:
                self._todo.pop()
                self._held.pop(held.key, None)
        if unused:
            self._batch = len(self._threads)
            self._insistent.propose(commands.release, {"claims": [held.claim for held in unused]}, self._stopping)

    def _finish(self) -> None:
        self._give_back(0)
        with self._changed:
            self._no_more_tasks = True
            self._changed.notify_all()
        while any(thread.is_alive() for thread in self._threads):
            try:
                self._look_after()
            except DatabaseError as error:
                logger.warning(
                    "worker %s cannot use its database: %s",
                    *(self.name, error),
                    extra=log_fields("database_unusable", about=self.name, reason=str(error)),
                )
            for thread in self._threads:
                thread.join(SHORTEST_PAUSE)
        with self._changed:
            self._no_more_outcomes = True
            self._changed.notify_all()
        self._recorder.join()

    # The threads that run tasks

    def _work(self) -> None:
        try:
            while (held := self._next()) is not None:
                outcome = held.attempt.outcome()
                if held.attempt.is_settled and held.attempt.row.backend:
                    self._tell_django([held.attempt.row])
                close_old_connections()
                self._ran(held, outcome)
        except BaseException as error:  # noqa: BLE001  (handed to run())
            self._die(error)
        finally:
            connections.close_all()

    def _next(self) -> Held | None:
        with self._changed:
            self._changed.wait_for(lambda: self._todo or self._no_more_tasks)
            if not self._todo:
                return None
            held = self._todo.popleft()
            held.is_running = True
            if len(self._todo) <= self._batch // 2:
                self._changed.notify_all()  # it is time to claim more
            return held

    def _ran(self, held: Held, outcome: list[Any] | None) -> None:
        with self._changed:
            held.is_running = False
            if outcome is None:
                self._held.pop(held.key, None)
                self._count(**{"completed" if held.attempt.is_settled else "lost": 1})
            else:
                self._outcomes.append(outcome)
            self._changed.notify_all()

    # The thread that records outcomes

    def _record(self) -> None:
        try:
            while outcomes := self._take_outcomes():
                answers = self._insistent.propose(commands.complete, {"outcomes": outcomes}, self._stopping)
                finished = self._recorded(outcomes, answers or [False] * len(outcomes))
                self._tell_django(finished)
        except BaseException as error:  # noqa: BLE001  (handed to run())
            self._die(error)
        finally:
            connections.close_all()

    def _take_outcomes(self) -> list[list[Any]]:
        """All that wait, as far as they fit into one entry; none: it is over."""
        with self._changed:
            self._changed.wait_for(lambda: self._outcomes or self._no_more_outcomes)
            size, count = 0, 0
            for outcome in self._outcomes[:MAX_OUTCOMES]:
                size += len(outcome[2] or "") + len(outcome[4])
                if count and size > MAX_OUTCOME_BYTES:
                    break
                count += 1
            taken, self._outcomes = self._outcomes[:count], self._outcomes[count:]
            return taken

    def _recorded(self, outcomes: list[list[Any]], answers: list[bool]) -> list[QueuedTask]:
        """Settle what was recorded; returns those of Django's tasks API among them."""
        of_django = []
        with self._changed:
            for (task_id, token, _, kind, _), is_recorded in zip(outcomes, answers, strict=True):
                held = self._held.pop((task_id, token), None)
                if held is not None and is_recorded and held.attempt.row.backend:
                    of_django.append(held.attempt.row)
                self._count(**{"lost" if not is_recorded else "failed" if kind else "completed": 1})
            self._changed.notify_all()
        return of_django

    def _tell_django(self, rows: list[QueuedTask]) -> None:
        for row in rows:
            from raftlog.contrib.queue.backend import tell_finished

            try:
                tell_finished(row)
            except Exception:  # a receiver's trouble is not the worker's
                logger.exception(
                    "a receiver of task_finished failed for %s",
                    row,
                    extra=log_fields("receiver_failed", about="task_finished"),
                )

    def _count(self, *, completed: int = 0, failed: int = 0, lost: int = 0) -> None:
        """_changed: held."""
        before = self._counts
        self._counts = Counts(before.completed + completed, before.failed + failed, before.lost + lost)

    def _die(self, error: BaseException) -> None:
        logger.critical(
            "worker %s: thread %s died",
            *(self.name, threading.current_thread().name),
            exc_info=error,
            extra=log_fields("thread_died", about=threading.current_thread().name, reason=str(error)),
        )
        with self._changed:
            self._died = self._died or error
            self._no_more_tasks = self._no_more_outcomes = True
            self._changed.notify_all()


def run_all(queues: Iterable[str] = (), *, threads: int = 1) -> Counts:
    """Run what is due, here and now, until nothing is: for tests, and for scripts."""
    return Worker(queues, threads=threads, burst=True).run()
