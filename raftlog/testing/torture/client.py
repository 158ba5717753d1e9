"""One client process: `python -m raftlog.testing.torture.client`, a Work as JSON on stdin's first line.

It is attached to one node at a time, as a web worker is to the node of its host, through that node's local socket,
and moves on when that node does not answer. A proposal keeps its id (session and sequence) over all attempts,
which makes it safe to hand the same bytes to another node. It works until its stdin ends.
"""

from __future__ import annotations

import json
import os
import random
import sqlite3
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import msgspec

from raftlog.exceptions import NodeUnavailable
from raftlog.runtime import clock
from raftlog.testing.torture import records
from raftlog.testing.torture.asking import (
    EXPECTED_FAILURES,
    Answer,
    Asker,
    AttachedNode,
    NodeAddress,
    Nodes,
    PublicAsker,
    RawAsker,
    Work,
    open_session,
)
from raftlog.testing.torture.records import Broken, Called, Ended, Recorder
from raftlog.transport.outstanding import RequestFailed

# (action, weight): what threads do
MIX: Final = (
    ("put", 18),
    ("append", 24),
    ("compare_and_set", 16),
    ("get", 10),
    ("read", 18),
    ("claim", 6),
    ("note", 4),
    ("withdraw", 4),
)
# (bytes beside the arguments, weight): some entries are larger than a message of a few
PADDINGS: Final = ((0, 50), (200, 30), (2_000, 18), (30_000, 2))


class Databases:
    """Reads of the nodes' databases, for one thread."""

    def __init__(self, nodes: dict[str, NodeAddress]) -> None:
        self._nodes = nodes
        self._open: dict[str, sqlite3.Connection] = {}

    def read(self, node: str, statement: str, parameters: tuple[Any, ...] = ()) -> tuple[int, Any]:
        """(applied index, the first column of the first row or None), both of one moment."""
        connection = self._open.get(node)
        if connection is None:
            path = Path(self._nodes[node].database)
            connection = self._open[node] = sqlite3.connect(f"{path.as_uri()}?mode=rw", uri=True, isolation_level=None)
            connection.execute("PRAGMA busy_timeout=5000")
        connection.execute("BEGIN")
        try:
            applied = connection.execute("SELECT applied_index FROM raftlog_appliedindex").fetchone()
            row = connection.execute(statement, parameters).fetchone()
        finally:
            connection.execute("COMMIT")
        return (applied[0] if applied else 0), (row[0] if row else None)


