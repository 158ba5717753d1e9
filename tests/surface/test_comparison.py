"""Who has diverged is said by the majority: rounds of one node against answers of others."""

import types

import pytest

from raftlog.comparison import Comparison
from raftlog.consensus.configuration import Configuration, Server
from raftlog.exceptions import NodeUnavailable
from raftlog.replication.certify import Unexplained
from raftlog.replication.running_hash import History, Link
from raftlog.replication.watch import Held, Watch

A, B, C = b"a" * 16, b"b" * 16, b"c" * 16
START = 10


class Service:
    def __init__(self, voters):
        servers = {node: Server("") for node in voters}
        raft = types.SimpleNamespace(node_id="a", configuration=Configuration("", servers, tuple(voters)))
        self.state = types.SimpleNamespace(raft=raft, withdraw=self.withdraw)
        self.withdrawn = []

    def withdraw(self, reason):
        self.withdrawn.append(reason)

    def read_entry(self, index):
        return None


def made(voters, peers, value=A, monkeypatch=None):
    """Node a at index 11 with this value, and what its peers answer: node -> (value at 11, changes)."""
    history = History(START, b"0" * 16)
    history.extend([Link(11, value, b"")], 11)
    machine = types.SimpleNamespace(watch=Watch(history, ""), fingerprint_since=0, alias="default")
    told = []

    def ask(peer, name, arguments):
        if peer not in peers:
            raise NodeUnavailable(peer)
        there, changes = peers[peer]
        values = {START: b"0" * 16, 11: there}
        at = values.get(arguments["index"])
        return {"applied": 11, "value": there, "since": 0, "at": at, "differences": {}, "diverged": ""} | changes

    one = Comparison(Service(voters), machine, ask, told.append, lambda name, error: None)
    monkeypatch.setattr(one, "open_reader", lambda: None)
    return one, told


@pytest.mark.parametrize(
    ("voters", "peers", "expected"),
    [
        ("abc", {"b": (A, {}), "c": (A, {})}, "alike"),
        ("abc", {"b": (A, {})}, "alike"),
        ("abc", {"b": (B, {}), "c": (B, {})}, "diverged"),
        ("abc", {"b": (A, {}), "c": (B, {})}, "c"),
        ("abc", {"b": (B, {}), "c": (A, {})}, "b"),
        ("abc", {"b": (B, {})}, "undecided"),
        ("abc", {"b": (B, {}), "c": (C, {})}, "undecided"),
        ("ab", {"b": (B, {})}, "undecided"),
        ("abcde", {"b": (B, {}), "c": (B, {})}, "undecided"),
        ("abcde", {"b": (B, {}), "c": (B, {}), "d": (B, {})}, "diverged"),
        ("abc", {"b": (B, {"since": 7}), "c": (A, {})}, "alike"),  # its hash began later: they cannot be compared
        ("abc", {"b": (A, {"diverged": "by its own word"}), "c": (A, {})}, "b"),
        ("a", {}, "alike"),
    ],
)
def test_the_majority_decides(monkeypatch, voters, peers, expected):
    one, told = made(voters, peers, monkeypatch=monkeypatch)
    one.compare()
    assert bool(one.undecided) == (expected == "undecided")
    assert bool(one._watch.diverged) == (expected == "diverged")
    assert list(one.differing) == ([expected] if expected in ("b", "c") else [])
    assert bool(one._service.withdrawn) == (expected == "diverged")
    assert len(told) == (expected == "diverged")
    if told:
        assert (told[0].index, told[0].is_exact, told[0].node_id) == (11, True, "a")
        assert "raft repair --database" in one._watch.diverged


@pytest.mark.parametrize(
    ("voters", "peers", "expected"),
    [
        ("abc", {"b": (A, {})}, "settled"),  # b refuses the entry, too, or has refused it
        ("abc", {"b": (B, {}), "c": (B, {})}, "diverged"),
        ("abc", {"b": (B, {})}, "waits"),
        ("abc", {}, "waits"),
        ("a", {}, "settled"),
    ],
)
def test_a_held_entry_is_judged(monkeypatch, voters, peers, expected):
    one, _ = made(voters, peers, monkeypatch=monkeypatch)
    watch = one._watch = Watch(History(START, b"0" * 16), "")
    watch.has_judge = True
    watch._held = Held(11, A, Unexplained("t", (1,), "is not as the transaction saw it"))
    one.compare()
    assert watch.must_hold(11) == (expected != "settled")
    assert bool(watch.diverged) == (expected == "diverged")


def test_a_peer_that_was_healed_is_alike_again(monkeypatch):
    peers = {"b": (B, {}), "c": (A, {})}
    one, _ = made("abc", peers, monkeypatch=monkeypatch)
    one.compare()
    assert list(one.differing) == ["b"]
    assert one.status()["warnings"] == ["b: differs from the majority at entry 11"]
    peers["b"] = (A, {})
    one.compare()
    assert one.differing == {}
    assert one.status()["fingerprint"] == {"index": 11, "value": A.hex(), "since": 0, "alike": {"b": 11, "c": 11}}


def test_a_node_that_had_diverged_before_a_restart_withdraws_at_once():
    machine = types.SimpleNamespace(watch=Watch(History(1, A), "from before"), fingerprint_since=0, alias="default")
    service = Service("abc")
    Comparison(service, machine, None, None, None)
    assert service.withdrawn == ["from before"]


def test_a_table_changed_by_hand_is_told_by_a_single_voter_that_goes_on(monkeypatch):
    one, told = made("a", {}, monkeypatch=monkeypatch)
    one._found("shop_order", 11)
    assert one._service.withdrawn == []
    assert not one._watch.diverged
    assert (told[0].tables, told[0].cause) == (["shop_order"], "not by an entry")
    assert "shop_order" in one.status()["problems"][0]
