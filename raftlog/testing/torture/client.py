"""One client process: `python -m raftlog.testing.torture.client`, a Work as JSON on stdin's first line.

It is attached to one node at a time, as a web worker is to the node of its host, through that node's local socket,
and moves on when that node does not answer. A proposal keeps its id (session and sequence) over all attempts,
which makes it safe to hand the same bytes to another node. It works until its stdin ends.
"""

from __future__ import annotations

import contextlib
import os
import queue
import random
import sqlite3
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import msgspec

from raftlog.consensus.entries import COMMAND, OPEN_SESSION, client_payload
from raftlog.exceptions import NodeUnavailable, Overloaded
from raftlog.runtime import clock, ports
from raftlog.testing.torture import records
from raftlog.testing.torture.records import Broken, Called, Ended, Recorder
from raftlog.transport.client import NodeClient, RequestFailed

MAX_COMMAND_BYTES: Final = 1 << 20
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
PADDINGS: Final = (0, 0, 0, 0, 0, 200, 200, 2_000, 2_000, 30_000)  # bytes
ANSWER_GRACE: Final = 10.0  # seconds after its timeout in which NodeClient must have ended a proposal
INTEGRITY: Final = "django.db.utils.IntegrityError"
WITHDRAWN: Final = "raftlog.testing.torture_site.commands.Withdrawn"


class NodeAddress(msgspec.Struct):
    socket: str
    database: str


class Work(msgspec.Struct):
    """What to do. Durations in seconds."""

    client: str
    seed: int
    cluster: str
    secret_keys: list[str]
    nodes: dict[str, NodeAddress]
    attached: str
    record: str
    threads: int = 3
    keys: int = 6
    # New keys this often: it keeps the history of each key short, which is what checking costs.
    rotation: float = 2.0
    think: float = 0.02
    attempt_timeout: float = 2.0
    # When a call is given up and its outcome left unknown.
    give_up: float = 12.0


