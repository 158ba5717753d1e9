"""The trial of locks: what it judges, and a small one of it."""

import random

import pytest

from raftlog.testing.trials.locks import TRIAL, judge

SMALL = {"nodes": 3, "contenders": 6, "processes": 3, "minutes": 0.1, "ttl": 1.5, "kill_every": 3.0, "mutation": ""}


def held(token, *moments):
    return [
        ("A", 0, moments[0]),
        ("E", token, moments[0]),
        *(("C", token, at) for at in moments),
        ("X", 0, moments[-1]),
    ]


def test_moments_of_two_tokens_that_interleave_are_found():
    report = judge({"a": held(7, 1.0, 2.0), "b": held(9, 1.5, 1.6)})
    assert report["problems"] == ["two valid fences: token 7 of a until 2.000, token 9 of b from 1.500"]
    assert (report["holds"], report["checks_passed"]) == (2, 4)


def test_a_token_that_does_not_grow_is_found():
    report = judge({"a": held(9, 1.0, 2.0), "b": held(7, 3.0)})
    assert report["problems"] == ["token 7 of b came after token 9 of a"]


def test_one_after_the_other_is_well():
    assert judge({"a": held(7, 1.0, 2.0) + held(11, 5.0), "b": held(9, 2.5, 4.9)})["problems"] == []
    assert judge({})["problems"] == ["nobody ever held the lock"]


@pytest.mark.processes
def test_no_two_fences_are_valid_at_once_while_the_leader_is_killed_and_holders_are_stopped(tmp_path, capsys):
    report = TRIAL().run({**SMALL, "seed": 1}, tmp_path, random.Random(1), print)
    assert report["problems"] == []
    assert report["leader_kills"] >= 1
    assert report["stopped"] + report["killed"] >= 1
    assert report["holds"] >= 1
