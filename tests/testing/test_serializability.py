"""Anomalies written down by hand are found and named; on small histories the checker agrees with brute force."""

import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raftlog.testing.serializability import Read, Status, Transaction, Write, check


def t(name, *steps, status=Status.COMMITTED, began=-math.inf, ended=math.inf, **options):
    """Steps as text: "x=1" reads, "x:=1" writes, "x=" reads the first value."""
    return Transaction(name, [parsed(step) for step in steps], status, began, ended, **options)


def parsed(step):
    key, is_write, value = step.partition(":=")
    if is_write:
        return Write(key, value)
    key, _, value = step.partition("=")
    return Read(key, value or None)


CLEAN = {
    "nothing": [],
    "one after the other": [t("T1", "x=", "x:=1"), t("T2", "x=1", "x:=2"), t("T3", "x=2")],
    "two that touch different rows": [t("T1", "x=", "x:=1"), t("T2", "y=", "y:=1"), t("T3", "x=1", "y=")],
    "a stale read that may be": [t("T1", "x=", "x:=1", ended=1), t("T2", "x=", began=2, strict=False, place="b")],
    "its own writes": [t("T1", "x=", "x:=1", "x=1", "x:=2", "x=2"), t("T2", "x=2")],
    "aborted, and nobody noticed": [t("T1", "x:=1", status=Status.ABORTED), t("T2", "x=")],
    "unknown, and seen": [t("T1", "x=", "x:=1", status=Status.UNKNOWN), t("T2", "x=1")],
    "unknown, and not there": [t("T1", "x=", "x:=1", status=Status.UNKNOWN), t("T2", "x=", "x:=2"), t("T3", "x=2")],
    "at the same moment is not before": [t("T1", "x=", "x:=1", ended=1), t("T2", "x=", began=1)],
}

FOUND = {
    "G0, dirty writes": (
        "G0",
        [t("T1", "x:=1", "y:=1"), t("T2", "x:=2", "y:=2")],
        {"x": ["1", "2"], "y": ["2", "1"]},
    ),
    "G1a, an aborted read": ("G1a", [t("T1", "x:=1", status=Status.ABORTED), t("T2", "x=1")], {}),
    "G1b, an intermediate read": ("G1b", [t("T1", "x=", "x:=1", "x:=2"), t("T2", "x=1")], {}),
    "G1c, circular information flow": ("G1c", [t("T1", "x=", "x:=1", "y=2"), t("T2", "y=", "y:=2", "x=1")], {}),
    "G-single, read skew": ("G-single", [t("T1", "x=", "x:=1", "y=", "y:=1"), t("T2", "x=", "y=1")], {}),
    "G-single, a read that is not repeatable": ("G-single", [t("T1", "x=", "x:=1"), t("T2", "x=", "x=1")], {}),
    "a lost update": ("lost update", [t("T1", "x=", "x:=1"), t("T2", "x=", "x:=2")], {}),
    "a lost update whose order is known": ("G-single", [t("T1", "x=", "x:=1"), t("T2", "x=", "x:=2")], {"x": "12"}),
    "G2, write skew": ("G2", [t("T1", "x=", "y=", "x:=1"), t("T2", "x=", "y=", "y:=2")], {}),
    "G2, write skew over an unknown outcome": (
        "G2",
        [t("T1", "x=", "y=", "x:=1", status=Status.UNKNOWN), t("T2", "x=", "y=", "y:=2"), t("T3", "x=1")],
        {},
    ),
    "G2, the read-only anomaly": (
        "G2",
        [t("T1", "x=", "x:=1"), t("T2", "x=", "y=", "y:=2"), t("T3", "x=1", "y=")],
        {},
    ),
    "G2 of three": ("G2", [t("T1", "x=", "y:=1"), t("T2", "y=", "z:=2"), t("T3", "z=", "x:=3")], {}),
    "a stale read": ("G-single-realtime", [t("T1", "x=", "x:=1", ended=1), t("T2", "x=", began=2)], {}),
    "a stale read in the same place": (
        "G-single-realtime",
        [t("T1", "x=", "x:=1", ended=1, place="a"), t("T2", "x=", began=2, strict=False, place="a")],
        {},
    ),
    "a read that goes back in time": (
        "G-single-realtime",
        [
            t("T1", "x=", "x:=1"),
            t("T2", "x=1", ended=1, strict=False, place="a"),
            t("T3", "x=", began=2, strict=False, place="a"),
        ],
        {},
    ),
    "written into the past": ("G1c-realtime", [t("T1", "x=2", ended=1), t("T2", "x=", "x:=2", began=2)], {}),
    "garbage": ("garbage", [t("T1", "x=7")], {}),
    "its own write is gone": ("internal", [t("T1", "x=", "x:=1", "x=")], {}),
    "its own write from the future": ("internal", [t("T1", "x=1", "x:=1")], {}),
}