class Worker:
    """One thread: one call after the other."""

    def __init__(
        self, number: int, work: Work, nodes: Nodes, asker_of: Callable[[random.Random], Asker], recorder: Recorder
    ) -> None:
        self.number = number
        self.work = work
        self.rng = random.Random(f"{work.seed}/{work.client}/{number}")
        self.nodes = nodes
        self.recorder = recorder
        self.asker = asker_of(self.rng)
        self.databases = Databases(work.nodes)
        # What it saw last under each key of this rotation: what a compare_and_set expects.
        self.seen: dict[str, Any] = {}

    def run(self, stopping: Callable[[], bool]) -> None:
        while not stopping():
            action = self._draw(MIX)
            key = self._key()
            if action == "read":
                self._read(key)
            else:
                self._command(action, key)
            clock.sleep(self.work.think * self.rng.uniform(0.2, 1.8))

    def _draw(self, weighted: tuple[tuple[Any, int], ...]) -> Any:
        return self.rng.choices([item for item, _ in weighted], [weight for _, weight in weighted])[0]

    def _key(self) -> str:
        epoch = int(clock.monotonic() / self.work.rotation)
        if self.rng.random() < 0.1:
            epoch -= 1  # what was written must be there later, too
        if len(self.seen) > 100:
            self.seen.clear()
        return f"{epoch}-{self.rng.randrange(self.work.keys)}"

    # Commands

    def _command(self, action: str, key: str) -> None:
        number = self.recorder.number()
        reference = f"{self.work.client}-{number}"
        argument: Any = None
        if action in ("put", "append"):
            argument = reference
        elif action == "compare_and_set":
            argument = [self.seen.get(key), reference]
        elif action == "claim":
            key = f"claim-{key}-{self.rng.randrange(4)}"
        arguments: dict[str, Any] = {"reference": reference, "key": key}
        if action not in EXPECTED_FAILURES:
            padding = bytes(self._draw(PADDINGS))
            arguments |= {"action": action, "argument": json.dumps(argument), "padding": padding}
        called = Called(number, 0.0, self.number, action, key, argument, reference)

        def record() -> None:
            called.at = clock.monotonic()
            self.recorder.write(called)

        answer = self.asker.ask(action, arguments, record)
        now = clock.monotonic()
        self.recorder.write(Ended(number, now, answer.end, answer.output, answer.index, answer.node, answer.attempts))
        if answer.problem:
            self._broken(f"command {number}: {answer.problem}")
        if answer.end == records.APPLIED:
            self._on_applied(called, answer)

    def _on_applied(self, called: Called, answer: Answer) -> None:
        action, key = called.action, called.key
        if action == "withdraw":
            self._broken(f"withdraw {key} raises, but was answered as applied at index {answer.index}")
        elif action == "put":
            self.seen[key] = called.argument
        elif action in ("get", "append"):
            self.seen[key] = answer.output
        if answer.node and self.rng.random() < 0.2:
            self._check_own_write(answer.node, called.reference)

    def _check_own_write(self, node: str, reference: str) -> None:
        """An answer comes after the change is in the database of the node that gave it."""
        applied, found = self.databases.read(node, "SELECT 1 FROM torture_entry WHERE reference = ?", (reference,))
        if not found:
            self._broken(f"{node} acknowledged {reference}, but its database (at entry {applied}) does not hold it")

    # Reads

    def _read(self, key: str) -> None:
        number = self.recorder.number()
        self.recorder.write(Called(number, clock.monotonic(), self.number, "read", key))
        deadline = clock.monotonic() + self.work.give_up
        while (left := deadline - clock.monotonic()) > 0:
            node = self.nodes.attached
            index = self._read_index(node, min(left, self.work.attempt_timeout))
            if index:
                applied, value = self.databases.read(node, "SELECT value FROM torture_pair WHERE key = ?", (key,))
                now = clock.monotonic()
                if applied < index:
                    self._broken(f"{node} said that reads at {index} are safe, but its database has applied {applied}")
                output = None if value is None else msgspec.json.decode(value)
                self.seen[key] = output
                self.recorder.write(Ended(number, now, records.APPLIED, output, index, node))
                return
            self.nodes.move_from(node, self.rng)
            clock.sleep(self.rng.uniform(0.005, 0.05))
        self.recorder.write(Ended(number, clock.monotonic(), records.NOTHING))

    def _read_index(self, node: str, timeout: float) -> int:
        """0: this node could not vouch for one."""
        try:
            answer = self.nodes.client(node).request("read_index", {"timeout": timeout}, timeout=timeout + 1.0)
        except (NodeUnavailable, RequestFailed):
            return 0
        return int(answer["index"])

    def _broken(self, text: str) -> None:
        self.recorder.write(Broken(clock.monotonic(), f"thread {self.number}: {text}"))


def make_askers(nodes: Nodes, work: Work, stopping: Callable[[], bool]) -> Callable[[random.Random], Asker] | None:
    """What gives each thread its asker; None where the work ends before there is a session."""
    if work.public:
        from raftlog.replication.propose import set_proposer_factory

        set_proposer_factory(lambda: AttachedNode(nodes))
        return lambda rng: PublicAsker(nodes, work, rng)
    session = open_session(nodes, random.Random(f"{work.seed}/{work.client}"), stopping)
    return None if session is None else lambda rng: RawAsker(nodes, work, rng, session)


def run(work: Work, stopping: Callable[[], bool]) -> None:
    """Work in `work.threads` threads until `stopping()`. What a thread raises ends the process."""
    nodes = Nodes(work)
    asker_of = make_askers(nodes, work, stopping)
    if asker_of is None:
        return
    recorder = Recorder(Path(work.record))
    errors: list[BaseException] = []
    workers = [Worker(number, work, nodes, asker_of, recorder) for number in range(work.threads)]

    def main(worker: Worker) -> None:
        try:
            worker.run(lambda: stopping() or bool(errors))
        except BaseException as error:
            errors.append(error)
            raise

    threads = [threading.Thread(target=main, args=(worker,), name=f"worker-{worker.number}") for worker in workers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        recorder.write(Broken(clock.monotonic(), f"the client itself failed: {errors[0]!r}"))
        raise errors[0]


def main() -> None:
    work = msgspec.json.decode(sys.stdin.readline(), type=Work)
    import django

    django.setup()
    stopping = threading.Event()

    def wait_for_the_end() -> None:
        sys.stdin.read()
        stopping.set()

    threading.Thread(target=wait_for_the_end, name="stdin", daemon=True).start()
    run(work, stopping.is_set)
    # What is left are daemons and sockets: nothing to wait for.
    os._exit(0)


if __name__ == "__main__":
    main()
