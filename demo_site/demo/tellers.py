"""Tellers: on each host an app process that makes payments with the ORM, through its own node only.

Where its node is killed a teller waits for it to come back, as the app processes of a host do.
"""

import json
import random
import subprocess
import threading
from collections.abc import Sequence

from demo_site.demo.ledger import Ledger
from raftlog.testing.processes import NodeProcess, ProcessCluster


class Tellers:
    """A context manager: starts the processes, and feeds them from threads until the ledger has no reference left."""

    def __init__(self, cluster: ProcessCluster, ledger: Ledger, accounts: Sequence[int]) -> None:
        self._ledger = ledger
        self._accounts = accounts  # their ids
        self._stopping = threading.Event()
        self._paid: list[str] = []  # appended to by all threads
        self._processes = [start(node) for node in cluster]
        self._threads = [
            threading.Thread(target=self._feed, args=(process, number), name=f"teller-{number}", daemon=True)
            for number, process in enumerate(self._processes)
        ]

    def __len__(self) -> int:
        return len(self._processes)

    @property
    def paid_count(self) -> int:
        return len(self._paid)

    def __enter__(self) -> "Tellers":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stopping.set()
        for process in self._processes:
            process.terminate()
            process.wait()
        for thread in self._threads:
            thread.join(2)
        for process in self._processes:
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()

    def _feed(self, process: subprocess.Popen[str], number: int) -> None:
        choice = random.Random(number)
        assert process.stdin is not None
        assert process.stdout is not None
        while not self._stopping.is_set() and (reference := self._ledger.take("payment")) is not None:
            source, target = choice.sample(self._accounts, 2)
            payment = {"reference": reference, "source": source, "target": target, "amount": choice.randint(1, 5000)}
            try:
                process.stdin.write(json.dumps(payment) + "\n")
                process.stdin.flush()
                answer = process.stdout.readline().strip()
            except (OSError, ValueError) as error:  # the process has been ended
                answer = f"{type(error).__name__}: {error}"
            self._note(reference, answer)

    def _note(self, reference: str, answer: str) -> None:
        if answer == "paid":
            self._ledger.acknowledge(reference)
            self._paid.append(reference)
        elif answer == "refused":
            self._ledger.refuse(reference)
        else:
            self._ledger.give_up(reference, RuntimeError(answer or "the teller has ended"))


def start(node: NodeProcess) -> subprocess.Popen[str]:
    with node.log_file.with_name("teller.log").open("ab") as errors:
        return subprocess.Popen(
            [*node.command, "teller", "--skip-checks"],
            env=node.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
