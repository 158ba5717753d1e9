"""What a node remembers for those who look, and what it answers them; see its parts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final

from raftlog.consensus.events import Event
from raftlog.observing import disk, metrics
from raftlog.observing.applied import RecentlyApplied
from raftlog.observing.elections import Elections
from raftlog.runtime.ports import Outcome
from raftlog.transport.refusals import Refusals

MAX_ELECTIONS: Final = 1_000

Request = Callable[[dict[str, Any]], Any]


class Observing:
    """One for each node. Thread-safe."""

    def __init__(self, node_id: str) -> None:
        self.elections = Elections(node_id)
        self.recently_applied = RecentlyApplied()
        self.refusals = Refusals()
        # Called with nothing, whenever something has happened that people want to see at once.
        self.on_event: Callable[[], None] = lambda: None
        # Client sessions that are open.
        self.count_sessions: Callable[[], int] = lambda: 0

    def happened(self, event: Event) -> None:
        self.elections.note(event)
        self.on_event()

    def applied(self, index: int, outcomes: list[Outcome]) -> None:
        """Entries up to `index` (inclusive) are in the database. The state-machine thread only."""
        self.recently_applied.note(index, outcomes)

    def requests(
        self,
        status: Callable[[], dict[str, Any]],
        directory: Path,
        stages: Callable[[], Mapping[str, Any]],
    ) -> dict[str, Request]:
        """What peers and this host's processes may ask, by name."""

        def with_disk(arguments: dict[str, Any]) -> dict[str, Any]:
            return status() | {"disk": disk.usage(directory)}

        def exposition(arguments: dict[str, Any]) -> str:
            counts = {
                "applied": self.recently_applied.applied,
                "failed": self.recently_applied.failed,
                "leader_changes": self.elections.changes,
                "sessions": self.count_sessions(),
            }
            return metrics.exposition(with_disk({}), stages(), counts, self.refusals.as_data())

        return {
            "status": with_disk,
            "metrics": exposition,
            "elections": partial(_elections, self.elections),
            "applied": partial(_applied, self.recently_applied),
        }


def _elections(elections: Elections, arguments: dict[str, Any]) -> list[dict[str, Any]]:
    """{"count": int} -> the newest events, the last first."""
    return elections.newest(min(int(arguments.get("count", 200)), MAX_ELECTIONS))


def _applied(recently: RecentlyApplied, arguments: dict[str, Any]) -> dict[str, Any]:
    """{"first": index, "last": index} -> when these were applied, and how they ended, as far as it is remembered."""
    return recently.between(int(arguments["first"]), int(arguments["last"]))
