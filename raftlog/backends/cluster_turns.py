"""The cluster's write turn as an app process takes it, and when a transaction does (rules 3 and 15).

The first try is optimistic. A retry takes the turn, so that hot rows make progress and nothing starves. Where
nobody would run the work again (shell, Celery, management commands, a view without the middleware), a transaction
takes the turn before its first write that an entry of others could invalidate (an UPDATE or DELETE, or an INSERT
after reads), or before a select_for_update() that it begins with. INSERTs alone do not pay for it, nor does a
single statement, which is run again by itself. A schema change takes the turn as a fence.

Thread-safety: ClusterTurns any thread, TransactionTurn as its connection.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Final

from raftlog.backends.log import TransactionLog
from raftlog.consensus.entries import proposal_key
from raftlog.exceptions import NotProposed, RaftlogError
from raftlog.replication import effects, propose
from raftlog.replication.client_session import ClientSession
from raftlog.runtime import clock

RENEWED_EVERY: Final = 1.0  # seconds; below the leader's lease
MAX_ASKED: Final = 48  # turns that one process asks for at once; the others of its threads wait here
MAX_WAIT: Final = 10.0  # seconds that a transaction waits for the turn; then it goes on without
MAX_FENCE_WAIT: Final = 60.0


class HeldTurn:
    """One turn that was granted, named by the sequence under which its holder is going to propose."""

    def __init__(self, session: ClientSession, sequence: int, *, is_fence: bool) -> None:
        self.session = session
        self.sequence = sequence
        self.key = proposal_key(session.session_id, sequence)
        self.is_fence = is_fence
        self.is_used = False
        self.thread = threading.current_thread()
        self.pid = os.getpid()

    def use(self, session: ClientSession) -> int:
        """The sequence to propose under; 0: any, since the turn does not depend on it, or is of no use any more."""
        if self.is_fence or self.is_used:
            return 0
        if session is not self.session:  # the session had ended: this turn would hold back its own holder
            self.release()
            return 0
        self.is_used = True
        return self.sequence

    def unused(self) -> None:
        """What was to be proposed under it was not: it is still held."""
        self.is_used = False

    def release(self) -> None:
        if not self.is_used:
            self.is_used = True
            if not self.is_fence:
                self.session.forget(self.sequence)
            self.session.proposer.release_turn(self.key)


class ClusterTurns:
    """The turns of this process."""

    def __init__(self) -> None:
        self._lock = threading.Condition()
        self._held: dict[threading.Thread, HeldTurn] = {}
        self._room = threading.BoundedSemaphore(MAX_ASKED)
        self._renewer: threading.Thread | None = None
        _all.add(self)

    def _start_over(self) -> None:
        self._lock = threading.Condition()
        self._held = {}
        self._room = threading.BoundedSemaphore(MAX_ASKED)
        self._renewer = None

    def of_this_thread(self) -> HeldTurn | None:
        return self._held.get(threading.current_thread())

    @contextmanager
    def turn(self, timeout: float, *, is_fence: bool) -> Iterator[bool]:
        """See TransactionLog.cluster_turn."""
        if self.of_this_thread() is not None:
            yield True
            return
        held = self._take(timeout, is_fence)
        if held is None:
            yield False
            return
        try:
            yield True
        finally:
            self._give_back(held)

    def _take(self, timeout: float, is_fence: bool) -> HeldTurn | None:
        deadline = clock.monotonic() + timeout
        if not self._room.acquire(timeout=timeout):
            return None
        try:
            session = propose.current_session()
            session.open(timeout)
            held = HeldTurn(session, session.reserve(), is_fence=is_fence)
            if is_fence:  # it outlasts many proposals, and must not keep them unacknowledged
                session.forget(held.sequence)
            left = max(deadline - clock.monotonic(), 0.001)
            if not session.proposer.take_turn(held.key, is_fence=is_fence, timeout=left):
                held.release()
                return None
        except RaftlogError:  # no node, no leader: the commit will say so
            return None
        finally:
            self._room.release()
        with self._lock:
            self._held[held.thread] = held
            if self._renewer is None:
                self._renewer = threading.Thread(target=self._renew, name="raftlog-turn-renewer", daemon=True)
                self._renewer.start()
        return held

    def _give_back(self, held: HeldTurn) -> None:
        if held.pid != os.getpid():
            return  # inherited over a fork: the parent's
        with self._lock:
            self._held.pop(held.thread, None)
        held.release()

    def _renew(self) -> None:
        """Body of the renewer thread. It ends when nothing is held, since most turns are over before it looks."""
        while True:
            clock.sleep(RENEWED_EVERY)
            with self._lock:
                held = [turn for turn in self._held.values() if not turn.is_used]
                if not self._held:
                    self._renewer = None
                    return
            for turn in held:
                try:
                    turn.session.proposer.renew_turn(turn.key, is_fence=turn.is_fence)
                except NotProposed:
                    continue


_all: weakref.WeakSet[ClusterTurns] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for turns in list(_all):
        turns._start_over()


os.register_at_fork(after_in_child=_after_fork_in_child)


class TransactionTurn:
    """The cluster's turn of one connection's transactions: taken when it must be, released when they end."""

    def __init__(self, log: TransactionLog) -> None:
        self._log = log
        self._held = ExitStack()
        self._fence = ExitStack()
        # The turn was asked for in this transaction, and granted or not: it is not asked for again.
        self._was_asked = False
        # It was granted to this transaction.
        self.is_held = False
        # A schema change has the turn, over any number of transactions.
        self.is_fenced = False

    @property
    def is_settled(self) -> bool:
        """There is nothing to take: it has been, or this log knows no turn but the host's."""
        return self._was_asked or self.is_fenced or self._log.holds_turn

    def at_begin(self) -> None:
        """An explicit transaction begins. A retry takes the turn before it reads anything."""
        work = effects.current()
        if work is not None and work.attempt > 1 and not work.count:
            self.take()

    def before_write(self, *, attempt: int, is_exposed: bool) -> None:
        """The first write is about to come; the host's turn is not held.

        Args:
            attempt: of a single statement in a transaction of its own, which is run again by itself; else 0.
            is_exposed: an entry of others could invalidate what it reads or writes.
        """
        if attempt > 1 or self.is_wanted(is_exposed=is_exposed and not attempt):
            self.take()

    def is_wanted(self, *, is_exposed: bool) -> bool:
        """Whether a transaction is to have the turn for what it does now."""
        work = effects.current()
        if work is None or work.count:  # nobody would run it again
            return is_exposed
        return work.attempt > 1

    def take(self, *, is_fence: bool = False) -> None:
        """Take it until the transaction ends. Called without the host's turn."""
        if not self.is_settled:
            self._was_asked = True
            wait = MAX_FENCE_WAIT if is_fence else MAX_WAIT
            self.is_held = self._held.enter_context(self._log.cluster_turn(wait, is_fence=is_fence))

    def release(self) -> None:
        """The transaction has ended."""
        if self._was_asked:
            self._was_asked = self.is_held = False
            self._held.close()

    def fence(self) -> None:
        """A schema change begins; the turn is its own until unfence(). Called without the host's turn."""
        if not self.is_settled:
            self._fence.enter_context(self._log.cluster_turn(MAX_FENCE_WAIT, is_fence=True))
            self.is_fenced = True

    def unfence(self) -> None:
        self.is_fenced = False
        self._fence.close()
