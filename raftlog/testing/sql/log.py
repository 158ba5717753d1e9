"""The port from the backend to the simulated cluster: a commit parks its thread until the verdict comes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from raftlog.backends.exceptions import DatabaseMissing, TransactionOutcomeUnknown
from raftlog.backends.log import Applier
from raftlog.backends.outcome import verdict_of
from raftlog.consensus.entries import RESERVE, SCHEMA, TRANSACTION
from raftlog.replication.certify import Verdict
from raftlog.replication.key_blocks import KeyBlocks
from raftlog.replication.write_set import WriteSet, reservation
from raftlog.runtime.ports import Outcome
from raftlog.testing.sql.worker import here

NO_ID: Final = "simulated"


class WantsProposal:
    """A request: propose this; the answer is an Outcome, or None where it is not known."""

    def __init__(self, kind: int, body: bytes) -> None:
        self.kind = kind
        self.body = body


class WantsClusterTurn:
    """A request: take the cluster's write turn; the answer is the turn, or None where it was not granted.

    `is_over`: raised when its holder needs it no more.
    """

    def __init__(self, *, is_fence: bool) -> None:
        self.is_fence = is_fence
        self.is_over = False


class HostLog:
    """Implements backends.log.TransactionLog, for the applications of one host, which are one process."""

    holds_turn = False

    def __init__(self) -> None:
        self.key_blocks: KeyBlocks | None = KeyBlocks()

    def commit(self, write_set: WriteSet, body: bytes, applier: Applier) -> Verdict:
        return self._propose(WantsProposal(SCHEMA if write_set.is_schema else TRANSACTION, body))

    def reserve(self, table: str, count: int) -> Verdict:
        return self._propose(WantsProposal(RESERVE, reservation(table, count)))

    @contextmanager
    def cluster_turn(self, timeout: float, *, is_fence: bool = False) -> Iterator[bool]:
        request = WantsClusterTurn(is_fence=is_fence)
        granted = here.worker.park(request)
        try:
            yield granted
        finally:
            request.is_over = True

    def make_database(self, path: str) -> None:
        raise DatabaseMissing(f"the database file {path} does not exist, which a simulated host always has")

    def connected(self, cluster_id: str) -> None:
        """A simulated host is of one cluster for all its life."""

    def _propose(self, request: WantsProposal) -> Verdict:
        outcome: Outcome | None = here.worker.park(request)
        if outcome is None:
            raise TransactionOutcomeUnknown("no answer came in time", NO_ID)
        return verdict_of(outcome, NO_ID)
