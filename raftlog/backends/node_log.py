"""The log of a running cluster: transactions go through this host's node, and come back as verdicts."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Final

from raftlog.backends.cluster_turns import ClusterTurns, HeldTurn
from raftlog.backends.exceptions import DatabaseMissing, TransactionNotProposed, TransactionOutcomeUnknown
from raftlog.backends.log import Applier
from raftlog.backends.outcome import transaction_id, verdict_of
from raftlog.conf import load_settings
from raftlog.consensus.entries import RESERVE, SCHEMA, TRANSACTION
from raftlog.exceptions import NotProposed
from raftlog.replication import propose, written
from raftlog.replication.certify import Verdict
from raftlog.replication.client_session import BlockingAnswers, ClientSession
from raftlog.replication.failures import SESSION_EXPIRED, refusal_of
from raftlog.replication.key_blocks import KeyBlocks
from raftlog.replication.write_set import WriteSet, reservation
from raftlog.runtime.ports import APPLIED, REFUSED

ANSWER_GRACE: Final = 1.0  # seconds beyond the time limit, for the node to say how it ended


class NodeLog:
    """Implements backends.log.TransactionLog. Thread-safe."""

    holds_turn = False

    def __init__(self) -> None:
        self.key_blocks: KeyBlocks | None = KeyBlocks()
        self.timeout = load_settings().proposal_timeout
        self._turns = ClusterTurns()
        self._cluster_id = ""

    def commit(self, write_set: WriteSet, body: bytes, applier: Applier) -> Verdict:
        turn = self._turns.of_this_thread()
        try:
            return self._propose(SCHEMA if write_set.is_schema else TRANSACTION, body, turn)
        except TransactionNotProposed:
            if turn is not None:
                turn.unused()
            raise

    def cluster_turn(self, timeout: float, *, is_fence: bool = False) -> AbstractContextManager[bool]:
        return self._turns.turn(timeout, is_fence=is_fence)

    def reserve(self, table: str, count: int) -> Verdict:
        """Raises TransactionNotProposed. Should keys have been reserved without an answer, they are never used."""
        try:
            return self._propose(RESERVE, reservation(table, count))
        except TransactionOutcomeUnknown as unknown:
            # Not the outcome of the transaction: that has not been proposed, and who asked by this id would be misled.
            raise TransactionNotProposed(
                f"nothing was done: automatic keys of {table} could not be reserved: {unknown}"
            ) from unknown

    def make_database(self, path: str) -> None:
        try:
            # Any entry will do: once it is applied, the node has made the file and filled it.
            ClientSession(propose.current_session().proposer).open(self.timeout)
        except NotProposed as error:
            raise DatabaseMissing(
                f"the database file {path} is missing, or is being filled; the node does that: {error}"
            ) from error

    def connected(self, cluster_id: str) -> None:
        if cluster_id and self._cluster_id and cluster_id != self._cluster_id and self.key_blocks is not None:
            self.key_blocks.drop_all()
        self._cluster_id = cluster_id or self._cluster_id

    def _propose(self, kind: int, body: bytes, turn: HeldTurn | None = None) -> Verdict:
        """Raises TransactionNotProposed: nothing was done; TransactionOutcomeUnknown."""
        try:
            for is_last in (False, True):
                session = propose.current_session()
                session.open(self.timeout)
                answers = BlockingAnswers(1)
                reserved = turn.use(session) if turn is not None else 0
                sequence = session.submit([body], answers, self.timeout, kind, reserved=reserved)
                answers.wait(self.timeout + ANSWER_GRACE)
                outcome = answers.outcomes[0]
                expired = outcome is not None and outcome.status == REFUSED
                if is_last or not expired or outcome is None or refusal_of(outcome)[0] != SESSION_EXPIRED:
                    break
                propose.session_expired(session)
        except NotProposed as error:
            raise TransactionNotProposed(f"nothing was done: {error}") from error
        proposal_id = transaction_id(session.session_id, sequence)
        if outcome is None:
            session.give_up(sequence, 1)
            outcome = answers.outcomes[0]  # it may have come just before: then it is acknowledged, and not in doubt
        if outcome is None:
            raise TransactionOutcomeUnknown(f"the node gave no answer within {self.timeout:.3g} s", proposal_id)
        if outcome.status == APPLIED and kind != RESERVE:
            written.note(outcome.index)
        return verdict_of(outcome, proposal_id)
