"""The host's turn to write, in virtual time: what a file lock is to real processes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from raftlog.testing.sql.worker import here


class HostTurn:
    """One a database. `after`: calls a function in so many virtual seconds."""

    def __init__(self, after: Callable[[float, Callable[[], object]], None]) -> None:
        self.owner: Claim | None = None
        self._after = after
        self._waiting: deque[Callable[[], object]] = deque()
        self._appliers: list[Callable[[], None]] = []
        self._is_scheduled = False

    def claim(self) -> Claim:
        return Claim(self)

    def when_free(self, action: Callable[[], None]) -> bool:
        """Whether it is free; else `action` is called once it is: whoever applies the log goes first."""
        if self.owner is None:
            return True
        self._appliers.append(action)
        return False

    def wait(self, action: Callable[[], object], *, ahead: bool) -> None:
        """Call `action` when the turn is free, in the order of asking, or `ahead` of all that wait."""
        if ahead:
            self._waiting.appendleft(action)
        else:
            self._waiting.append(action)
        self.freed()

    def freed(self) -> None:
        if self.owner is None and not self._is_scheduled and (self._waiting or self._appliers):
            self._is_scheduled = True
            self._after(0.0, self._next)

    def _next(self) -> None:
        self._is_scheduled = False
        if self.owner is not None:
            return
        if self._appliers:
            appliers, self._appliers = self._appliers, []
            for action in appliers:
                action()
        elif self._waiting:
            self._waiting.popleft()()
        self.freed()

    def reset(self) -> None:
        """Every application of the host has ended."""
        self.owner = None
        self._waiting.clear()
        self.freed()


class Claim:
    """Stands in for backends.sqlite3.turn.Turn: one connection's."""

    held_since = 0.0

    def __init__(self, turn: HostTurn) -> None:
        self._turn = turn
        # Of the connection that applies the log, which finds the turn free whenever it comes.
        self.goes_first = False

    @property
    def held(self) -> bool:
        return self._turn.owner is self

    def take(self, *, ahead: bool = False) -> None:
        while not self.held:
            if self._turn.owner is None:
                self._turn.owner = self
            else:
                here.worker.park(WantsTurn(self._turn, ahead))

    def give_back(self) -> None:
        if self.held:
            self._turn.owner = None
            self._turn.freed()

    def holder_pid(self) -> int:
        return 0

    def waits_for(self) -> str:
        return ""

    def close(self) -> None:
        self.give_back()


class WantsTurn:
    """A request: resume me when this turn may be free. `ahead`: before all others that wait."""

    def __init__(self, turn: HostTurn, ahead: bool) -> None:
        self.turn = turn
        self.ahead = ahead