class Nodes:
    """Connections to all nodes, made when needed, and which of them this process is attached to. Thread-safe."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._lock = threading.Lock()
        self._clients: dict[str, NodeClient] = {}
        self.attached = work.attached

    def client(self, node_id: str) -> NodeClient:
        with self._lock:
            if node_id not in self._clients:
                work = self._work
                keys = [key.encode() for key in work.secret_keys]
                target = f"unix:{work.nodes[node_id].socket}"
                self._clients[node_id] = NodeClient(target, keys, work.cluster)
            return self._clients[node_id]

    def move_from(self, node_id: str, rng: random.Random) -> None:
        """The whole process goes to another node, unless another thread has seen to it."""
        with self._lock:
            if self.attached == node_id and len(self._work.nodes) > 1:
                self.attached = rng.choice([other for other in self._work.nodes if other != node_id])


class Session:
    """The session of this process: which sequences are under way. Thread-safe."""

    def __init__(self, session: bytes) -> None:
        self.id = session
        self._lock = threading.Lock()
        self._next = 1
        self._under_way: set[int] = set()

    @contextlib.contextmanager
    def payload(self, body: bytes) -> Iterator[bytes]:
        """A payload, whose sequence counts as answered when the block ends."""
        with self._lock:
            sequence = self._next
            self._next += 1
            self._under_way.add(sequence)
            payload = client_payload(COMMAND, self.id, sequence, min(self._under_way), body)
        try:
            yield payload
        finally:
            with self._lock:
                self._under_way.remove(sequence)


class Answer(msgspec.Struct):
    """How a proposal ended after all attempts. Without an outcome, `may_be_proposed` says what that means."""

    outcome: ports.Outcome | None
    may_be_proposed: bool
    attempts: int
    node: str


class Proposals:
    """Proposes one payload at a time for one thread, through whichever node answers."""

    def __init__(self, nodes: Nodes, work: Work, rng: random.Random) -> None:
        self._nodes = nodes
        self._work = work
        self._rng = rng

    def ask(self, payload: bytes, deadline: float) -> Answer:
        may_be_proposed = False
        attempts = 0
        node = ""
        while (left := deadline - clock.monotonic()) > 0 or not attempts:
            node = self._nodes.attached
            attempts += 1
            outcome = self._attempt(node, payload, min(max(left, 0.1), self._timeout()))
            if outcome is not None and outcome.status in (ports.APPLIED, ports.FAILED, ports.REFUSED):
                return Answer(outcome, may_be_proposed, attempts, node)
            if outcome is not None and outcome.status == ports.UNKNOWN:
                may_be_proposed = True
            self._nodes.move_from(node, self._rng)
            clock.sleep(self._rng.uniform(0.005, 0.05))
        return Answer(None, may_be_proposed, attempts, node)

    def _timeout(self) -> float:
        """Some are impatient: then the same proposal is in more than one node's hands at once."""
        return 0.02 if self._rng.random() < 0.05 else self._work.attempt_timeout * self._rng.uniform(0.25, 1.0)

    def _attempt(self, node: str, payload: bytes, timeout: float) -> ports.Outcome | None:
        """None: nothing was sent."""
        answers: queue.SimpleQueue[list[ports.Outcome]] = queue.SimpleQueue()
        try:
            self._nodes.client(node).propose([payload], timeout, answers.put)
        except (NodeUnavailable, Overloaded):
            return None
        return answers.get(timeout=timeout + ANSWER_GRACE)[0]


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

    def __init__(self, number: int, work: Work, nodes: Nodes, session: Session, recorder: Recorder) -> None:
        self.number = number
        self.work = work
        self.rng = random.Random(f"{work.seed}/{work.client}/{number}")
        self.nodes = nodes
        self.session = session
        self.recorder = recorder
        self.proposals = Proposals(nodes, work, self.rng)
        self.databases = Databases(work.nodes)
        # What it saw last under each key of this rotation: what a compare_and_set expects.
        self.seen: dict[str, Any] = {}
        self._actions = [action for action, _ in MIX]
        self._weights = [weight for _, weight in MIX]

    def run(self, stopping: Callable[[], bool]) -> None:
        while not stopping():
            action = self.rng.choices(self._actions, self._weights)[0]
            key = self._key()
            if action == "read":
                self._read(key)
            else:
                self._command(action, key)
            clock.sleep(self.work.think * self.rng.uniform(0.2, 1.8))

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
        body = encode(action, reference, key, argument, self.rng.choice(PADDINGS))
        with self.session.payload(body) as payload:
            self.recorder.write(
                Called(number, clock.monotonic(), self.number, action, key, argument, reference=reference)
            )
            answer = self.proposals.ask(payload, clock.monotonic() + self.work.give_up)
            ended = self._end(number, action, answer)
            self.recorder.write(ended)
        if ended.end == records.APPLIED:
            if action == "get":
                self.seen[key] = ended.output
            elif action in ("put", "append"):
                self.seen[key] = argument if action == "put" else ended.output
            if self.rng.random() < 0.2:
                self._check_own_write(answer.node, ended.index)

    def _end(self, number: int, action: str, answer: Answer) -> Ended:
        now = clock.monotonic()
        outcome = answer.outcome
        if outcome is None:
            end: records.End = records.UNANSWERED if answer.may_be_proposed else records.NOTHING
            return Ended(number, now, end, attempts=answer.attempts, node=answer.node)
        if outcome.status == ports.APPLIED:
            if action == "withdraw":
                self._broken(f"command {number} raises, but was answered as applied at index {outcome.index}")
            output = msgspec.msgpack.decode(outcome.result)
            return Ended(number, now, records.APPLIED, output, outcome.index, answer.node, answer.attempts)
        name, text = msgspec.msgpack.decode(outcome.result)
        expected = {"claim": INTEGRITY, "note": INTEGRITY, "withdraw": WITHDRAWN}.get(action)
        if outcome.status != ports.FAILED or name != expected:
            self._broken(f"command {number} ({action}) ended with status {outcome.status}, {name}: {text}")
            return Ended(number, now, records.UNANSWERED, None, outcome.index, answer.node, answer.attempts)
        return Ended(number, now, records.REFUSED, None, outcome.index, answer.node, answer.attempts)

    def _check_own_write(self, node: str, index: int) -> None:
        """An answer comes after the change is in the database of the node that gave it."""
        applied, _ = self.databases.read(node, "SELECT 1")
        if applied < index:
            self._broken(f"{node} acknowledged entry {index}, but its database has applied {applied}")

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


def encode(action: str, reference: str, key: str, argument: Any, padding: int) -> bytes:
    """The body of the command for `action`."""
    from raftlog.testing.torture_site import commands

    if action in ("claim", "note", "withdraw"):
        command: Any = getattr(commands, action)
        return bytes(command.encode({"reference": reference, "key": key}, MAX_COMMAND_BYTES))
    arguments = {
        "reference": reference,
        "action": action,
        "key": key,
        "argument": msgspec.json.encode(argument).decode(),
        "padding": bytes(padding),
    }
    return bytes(commands.change.encode(arguments, MAX_COMMAND_BYTES))


def open_session(proposals: Proposals, stopping: Callable[[], bool]) -> Session | None:
    """Tried until it succeeds; None where the work ends first."""
    session = os.urandom(16)
    payload = client_payload(OPEN_SESSION, session, 0, 0, b"")
    while not stopping():
        outcome = proposals.ask(payload, clock.monotonic() + 1.0).outcome
        if outcome is not None and outcome.status == ports.APPLIED:
            return Session(session)
    return None


def run(work: Work, stopping: Callable[[], bool]) -> None:
    """Work in `work.threads` threads until `stopping()`. What a thread raises ends the process."""
    nodes = Nodes(work)
    session = open_session(Proposals(nodes, work, random.Random(f"{work.seed}/{work.client}")), stopping)
    if session is None:
        return
    recorder = Recorder(Path(work.record))
    errors: list[BaseException] = []
    workers = [Worker(number, work, nodes, session, recorder) for number in range(work.threads)]

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
