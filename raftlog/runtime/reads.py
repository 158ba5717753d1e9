"""Callers waiting for a point that is safe to read at (ReadIndex; dissertation §6.4).

A read ends when this node has applied the index that the leader vouched for. A refused one (leader
lost, leadership not confirmed) is asked for again until its deadline.

Monitor: held, in every method.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable

from raftlog.consensus.raft import Raft

# Called outside the monitor: the applied index to read at, or 0 with the reason why there is none.
ReadDone = Callable[[int, str], None]

RETRY_INTERVAL = 0.02  # seconds


class Reads:
    """All linearizable reads that wait on this node."""

    def __init__(self, raft: Raft) -> None:
        self._raft = raft
        self._next_id = 1
        self._asked: dict[int, tuple[float, ReadDone]] = {}
        self._retry: list[tuple[float, ReadDone]] = []
        self._retry_at = float("inf")
        self._waiting_for_apply: list[tuple[int, int, ReadDone]] = []

    def request(self, deadline: float, done: ReadDone, now: float) -> None:
        request_id = self._next_id
        self._next_id += 1
        self._asked[request_id] = (deadline, done)
        self._raft.request_read(request_id, now)

    def confirmed(self, reads: list[tuple[int, int]], now: float) -> list[tuple[ReadDone, int, str]]:
        """Take what Raft.take_reads() gave."""
        ready: list[tuple[ReadDone, int, str]] = []
        for request_id, read_index in reads:
            deadline, done = self._asked.pop(request_id, (0.0, None))
            if done is None:
                continue
            if read_index == 0:
                self._retry.append((deadline, done))
                self._retry_at = min(self._retry_at, now + RETRY_INTERVAL)
            elif read_index <= self._raft.last_applied:
                ready.append((done, self._raft.last_applied, ""))
            else:
                heapq.heappush(self._waiting_for_apply, (read_index, request_id, done))
        return ready

    def applied(self) -> list[tuple[ReadDone, int, str]]:
        """Reads that the newly applied entries satisfy."""
        ready: list[tuple[ReadDone, int, str]] = []
        while self._waiting_for_apply and self._waiting_for_apply[0][0] <= self._raft.last_applied:
            ready.append((heapq.heappop(self._waiting_for_apply)[2], self._raft.last_applied, ""))
        return ready

    @property
    def next_deadline(self) -> float:
        if not self._asked:
            return self._retry_at
        return min(self._retry_at, min(deadline for deadline, _ in self._asked.values()))

    def expire(self, now: float) -> list[tuple[ReadDone, int, str]]:
        """Ask again for what was refused; end what is past its deadline."""
        ended: list[tuple[ReadDone, int, str]] = []
        for request_id in [i for i, (deadline, _) in self._asked.items() if deadline <= now]:
            ended.append((self._asked.pop(request_id)[1], 0, "no leader confirmed its leadership in time"))
        if now >= self._retry_at:
            self._retry_at = float("inf")
            retry, self._retry = self._retry, []
            for deadline, done in retry:
                if deadline <= now:
                    ended.append((done, 0, "no leader confirmed its leadership in time"))
                else:
                    self.request(deadline, done, now)
        return ended

    def end_all(self, reason: str) -> list[tuple[ReadDone, int, str]]:
        """The node stops or withdraws."""
        done = [done for _, done in self._asked.values()] + [done for _, done in self._retry]
        done += [done for _, _, done in self._waiting_for_apply]
        self._asked.clear()
        self._retry.clear()
        self._waiting_for_apply.clear()
        return [(each, 0, reason) for each in done]
