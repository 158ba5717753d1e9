"""An app process's client, against a real Daphne."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable

import pytest

from raftlog.consensus.entries import KEY
from raftlog.exceptions import NodeUnavailable, Overloaded, PayloadTooLarge
from raftlog.runtime import clock
from raftlog.runtime.ports import APPLIED, NOT_PROPOSED, UNKNOWN, Outcome
from raftlog.transport.client import NodeClient
from raftlog.transport.outstanding import RequestFailed
from tests.transport.conftest import SECRET, WAIT, EchoNode, proposal


class Outcomes:
    def __init__(self) -> None:
        self.all: list[Outcome] = []
        self._condition = threading.Condition()

    def __call__(self, outcomes: list[Outcome]) -> None:
        with self._condition:
            self.all += outcomes
            self._condition.notify_all()

    def wait(self, count: int) -> list[Outcome]:
        with self._condition:
            assert self._condition.wait_for(lambda: len(self.all) >= count, WAIT), self.all
        return self.all


def client_of(node: EchoNode, scheme: str = "ws", **options: object) -> NodeClient:
    return NodeClient(node.address(scheme), [SECRET], "c", **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("scheme", ["ws", "unix"])
def test_many_threads_share_one_connection(echo_node: EchoNode, scheme: str) -> None:
    """Each caller gets the outcome of its own proposal."""
    client = client_of(echo_node, scheme)
    results: dict[int, bytes] = {}

    def work(number: int) -> None:
        for sequence in range(number * 100 + 1, number * 100 + 51):
            outcomes = Outcomes()
            client.propose([proposal(sequence, str(sequence).encode())], 5.0, outcomes)
            (outcome,) = outcomes.wait(1)
            assert outcome.status == APPLIED
            results[sequence] = outcome.result

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT)
    assert len(results) == 400
    assert all(result == str(sequence).encode() for sequence, result in results.items())
    client.close()


def test_a_batch_gets_an_outcome_for_each(echo_node: EchoNode) -> None:
    """Many payloads in one call, and one of several MiB."""
    client = client_of(echo_node)
    outcomes = Outcomes()
    payloads = [proposal(sequence) for sequence in range(1, 1001)]
    client.propose(payloads, 5.0, outcomes)
    assert [outcome.key for outcome in outcomes.wait(1000)] == [payload[KEY] for payload in payloads]
    large = Outcomes()
    client.propose([proposal(1001, b"y" * (5 << 20))], 5.0, large)
    assert len(large.wait(1)[0].result) == 5 << 20
    client.close()


def test_requests_by_name(echo_node: EchoNode) -> None:
    """status() and other questions; errors come back with their class name and text."""
    client = client_of(echo_node)
    assert "connected" in client.status()
    assert client.request("deferred", {"x": [1, None]}) == {"x": [1, None]}
    with pytest.raises(RequestFailed, match="ZeroDivisionError: integer division or modulo by zero"):
        client.request("fail")
    with pytest.raises(RequestFailed, match="knows no request 'nonsense'"):
        client.request("nonsense")
    client.close()


def test_no_node_is_said_at_once(tmp_path: object) -> None:
    """Nothing was sent, so the caller may know."""
    client = NodeClient(f"{tmp_path}/none.sock", [SECRET], "c")
    with pytest.raises(NodeUnavailable, match="cannot be reached"):
        client.propose([proposal(1)], 1.0, Outcomes())
    with pytest.raises(NodeUnavailable):
        client.status()
    client.close()
    with pytest.raises(NodeUnavailable, match="closed"):
        client.status()


def test_a_wrong_secret_is_said(echo_node: EchoNode) -> None:
    """The reason of the refusal is in the error."""
    client = NodeClient(echo_node.address(), [b"not the right secret"], "c")
    with pytest.raises(NodeUnavailable, match="wrong secret"):
        client.status()


def test_too_much_is_refused(start_echo_node: Callable[..., EchoNode]) -> None:
    """By the node with an outcome at once, by the client with an exception."""
    node = start_echo_node(max_waiting_proposals=2)
    client = client_of(node)
    held, refused, later = Outcomes(), Outcomes(), Outcomes()
    client.propose([proposal(1, b"later"), proposal(2, b"later")], 5.0, held)
    client.propose([proposal(3)], 5.0, refused)
    (outcome,) = refused.wait(1)
    assert outcome.status == NOT_PROPOSED
    assert b"Overloaded" in outcome.result
    assert client.request("release") == 1
    held.wait(2)
    client.propose([proposal(4)], 5.0, later)
    assert later.wait(1)[0].status == APPLIED
    client.close()

    small = client_of(node, max_waiting=1, max_message_bytes=1000)
    with pytest.raises(Overloaded):
        small.propose([proposal(5), proposal(6)], 1.0, Outcomes())
    with pytest.raises(PayloadTooLarge, match="the limit is 1000"):
        small.propose([proposal(7, b"x" * 1000)], 1.0, Outcomes())
    small.close()


def test_what_is_outstanding_goes_over_the_next_connection(start_echo_node: Callable[..., EchoNode]) -> None:
    """The node is killed with proposals waiting and comes back: they are sent again, and end."""
    node = start_echo_node()
    client = client_of(node)
    outcomes = Outcomes()
    client.propose([proposal(1, b"later 1"), proposal(2, b"later 2")], 30.0, outcomes)
    client.propose([proposal(3, b"later 3")], 30.0, outcomes)
    while len(client.status()["proposed"]) < 3:
        pass
    node.process.kill()
    node.stop()
    again = start_echo_node(port=node.port)
    while len(client.status()["proposed"]) < 3:
        pass
    assert client.status()["proposed"] == ["later 1", "later 2", "later 3"]
    assert outcomes.all == []
    client.request("release")
    assert {outcome.key for outcome in outcomes.wait(3)} == {proposal(sequence)[KEY] for sequence in (1, 2, 3)}
    assert all(outcome.status == APPLIED for outcome in outcomes.all)
    assert again.process.poll() is None
    client.close()


def test_a_node_that_came_back_cannot_say_that_nothing_was_proposed(start_echo_node: Callable[..., EchoNode]) -> None:
    """What was sent before it went down may be in the log: its refusal of the copy leaves the outcome unknown."""
    node = start_echo_node()
    client = client_of(node)
    before, after = Outcomes(), Outcomes()
    client.propose([proposal(1, b"never")], 30.0, before)
    while not client.status()["proposed"]:
        pass
    node.process.kill()
    node.stop()
    start_echo_node(port=node.port, refuses=True)
    assert before.wait(1)[0].status == UNKNOWN
    client.propose([proposal(2)], 30.0, after)
    assert after.wait(1)[0].status == NOT_PROPOSED
    client.close()


def test_a_lost_node_leaves_the_outcome_unknown(start_echo_node: Callable[..., EchoNode]) -> None:
    """What was sent may have been applied; what was not is known not to be."""
    node = start_echo_node()
    client = client_of(node)
    sent, unsent = Outcomes(), Outcomes()
    client.propose([proposal(1, b"never")], 4.0, sent)  # it must still wait when the loss is noticed
    while not client.status()["proposed"]:
        clock.sleep(0.005)
    node.stop()
    while client._connection is not None:
        clock.sleep(0.005)
    client.propose([proposal(2)], 0.1, unsent)
    assert sent.wait(1)[0].status == UNKNOWN
    (outcome,) = unsent.wait(1)
    assert outcome.status == NOT_PROPOSED
    assert b"NodeUnavailable" in outcome.result
    client.close()


def test_a_node_that_is_stopped_leaves_the_outcome_unknown(start_echo_node: Callable[..., EchoNode]) -> None:
    """A process that hangs does not hold its callers beyond their time."""
    node = start_echo_node()
    client = client_of(node)
    client.status()
    os.kill(node.process.pid, signal.SIGSTOP)
    try:
        outcomes = Outcomes()
        client.propose([proposal(1)], 0.1, outcomes)
        assert outcomes.wait(1)[0].status == UNKNOWN
    finally:
        os.kill(node.process.pid, signal.SIGCONT)
    client.close()


def test_close_ends_what_is_outstanding(echo_node: EchoNode) -> None:
    """No caller waits for a client that was closed."""
    client = client_of(echo_node)
    outcomes = Outcomes()
    client.propose([proposal(1, b"never")], 60.0, outcomes)
    client.status()
    client.close()
    assert outcomes.wait(1)[0].status == UNKNOWN


def test_a_child_has_a_connection_of_its_own(echo_node: EchoNode) -> None:
    """After a fork both processes can propose, and neither disturbs the other."""
    client = client_of(echo_node)
    client.status()
    child = os.fork()
    if child == 0:
        try:
            outcomes = Outcomes()
            client.propose([proposal(1, b"child")], 5.0, outcomes)
            os._exit(0 if outcomes.wait(1)[0].result == b"child" else 1)
        finally:
            os._exit(2)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    outcomes = Outcomes()
    client.propose([proposal(2, b"parent")], 5.0, outcomes)
    assert outcomes.wait(1)[0].result == b"parent"
    client.close()


def test_a_callback_that_fails_does_not_harm_others(echo_node: EchoNode, caplog: pytest.LogCaptureFixture) -> None:
    """It is logged; the next outcome arrives."""
    client = client_of(echo_node)
    client.propose([proposal(1)], 5.0, lambda outcomes: 1 // 0)  # type: ignore[arg-type,return-value]
    outcomes = Outcomes()
    client.propose([proposal(2)], 5.0, outcomes)
    outcomes.wait(1)
    client.close()
    assert "a callback failed" in caplog.text


class Reads:
    """Answers to NodeClient.read()."""

    def __init__(self) -> None:
        self.all: list[tuple[int, str]] = []
        self._came = threading.Semaphore(0)

    def __call__(self, index: int, reason: str) -> None:
        self.all.append((index, reason))
        self._came.release()

    def wait(self, count: int) -> list[tuple[int, str]]:
        for _ in range(count):
            assert self._came.acquire(timeout=WAIT), self.all
        return self.all


def test_reads_are_answered_without_anybody_waiting(echo_node: EchoNode) -> None:
    """From inside an answer another may be asked for, as ReadRounds does."""
    client = client_of(echo_node)
    reads = Reads()

    def again(index: int, reason: str) -> None:
        client.read(5.0, reads)
        reads(index, reason)

    client.read(5.0, again)
    assert reads.wait(2) == [(7, "")] * 2
    client.close()


def test_a_read_ends_with_its_connection_or_after_its_time(start_echo_node: Callable[..., EchoNode]) -> None:
    """It is not repeated: whoever asks again is told of a later moment."""
    node = start_echo_node()
    client = client_of(node)
    late, lost = Reads(), Reads()
    assert "connected" in client.status()
    node.process.send_signal(signal.SIGSTOP)
    client.read(0.01, late)
    ((index, reason),) = late.wait(1)
    assert index == 0
    assert "no answer" in reason
    client.read(60.0, lost)
    node.process.kill()
    node.stop()
    ((index, reason),) = lost.wait(1)
    assert index == 0
    assert "connection to the node was lost" in reason
    client.close()
