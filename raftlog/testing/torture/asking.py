"""How a client process asks: through one node after the other, until it knows how a command ended or gives up.

`RawAsker` speaks to the nodes directly, and hands the same bytes to other nodes sooner than any application would.
`PublicAsker` is an application: `command.propose()`, and again by the proposal id where the outcome is unknown.
"""

from __future__ import annotations

import contextlib
import os
import queue
import random
import threading
from collections.abc import Callable, Iterator
from typing import Any, Final, Protocol

import msgspec

from raftlog.consensus.entries import COMMAND, OPEN_SESSION, client_payload
from raftlog.exceptions import (
    CommandFailed,
    NodeUnavailable,
    NotProposed,
    OutcomeUnknown,
    Overloaded,
    SessionExpired,
)
from raftlog.runtime import clock, ports
from raftlog.testing.torture import records
from raftlog.testing.torture.records import End
from raftlog.transport.client import NodeClient

MAX_COMMAND_BYTES: Final = 1 << 20
ANSWER_GRACE: Final = 10.0  # seconds after its timeout in which NodeClient must have ended a proposal
INTEGRITY: Final = "django.db.utils.IntegrityError"
WITHDRAWN: Final = "raftlog.testing.torture_site.commands.Withdrawn"
# How the commands fail that may.
EXPECTED_FAILURES: Final = {"claim": INTEGRITY, "note": INTEGRITY, "withdraw": WITHDRAWN}


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
    # An application's way to propose, or the nodes' own protocol.
    public: bool = False
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
        self._pinned = threading.local()

    def pin(self) -> str:
        """The node that this process is attached to now, and that AttachedNode uses for this thread from now on."""
        self._pinned.node = self.attached
        return self.attached

    @property
    def pinned(self) -> str:
        return getattr(self._pinned, "node", self.attached)

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
    """How a command ended after all attempts. `index` 0, `node` "": not known. `problem`: it ended as it never may."""

    end: End
    output: Any
    index: int
    node: str
    attempts: int
    problem: str = ""


class Asker(Protocol):
    def ask(self, action: str, arguments: dict[str, Any], called: Callable[[], None]) -> Answer:
        """Propose the command of `action`; `called` is called before anything is sent."""
        ...


def command_of(action: str) -> Any:
    from raftlog.testing.torture_site import commands

    return getattr(commands, action) if action in EXPECTED_FAILURES else commands.change


def end_of_failure(action: str, name: str, text: str) -> tuple[End, str]:
    """(end, problem)"""
    if name == EXPECTED_FAILURES.get(action):
        return records.REFUSED, ""
    return records.UNANSWERED, f"{action} ended with {name}: {text}"


def attempt_timeout(rng: random.Random, longest: float, left: float) -> float:
    """Some are impatient: then the same proposal is in more than one node's hands at once."""
    return 0.02 if rng.random() < 0.05 else max(0.1, min(left, longest * rng.uniform(0.25, 1.0)))


class RawAsker:
    """For one thread; the session is the process's."""

    def __init__(self, nodes: Nodes, work: Work, rng: random.Random, session: Session) -> None:
        self._nodes = nodes
        self._work = work
        self._rng = rng
        self._session = session

    def ask(self, action: str, arguments: dict[str, Any], called: Callable[[], None]) -> Answer:
        body = bytes(command_of(action).encode(arguments, MAX_COMMAND_BYTES))
        with self._session.payload(body) as payload:
            called()
            outcome, node, attempts = propose_until(
                self._nodes, self._rng, payload, self._work.give_up, self._work.attempt_timeout
            )
        if outcome is None:
            return Answer(records.NOTHING, None, 0, node, attempts)
        if outcome.status == ports.UNKNOWN:
            return Answer(records.UNANSWERED, None, 0, node, attempts)
        if outcome.status == ports.APPLIED:
            output = msgspec.msgpack.decode(outcome.result)
            return Answer(records.APPLIED, output, outcome.index, node, attempts)
        name, text = msgspec.msgpack.decode(outcome.result)
        end, problem = end_of_failure(action, name, text)
        if outcome.status == ports.REFUSED:
            end, problem = records.UNANSWERED, f"{action} was refused for its session: {name}: {text}"
        return Answer(end, None, outcome.index, node, attempts, problem)


