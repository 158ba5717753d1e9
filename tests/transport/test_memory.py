"""The network in one process: what tests of whole nodes rely on."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from raftlog.exceptions import FrameRefused, TransportError
from raftlog.runtime.ports import PeerMessage
from raftlog.transport.memory import MemoryNetwork
from tests.transport.conftest import WAIT, Answers, vote


class Service:
    """Answers each message with itself, the other way round."""

    def __init__(self) -> None:
        self.received: list[PeerMessage] = []
        self.events: list[str] = []

    def submit(self, message: PeerMessage, arrived_at: float, reply: Callable[[PeerMessage], None]) -> bool:
        self.received.append(message)
        reply(vote(message.term, sender=message.recipient, recipient=message.sender))
        return True

    def peer_connected(self, peer_id: str) -> None:
        self.events.append(f"+{peer_id}")

    def peer_disconnected(self, peer_id: str) -> None:
        self.events.append(f"-{peer_id}")

    def propose(self, payloads: list[bytes], timeout: float, done: Any) -> None:
        raise NotImplementedError

    def status(self) -> dict[str, Any]:
        raise NotImplementedError


@pytest.fixture
def network() -> Iterator[MemoryNetwork]:
    network = MemoryNetwork()
    yield network
    network.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("raftlog-memory")]


@pytest.fixture
def pair(network: MemoryNetwork) -> tuple[Service, Any, Answers]:
    service, answers = Service(), Answers()
    network.register("a", Service())
    network.register("b", service)
    channel = network.channel_factory("a")("b", answers.on_message, answers.on_close)
    channel.connect()
    return service, channel, answers


def test_messages_and_answers_keep_their_order(network: MemoryNetwork, pair: tuple[Service, Any, Answers]) -> None:
    """Whatever the delays, per connection nothing overtakes."""
    service, channel, answers = pair
    network.delay = (0.0, 0.002)
    channel.send([vote(term) for term in range(50)])
    answers.wait(lambda: len(answers.messages) == 50)
    assert [message.term for message in service.received] == list(range(50))
    assert [message.term for message in answers.messages] == list(range(50))


def test_a_one_way_partition_loses_one_direction(network: MemoryNetwork, pair: tuple[Service, Any, Answers]) -> None:
    """Requests arrive, answers do not; after heal() both do."""
    service, channel, answers = pair
    network.partition("b", "a", both_ways=False)
    channel.send([vote(1)])
    deadline = time.monotonic() + WAIT
    while not service.received:
        assert time.monotonic() < deadline
    network.heal()
    channel.send([vote(2)])
    answers.wait(lambda: bool(answers.messages))
    assert [message.term for message in service.received] == [1, 2]
    assert [message.term for message in answers.messages] == [2]


def test_a_partition_refuses_new_connections(network: MemoryNetwork, pair: tuple[Service, Any, Answers]) -> None:
    """A cut network cannot be connected over."""
    _, channel, answers = pair
    channel.close()
    answers.wait(lambda: answers.closed == ["closed by this side"])
    network.isolate("b")
    with pytest.raises(TransportError, match="cannot be reached"):
        channel.connect()
    network.heal()
    channel.connect()


def test_a_crash_ends_connections_on_both_sides(network: MemoryNetwork, pair: tuple[Service, Any, Answers]) -> None:
    """The channel to the dead node hears of it, and so does the node that a dead node was connected to."""
    _, channel, answers = pair
    network.crash("b")
    answers.wait(lambda: answers.closed == ["b is gone"])
    with pytest.raises(TransportError):
        channel.send([vote(1)])
    with pytest.raises(TransportError, match="b is not there"):
        channel.connect()
    again = Service()
    network.register("b", again)
    channel.connect()
    network.crash("a")
    deadline = time.monotonic() + WAIT
    while again.events != ["+a", "-a"]:
        assert time.monotonic() < deadline


def test_loss_loses(network: MemoryNetwork, pair: tuple[Service, Any, Answers]) -> None:
    """With a seed, the same messages are lost each time."""
    service, channel, answers = pair
    network.loss = 0.5
    channel.send([vote(term) for term in range(100)])
    network.loss = 0.0
    channel.send([vote(1000)])
    answers.wait(lambda: bool(answers.messages) and answers.messages[-1].term == 1000)
    assert 20 < len(service.received) < 80


def test_what_cannot_travel_is_noticed(network: MemoryNetwork, pair: tuple[Service, Any, Answers]) -> None:
    """Messages go through the wire's codec."""
    _, channel, _ = pair
    with pytest.raises((FrameRefused, TypeError)):
        channel.send([object()])
