"""Callers waiting for a point that is safe to read at (ReadIndex; dissertation §6.4).

A read ends when this node has applied the index that the leader vouched for, or at its deadline. A refused one (leader
lost, leadership not confirmed) is asked for again until then.

Monitor: held, in every method.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import NamedTuple

from raftlog.consensus.raft import Raft
from raftlog.runtime.measures import Histogram

# Called outside the monitor: the applied index to read at, or 0 with the reason why there is none.
ReadDone = Callable[[int, str], None]

RETRY_INTERVAL = 0.02  # seconds


class _Read(NamedTuple):
    deadline: float
    came_at: float
    done: ReadDone


class Reads:
    """All linearizable reads that wait on this node. `histogram`: how long they take to be confirmed."""

    def __init__(self, raft: Raft, histogram: Histogram) -> None:
        self._raft = raft
        self._histogram = histogram
        self._next_id = 1
        self._asked: dict[int, _Read] = {}
        self._retry: list[_Read] = []
        self._retry_at = float("inf")
        # A heap: (index to be applied, request id, read).
        self._waiting_for_apply: list[tuple[int, int, _Read]] = []

    def request(self, deadline: float, done: ReadDone, now: float) -> None:
        self._ask(_Read(deadline, now, done), now)

    def _ask(self, read: _Read, now: float) -> None:
        request_id = self._next_id
        self._next_id += 1
        self._asked[request_id] = read
        self._raft.request_read(request_id, now)

    def confirmed(self, reads: list[tuple[int, int]], now: float) -> list[tuple[ReadDone, int, str]]:
        """Take what Raft.take_reads() gave."""
        ready: list[tuple[ReadDone, int, str]] = []
        for request_id, read_index in reads:
            read = self._asked.pop(request_id, None)
            if read is None:
                continue
            if read_index == 0:
                self._retry.append(read)
                self._retry_at = min(self._retry_at, now + RETRY_INTERVAL)
                continue
            self._histogram.observe(now - read.came_at)
            if read_index <= self._raft.last_applied:
                ready.append((read.done, self._raft.last_applied, ""))
            else:
                heapq.heappush(self._waiting_for_apply, (read_index, request_id, read))
        return ready

    def applied(self) -> list[tuple[ReadDone, int, str]]:
        """Reads that the newly applied entries satisfy."""
        ready: list[tuple[ReadDone, int, str]] = []
        while self._waiting_for_apply and self._waiting_for_apply[0][0] <= self._raft.last_applied:
            ready.append((heapq.heappop(self._waiting_for_apply)[2].done, self._raft.last_applied, ""))
        return ready

    @property
    def await_apply(self) -> bool:
        """Whether any of them waits for an entry to be applied."""
        return bool(self._waiting_for_apply)

    @property
    def next_deadline(self) -> float:
        if not (self._asked or self._waiting_for_apply):
            return self._retry_at
        asked = min((read.deadline for read in self._asked.values()), default=self._retry_at)
        applying = min((read.deadline for _, _, read in self._waiting_for_apply), default=self._retry_at)
        return min(self._retry_at, asked, applying)

    def expire(self, now: float) -> list[tuple[ReadDone, int, str]]:
        """Ask again for what was refused; end what is past its deadline."""
        ended: list[tuple[ReadDone, int, str]] = []
        for request_id in [i for i, read in self._asked.items() if read.deadline <= now]:
            ended.append((self._asked.pop(request_id).done, 0, "no leader confirmed its leadership in time"))
        late = [waiting for waiting in self._waiting_for_apply if waiting[2].deadline <= now]
        if late:
            self._waiting_for_apply = [waiting for waiting in self._waiting_for_apply if waiting[2].deadline > now]
            heapq.heapify(self._waiting_for_apply)
            text = f"this node has applied entry {self._raft.last_applied}, and not in time what the leader confirmed"
            ended += [(read.done, 0, text) for _, _, read in late]
        if now >= self._retry_at:
            self._retry_at = float("inf")
            retry, self._retry = self._retry, []
            for read in retry:
                if read.deadline <= now:
                    ended.append((read.done, 0, "no leader confirmed its leadership in time"))
                else:
                    self._ask(read, now)
        return ended

    def end_all(self, reason: str) -> list[tuple[ReadDone, int, str]]:
        """The node stops or withdraws."""
        waiting = [read for _, _, read in self._waiting_for_apply]
        done = [read.done for read in [*self._asked.values(), *self._retry, *waiting]]
        self._asked.clear()
        self._retry.clear()
        self._waiting_for_apply.clear()
        return [(each, 0, reason) for each in done]
