"""ENGINE of a simulated host's alias: the real backend, with the host's turn in virtual time."""

from __future__ import annotations

from typing import Any, Final

from raftlog.backends.sqlite3 import base
from raftlog.backends.sqlite3.cursor import Connection
from raftlog.testing.sql.turn import HostTurn

# alias -> the turn of its host
turns: Final[dict[str, HostTurn]] = {}


class DatabaseWrapper(base.DatabaseWrapper):
    def _make_connection(self, *args: Any, **kwargs: Any) -> Connection:
        connection = super()._make_connection(*args, **kwargs)
        connection.control.turn.close()
        connection.control.turn = turns[self.alias].claim()  # type: ignore[assignment]
        return connection
