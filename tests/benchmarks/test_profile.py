"""Threads out of /proc, moments out of stamps, stages out of moments."""

from __future__ import annotations

import os
import threading
import time

import pytest

from benchmarks.profile import Shown, markdown
from benchmarks.put_stages import BESIDE, STAGES, WHOLE, follow, moments, taken
from benchmarks.threads import Used, by_name, group, of_process, parse, since
from raftlog.testing.bench.put_client import Put
from raftlog.testing.bench.put_trace import Stamp

STATUS = (
    "Name:\tpython\nState:\tS (sleeping)\nThreads:\t9\nvoluntary_ctxt_switches:\t150\nnonvoluntary_ctxt_switches:\t7\n"
)


def test_a_thread_s_files_are_read() -> None:
    assert parse("2500000000 500000000 160\n", STATUS) == Used(2.5, 0.5, 150, 7)
    with pytest.raises(KeyError):
        parse("1 1 1", "Name:\tpython\n")


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("MainThread", "event loop"),
        ("raftlog-a-log-sync", "log-sync"),
        ("raftlog-a-service-0", "service threads"),
        ("raftlog-a-service-3", "service threads"),
        ("raftlog-a-peer-b", "peer threads"),
        ("raftlog-a-reader-b", "readers of peers"),
        ("raftlog-request_2", "requests"),
        ("raftlog-peer-events_0", "peer events"),
        ("other", "other"),
    ],
)
def test_threads_of_one_kind_are_one_group(name: str, found: str) -> None:
    assert group(name) == found


def test_what_was_used_meanwhile_by_group() -> None:
    before = {1: Used(1.0, 0.0, 10, 1), 2: Used(5.0, 0.0, 100, 0)}
    after = {1: Used(1.5, 0.25, 14, 2), 2: Used(5.1, 0.0, 101, 0), 3: Used(0.2, 0.0, 3, 0)}
    names = {1: "raftlog-a-service-0", 2: "MainThread", 3: "raftlog-a-service-1"}
    found = by_name(since(before, after), names)
    assert list(found) == ["service threads", "event loop"]  # the busiest first
    assert found["service threads"].cpu == pytest.approx(0.7)
    assert found["service threads"].switches == 4 + 1 + 3


def test_a_thread_that_works_is_seen_to() -> None:
    before = of_process(os.getpid())
    end = time.thread_time() + 0.05
    while time.thread_time() < end:  # the kernel writes it down at ticks, some milliseconds apart
        pass
    mine = since(before, of_process(os.getpid()))[threading.get_native_id()]
    assert mine.cpu > 0


@pytest.mark.parametrize(
    ("stamps", "found"),
    [
        ([Stamp("x", 1.0, 5, 7)], {5: 1.0, 6: 1.0, 7: 1.0}),
        ([Stamp("x", 1.0, 5, 6), Stamp("x", 2.0, 6, 7)], {5: 1.0, 6: 1.0, 7: 2.0}),  # the first time counts
        ([Stamp("y", 1.0, 5, 5)], {}),
        # Of acknowledgements each stands for all since the one before; the first one only for itself.
        ([Stamp("x", 1.0, 0, 5), Stamp("x", 2.0, 0, 5), Stamp("x", 3.0, 0, 8)], {5: 1.0, 6: 3.0, 7: 3.0, 8: 3.0}),
    ],
)
def test_moments(stamps: list[Stamp], found: dict[int, float]) -> None:
    assert moments(stamps, "x") == found


def test_moments_of_one_peer() -> None:
    assert moments([Stamp("x", 1.0, 5, 5, "b"), Stamp("x", 2.0, 5, 5, "c")], "x", "c") == {5: 2.0}


CHAIN = [stage.start for stage in STAGES] + ["woken"]


def stamped(index: int, follower: str, acked: float) -> tuple[list[Stamp], list[Stamp]]:
    """Stamps of the leader and of a follower: the moments of CHAIN, a second apart, but for the acknowledgement."""
    leader, there = [], []
    for second, kind in enumerate(CHAIN):
        if kind in ("asked", "heard", "woken"):
            continue
        if kind in ("arrived", "submitted", "served", "write", "written", "answered"):
            there.append(Stamp(kind, second, index, index))
        else:
            peer = follower if kind in ("sending", "encoded", "acked") else ""
            leader.append(Stamp(kind, acked if kind == "acked" else second, index, index, peer))
    leader += [Stamp("write", 4.0, index, index), Stamp("written", 5.0, index, index)]
    return leader, there


def test_a_put_is_followed_by_the_way_of_the_faster_follower() -> None:
    at = CHAIN.index("acked")
    first, there = stamped(9, "b", at)
    second, elsewhere = stamped(9, "c", at + 0.5)
    put = Put(9, 0.0, CHAIN.index("heard"), CHAIN.index("woken"))
    [entry] = follow([put, Put(10, 0.0, 1.0, 2.0)], first + second, {"b": there, "c": elsewhere})
    assert [taken([entry], stage).mean for stage in STAGES] == pytest.approx([1000.0] * len(STAGES))
    assert sum(taken([entry], stage).mean for stage in STAGES) == pytest.approx(taken([entry], WHOLE).mean)
    assert [stage.text.startswith("own disk was done") for stage in BESIDE] == [False, False, True]
    assert taken([entry], BESIDE[-1]).mean == pytest.approx(1000 * (at - 5))


def test_stages_follow_each_other_without_a_gap() -> None:
    assert [stage.end for stage in STAGES[:-1]] == [stage.start for stage in STAGES[1:]]
    assert (WHOLE.start, WHOLE.end) == (STAGES[0].start, STAGES[-1].end)


def test_a_table_as_markdown() -> None:
    table = Shown("Title", ["what", "ms"], [["one", "1.5"], ["two", "–"]])
    assert markdown(table).replace("\n\n", "\n").splitlines() == [
        "**Title**",
        "| what | ms |",
        "| --- | --: |",
        "| one | 1.5 |",
        "| two | – |",
    ]
