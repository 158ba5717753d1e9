"""The clock of one simulated node."""

from __future__ import annotations


class NodeClock:
    """A monotonic clock that runs at its own rate, and may jump forward."""

    def __init__(self, offset: float, rate: float) -> None:
        self.rate = rate
        self._local = offset
        self._virtual = 0.0

    def local(self, virtual: float) -> float:
        return self._local + (virtual - self._virtual) * self.rate

    def delay_until(self, deadline: float, virtual: float) -> float:
        """Virtual seconds until this clock shows `deadline`."""
        return max(0.0, (deadline - self.local(virtual)) / self.rate)

    def change(self, virtual: float, *, rate: float | None = None, jump: float = 0.0) -> None:
        self._local, self._virtual = self.local(virtual) + jump, virtual
        if rate is not None:
            self.rate = rate
