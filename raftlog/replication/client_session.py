"""This process as a client of the cluster: one session, sequence numbers, and who waits for which answer (rule 1).

Sequences count from 1 and are given once. `acknowledged_below`, carried by every proposal, is the lowest sequence that
is not finally answered: the cluster forgets the results below it. A proposal whose outcome is unknown stays
unacknowledged, so that its result can be asked for, until it is one of too many.
"""

from __future__ import annotations

import heapq
import os
import threading
import uuid
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Final

from raftlog.consensus.entries import COMMAND, OPEN_SESSION, client_payload
from raftlog.exceptions import NoLeader, Overloaded
from raftlog.replication.failures import proposal_failure
from raftlog.runtime import clock
from raftlog.runtime.ports import APPLIED, UNKNOWN, Outcome, Proposer

MAX_WINDOW: Final = 32_768  # sequences between the lowest without an answer and the next; below sessions.MAX_RESULTS
MAX_LATE: Final = 1_024  # answers kept that came after their caller had given up


# Sessions that this process has opened: about one a process.
_own_sessions: set[bytes] = set()
os.register_at_fork(after_in_child=_own_sessions.clear)


def is_own_session(session_id: bytes) -> bool:
    """Whether a session is, or was, one of this process."""
    return session_id in _own_sessions


class Answers:
    """The outcomes of proposals made together. `wake` is called once, by whoever brings the last of them."""

    __slots__ = ("_missing", "_wake", "outcomes")

    def __init__(self, count: int, wake: Callable[[], object]) -> None:
        self.outcomes: list[Outcome | None] = [None] * count
        self._missing = count
        self._wake = wake

    def put(self, position: int, outcome: Outcome) -> None:
        """Not thread-safe: the session's lock is held, or there is one position."""
        if self.outcomes[position] is None:
            self.outcomes[position] = outcome
            self._missing -= 1
            if not self._missing:
                self._wake()


class BlockingAnswers(Answers):
    """For callers that block. A bare lock is the cheapest thing to wait on."""

    __slots__ = ("_turnstile",)

    def __init__(self, count: int) -> None:
        self._turnstile = threading.Lock()
        self._turnstile.acquire()
        super().__init__(count, self._turnstile.release)

    def wait(self, timeout: float) -> bool:
        return self._turnstile.acquire(timeout=max(timeout, 0))


class _LowestFirst:
    """A set of sequences whose lowest is cheap to find, in whatever order they come and go."""

    __slots__ = ("_heap", "_members")

    def __init__(self) -> None:
        self._members: set[int] = set()
        self._heap: list[int] = []  # every member, and some that have gone

    def __contains__(self, sequence: int) -> bool:
        return sequence in self._members

    def __iter__(self) -> Iterator[int]:
        return iter(sorted(self._members))

    def __len__(self) -> int:
        return len(self._members)

    def add(self, sequence: int) -> None:
        if sequence not in self._members:
            self._members.add(sequence)
            heapq.heappush(self._heap, sequence)

    def discard(self, sequence: int) -> None:
        self._members.discard(sequence)
        while self._heap and self._heap[0] not in self._members:
            heapq.heappop(self._heap)

    @property
    def lowest(self) -> int:
        """Must not be empty."""
        return self._heap[0]


