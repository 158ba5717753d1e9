"""The trial of the change feed, small: it holds; and what it must find, in journals made up for it."""

import random

import pytest

from raftlog.testing.trials.feed import Feed, differences, judge


@pytest.mark.processes
def test_readers_miss_nothing_over_kills_of_leaders_and_readers_and_an_image(tmp_path):
    options = {"nodes": 3, "seconds": 7, "readers": 1, "writers": 1, "every": 4.0, "images": 1, "mutation": None}
    report = Feed().run(options, tmp_path, random.Random(1), lambda text: None)
    assert report["problems"] == []
    assert report["images"]["a"] == 1
    assert sum(report["changes_read"].values()) > 30


START = ("start", 0, "")


def changes(*indices):
    return [("change", index, f"digest {index}") for index in indices]


def test_journals_that_agree_are_in_order():
    whole = [START, *changes(1, 3, 4, 9)]
    killed = [START, *changes(1, 3, 4), ("start", 3, ""), *changes(4, 9)]
    reset = [START, *changes(1), ("reset", 4, ""), *changes(9)]
    idle = [START, *changes(1, 3, 4), ("start", 8, ""), *changes(9)]
    assert judge({"a": whole, "b": killed, "c": reset, "d": idle}) == []


@pytest.mark.parametrize(
    ("lines", "text"),
    [
        ([START, *changes(1, 4, 9)], "nothing of entry 3 between 1 and 4"),
        ([START, *changes(1, 3, 4)], "nothing of entry 9 after 4"),
        ([START, *changes(1, 3, 4, 4, 9)], "entry 4 comes again after 4"),
        ([START, *changes(1, 3), ("start", 3, ""), *changes(3, 4, 9)], "entry 3 comes again after 3"),
        ([START, *changes(1), ("start", 4, ""), *changes(9)], "nothing of entry 3 between 1 and 4, which it had saved"),
        ([START, *changes(1, 3), ("change", 4, "other"), *changes(9)], "told otherwise"),
        ([START, *changes(1, 3, 4), ("wrong", 4, "insert of a row that was there"), *changes(9)], "insert of a row"),
        ([START, ("reset", 1, ""), *changes(4, 9)], "nothing of entry 3 between 1 and 4"),
    ],
)
def test_a_gap_a_repeat_and_a_difference_are_found(lines, text):
    whole = [START, *changes(1, 3, 4, 9)]
    [problem] = judge({"a": whole, "b": lines})
    assert text in problem


def test_a_mirror_that_is_not_the_database_is_found():
    database = {"t": {"1": [1, "a"], "2": [2, "b"]}}
    assert differences({"t": {"1": [1, "a"], "2": [2, "b"]}}, database) == []
    assert "2 rows" in differences({"t": {"1": [1, "b"]}}, database)[0]
