"""The nemesis over nodes that only note what is done to them: all is healed, and what ends by itself is told."""

import itertools
import types

import pytest

from raftlog.testing.torture import nemesis as module
from raftlog.testing.torture.nemesis import Nemesis
from raftlog.testing.torture.schedule import BY_NAME, Fault, Schedule


class Node:
    def __init__(self, node_id):
        self.node_id = node_id
        self.is_running = True
        self.is_paused = False
        self.starts = 0
        self.process = types.SimpleNamespace(returncode=0)
        self.said = ""

    def start(self):
        assert not self.is_running
        self.is_running, self.is_paused = True, False
        self.starts += 1

    def pause(self):
        self.is_paused = True

    def resume(self):
        self.is_paused = False

    def output(self, lines):
        return self.said

    def end(self, code, said=""):
        self.is_running, self.process.returncode, self.said = False, code, said


class Cluster:
    def __init__(self, names):
        self.nodes = {name: Node(name) for name in names}

    def __iter__(self):
        return iter(self.nodes.values())

    def __getitem__(self, name):
        return self.nodes[name]

    def kill(self, names):
        for name in names:
            self.nodes[name].is_running = False

    def statuses(self):
        return {name: {"role": "leader" if name == "a" else "follower", "current_term": 1} for name in self.nodes}


class Recorder:
    """A network, disks and clients: what holds now."""

    def __init__(self):
        self.pairs = frozenset()
        self.disks = {}
        self.killed = 0
        self.paused = set()

    def cut(self, pairs):
        self.pairs = frozenset(pairs)

    def fill(self, name, *, also_reserved):
        self.disks[name, "disk_full"] = also_reserved

    def slow(self, name, seconds):
        self.disks[name, "disk_slow"] = seconds

    def stall(self, name):
        self.disks[name, "disk_stall"] = True

    def fail_sync(self, name):
        self.disks[name, "fsync_fails"] = True

    def mend(self, name, fault):
        self.disks.pop((name, fault), None)

    def kill_one(self, rng):
        self.killed += 1
        return f"c{self.killed}"

    def pause_one(self, rng):
        self.paused.add("c9")
        return "c9"

    def resume(self, name):
        self.paused.discard(name)

    def look_for_the_dead(self):
        return []


@pytest.fixture
def now(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(module.clock, "monotonic", lambda: now[0])
    return now


@pytest.fixture
def world(now):
    cluster, recorder = Cluster("abcde"), Recorder()
    return cluster, recorder, Nemesis(cluster, recorder, recorder, recorder, 1)


def advance(nemesis, now, seconds):
    for _ in range(round(seconds / 0.05)):
        now[0] += 0.05
        nemesis.tick()


def is_whole(cluster, recorder):
    nodes = list(cluster)
    harmed = recorder.pairs or recorder.disks or recorder.paused
    return all(node.is_running and not node.is_paused for node in nodes) and not harmed


def test_every_schedule_ends_with_all_healed(world, now):
    cluster, recorder, nemesis = world
    for round in itertools.islice(Schedule(5, 5), 120):
        began = now[0]
        for fault in round.faults:
            advance(nemesis, now, began + fault.starts - now[0])
            nemesis.strike(fault)
        while nemesis.active:
            advance(nemesis, now, 0.1)
            for name in list(nemesis._must_stop):
                if cluster[name].is_running:
                    cluster[name].end(2)
        advance(nemesis, now, 0.1)
        assert is_whole(cluster, recorder), round
    assert nemesis.found == []
    assert {strike.kind for strike in nemesis.strikes} == set(BY_NAME)


@pytest.mark.parametrize("kind", sorted(BY_NAME))
def test_every_fault_does_something_and_healing_ends_it(world, now, kind):
    cluster, recorder, nemesis = world
    strike = nemesis.strike(Fault(kind, 0.0, 5.0, 12345))
    assert not is_whole(cluster, recorder) or recorder.killed
    if BY_NAME[kind].at_leader:
        assert strike.victims[0] == "a"
    if kind.startswith("fsync"):
        cluster[strike.victims[0]].end(2)
    nemesis.tick()
    nemesis.heal_all()
    assert is_whole(cluster, recorder)


def test_a_node_that_ends_by_itself_is_told_and_started_again(world, now):
    cluster, _, nemesis = world
    cluster["c"].end(1, "Traceback …")
    nemesis.tick()
    assert nemesis.found == ["node c ended by itself with exit code 1; it printed last:\nTraceback …"]
    assert cluster["c"].is_running


def test_a_node_whose_fsync_fails_must_stop_and_not_with_exit_code_0(world, now):
    cluster, recorder, nemesis = world
    name = nemesis.strike(Fault("fsync_fails_leader", 0.0, 1.0, 1)).victims[0]
    cluster[name].end(0)
    nemesis.tick()
    assert nemesis.found == ["node a ended with exit code 0 though its fsync failed"]
    assert is_whole(cluster, recorder)
    nemesis.strike(Fault("fsync_fails_leader", 0.0, 1.0, 1))
    nemesis.heal_all()

    def proceed():
        now[0] += 1.0

    nemesis.await_stops(proceed, lambda since: True)
    assert "node a still runs after 20 s in which its fsync failed" in nemesis.found[1]
    assert recorder.disks == {}


def test_a_node_that_cannot_start_on_a_full_disk_is_started_when_there_is_room(world, now):
    cluster, recorder, nemesis = world
    nemesis.strike(Fault("disk_full_leader", 0.0, 5.0, 1))
    cluster["a"].end(1, "CommandError: DiskFull: no room")
    advance(nemesis, now, 1.0)
    assert not cluster["a"].is_running
    nemesis.heal_all()
    assert is_whole(cluster, recorder)
    assert nemesis.found == []


def test_a_pause_outlasts_a_stutter_of_the_same_node(world, now):
    cluster, _, nemesis = world
    nemesis.strike(Fault("pause_leader", 0.0, 9.0, 1))
    stutter = nemesis.strike(Fault("stutter", 0.0, 5.0, 1))
    stutter.victims = ("a",)
    for _ in range(200):
        advance(nemesis, now, 0.05)
        assert cluster["a"].is_paused or not nemesis.active
        if not nemesis.active:
            break
    nemesis.heal_all()
    assert not cluster["a"].is_paused
