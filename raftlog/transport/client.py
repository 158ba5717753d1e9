"""An app process's way to the node on its host (runtime.ports.Proposer): one WebSocket, many threads.

Sending: a caller whose proposal is alone sends it itself (no thread to wake); while others are sending or
waiting, the sender thread takes all that waits in one frame. Receiving: a reader thread hands the
outcomes to their callers. When the connection is lost, the reader connects again and sends what has no
outcome yet once more, until its deadline; entries carry (session, sequence), so that is safe (rule 1).
A client with nothing outstanding stays disconnected until the next call.

After a fork, the child starts with a connection and threads of its own, and nothing outstanding.
"""

from __future__ import annotations

import os
import random
import ssl
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import msgspec

from raftlog.exceptions import FrameRefused, NodeUnavailable, Overloaded, PayloadTooLarge, TransportError
from raftlog.runtime import clock
from raftlog.runtime.ports import UNKNOWN, Outcome
from raftlog.transport.client_messages import (
    CLIENT_CODEC,
    Answer,
    ClientMessage,
    Outcomes,
    Propose,
    Request,
    not_proposed,
)
from raftlog.transport.close_codes import BAD_FRAME
from raftlog.transport.connection import SEND_TIMEOUT, Connection
from raftlog.transport.frames import MAX_MESSAGE_BYTES
from raftlog.transport.handshake import CLIENT, CLIENT_PATH, ClientHandshake, Identity
from raftlog.transport.outstanding import Done, Proposal, Question, RequestFailed, call
from raftlog.transport.peer_channel import Backoff

CONNECT_TIMEOUT: Final = 2.0  # seconds
MAX_BACKOFF: Final = 0.5  # seconds between two attempts to reach the node again
# The node answers in time; where it does not (it is stopped, say), the client gives up this much later, in seconds.
GRACE: Final = 1.0


