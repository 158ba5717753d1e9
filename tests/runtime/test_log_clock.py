"""Log time: never back, never far ahead of elapsed time within one leadership (rule 18)."""

from raftlog.runtime.log_clock import LogClock

SECOND = 1_000_000


def test_a_new_leader_begins_at_its_wall_clock_or_at_the_log_where_that_is_later():
    assert LogClock().read(1, last_log_time=0, now=5.0, wall=100 * SECOND) == 100 * SECOND
    assert LogClock().read(1, last_log_time=200 * SECOND, now=5.0, wall=100 * SECOND) == 200 * SECOND


def test_a_jump_of_the_wall_clock_is_followed_at_a_bounded_rate():
    clock = LogClock()
    clock.read(1, 0, now=0.0, wall=100 * SECOND)
    assert clock.read(1, 0, now=10.0, wall=9999 * SECOND) == 111 * SECOND
    assert clock.read(1, 0, now=20.0, wall=0) == 120 * SECOND


def test_it_never_goes_back():
    clock = LogClock()
    first = clock.read(1, 0, now=0.0, wall=100 * SECOND)
    assert clock.read(1, last_log_time=first, now=0.0, wall=50 * SECOND) >= first
    assert clock.read(2, last_log_time=first, now=0.0, wall=50 * SECOND) == first
