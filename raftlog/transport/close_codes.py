"""Why a connection was ended: the WebSocket close codes of raftlog's paths, and what each one means."""

from __future__ import annotations

from typing import Final

BAD_FRAME: Final = 4400
WRONG_SECRET: Final = 4401
WRONG_CLUSTER: Final = 4402
WRONG_VERSION: Final = 4403
UNKNOWN_NODE: Final = 4404
WRONG_NODE: Final = 4405
BAD_TAG: Final = 4406
BROWSER_ORIGIN: Final = 4407
TIMEOUT: Final = 4408
REPLACED: Final = 4409
WRONG_VENDOR: Final = 4410
FRAME_TOO_LARGE: Final = 4413
OVERLOADED: Final = 4429

GOING_AWAY: Final = 1001  # RFC 6455: the server is stopping
INTERNAL_ERROR: Final = 1011  # RFC 6455: a bug on the side that sends it

REASONS: Final = {
    BAD_FRAME: "bad frame",
    WRONG_SECRET: "wrong secret",
    WRONG_CLUSTER: "wrong cluster",
    WRONG_VERSION: "wrong version",
    UNKNOWN_NODE: "unknown node",
    WRONG_NODE: "wrong node",
    BAD_TAG: "bad tag",
    BROWSER_ORIGIN: "browser origin",
    TIMEOUT: "timeout",
    REPLACED: "replaced by a newer connection",
    WRONG_VENDOR: "wrong vendor",
    FRAME_TOO_LARGE: "frame too large",
    OVERLOADED: "overloaded",
    GOING_AWAY: "the node is stopping",
    INTERNAL_ERROR: "internal error",
}

# What to do about it, for the side that is refused; not sent, since a close frame is short.
HINTS: Final = {
    WRONG_CLUSTER: "if that cluster was recovered or restored without this node, set this one's folder and database "
    "aside (raft recover --rejoin), start it, and raft add it there",
}

MAX_REASON_BYTES: Final = 123  # RFC 6455, 5.5: a control frame holds 125 bytes, two of them the code


def with_hint(code: int, reason: str) -> str:
    hint = HINTS.get(code)
    return f"{reason}; {hint}" if hint else reason


def close_reason(code: int, detail: str) -> str:
    """`detail`, cut to what a close frame can carry; the code's own words where there is none."""
    text = detail or REASONS.get(code, "")
    return text.encode()[:MAX_REASON_BYTES].decode(errors="ignore")
