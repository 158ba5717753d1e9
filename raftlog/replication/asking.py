"""How a command ended whose outcome was unknown, asked later and from any process: by its proposal id."""

from __future__ import annotations

from typing import Any, Final

from django.db import connections

from raftlog.exceptions import OutcomeUnknown, SessionExpired
from raftlog.replication.propose import (
    format_proposal_id,
    inline_proposer,
    late_answer,
    limits,
    parse_proposal_id,
    value_of,
)
from raftlog.runtime import clock
from raftlog.runtime.ports import Outcome

POLL_INTERVAL: Final = 0.05  # seconds between two looks of outcome()


def outcome(proposal_id: str, timeout: float = 0.0) -> Any:
    """How a command ended whose outcome was unknown, as far as this node's database knows.

    Args:
        proposal_id: of the OutcomeUnknown.
        timeout: seconds to wait for it to be applied here.

    Returns:
        The command's result. Raises its failure as propose() would.

    Raises:
        OutcomeUnknown: it is not (yet) applied on this node. To end the doubt, propose it again under the same id:
            `buy.with_options(proposal_id=…).propose(…)`.
        SessionExpired: its result is not kept any more, or its session has ended.
    """
    return value_of(wait_for_outcome(proposal_id, timeout), proposal_id)


def wait_for_outcome(proposal_id: str, timeout: float) -> Outcome:
    """What this node's database holds of a proposal. Raises OutcomeUnknown, SessionExpired, ValueError."""
    session_id, sequence = parse_proposal_id(proposal_id)
    deadline = clock.monotonic() + timeout
    while True:
        found = late_answer(session_id, sequence) or _stored_outcome(session_id, sequence)
        if found is not None:
            return found
        if clock.monotonic() >= deadline:
            raise OutcomeUnknown("not applied on this node so far", proposal_id)
        clock.sleep(POLL_INTERVAL)


def _stored_outcome(session_id: bytes, sequence: int) -> Outcome | None:
    inline = inline_proposer()
    if inline is not None:
        return inline.find(session_id + sequence.to_bytes(8, "big"))
    with connections[limits().alias].cursor() as cursor:
        cursor.execute(
            "SELECT status, entry_index, result FROM raftlog_sessionresult WHERE session = %s AND sequence = %s",
            [session_id, sequence],
        )
        row = cursor.fetchone()
        if row is not None:
            return Outcome(session_id + sequence.to_bytes(8, "big"), row[0], row[1], bytes(row[2]))
        cursor.execute("SELECT acknowledged_below FROM raftlog_clientsession WHERE session = %s", [session_id])
        row = cursor.fetchone()
    if row is None or row[0] > sequence:
        why = "its session has ended" if row is None else "it was acknowledged"
        raise SessionExpired(f"the result of proposal {format_proposal_id(session_id, sequence)} is not kept: {why}")
    return None
