"""What operators ask a leader for: a change of the members, its end, a transfer of leadership.

Requests of clients, by name, with arguments and answers as plain data. Each is answered at once; what comes of it
shows in the status ("configuration"). They raise NotLeader, ConfigurationChangeRefused, InvalidEntry.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from raftlog.exceptions import ConfigurationChangeRefused
from raftlog.runtime.server import RaftServer
from raftlog.runtime.status import configuration_from_data

Request = Callable[[dict[str, Any]], Any]


def membership_requests(server: RaftServer) -> dict[str, Request]:
    return {
        "change_members": partial(_change_members, server),
        "abandon_change": partial(_abandon_change, server),
        "transfer": partial(_transfer, server),
    }


def _change_members(server: RaftServer, arguments: dict[str, Any]) -> dict[str, int]:
    """{"target": as status shows a configuration, "based_on": its index} -> {"index"} of the first entry."""
    target = configuration_from_data(arguments["target"])
    entry = server.state.change_configuration(target, int(arguments["based_on"]))
    return {"index": entry.index}


def _abandon_change(server: RaftServer, arguments: dict[str, Any]) -> dict[str, Any]:
    server.state.abandon_change()
    return {}


def _transfer(server: RaftServer, arguments: dict[str, Any]) -> dict[str, str]:
    """{"to": a voter, "": the one that has the most} -> {"to"}."""
    to = str(arguments.get("to", "")) or server.best_successor()
    if not to:
        raise ConfigurationChangeRefused("no other voter is connected, to whom leadership could be handed")
    try:
        server.state.transfer_leadership(to)
    except ValueError as error:
        raise ConfigurationChangeRefused(str(error)) from error
    return {"to": to}
