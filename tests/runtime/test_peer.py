"""A peer thread connects with backoff, and at once when the peer shows that it is back."""

from types import SimpleNamespace

import pytest

from raftlog.runtime.peer import FIRST_BACKOFF, MAX_BACKOFF, PeerThread
from tests.runtime.scripted import ScriptedMonitor


class Channel:
    """Never connects."""

    attempts = 0
    is_connected = False

    def connect(self):
        self.attempts += 1
        raise ConnectionRefusedError("refused")

    def close(self):
        pass


@pytest.fixture
def monitor():
    return ScriptedMonitor()


@pytest.fixture
def channel():
    return Channel()


@pytest.fixture
def thread(monitor, channel):
    state = SimpleNamespace(
        monitor=monitor,
        stopping=False,
        raft=SimpleNamespace(node_id="a"),
        peer_work={"b": monitor.condition()},
    )
    return PeerThread(state, "b", lambda *_: channel, jitter=lambda: 1.0)


def stop(thread):
    thread._state.stopping = True


def test_the_pause_between_attempts_doubles_up_to_a_bound(thread, monitor, channel):
    def time_is_over():
        monitor.now = monitor.waited_for[-1]

    monitor.steps = [time_is_over] * 9 + [lambda: stop(thread)]
    thread.main(lambda doing: None)
    pauses = [later - earlier for earlier, later in zip([0.0, *monitor.waited_for], monitor.waited_for, strict=False)]
    assert pauses[:3] == pytest.approx([FIRST_BACKOFF, 2 * FIRST_BACKOFF, 4 * FIRST_BACKOFF])
    assert max(pauses) == pytest.approx(MAX_BACKOFF)
    assert channel.attempts == 10


def test_other_notifications_do_not_end_the_pause(thread, monitor, channel):
    monitor.steps = [lambda: None, lambda: None, lambda: stop(thread)]
    thread.main(lambda doing: None)
    assert channel.attempts == 1
    assert len(set(monitor.waited_for)) == 1


def test_a_peer_that_has_connected_is_tried_at_once(thread, monitor, channel):
    def it_connects():
        # A scripted wait holds the monitor, which a real one leaves.
        monitor.__exit__(None, None, None)
        thread.retry_now()
        monitor.__enter__()

    monitor.steps = [it_connects, lambda: stop(thread)]
    thread.main(lambda doing: None)
    assert channel.attempts == 2
    assert monitor.now == 0.0
    assert monitor.waited_for[1] == pytest.approx(FIRST_BACKOFF)


def test_a_connection_that_ended_while_it_was_made_is_no_reason_to_hurry(thread, monitor, channel):
    """Accepted and closed at once, again and again: the pause grows as for a refusal."""

    def connect():
        channel.attempts += 1

    def time_is_over():
        monitor.now = monitor.waited_for[-1]

    channel.connect = connect
    monitor.steps = [time_is_over, time_is_over, lambda: stop(thread)]
    thread.main(lambda doing: None)
    assert channel.attempts == 3
    assert monitor.waited_for == pytest.approx([FIRST_BACKOFF, 3 * FIRST_BACKOFF, 7 * FIRST_BACKOFF])
    assert not thread.connected
