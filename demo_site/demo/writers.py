"""Writers: threads that transfer money through all nodes at once, and go on over another node when theirs is gone."""

import random
import threading

from demo_site.bank.commands import NotEnoughMoney, open_account, transfer
from demo_site.demo.failover import Failover
from demo_site.demo.ledger import Ledger
from raftlog.exceptions import CommandFailed, RaftlogError
from raftlog.replication.propose import Session
from raftlog.testing.processes import ProcessCluster

WRITERS_PER_NODE = 3
OPENING_BALANCE = 1_000_000  # cents
PROPOSAL_TIMEOUT = 60.0  # seconds, over all attempts


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
        session = Session(Failover(self._nodes, 0))
        for name in self._accounts:
            session.propose(open_account, {"name": name, "balance": OPENING_BALANCE}, timeout=PROPOSAL_TIMEOUT)
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join(2)

    def _write(self, number: int) -> None:
        session = Session(Failover(self._nodes, number))
        choice = random.Random(number)
        while not self._stopping.is_set() and (reference := self._ledger.take()) is not None:
            source, target = choice.sample(self._accounts, 2)
            arguments = {"source": source, "target": target, "amount": choice.randint(1, 5000), "reference": reference}
            try:
                session.propose(transfer, arguments, timeout=PROPOSAL_TIMEOUT)
            except (NotEnoughMoney, CommandFailed):
                self._ledger.refuse(reference)
            except RaftlogError as error:
                self._ledger.give_up(reference, error)
            else:
                self._ledger.acknowledge(reference)