def propose_until(
    nodes: Nodes, rng: random.Random, payload: bytes, give_up: float, longest_attempt: float
) -> tuple[ports.Outcome | None, str, int]:
    """(outcome, the node that gave it, attempts). Outcome None: never proposed; UNKNOWN: it may have been."""
    deadline = clock.monotonic() + give_up
    last: ports.Outcome | None = None
    attempts = 0
    node = ""
    while (left := deadline - clock.monotonic()) > 0 or not attempts:
        node = nodes.attached
        attempts += 1
        outcome = _propose_once(nodes.client(node), payload, attempt_timeout(rng, longest_attempt, left))
        if outcome is not None and outcome.status in (ports.APPLIED, ports.FAILED, ports.REFUSED):
            return outcome, node, attempts
        if outcome is not None and outcome.status == ports.UNKNOWN:
            last = outcome
        nodes.move_from(node, rng)
        clock.sleep(rng.uniform(0.005, 0.05))
    return last, node, attempts


def _propose_once(client: NodeClient, payload: bytes, timeout: float) -> ports.Outcome | None:
    """None: nothing was sent."""
    answers: queue.SimpleQueue[list[ports.Outcome]] = queue.SimpleQueue()
    try:
        client.propose([payload], timeout, answers.put)
    except (NodeUnavailable, Overloaded):
        return None
    return answers.get(timeout=timeout + ANSWER_GRACE)[0]


def open_session(nodes: Nodes, rng: random.Random, stopping: Callable[[], bool]) -> Session | None:
    """Tried until it succeeds; None where the work ends first."""
    session = os.urandom(16)
    payload = client_payload(OPEN_SESSION, session, 0, 0, b"")
    while not stopping():
        outcome, _, _ = propose_until(nodes, rng, payload, 1.0, 1.0)
        if outcome is not None and outcome.status == ports.APPLIED:
            return Session(session)
    return None


class AttachedNode:
    """The proposer of a process (ports.Proposer): the node that the calling thread has pinned."""

    def __init__(self, nodes: Nodes) -> None:
        self._nodes = nodes

    def propose(self, payloads: list[bytes], timeout: float, done: Callable[[list[ports.Outcome]], None]) -> None:
        self._nodes.client(self._nodes.pinned).propose(payloads, timeout, done)

    def read(self, timeout: float, done: Callable[[int, str], None]) -> None:
        self._nodes.client(self._nodes.pinned).read(timeout, done)

    def take_turn(self, key: bytes, *, is_fence: bool, timeout: float) -> bool:
        return self._nodes.client(self._nodes.pinned).take_turn(key, is_fence=is_fence, timeout=timeout)

    def renew_turn(self, key: bytes, *, is_fence: bool) -> None:
        self._nodes.client(self._nodes.pinned).renew_turn(key, is_fence=is_fence)

    def release_turn(self, key: bytes) -> None:
        self._nodes.client(self._nodes.pinned).release_turn(key)

    def status(self) -> dict[str, Any]:
        return self._nodes.client(self._nodes.pinned).status()


class PublicAsker:
    """For one thread. The process must have an AttachedNode as its proposer."""

    def __init__(self, nodes: Nodes, work: Work, rng: random.Random) -> None:
        self._nodes = nodes
        self._work = work
        self._rng = rng

    def ask(self, action: str, arguments: dict[str, Any], called: Callable[[], None]) -> Answer:
        called()
        command = command_of(action)
        deadline = clock.monotonic() + self._work.give_up
        proposal_id, node, attempts = "", "", 0
        while (left := deadline - clock.monotonic()) > 0:
            node = self._nodes.pin()
            attempts += 1
            timeout = attempt_timeout(self._rng, self._work.attempt_timeout, left)
            bound = command.with_options(timeout=timeout, proposal_id=proposal_id)
            try:
                output = bound.propose(**arguments)
            except NotProposed:
                pass  # but an earlier attempt may have been
            except OutcomeUnknown as error:
                proposal_id = error.proposal_id
            except SessionExpired as error:
                return Answer(records.UNANSWERED, None, 0, node, attempts, f"{action}: {error!r}")
            except CommandFailed as error:
                end, problem = end_of_failure(action, error.type_name, error.text)
                return Answer(end, None, 0, node, attempts, problem)
            except Exception as error:  # noqa: BLE001  (the command's own failure, as its caller gets it)
                end, problem = end_of_failure(action, _name(error), str(error))
                return Answer(end, None, 0, node, attempts, problem)
            else:
                # The answer to an earlier attempt may be another node's.
                return Answer(records.APPLIED, output, 0, node if attempts == 1 else "", attempts)
            self._nodes.move_from(node, self._rng)
            clock.sleep(self._rng.uniform(0.005, 0.05))
        return Answer(records.UNANSWERED if proposal_id else records.NOTHING, None, 0, node, attempts)


def _name(error: Exception) -> str:
    return f"{type(error).__module__}.{type(error).__qualname__}"
