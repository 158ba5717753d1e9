"""The lock knows who holds it."""

import threading

import pytest

from raftlog.runtime import clock
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


class HandedOver:
    """A lock that somebody else takes, and notifies under, just when it was released."""

    def __init__(self, then):
        self._lock = threading.Lock()
        self._then = then

    def acquire(self):
        return self._lock.acquire()

    def release(self):
        self._lock.release()
        then, self._then = self._then, None
        if then is not None:
            then()


def test_who_leaves_wakes_nobody_whom_the_next_one_notified():
    monitor = Monitor()
    condition = monitor.condition()
    woken = []

    def wait():
        with monitor:
            condition.wait_until(clock.monotonic() + 30)
            woken.append(True)

    def notify():
        with monitor:
            condition.notify()

    waiter = threading.Thread(target=wait)
    waiter.start()
    while True:
        with monitor:
            if condition.is_waited_for:
                break
        clock.sleep(0.001)
    monitor._lock = HandedOver(notify)
    with monitor:
        pass
    waiter.join(30)
    assert woken == [True]
