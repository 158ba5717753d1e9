"""Systems side by side: what fails is tried once more, takes no other load or system with it, and is named."""

import contextlib
import subprocess

import pytest

from benchmarks import beside
from benchmarks.beside import Load, Table, outstanding, side_by_side, throughput, twice
from benchmarks.cases import Row, Run
from benchmarks.loops import LoadFailed, Measured
from benchmarks.systems.etcd import EtcdTarget
from benchmarks.systems.servers import ServerFailed

ONE, MANY = "put", "put, pipelined"


class Target:
    def connect(self):
        raise NotImplementedError

    def pipeline(self, seconds, size, key):
        raise NotImplementedError


class System:
    """`starts` says of each start whether it fails."""

    durability = "none"

    def __init__(self, name, starts=(), why=""):
        self.name = name
        self.starts = list(starts)
        self.why = why
        self.count = 0

    def missing(self):
        return self.why

    @contextlib.contextmanager
    def start(self, folder, nodes):
        folder.mkdir()  # each start has a fresh one
        self.count += 1
        if self.starts and self.starts.pop(0):
            raise ServerFailed("a ended with 1; it said:\nno room")
        yield Target()


def load(name, *counts, **params):
    """A load that acknowledges so many puts, one figure for each time it is measured; None: it fails."""
    left = list(counts)

    def measure(target, seconds):
        count = left.pop(0)
        if count is None:
            raise LoadFailed("Traceback\n  File …\nTimeoutError: too slow")
        measured = Measured(count, 1.0)
        for _ in range(count):
            measured.latencies.add(0.001)
        return measured

    return Load(name, params, measure, has_latencies=name == ONE)


def run(tmp_path, repeats, systems, loads):
    """(name, system, unit) -> row, of a run of the loads on the systems."""
    rows = side_by_side(Run(True, repeats, 1.0, tmp_path), Table("beside", "raftlog"), list(systems), loads, systems)
    return {(row.name, row.system, row.unit): row for row in rows}


def test_a_load_that_fails_is_measured_on_a_second_start_and_the_others_are_kept(tmp_path):
    systems = {"raftlog": System("raftlog")}
    found = run(tmp_path, 1, systems, [load(MANY, None, 70, processes=1), load(ONE, 5, clients=1)])
    row = found[MANY, "raftlog", "per second"]
    assert (row.values, row.params) == ([70.0], {"processes": 1})
    assert "failed in repeat 1: TimeoutError: too slow" in row.note
    assert found[ONE, "raftlog", "per second"].values == [5.0]
    assert systems["raftlog"].count == 2


def test_a_load_that_fails_twice_is_not_measured_for_its_row_alone(tmp_path):
    found = run(tmp_path, 1, {"etcd": System("etcd")}, [load(MANY, None, None, processes=1), load(ONE, 5, clients=1)])
    row = found[MANY, "etcd", "per second"]
    assert (row.values, row.params) == ([], {"processes": 1})
    assert row.note == (
        "not measured: failed in repeat 1: TimeoutError: too slow; in repeat 1, again: TimeoutError: too slow"
    )
    assert found[ONE, "etcd", "per second"].values == [5.0]


def test_a_later_repeat_measures_it_again(tmp_path):
    found = run(tmp_path, 2, {"etcd": System("etcd")}, [load(ONE, None, None, 8, clients=1)])
    assert found[ONE, "etcd", "per second"].values == [8.0]
    assert found[ONE, "etcd", "per second"].note.count("failed in repeat 1") == 2


def test_servers_that_do_not_start_are_started_once_more_and_no_other_system_is_touched(tmp_path):
    systems = {
        "etcd": System("etcd", starts=[True, False]),
        "nats": System("nats", starts=[True, True]),
        "rqlite": System("rqlite", why="rqlited is not installed"),
        "raftlog": System("raftlog"),
    }
    found = run(tmp_path, 1, systems, [load(ONE, 2, 4, clients=1)])
    assert found[ONE, "etcd", "per second"].values == [2.0]
    assert found[ONE, "nats", "per second"].note.count("no room") == 2
    assert found[ONE, "rqlite", "per second"].note == "not measured: rqlited is not installed"
    assert found[ONE, "raftlog", "per second"].values == [4.0]
    assert found[f"{ONE}: raftlog over it", "etcd", "×"].values == [2.0]


def test_no_acknowledgement_at_all_is_a_failure_and_not_a_figure_of_zero(tmp_path):
    found = run(tmp_path, 1, {"etcd": System("etcd")}, [load(ONE, 0, 0, clients=1)])
    assert "nothing was acknowledged" in found[ONE, "etcd", "per second"].note


def test_a_ratio_is_made_of_two_figures_of_the_same_repeat():
    table = Table("beside", "raftlog")
    for repeat, system, value in ((0, "raftlog", 10.0), (0, "etcd", 5.0), (1, "raftlog", 90.0), (2, "etcd", 1.0)):
        table.add(repeat, Row("beside", ONE, system, {}, "per second", []), value)
    ratios = [row for row in table.rows() if row.unit == "×"]
    assert [(row.system, row.values) for row in ratios] == [("etcd", [2.0])]


def test_what_did_not_fail_is_not_tried_again():
    asked = []

    def attempt(loads, again):
        asked.append(([one.name for one in loads], again))
        return [(loads[0], "slow")] if len(asked) == 1 else []

    twice([load(ONE), load(MANY)], attempt)
    twice([load(ONE)], attempt)
    assert asked == [([ONE, MANY], False), ([ONE], True), ([ONE], False)]


def test_pipelines_are_not_asked_of_what_has_none(tmp_path):
    class Plain(System):
        @contextlib.contextmanager
        def start(self, folder, nodes):
            yield object()

    assert run(tmp_path, 1, {"etcd": Plain("etcd")}, [outstanding(1)]) == {}


SAID = [
    ("PASS: Throughput is 150 writes/s", 150.0),
    ("FAIL: Throughput too low: 4021 writes/s\nPASS: Slowest request took 0.3s", 4021.0),
]


@pytest.mark.parametrize(("said", "found"), SAID)
def test_etcds_own_check_names_its_throughput_also_where_it_fails(said, found):
    assert throughput(said) == found


class Etcd(System):
    @contextlib.contextmanager
    def start(self, folder, nodes):
        if self.starts and self.starts.pop(0):
            raise ServerFailed("no room")
        yield EtcdTarget(("127.0.0.1:1",), "http")


def timed_out(target, load):
    raise subprocess.TimeoutExpired(["etcdctl"], 180)


CHECKS = [
    ("etcdctl does not end", [], timed_out, "timed out after 180 seconds"),
    ("etcdctl names no throughput", [], lambda target, load: "Error: context deadline exceeded", "named no throughput"),
    ("etcd does not start", [True], timed_out, "no room"),
]


@pytest.mark.parametrize(("starts", "check", "why"), [row[1:] for row in CHECKS], ids=[row[0] for row in CHECKS])
def test_a_check_that_gives_no_figure_is_not_measured(monkeypatch, tmp_path, starts, check, why):
    monkeypatch.setattr(beside, "find", lambda: {"etcd": Etcd("etcd", starts)})
    monkeypatch.setattr(beside.shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(beside, "check_perf", check)
    [row] = beside.etcd_check(Run(True, 1, 1.0, tmp_path))
    assert row.values == []
    assert row.note.startswith("not measured: ")
    assert why in row.note
