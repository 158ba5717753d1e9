"""The lock knows who holds it."""

import threading

import pytest

from raftlog.runtime.monitor import Monitor


def test_assert_held_passes_inside_and_fails_outside():
    monitor = Monitor()
    with monitor:
        monitor.assert_held()
    with pytest.raises(AssertionError):
        monitor.assert_held()


def test_assert_held_fails_where_another_thread_holds_it():
    monitor = Monitor()
    seen = []

    def other():
        try:
            monitor.assert_held()
        except AssertionError:
            seen.append("refused")

    with monitor:
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert seen == ["refused"]


def test_a_wait_leaves_the_monitor_and_comes_back_into_it():
    monitor = Monitor()
    condition = monitor.condition()
    done = []

    def other():
        with monitor:
            done.append(True)
            condition.notify()

    thread = threading.Thread(target=other)
    with monitor:
        thread.start()
        while not done:
            condition.wait_until(float("inf"))
        monitor.assert_held()
    thread.join()


def test_a_deadline_that_is_past_does_not_wait():
    monitor = Monitor(monotonic=lambda: 5.0)
    with monitor:
        monitor.condition().wait_until(5.0)


def test_waiting_and_notifying_need_the_monitor():
    condition = Monitor().condition()
    with pytest.raises(AssertionError):
        condition.wait_until(1.0)
    with pytest.raises(AssertionError):
        condition.notify()
