"""What an app process and its node say to each other over `raft/client/` (design section 1).

Proposals have messages of their own, because they are many; all else is a Request by name, so that a new
question to the node needs no new message.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from raftlog.runtime.ports import NOT_PROPOSED, Outcome
from raftlog.transport.frames import Codec


class Propose(msgspec.Struct, array_like=True, frozen=True, tag="p"):
    """Propose `payloads`. Answered by Outcomes until each has one; `timeout` in seconds."""

    request_id: int
    timeout: float
    payloads: list[bytes]


class Request(msgspec.Struct, array_like=True, frozen=True, tag="r"):
    """Ask the node something by name ("status", …). Answered by one Answer."""

    request_id: int
    name: str
    arguments: dict[str, Any]


class Outcomes(msgspec.Struct, array_like=True, frozen=True, tag="o"):
    """How some of the payloads of a Propose ended."""

    request_id: int
    outcomes: list[Outcome]


class Answer(msgspec.Struct, array_like=True, frozen=True, tag="a"):
    """`result` is msgpack. Where `error` (an exception's class name) is not empty, it failed and `text` says why."""

    request_id: int
    result: bytes
    error: str = ""
    text: str = ""


def not_proposed(key: bytes, error: type[Exception], text: str) -> Outcome:
    """Nothing was done, and nothing will be; the caller raises `error`."""
    return Outcome(key, NOT_PROPOSED, 0, msgspec.msgpack.encode((error.__name__, text)))


# Both directions in one union: who sends which is checked where they are received.
ClientMessage = Propose | Request | Outcomes | Answer

CLIENT_CODEC: Final[Codec[ClientMessage]] = Codec(ClientMessage)
