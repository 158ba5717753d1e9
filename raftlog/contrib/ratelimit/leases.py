"""Tokens that this process took in advance, for `approximate=True`."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from typing import Final

from raftlog import clock
from raftlog.contrib.ratelimit.rates import Rate

MAX_NAMES: Final = 10_000  # with a lease at a time; beyond that the oldest is forgotten, and its tokens lost


class Leases:
    """Thread-safe; one for each process."""

    def __init__(self) -> None:
        self._start_over()

    def _start_over(self) -> None:
        """Also in a forked child, or parent and child would both use the same tokens."""
        self._lock = threading.Lock()
        # Name -> rate, tokens, and until when (monotonic) they may be used.
        self._tokens: OrderedDict[str, tuple[Rate, int, float]] = OrderedDict()

    def use(self, name: str, rate: Rate, cost: int) -> bool:
        """Whether so many were there, and are used now."""
        with self._lock:
            found = self._tokens.get(name)
            if found is None:
                return False
            leased, tokens, deadline = found
            if leased != rate or clock.monotonic() >= deadline:
                del self._tokens[name]
                return False
            if tokens < cost:
                return False
            self._tokens[name] = (leased, tokens - cost, deadline)
            return True

    def put(self, name: str, rate: Rate, tokens: int) -> None:
        """To be used within a period: by then the bucket is full again, and they would come on top of it."""
        with self._lock:
            before = self._tokens.pop(name, None)
            now = clock.monotonic()
            if before is not None and before[0] == rate and now < before[2]:
                tokens += before[1]
            self._tokens[name] = (rate, tokens, now + rate.period)
            if len(self._tokens) > MAX_NAMES:
                self._tokens.popitem(last=False)

    def left(self, name: str) -> int:
        with self._lock:
            found = self._tokens.get(name)
            return found[1] if found is not None else 0


leases = Leases()
os.register_at_fork(after_in_child=leases._start_over)
