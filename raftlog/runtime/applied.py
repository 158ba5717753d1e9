"""Who waits until more is applied on this node: told by the state-machine thread, after the commit of each batch."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable

Told = Callable[[int], None]


class AppliedWaiters:
    """Thread-safe. `index`: of the last entry that was applied, as far as was told; 0: nothing yet."""

    def __init__(self) -> None:
        self.index = 0
        self._lock = threading.Lock()
        self._numbers = itertools.count()
        self._waiting: dict[int, tuple[int, Told]] = {}

    def applied(self, index: int) -> None:
        """Entries up to `index` are in the database."""
        with self._lock:
            self.index = index
            over = [number for number, (after, _) in self._waiting.items() if after < index]
            told = [self._waiting.pop(number)[1] for number in over]
        for tell in told:
            tell(index)

    def add(self, after: int, tell: Told) -> Callable[[], bool]:
        """Call `tell` once, with the index, when more than `after` is applied; at once, in this thread, where it is.

        `tell` must not block. Returns what takes it back: True where it has not been called, and will not be.
        """
        with self._lock:
            index = self.index
            if index <= after:
                number = next(self._numbers)
                self._waiting[number] = (after, tell)
                return lambda: self._remove(number)
        tell(index)
        return lambda: False

    def _remove(self, number: int) -> bool:
        with self._lock:
            return self._waiting.pop(number, None) is not None

    def wait(self, after: int, timeout: float) -> int:
        """Block until more than `after` is applied, or `timeout` seconds passed. Returns what is applied."""
        reached = threading.Event()
        take_back = self.add(after, lambda index: reached.set())
        reached.wait(timeout)
        take_back()
        return self.index
