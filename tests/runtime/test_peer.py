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