class NodeClient:
    """Thread-safe.

    Args:
        target: "unix:/path", a path, "ws://host:port" or "wss://host:port" of the node.
        secret_keys, cluster: as the node has them.
        max_waiting: proposals of this process without an outcome, beyond which propose() raises Overloaded.
    """

    def __init__(
        self,
        target: str,
        secret_keys: Sequence[bytes],
        cluster: str,
        *,
        ssl_context: ssl.SSLContext | None = None,
        connect_timeout: float = CONNECT_TIMEOUT,
        send_timeout: float = SEND_TIMEOUT,
        max_message_bytes: int = MAX_MESSAGE_BYTES,
        max_waiting: int = 65_536,
    ) -> None:
        self.target = target
        self._secret_keys = list(secret_keys)
        self._cluster = cluster
        self._ssl_context = ssl_context
        self._connect_timeout = connect_timeout
        self._send_timeout = send_timeout
        self._max_message_bytes = max_message_bytes
        self._max_waiting = max_waiting
        self._start_over()
        _clients.add(self)

    def _start_over(self) -> None:
        self._identity = Identity(f"client-{os.getpid()}", self._cluster, self._secret_keys)
        # Protects everything below; never held over I/O or a callback.
        self._lock = threading.Lock()
        # Held by the thread that makes a connection.
        self._connecting = threading.Lock()
        self._connection: Connection[ClientMessage] | None = None
        self._reader: threading.Thread | None = None
        self._outgoing: list[ClientMessage] = []
        self._something_to_send = threading.Condition(self._lock)
        self._sending = False
        self._proposals: dict[int, Proposal] = {}
        self._questions: dict[int, Question] = {}
        self._waiting = 0  # payloads without an outcome
        self._next_id = 1
        self._closed = False

    # Public

    def propose(self, payloads: list[bytes], timeout: float, done: Done) -> None:
        """See ports.Proposer. Raises NodeUnavailable, Overloaded: nothing was sent."""
        size = sum(map(len, payloads)) + 8 * len(payloads) + 64
        if size > self._max_message_bytes:
            raise PayloadTooLarge(f"proposals of {size} bytes at once, the limit is {self._max_message_bytes}")
        deadline = clock.monotonic() + timeout
        with self._usable():
            if self._waiting + len(payloads) > self._max_waiting:
                text = f"{self._waiting} proposals of this process are waiting, the limit is {self._max_waiting}"
                raise Overloaded(text)
            request_id = self._take_id()
            proposal = self._proposals[request_id] = Proposal(payloads, deadline, done)
            self._waiting += len(proposal.payloads)
            message = Propose(request_id, timeout, payloads)
            direct = self._enqueue(message)
        if direct:
            self._send_directly()

    def may_block(self) -> bool:
        """Whether a call would connect first, or wait for another thread that does: up to `connect_timeout`."""
        return self._connection is None

    def request(self, name: str, arguments: dict[str, Any] | None = None, timeout: float = 5.0) -> Any:
        """Ask the node something by name. Raises NodeUnavailable, RequestFailed."""
        answered = threading.Event()
        question = Question(lambda answer: answered.set())
        request_id = self._ask(name, arguments or {}, question)
        if not answered.wait(timeout):
            with self._lock:
                self._questions.pop(request_id, None)
            raise NodeUnavailable(f"{self.target} gave no answer to {name!r} within {timeout:g} s")
        answer = question.answer
        if answer.error == "NodeUnavailable":
            raise NodeUnavailable(answer.text)
        if answer.error:
            raise RequestFailed(answer.error, answer.text)
        return msgspec.msgpack.decode(answer.result)

    def read(self, timeout: float, done: Callable[[int, str], None]) -> None:
        """See ports.Proposer. Raises NodeUnavailable."""

        def answered(answer: Answer) -> None:
            if answer.error:
                done(0, answer.text)
                return
            found = msgspec.msgpack.decode(answer.result)
            done(found["index"], found["reason"])

        self._ask("read_index", {"timeout": timeout}, Question(answered, clock.monotonic() + timeout + GRACE))

    def _ask(self, name: str, arguments: dict[str, Any], question: Question) -> int:
        with self._usable():
            request_id = self._take_id()
            self._questions[request_id] = question
            direct = self._enqueue(Request(request_id, name, arguments))
        if direct:
            self._send_directly()
        return request_id

    def tell(self, name: str, arguments: dict[str, Any]) -> None:
        """A request whose answer nobody waits for. Without a connection it is dropped."""
        with self._lock:
            if self._connection is None or self._closed:
                return
            direct = self._enqueue(Request(self._take_id(), name, arguments))
        if direct:
            self._send_directly()

    def take_turn(self, key: bytes, *, is_fence: bool, timeout: float) -> bool:
        """See ports.Proposer. Raises RequestFailed too."""
        arguments = {"key": key, "fence": is_fence, "timeout": timeout}
        return bool(self.request("take_turn", arguments, timeout + GRACE))

    def renew_turn(self, key: bytes, *, is_fence: bool) -> None:
        self.tell("renew_turn", {"key": key, "fence": is_fence})

    def release_turn(self, key: bytes) -> None:
        self.tell("release_turn", {"key": key})

    def status(self) -> dict[str, Any]:
        status: dict[str, Any] = self.request("status")
        return status

    def close(self) -> None:
        """End the connection. What is outstanding ends as if the node had gone away. Calls after it raise."""
        with self._lock:
            self._closed = True
            connection, reader = self._connection, self._reader
            self._something_to_send.notify_all()
        if connection is not None:
            connection.close()
        if reader is not None and reader is not threading.current_thread():
            reader.join(self._connect_timeout + 1.0)

    # Sending

    def _take_id(self) -> int:
        """Lock: held."""
        request_id = self._next_id
        self._next_id += 1
        return request_id

    def _enqueue(self, message: ClientMessage) -> bool:
        """Lock: held. True: the caller sends what waits, by itself."""
        self._outgoing.append(message)
        if self._connection is None or self._sending:
            return False  # sent once there is a connection, or by whoever is sending
        if len(self._proposals) + len(self._questions) > 1 or threading.current_thread() is self._reader:
            self._something_to_send.notify()
            return False
        self._sending = True
        return True

    def _take_outgoing(self) -> list[ClientMessage]:
        """Lock: held."""
        messages, self._outgoing = self._outgoing, []
        for message in messages:
            proposal = self._proposals.get(message.request_id)
            if proposal is not None:
                proposal.sent = True
        return messages

    def _send_directly(self) -> None:
        """By the thread that set `_sending`: send until nothing waits."""
        while True:
            with self._lock:
                connection = self._connection
                if not self._outgoing or connection is None:
                    self._sending = False
                    return
                messages = self._take_outgoing()
            try:
                connection.send(messages)
            except (OSError, TransportError):
                connection.close()  # the reader sees to the rest
                with self._lock:
                    self._sending = False
                return

    def _sender_main(self, connection: Connection[ClientMessage]) -> None:
        """Body of the sender thread, one for each connection."""
        while True:
            with self._lock:
                while self._connection is connection and (self._sending or not self._outgoing) and not self._closed:
                    self._something_to_send.wait()
                if self._connection is not connection or self._closed:
                    return
                self._sending = True
            self._send_directly()

    # Connecting

    @contextmanager
    def _usable(self) -> Iterator[None]:
        """Hold the lock, with a connection or a reader that is making one. Raises NodeUnavailable."""
        while True:
            self._connect_if_needed()
            with self._lock:
                # Both are None where the connection was lost since, with nothing outstanding: connect again.
                if self._connection is not None or self._reader is not None:
                    yield
                    return

    def _connect_if_needed(self) -> None:
        """Raises NodeUnavailable."""
        if self._connection is not None and not self._closed:
            return
        with self._connecting:
            with self._lock:
                if self._closed:
                    raise NodeUnavailable("this client was closed")
                # With a reader at work, what is proposed now waits for its attempts to connect again.
                if self._connection is not None or self._reader is not None:
                    return
            try:
                connection = self._open()
            except (OSError, TransportError) as error:
                raise NodeUnavailable(f"the node at {self.target} cannot be reached: {error}") from error
            with self._lock:
                if self._closed:
                    connection.release()
                    raise NodeUnavailable("this client was closed")
                self._reader = threading.Thread(target=self._reader_main, name="raftlog-client-reader", daemon=True)
                self._use(connection)
                self._reader.start()

    def _open(self) -> Connection[ClientMessage]:
        connection: Connection[ClientMessage] = Connection(
            self.target, CLIENT_PATH, ssl_context=self._ssl_context, send_timeout=self._send_timeout
        )
        handshake = ClientHandshake(self._identity, CLIENT, CLIENT_CODEC, max_message_bytes=self._max_message_bytes)
        connection.open(handshake, self._connect_timeout)
        return connection

    def _use(self, connection: Connection[ClientMessage]) -> None:
        """Lock: held."""
        self._connection = connection
        threading.Thread(
            target=self._sender_main, args=(connection,), name="raftlog-client-sender", daemon=True
        ).start()

    # Receiving

    def _reader_main(self) -> None:
        """Body of the reader thread: from the first connection until one is lost with nothing outstanding."""
        backoff = Backoff(random.Random(), limit=MAX_BACKOFF)
        while True:
            connection = self._connection
            if connection is not None:
                self._receive(connection)
                backoff.reset()
                self._lost(connection)
            self._expire()
            with self._lock:
                if self._closed or not self._proposals:
                    self._give_up()
                    return
            clock.sleep(backoff.next())
            try:
                connection = self._open()
            except (OSError, TransportError):
                continue
            self._resend(connection)

    def _receive(self, connection: Connection[ClientMessage]) -> None:
        """Hand on what comes in until the connection ends."""
        next_look = 0.0
        try:
            while not self._closed:
                for message in connection.receive():
                    self._dispatch(message)
                now = clock.monotonic()
                if now >= next_look:
                    self._expire()
                    next_look = now + 0.25
        except (OSError, TransportError):
            pass
        finally:
            connection.release()

    def _dispatch(self, message: ClientMessage) -> None:
        if type(message) is Outcomes:
            with self._lock:
                proposal = self._proposals.get(message.request_id)
                if proposal is None:
                    return
                outcomes = [
                    proposal.judged(o) for o in message.outcomes if proposal.payloads.pop(o.key, None) is not None
                ]
                self._waiting -= len(outcomes)
                if not proposal.payloads:
                    del self._proposals[message.request_id]
            if outcomes:
                call(proposal.done, outcomes)
        elif type(message) is Answer:
            with self._lock:
                question = self._questions.pop(message.request_id, None)
            if question is not None:
                question.end(message)
        else:
            raise FrameRefused(f"{type(message).__name__} is not for a node to send", BAD_FRAME)

    def _lost(self, connection: Connection[ClientMessage]) -> None:
        """Requests end here; proposals go over the next connection."""
        with self._lock:
            self._connection = None
            self._something_to_send.notify_all()
            questions, self._questions = self._questions, {}
        for question in questions.values():
            question.end()

    def _resend(self, connection: Connection[ClientMessage]) -> None:
        """Everything without an outcome, in the order proposed; what was never sent is among it."""
        now = clock.monotonic()
        with self._lock:
            for proposal in self._proposals.values():
                proposal.in_doubt |= proposal.sent
            requests = [message for message in self._outgoing if type(message) is Request]
            self._outgoing = [
                Propose(request_id, max(proposal.deadline - now, 0.0), list(proposal.payloads.values()))
                for request_id, proposal in self._proposals.items()
            ]
            self._outgoing += requests
            self._sending = False
            self._use(connection)
            self._something_to_send.notify()

    def _expire(self) -> None:
        """Proposals whose deadline went by without the node's word end by the client's."""
        now = clock.monotonic()
        with self._lock:
            over = {
                request_id: proposal
                for request_id, proposal in self._proposals.items()
                if now >= proposal.deadline + (GRACE if self._connection is not None else 0.0)
            }
            self._forget(over)
            late = [request_id for request_id, question in self._questions.items() if now >= question.deadline]
            unanswered = [self._questions.pop(request_id) for request_id in late]
        self._end(over.values(), unanswered)

    def _give_up(self) -> None:
        """Lock: held. The reader ends: nothing is outstanding, or the client was closed."""
        self._reader = None
        left, self._proposals = self._proposals, {}
        questions, self._questions = self._questions, {}
        self._outgoing = []
        self._waiting = 0
        if left or questions:
            # Callbacks are not called under the lock.
            ended = (list(left.values()), list(questions.values()))
            threading.Thread(target=self._end, args=ended, name="raftlog-client-end").start()

    def _forget(self, proposals: dict[int, Proposal]) -> None:
        """Lock: held."""
        for request_id, proposal in proposals.items():
            del self._proposals[request_id]
            self._waiting -= len(proposal.payloads)
        self._outgoing = [message for message in self._outgoing if message.request_id not in proposals]

    def _end(self, proposals: Iterable[Proposal], questions: Iterable[Question]) -> None:
        for question in questions:
            question.end()
        for proposal in proposals:
            if proposal.sent:
                outcomes = [Outcome(key, UNKNOWN, 0, b"") for key in proposal.payloads]
            else:
                text = f"the node at {self.target} cannot be reached"
                outcomes = [not_proposed(key, NodeUnavailable, text) for key in proposal.payloads]
            call(proposal.done, outcomes)

    def _after_fork(self) -> None:
        """In the child: the parent's connection is not ours, its threads do not exist here."""
        connection = self._connection
        if connection is not None:
            connection.abandon()
        closed = self._closed
        self._start_over()
        self._closed = closed


_clients: weakref.WeakSet[NodeClient] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for client in list(_clients):
        client._after_fork()


os.register_at_fork(after_in_child=_after_fork_in_child)
