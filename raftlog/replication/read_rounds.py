"""The linearizable reads of one process: whoever asks while a question is under way shares the next one.

A question to the node (ports.Proposer.read: ReadIndex, dissertation §6.4) proves that this host's database holds all
that was committed when it was sent. It says nothing of what was committed later: so a caller never joins one that was
sent before it asked.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections.abc import Callable
from typing import Final, NamedTuple

from raftlog.exceptions import NodeUnavailable, ReadNotConfirmed
from raftlog.replication import propose
from raftlog.runtime import clock
from raftlog.runtime.ports import Proposer

ANSWER_GRACE: Final = 1.0  # seconds that a question may take beyond its time limit before another one is sent


class Confirmed(NamedTuple):
    """This host's database has applied `up_to`, which is all that was committed at `as_of` (clock.monotonic())."""

    up_to: int
    as_of: float


Done = Callable[[Confirmed | Exception], None]


class _Question:
    __slots__ = ("as_of", "callers", "overdue_at", "timeout")

    def __init__(self, callers: list[tuple[float, Done]], now: float) -> None:
        self.callers = callers
        self.as_of = clock.monotonic()
        # The longest that one of them waits; the others give up by themselves.
        self.timeout = max(max(deadline for deadline, _ in callers) - now, 0.001)
        self.overdue_at = now + self.timeout + ANSWER_GRACE


class ReadRounds:
    """Thread-safe; one for each process and proposer."""

    def __init__(self, proposer: Proposer) -> None:
        self.proposer = proposer
        # The newest answer; reads within max_staleness() are served by it.
        self.newest: Confirmed | None = None
        self._lock = threading.Lock()
        # Callers that came while a question was under way: the next one is theirs.
        self._waiting: list[tuple[float, Done]] = []
        self._asked: _Question | None = None

    def ask(self, timeout: float, done: Done) -> None:
        """`done` is called once, from any thread, with what is confirmed from now on, or with why nothing is.

        It may never be, where the node does not answer: whoever waits does so for `timeout` seconds.
        """
        now = clock.monotonic()
        with self._lock:
            self._waiting.append((now + timeout, done))
            if self._asked is not None and now < self._asked.overdue_at:
                return
            question: _Question | None = self._next(now)
        while question is not None:
            question = self._send(question)

    def refresh(self, timeout: float) -> None:
        """Ask, if nothing is under way, without waiting: `newest` becomes newer."""
        with self._lock:
            is_under_way = self._asked is not None and clock.monotonic() < self._asked.overdue_at
        if not is_under_way:
            self.ask(timeout, lambda answer: None)

    def wait(self, timeout: float) -> Confirmed:
        """Blocks. Raises ReadNotConfirmed, NodeUnavailable."""
        turnstile = threading.Lock()
        turnstile.acquire()
        answers: list[Confirmed | Exception] = []

        def done(answer: Confirmed | Exception) -> None:
            answers.append(answer)
            turnstile.release()

        self.ask(timeout, done)
        turnstile.acquire(timeout=timeout)
        return _result(answers, timeout)

    async def wait_async(self, timeout: float) -> Confirmed:
        """As wait(), without blocking the event loop."""
        loop = asyncio.get_running_loop()
        woken = asyncio.Event()
        answers: list[Confirmed | Exception] = []

        def done(answer: Confirmed | Exception) -> None:
            answers.append(answer)
            try:
                loop.call_soon_threadsafe(woken.set)
            except RuntimeError:  # the loop is closed: nobody waits any more
                return

        # Elsewhere: to ask may mean to connect, which takes seconds where the node stands still.
        loop.run_in_executor(None, self.ask, timeout, done)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(woken.wait(), timeout)
        return _result(answers, timeout)

    def _next(self, now: float) -> _Question:
        """Lock: held. All that wait share it: it is sent after they asked."""
        callers, self._waiting = self._waiting, []
        self._asked = _Question(callers, now)
        return self._asked

    def _send(self, question: _Question) -> _Question | None:
        """Returns the next one to send, where this one failed at once and others have come meanwhile."""
        try:
            self.proposer.read(question.timeout, lambda index, reason: self._answered(question, index, reason))
        except NodeUnavailable as error:
            return self._end(question, error)
        return None

    def _answered(self, question: _Question, index: int, reason: str) -> None:
        answer = Confirmed(index, question.as_of) if index else not_confirmed(reason)
        following = self._end(question, answer)
        while following is not None:
            following = self._send(following)

    def _end(self, question: _Question, answer: Confirmed | Exception) -> _Question | None:
        following = None
        with self._lock:
            if isinstance(answer, Confirmed) and (self.newest is None or answer.as_of > self.newest.as_of):
                self.newest = answer
            if self._asked is question:  # else it came too late
                self._asked = None
                if self._waiting:
                    following = self._next(clock.monotonic())
        for _, done in question.callers:
            done(answer)
        return following


def not_confirmed(reason: str) -> ReadNotConfirmed:
    return ReadNotConfirmed(
        f"{reason}; nothing was read. Try again, or read this host's database as it stands, without the guarantee"
    )


def _result(answers: list[Confirmed | Exception], timeout: float) -> Confirmed:
    if not answers:
        raise not_confirmed(f"this host's node confirmed nothing within {timeout:.3g} s")
    answer = answers[0]
    if isinstance(answer, Exception):
        # Each caller raises one of its own: an exception carries the traceback of who raises it.
        raise type(answer)(*answer.args)
    return answer


_rounds: ReadRounds | None = None
_guard = threading.Lock()


def current_rounds() -> ReadRounds:
    """Those of this process. Raises NodeUnavailable where no way to a node is set up."""
    global _rounds
    proposer = propose.current_session().proposer
    # Where tests have several hosts in one process (raftlog.testing.cluster), each confirms its own reads.
    proposer = getattr(proposer, "of_this_thread", proposer)
    with _guard:
        if _rounds is None or _rounds.proposer is not proposer:
            _rounds = ReadRounds(proposer)
        return _rounds


def _forked() -> None:
    """In the child: the parent's questions are not ours."""
    global _rounds, _guard
    _guard = threading.Lock()
    _rounds = None


os.register_at_fork(after_in_child=_forked)
