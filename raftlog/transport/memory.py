"""A network inside one process, for tests with real threads: partitions, loss, delay, dead nodes.

Every message goes through the wire's own codec, so what cannot be encoded or breaks a guarantee is
noticed. Each node has one dispatcher thread, which delivers what is sent to it (requests to its service,
answers to its channels), in order of arrival; per connection, messages never overtake each other.
"""

from __future__ import annotations

import heapq
import random
import threading
from collections.abc import Callable, Sequence
from typing import Any

from raftlog.exceptions import TransportError
from raftlog.runtime import clock
from raftlog.runtime.ports import ChannelFactory, OnClose, OnMessage, PeerChannel, PeerMessage, ServicePort
from raftlog.transport.frames import PEER_CODEC


class MemoryNetwork:
    """Thread-safe. close() it at the end.

    `loss` is the probability that a message is lost (0 to 1), `delay` the least and the most seconds that it takes;
    both may be set at any time.
    """

    def __init__(self, seed: int = 0) -> None:
        self.loss = 0.0
        self.delay = (0.0, 0.0)
        self._lock = threading.Lock()
        self._rng = random.Random(seed)
        self._nodes: dict[str, _Node] = {}
        self._cut: set[tuple[str, str]] = set()
        self._channels: set[MemoryChannel] = set()

    def register(self, node_id: str, service: ServicePort) -> None:
        """A node is up: channels can connect to it."""
        node = _Node(node_id, service)
        with self._lock:
            self._nodes[node_id] = node
        node.thread.start()

    def channel_factory(self, node_id: str) -> ChannelFactory:
        """What this node's peer threads connect with; may be asked for before register()."""

        def channel(peer_id: str, on_message: OnMessage, on_close: OnClose) -> PeerChannel:
            return MemoryChannel(self, node_id, peer_id, on_message, on_close)

        return channel

    def partition(self, sender: str, recipient: str, both_ways: bool = True) -> None:
        """What `sender` sends to `recipient` is lost, silently, and new connections fail."""
        with self._lock:
            self._cut.add((sender, recipient))
            if both_ways:
                self._cut.add((recipient, sender))

    def isolate(self, node_id: str) -> None:
        for other in list(self._nodes):
            if other != node_id:
                self.partition(node_id, other)

    def heal(self) -> None:
        with self._lock:
            self._cut.clear()

    def crash(self, node_id: str) -> None:
        """The node's process is gone: its connections end on both sides. register() brings it back."""
        with self._lock:
            node = self._nodes.pop(node_id, None)
            ended = [c for c in self._channels if node_id in (c.node_id, c.peer_id)]
        for channel in ended:
            channel.end(f"{node_id} is gone")
        if node is not None:
            node.stop()

    def close(self) -> None:
        for node_id in list(self._nodes):
            self.crash(node_id)

    # For the channels

    def _open(self, channel: MemoryChannel) -> None:
        source, target = channel.node_id, channel.peer_id
        with self._lock:
            node = self._nodes.get(target)
            if node is None or source not in self._nodes:
                raise TransportError(f"{target} is not there")
            if (source, target) in self._cut or (target, source) in self._cut:
                raise TransportError(f"{target} cannot be reached from {source}")
            self._channels.add(channel)
        node.put(0.0, lambda: node.service.peer_connected(source))

    def _forget(self, channel: MemoryChannel) -> None:
        with self._lock:
            self._channels.discard(channel)
            node = self._nodes.get(channel.peer_id)
        if node is not None:
            node.put(0.0, lambda: node.service.peer_disconnected(channel.node_id))

    def _deliver(
        self, link: _Link, source: str, target: str, data: bytes, to: Callable[[_Node, PeerMessage], None]
    ) -> None:
        """Bring `data` to the dispatcher of `target`, unless it is lost."""
        with self._lock:
            node = self._nodes.get(target)
            if node is None or (source, target) in self._cut or self._rng.random() < self.loss:
                return
            due = max(clock.monotonic() + self._rng.uniform(*self.delay), link.last_due)
            link.last_due = due

        def arrive() -> None:
            if link.is_open:
                to(node, PEER_CODEC.decode(data))

        node.put(due, arrive)


class _Link:
    """One connection: what is under way on it is lost when it ends. Each direction keeps its order by `last_due`."""

    def __init__(self) -> None:
        self.is_open = True
        self.last_due = 0.0


class MemoryChannel:
    """See ports.PeerChannel."""

    def __init__(
        self, network: MemoryNetwork, node_id: str, peer_id: str, on_message: OnMessage, on_close: OnClose
    ) -> None:
        self.node_id = node_id
        self.peer_id = peer_id
        self._network = network
        self._on_message = on_message
        self._on_close = on_close
        self._lock = threading.Lock()
        self._link: _Link | None = None
        self._back: _Link | None = None
        # Clear while on_close of the last connection is under way: the next one waits for it.
        self._told = threading.Event()
        self._told.set()

    @property
    def is_connected(self) -> bool:
        return self._link is not None

    def connect(self) -> None:
        if not self._told.wait(5.0):
            raise TransportError(f"the end of the last connection to {self.peer_id} has not been taken in yet")
        self._network._open(self)
        with self._lock:
            self._link, self._back = _Link(), _Link()

    def send(self, messages: Sequence[PeerMessage], urgent: Callable[[], Sequence[PeerMessage]] = tuple) -> None:
        link, back = self._link, self._back
        if link is None or back is None:
            raise TransportError(f"not connected to {self.peer_id}")

        def to_service(node: _Node, message: PeerMessage) -> None:
            def reply(answer: PeerMessage) -> None:
                self._network._deliver(
                    back, self.peer_id, self.node_id, PEER_CODEC.encode(answer), lambda _, got: self._on_message((got,))
                )

            if not node.service.submit(message, clock.monotonic(), reply):
                self.end("overloaded")

        for message in messages:
            self._network._deliver(link, self.node_id, self.peer_id, PEER_CODEC.encode(message), to_service)

    def close(self) -> None:
        self.end("closed by this side")

    def end(self, reason: str) -> None:
        """The connection is over, for both sides. Idempotent."""
        with self._lock:
            link, back = self._link, self._back
            self._link = self._back = None
            if link is None or back is None:
                return
            self._told.clear()
        link.is_open = back.is_open = False
        self._network._forget(self)
        node = self._network._nodes.get(self.node_id)
        if node is None:
            self._told.set()
        else:
            node.put(0.0, lambda: self._tell(reason))

    def _tell(self, reason: str) -> None:
        try:
            self._on_close(reason)
        finally:
            self._told.set()


class _Node:
    """A node's dispatcher: does what is due, in order of time."""

    def __init__(self, node_id: str, service: ServicePort) -> None:
        self.service = service
        self.thread = threading.Thread(target=self._main, name=f"raftlog-memory-{node_id}", daemon=True)
        self._condition = threading.Condition()
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0
        self._stopping = False

    def put(self, due: float, action: Callable[[], None]) -> None:
        with self._condition:
            self._count += 1
            heapq.heappush(self._due, (due, self._count, action))
            self._condition.notify()

    def stop(self) -> None:
        with self._condition:
            self._stopping = True
            self._condition.notify()
        if self.thread is not threading.current_thread():
            self.thread.join(5.0)

    def _main(self) -> None:
        while True:
            with self._condition:
                while not self._stopping:
                    wait: Any = None
                    if self._due:
                        wait = self._due[0][0] - clock.monotonic()
                        if wait <= 0:
                            break
                    self._condition.wait(wait)
                if self._stopping:
                    return
                action = heapq.heappop(self._due)[2]
            action()
