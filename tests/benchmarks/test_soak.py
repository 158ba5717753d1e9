"""Whom the soak kills, and what an application process says that it holds more of."""

import tracemalloc

import pytest

from benchmarks.held import Held, more
from benchmarks.soak import DOWN_FOR, KILL_EVERY, victim_at
from benchmarks.usage import JUDGED_SHARE

MINUTES = [4, 11, 30, 60]


def lives(seconds):
    """Name -> how long each of its lives lasts, by the kills of a run of so many seconds."""
    found = {"b": [0.0], "c": [0.0]}
    moment = KILL_EVERY
    while moment < seconds:
        if name := victim_at(moment, seconds, ("b", "c")):
            found[name] += [moment, moment + DOWN_FOR]
        moment += KILL_EVERY
    return {
        name: [end - start for start, end in zip(moments[::2], [*moments[1::2], seconds], strict=True)]
        for name, moments in found.items()
    }


@pytest.mark.parametrize("minutes", MINUTES)
def test_each_follower_has_a_life_that_is_long_enough_to_be_judged(minutes):
    found = lives(60 * minutes)
    assert all(max(each) > JUDGED_SHARE * 60 * minutes for each in found.values())
    assert minutes < 11 or all(len(each) > 1 for each in found.values()), "both are killed in a run of minutes"


def test_types_of_which_there_are_more_are_named_most_first():
    assert more({"a": 5, "b": 1}, {"a": 7, "b": 1001, "c": 3, "d": 0}) == ["+1,000 b", "+3 c", "+2 a"]


class Leaked:
    pass


def test_what_is_kept_is_found_by_its_type():
    held = Held()
    try:
        kept = [Leaked() for _ in range(5000)]
        grown = held.grown()
    finally:
        tracemalloc.stop()
    assert any(line.endswith("test_soak.Leaked") and line.startswith("+5,000") for line in grown)
    assert any("KiB in" in line and "test_soak.py" in line for line in grown)
    assert len(kept) == 5000
