"""How a transaction or command ended whose outcome was unknown: asked later, by its proposal id, from any process."""

from __future__ import annotations

import asyncio
from typing import Any, Final

from asgiref.sync import sync_to_async

from raftlog.backends.exceptions import TransactionNotProposed, TransactionOutcomeUnknown, conflict
from raftlog.exceptions import OutcomeUnknown
from raftlog.replication import asking, codec, propose
from raftlog.replication.certify import Verdict, VerdictKind, decode_verdict
from raftlog.replication.failures import proposal_failure, refusal_of
from raftlog.replication.idempotency import row_id
from raftlog.replication.tables import IdempotencyKey
from raftlog.runtime import clock
from raftlog.runtime.ports import APPLIED, FAILED, UNKNOWN, Outcome

_SUFFIX: Final = ":transaction"  # of a transaction's proposal id: what is stored for it is a verdict, not a result


def transaction_id(session_id: bytes, sequence: int) -> str:
    return propose.format_proposal_id(session_id, sequence) + _SUFFIX


def outcome(proposal_id: str = "", timeout: float = 0.0, *, key: str = "", scope: str = "") -> Any:
    """How a proposal ended whose outcome was unknown, as far as this host's database knows.

    Args:
        proposal_id: of the OutcomeUnknown.
        timeout: seconds to wait for it to be applied here.
        key: in its place, the idempotency key of a command or transaction: what was recorded under it.
        scope: of the key.

    Returns:
        The result of a command; None for a transaction that was committed.

    Raises:
        TransactionConflict, UniqueConflict, IntegrityError: the transaction changed nothing. For a command: its
            failure, as propose() would.
        OutcomeUnknown: it is not (yet) applied on this host.
        SessionExpired: its result is not kept any more, or its session has ended.
        ValueError: what is no proposal id, or an id and a key.
    """
    if proposal_id and key:
        raise ValueError("outcome(): give a proposal id or an idempotency key, and not both")
    if key:
        return _recorded(key, scope, timeout)
    if not proposal_id.endswith(_SUFFIX):
        return asking.outcome(proposal_id, timeout)
    try:
        found = asking.wait_for_outcome(proposal_id.removesuffix(_SUFFIX), timeout)
    except OutcomeUnknown:
        raise TransactionOutcomeUnknown("not applied on this host so far", proposal_id) from None
    verdict = verdict_of(found, proposal_id)
    if verdict.kind is not VerdictKind.APPLIED:
        raise conflict(verdict)
    return None


async def aoutcome(proposal_id: str = "", timeout: float = 0.0, *, key: str = "", scope: str = "") -> Any:
    """As outcome(), without blocking the event loop."""
    deadline = clock.monotonic() + timeout
    while True:
        try:
            return await sync_to_async(outcome)(proposal_id, key=key, scope=scope)
        except OutcomeUnknown:
            if clock.monotonic() >= deadline:
                raise
        await asyncio.sleep(asking.POLL_INTERVAL)


def _recorded(key: str, scope: str, timeout: float) -> Any:
    """Raises OutcomeUnknown."""
    rows = IdempotencyKey.objects.using(propose.limits().alias).filter(pk=row_id(scope, key))
    deadline = clock.monotonic() + timeout
    while True:
        found = rows.values_list("result", flat=True).first()
        if found is not None:
            return codec.decode(bytes(found))
        if clock.monotonic() >= deadline:
            raise OutcomeUnknown("nothing was done on this host so far under its key", f"with key {key!r}")
        clock.sleep(asking.POLL_INTERVAL)


def verdict_of(outcome: Outcome, proposal_id: str) -> Verdict:
    """Raises TransactionOutcomeUnknown; TransactionNotProposed: nothing was done."""
    if outcome.status in (APPLIED, FAILED):
        return decode_verdict(outcome.result)
    if outcome.status == UNKNOWN:
        raise TransactionOutcomeUnknown(refusal_of(outcome)[1], proposal_id)
    failure = proposal_failure(outcome)
    raise TransactionNotProposed(f"nothing was done: {failure}") from failure
