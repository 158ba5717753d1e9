"""Writers: threads that transfer money through all nodes at once, and go on over another node when theirs is gone."""

import random
import threading
from collections.abc import Sequence
from typing import Any

from demo_site.bank.commands import NotEnoughMoney, open_account, transfer
from demo_site.demo.failover import Failover
from demo_site.demo.ledger import Ledger
from raftlog.exceptions import CommandFailed, OutcomeUnknown, RaftlogError
from raftlog.replication.client_session import BlockingAnswers, ClientSession
from raftlog.replication.propose import format_proposal_id, value_of
from raftlog.replication.registry import Command
from raftlog.runtime.ports import Proposer
from raftlog.testing.processes import ProcessCluster

WRITERS_PER_NODE = 3
OPENING_BALANCE = 1_000_000  # cents
PROPOSAL_TIMEOUT = 60.0  # seconds, over all attempts
MAX_COMMAND_BYTES = 1 << 20


class Teller:
    """A client of the cluster with a session of its own, which any node may carry. For one thread.

    A Django process has one such session, and its commands' propose() uses it through the node of its host. The
    demo is on the host of all nodes, and shows what many hosts would do.
    """

    def __init__(self, nodes: Sequence[Proposer], first: int) -> None:
        self._session = ClientSession(Failover(nodes, first))

    def propose(self, command: Command, **arguments: Any) -> Any:
        """As command.propose(): the function's result, or what it raised. Raises NotProposed, OutcomeUnknown."""
        self._session.open(PROPOSAL_TIMEOUT)
        answers = BlockingAnswers(1)
        body = command.encode(arguments, MAX_COMMAND_BYTES)
        sequence = self._session.submit([body], answers, PROPOSAL_TIMEOUT)
        proposal_id = format_proposal_id(self._session.session_id, sequence)
        outcome = answers.outcomes[0]  # Failover has waited for it
        if outcome is None:
            raise OutcomeUnknown("no node gave an answer", proposal_id)
        return value_of(outcome, proposal_id)


class Writers:
    """A context manager: opens the accounts, then writes in threads until the ledger has no reference left."""

    def __init__(self, cluster: ProcessCluster, ledger: Ledger, *, accounts: int) -> None:
        self._nodes = [node.client() for node in cluster]
        self._ledger = ledger
        self._accounts = [f"account {n}" for n in range(1, accounts + 1)]
        self._stopping = threading.Event()
        count = WRITERS_PER_NODE * len(self._nodes)
        self._threads = [
            threading.Thread(target=self._write, args=(n,), name=f"writer-{n}", daemon=True) for n in range(count)
        ]

    def __len__(self) -> int:
        return len(self._threads)

    def __enter__(self) -> "Writers":
        teller = Teller(self._nodes, 0)
        for name in self._accounts:
            teller.propose(open_account, name=name, balance=OPENING_BALANCE)
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join(2)

    def _write(self, number: int) -> None:
        teller = Teller(self._nodes, number)
        choice = random.Random(number)
        while not self._stopping.is_set() and (reference := self._ledger.take()) is not None:
            source, target = choice.sample(self._accounts, 2)
            amount = choice.randint(1, 5000)
            try:
                teller.propose(transfer, source=source, target=target, amount=amount, reference=reference)
            except (NotEnoughMoney, CommandFailed):
                self._ledger.refuse(reference)
            except RaftlogError as error:
                self._ledger.give_up(reference, error)
            else:
                self._ledger.acknowledge(reference)
