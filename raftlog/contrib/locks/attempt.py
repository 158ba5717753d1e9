"""One attempt to get a lock, without waiting itself: what to propose, when to ask again, when to give up.

A waiter stands in the queue in the log, and says every third of its patience that it is still there. Meanwhile it looks
at the rows of the lock in its own host's database, which costs no entry. They say that a release has handed it over, or
that it is its turn and it must ask again, as it does once somebody before it must have expired.
"""

from __future__ import annotations

import os
import random
import socket
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from raftlog import clock
from raftlog.contrib.locks.commands import new_owner
from raftlog.contrib.locks.exceptions import LockNotAcquired
from raftlog.contrib.locks.fence import SURE, Fence
from raftlog.contrib.locks.keeper import microseconds
from raftlog.contrib.locks.models import NAME_LENGTH
from raftlog.contrib.locks.tables import Row
from raftlog.exceptions import NodeUnavailable, NoLeader, NotLeader, OutcomeUnknown, Overloaded

PATIENCE: Final = 6.0  # seconds after which a waiter that says nothing is forgotten …
FRONT_PATIENCE: Final = 2.0  # … and one of the first: while it is stopped or dead, a free lock waits for it
FRONT: Final = 3  # how many those are, beyond the limit
SHORTEST_LOOK, LONGEST_LOOK = 0.02, 0.05  # seconds between two looks at the rows, of the first in the queue …
SLOWEST: Final = 6  # … times its place for the others, up to this
QUICKEST_LOOK: Final = 0.004  # where the queue has just moved, times its place: less than an entry takes …
SLOWING: Final = 0.2  # … and this part of the time since, if that is more
SHORTEST_ASK: Final = 0.2  # seconds between two proposals that only a guess was the reason for
SHORTEST_WAIT: Final = 0.5  # seconds for an answer, also of the last proposal before `wait` is over
MIN_TTL, MAX_TTL = 1.0, 30 * 86_400.0  # seconds
MAX_LIMIT: Final = 10_000
MAX_SIGHTINGS: Final = 10_000

# Worth another attempt while there is time. The rest (no such command on a voter, a node that differs) is told.
RETRYABLE: Final = (NoLeader, NotLeader, NodeUnavailable, Overloaded, OutcomeUnknown)