class ClientSession:
    """One session of this process. Thread-safe; made anew after a fork."""

    def __init__(self, proposer: Proposer) -> None:
        self.proposer = proposer
        self.session_id = uuid.uuid4().bytes
        _own_sessions.add(self.session_id)
        self._lock = threading.Lock()
        self._next_sequence = 1
        # Proposals whose callers wait, in the order of their sequences. Changes: submit(), _done(), give_up().
        self._waiting: OrderedDict[int, tuple[Answers, int]] = OrderedDict()
        # Sequences whose outcome is unknown and that are not acknowledged for that.
        self._doubtful = _LowestFirst()
        # Answers that came after their caller had given up.
        self.late: OrderedDict[int, Outcome] = OrderedDict()
        self._opening = threading.Lock()
        self.is_open = False

    def open(self, timeout: float) -> None:
        """Open the session through the log, if it is not. Blocks. Raises NotProposed: no command was proposed."""
        if self.is_open:
            return
        deadline = clock.monotonic() + timeout
        if not self._opening.acquire(timeout=timeout):
            raise NoLeader(f"no session could be opened within {timeout:.3g} s; nothing was done")
        try:
            if self.is_open:
                return
            answers = BlockingAnswers(1)
            payload = client_payload(OPEN_SESSION, self.session_id, 0, 0, b"")
            remaining = max(deadline - clock.monotonic(), 0.001)
            self.proposer.propose([payload], remaining, lambda outcomes: answers.put(0, outcomes[0]))
            answers.wait(remaining + 1.0)
            outcome = answers.outcomes[0]
            if outcome is None or outcome.status == UNKNOWN:
                raise NoLeader(f"no session could be opened within {timeout:.3g} s; nothing was done")
            if outcome.status != APPLIED:
                raise proposal_failure(outcome)
            self.is_open = True
        finally:
            self._opening.release()

    def reserve(self) -> int:
        """A sequence for one proposal to come: give it to submit(), or to forget()."""
        with self._lock:
            sequence = self._next_sequence
            self._make_room(sequence + 1)
            self._next_sequence = sequence + 1
            self._waiting[sequence] = (Answers(1, lambda: None), 0)
        return sequence

    def forget(self, sequence: int) -> None:
        """Nothing will be proposed under this reserved sequence."""
        with self._lock:
            self._waiting.pop(sequence, None)

    def submit(
        self, bodies: list[bytes], answers: Answers, timeout: float, kind: int = COMMAND, *, reserved: int = 0
    ) -> int:
        """Propose entries of a kind; their sequences are the number returned and those that follow it.

        `reserved`: the sequence of the one entry, from reserve(). Raises Overloaded, and what Proposer.propose
        raises: then nothing was proposed.
        """
        count = len(bodies)
        with self._lock:
            first = reserved or self._next_sequence
            if not reserved:
                self._make_room(first + count)
                self._next_sequence = first + count
            for position in range(count):
                self._waiting[first + position] = (answers, position)
            below = self._acknowledged_below()
        payloads = [
            client_payload(kind, self.session_id, sequence, below, body) for sequence, body in enumerate(bodies, first)
        ]
        try:
            self.proposer.propose(payloads, timeout, self._done)
        except BaseException:
            with self._lock:
                for sequence in range(first, first + count):
                    self._waiting.pop(sequence, None)
            raise
        return first

    def give_up(self, first_sequence: int, count: int) -> None:
        """The caller waits no longer: the outcomes that have not come are unknown."""
        with self._lock:
            for sequence in range(first_sequence, first_sequence + count):
                if self._waiting.pop(sequence, None) is not None:
                    self._doubtful.add(sequence)

    def settled(self, sequence: int) -> None:
        """The outcome of a proposal that was in doubt is known to its caller."""
        with self._lock:
            self._doubtful.discard(sequence)

    def _done(self, outcomes: list[Outcome]) -> None:
        with self._lock:
            for outcome in outcomes:
                sequence = int.from_bytes(outcome.key[16:24], "big")
                waiting = self._waiting.pop(sequence, None)
                if outcome.status == UNKNOWN:
                    self._doubtful.add(sequence)
                if waiting is not None:
                    answers, position = waiting
                    answers.put(position, outcome)
                elif outcome.status != UNKNOWN and sequence in self._doubtful:
                    self._doubtful.discard(sequence)
                    self.late[sequence] = outcome
                    if len(self.late) > MAX_LATE:
                        self.late.popitem(last=False)

    def _acknowledged_below(self) -> int:
        lowest = self._next_sequence
        if self._waiting:
            lowest = min(lowest, next(iter(self._waiting)))
        if self._doubtful:
            lowest = min(lowest, self._doubtful.lowest)
        return lowest

    def _make_room(self, next_sequence: int) -> None:
        """Keep the window bounded. Doubts go first, oldest first: an entry that is acknowledged is never run later."""
        while self._doubtful and next_sequence - self._doubtful.lowest > MAX_WINDOW:
            self._doubtful.discard(self._doubtful.lowest)
        if self._waiting and next_sequence - next(iter(self._waiting)) > MAX_WINDOW:
            raise Overloaded(
                f"{len(self._waiting)} proposals of this process wait for an answer, the limit is {MAX_WINDOW}"
            )