@pytest.mark.parametrize("name", CLEAN)
def test_a_history_with_a_serial_order_passes(name):
    assert check(CLEAN[name]).problems() == []


@pytest.mark.parametrize("name", FOUND)
def test_an_anomaly_is_found_and_named(name):
    kind, transactions, order = FOUND[name]
    assert [anomaly.kind for anomaly in check(transactions, order).anomalies] == [kind]


def test_a_cycle_is_told_in_words():
    transactions = [t("T1", "x=", "y=", "x:=1"), t("T2", "x=", "y=", "y:=2")]
    assert check(transactions).problems() == [
        "G2: no serial order explains these 2 transactions:\n"
        "  [rw] T1 read y = its first value, which T2 replaced with 2\n"
        "  [rw] T2 read x = its first value, which T1 replaced with 1"
    ]
    late = [t("T1", "x=", "x:=1", ended=1), t("T2", "x=", began=2)]
    assert check(late).problems() == [
        "G-single-realtime: no serial order explains these 2 transactions:\n"
        "  [rw] T2 read x = its first value, which T1 replaced with 1\n"
        "  [rt] T1 had ended before T2 began"
    ]


def test_several_cycles_are_told_apart():
    first = [t("T1", "x=", "x:=1"), t("T2", "x=", "x:=2")]
    second = [t("T3", "y=", "y:=1"), t("T4", "y=", "y:=2"), t("T5", "z=", "z:=1")]
    assert [anomaly.transactions for anomaly in check(first + second).anomalies] == [("T1", "T2"), ("T3", "T4")]


def test_two_writes_of_one_value_are_refused():
    with pytest.raises(ValueError, match="T1 and T2 both write '1' to x"):
        check([t("T1", "x:=1"), t("T2", "x:=1")])


# Against brute force


def is_serializable(transactions):
    """By definition: some order of those that took effect, in which each reads what is there when it runs.

    A transaction of unknown outcome takes effect or not; real time is respected where it is promised.
    """
    known = [transaction for transaction in transactions if transaction.status is Status.COMMITTED]
    unknown = [transaction for transaction in transactions if transaction.status is Status.UNKNOWN]
    subsets = itertools.chain.from_iterable(itertools.combinations(unknown, n) for n in range(len(unknown) + 1))
    return any(
        respects_time(order) and replays(order) for some in subsets for order in itertools.permutations([*known, *some])
    )


def respects_time(order):
    return not any(
        later.ended_at < earlier.began_at and (earlier.strict or earlier.place == later.place)
        for earlier, later in itertools.combinations(order, 2)
    )


def replays(order):
    state = {}
    for transaction in order:
        for step in transaction.steps:
            if isinstance(step, Write):
                state[step.key] = step.value
            elif state.get(step.key) != step.value:
                return False
    return True


@st.composite
def histories(draw):
    """Up to five transactions that read rows of two or three, and rewrite some of those that they have read."""
    count = draw(st.integers(1, 5))
    written = {key: [None, *(f"{key}{n}" for n in range(count))] for key in "xyz"[: draw(st.integers(2, 3))]}
    transactions = []
    for number in range(count):
        steps = []
        for key in draw(st.lists(st.sampled_from(sorted(written)), unique=True, max_size=3)):
            steps.append(Read(key, draw(st.sampled_from(written[key][: number + 2]))))
            if draw(st.booleans()):
                steps.append(Write(key, f"{key}{number}"))
        status = draw(st.sampled_from([Status.COMMITTED] * 4 + [Status.UNKNOWN, Status.ABORTED]))
        began = draw(st.integers(0, 6))
        ended = draw(st.one_of(st.integers(began + 1, 8), st.just(math.inf)))
        strict, place = draw(st.booleans()), draw(st.sampled_from("ab"))
        transactions.append(Transaction(f"T{number}", steps, status, began, ended, strict, place))
    return transactions


@settings(max_examples=600, deadline=None)
@given(histories())
def test_the_checker_agrees_with_brute_force(transactions):
    assert (check(transactions).problems() == []) == is_serializable(transactions)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_whatever_ran_one_after_the_other_passes(data):
    state, transactions = {}, []
    for number in range(data.draw(st.integers(1, 40))):
        steps = []
        for key in data.draw(st.lists(st.sampled_from("abcdef"), unique=True, max_size=4)):
            steps.append(Read(key, state.get(key)))
            if data.draw(st.booleans()):
                steps.append(Write(key, f"{key}{number}"))
                state[key] = f"{key}{number}"
        ended = data.draw(st.sampled_from([number + 0.5, math.inf]))
        transactions.append(Transaction(f"T{number}", steps, Status.COMMITTED, number, ended))
    data.draw(st.randoms()).shuffle(transactions)
    assert check(transactions).problems() == []