_random = random.SystemRandom()


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is asked for. Raises ValueError, TypeError for what cannot be."""

    name: str
    ttl: float = 30.0
    wait: float | None = None
    limit: int = 1
    on_lost: Callable[[Fence], Any] | None = None
    label: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not 0 < len(self.name) <= NAME_LENGTH or "\0" in self.name:
            raise ValueError(f"the name of a lock is {self.name!r}; give it 1 to {NAME_LENGTH} characters, no NUL")
        if not MIN_TTL <= self.ttl <= MAX_TTL:
            raise ValueError(
                f"ttl of the lock {self.name!r} is {self.ttl!r} s; {MIN_TTL:g} to {MAX_TTL:g} are possible"
            )
        if self.wait is not None and not 0 <= self.wait <= MAX_TTL:
            raise ValueError(
                f"wait of the lock {self.name!r} is {self.wait!r}; None: for ever, 0: not at all, else up to "
                f"{MAX_TTL:g} s"
            )
        if not isinstance(self.limit, int) or not 1 <= self.limit <= MAX_LIMIT:
            raise ValueError(f"limit of the semaphore {self.name!r} is {self.limit!r}; 1 to {MAX_LIMIT} are possible")


class Sightings:
    """When this process first saw each row as it is. Thread-safe.

    The lock clock stands still between two leaders, and where the cluster has one voter and no node runs, each
    process leads for a moment. So whoever has seen a row unchanged for its whole ttl, by his own clock, says so.
    """

    def __init__(self) -> None:
        self._start_over()

    def _start_over(self) -> None:
        """Also in a forked child, where a thread that is not there may hold the lock."""
        self._guard = threading.Lock()
        self._seen: dict[tuple[str, int], float] = {}

    def note(self, rows: list[Row]) -> None:
        now = clock.monotonic()
        with self._guard:
            for row in rows:
                self._seen.setdefault((row.owner, row.renewed), now)
            while len(self._seen) > MAX_SIGHTINGS:
                del self._seen[next(iter(self._seen))]

    def is_silent(self, row: Row) -> bool:
        with self._guard:
            first = self._seen.get((row.owner, row.renewed))
        return first is not None and microseconds(clock.monotonic() - first) > row.ttl


sightings = Sightings()
os.register_at_fork(after_in_child=sightings._start_over)


class Attempt:
    """Not thread-safe."""

    def __init__(self, wanted: Wanted, owner: str = "") -> None:
        self.wanted = wanted
        self.owner = owner or new_owner(microseconds(wanted.ttl))
        now = clock.monotonic()
        self._deadline = None if wanted.wait is None else now + wanted.wait
        self._queues = wanted.wait is None or wanted.wait > 0
        self._ask_at = now  # when to ask, whatever the rows say
        self._asked_at = now
        self._answer: dict[str, int] | None = None
        self._answered_at = now
        # Before the last question was sent that was answered with a place in the queue.
        self._queued_at: float | None = None
        self._rows: tuple[list[Row], list[Row]] = ([], [])
        self._moved_at = now  # when it came, or those before it were seen to be others
        self._failure: Exception | None = None  # of the last proposal

    # Asking

    def arguments(self) -> dict[str, Any]:
        return {
            "name": self.wanted.name,
            "owner": self.owner,
            "ttl": microseconds(self.wanted.ttl),
            "patience": microseconds(self._patience()) if self._queues else 0,
            "limit": self.wanted.limit,
            "label": (self.wanted.label or default_label())[:NAME_LENGTH],
            "silent": self._silent(),
        }

    def _patience(self) -> float:
        """Seconds, by its place in the queue."""
        is_in_front = self._before(self._rows[1]) < self.wanted.limit - 1 + FRONT
        return FRONT_PATIENCE if is_in_front else PATIENCE

    def _silent(self) -> dict[str, int]:
        """Who has said nothing for a whole ttl of his, as this process has seen it."""
        return {row.owner: row.renewed for rows in self._rows for row in rows if sightings.is_silent(row)}

    def timeout(self) -> float | None:
        """Seconds for the answer; None: as every proposal. Later than the ttl it would be of no use."""
        if not self._queues:
            return None
        longest = max(self.wanted.ttl * SURE, SHORTEST_WAIT)
        if self._deadline is not None:
            longest = min(longest, max(self._deadline - clock.monotonic(), SHORTEST_WAIT))
        return longest

    def answered(self, answer: dict[str, int], sent_at: float) -> Fence | None:
        """The fence, where it is held now. Raises LockNotAcquired where time is over."""
        self._asked_at = self._answered_at = clock.monotonic()
        self._answer, self._failure = answer, None
        if answer["token"]:
            fence = self._fence(answer["token"], sent_at)
            if fence.is_valid:
                return fence
            self._ask_at = self._answered_at  # the answer took longer than the ttl: asked again, it is renewed
        else:
            self._queued_at = sent_at
            self._ask_at = self._answered_at + PATIENCE / 3
        self._give_up_if_over()
        return None

    def handed_over(self) -> Fence | None:
        """The fence, where the rows say that a release has handed it over; None too if it is to be asked for again.

        That came after the entry by which it waits, so not before that was asked for: from then the ttl is counted.
        Where a third of it is over by now, asking again renews it, as the keeper would.
        """
        mine = self._mine()
        if mine is None or self._queued_at is None or mine.ttl < microseconds(self.wanted.ttl):
            return None
        fence = self._fence(mine.number, self._queued_at)
        return fence if fence.remaining >= self.wanted.ttl * (SURE - 1 / 3) else None

    def _mine(self) -> Row | None:
        return next((row for row in self._rows[0] if row.owner == self.owner), None)

    def _fence(self, token: int, sent_at: float) -> Fence:
        return Fence(
            name=self.wanted.name,
            owner=self.owner,
            token=token,
            ttl=self.wanted.ttl,
            sent_at=sent_at,
            on_lost=self.wanted.on_lost,
        )

    def failed(self, error: Exception) -> None:
        """It could not be asked, or there was no answer. Raises LockNotAcquired where time is over."""
        self._ask_at = self._asked_at = clock.monotonic()
        self._ask_at += SHORTEST_ASK
        if not self._queues:
            raise error
        self._failure = error
        self._give_up_if_over()

    # Waiting

    def pause(self) -> float:
        """Seconds until the next look."""
        place = 1 + self._before(self._rows[1])
        quick: float = max(QUICKEST_LOOK * place, (clock.monotonic() - self._moved_at) * SLOWING)
        return min(quick, _random.uniform(SHORTEST_LOOK, LONGEST_LOOK) * min(place, SLOWEST))

    def look(self, holders: list[Row], waiters: list[Row]) -> None:
        """The rows of the lock, as they are now."""
        if {row.owner for row in holders} != {row.owner for row in self._rows[0]}:
            self._moved_at = clock.monotonic()
        self._rows = (holders, waiters)
        sightings.note([*holders, *waiters])

    def should_ask(self) -> bool:
        """Whether the rows, or the time that has passed, are a reason to ask again. Raises LockNotAcquired."""
        self._give_up_if_over()
        now = clock.monotonic()
        if now >= self._ask_at or (self._failure is None and now >= self._asked_at + self._patience() / 3):
            return True
        if self._answer is None or self._failure is not None:
            return False
        if self._mine() is not None:
            return True
        holders, waiters = self._rows
        if self._before(waiters) < self.wanted.limit - len(holders):
            return True
        # By a guess of the lock clock. It may be wrong (that clock stands still between two leaders).
        elapsed = self._answer["elapsed"] + microseconds(now - self._answered_at)
        silent = self._silent()
        alive = [row for row in holders if row.expires_at > elapsed and row.owner not in silent]
        before = [row for row in waiters if row.expires_at > elapsed and row.owner not in silent]
        guess = self._before(before) < self.wanted.limit - len(alive)
        return guess and now - self._asked_at >= SHORTEST_ASK

    def _before(self, waiters: list[Row]) -> int:
        """How many are before it."""
        owners = [row.owner for row in waiters]
        return owners.index(self.owner) if self.owner in owners else len(owners)

    def _give_up_if_over(self) -> None:
        if self._deadline is None or clock.monotonic() < self._deadline:
            return
        held_by = ", ".join(row.label for row in self._rows[0])
        who = f", held by {held_by}" if held_by else ""
        why = f": {self._failure}" if self._failure else ""
        raise LockNotAcquired(
            f"the lock {self.wanted.name!r} could not be had within {self.wanted.wait:g} s{who}{why}"
        ) from self._failure


def default_label() -> str:
    """Who holds it, for people: the host, the program and the process."""
    return f"{socket.gethostname()}: {Path(sys.argv[0]).name or 'python'} (pid {os.getpid()})"
