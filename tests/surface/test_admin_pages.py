"""What the pages ask the nodes for, how much of the log they read, and what the history says of a change."""

import threading
from types import SimpleNamespace

import pytest
from django.core.management.base import CommandError
from django.db import OperationalError

from raftlog.consensus.entries import COMMAND, EntryBatch, Run, client_payload
from raftlog.replication import codec
from tests.surface.test_log_verb import SESSION, START

MIB = 1 << 20


class Source:
    """A log of commands of these sizes, from index 1 on, as a node would give it: a part at a time."""

    commit_index = None
    first_index = 1

    def __init__(self, sizes):
        self.sizes = sizes
        self.last_index = len(sizes)
        self.bytes_read = 0

    def read(self, first, last):
        payloads, size = [], 0
        for number in range(first, last + 1):
            body = codec.encode_command("shop.buy", 1, {"note": "x" * self.sizes[number - 1]})
            payloads.append(client_payload(COMMAND, SESSION, number, 0, body))
            size += len(payloads[-1])
            if size > MIB:
                break
        self.bytes_read += size
        return EntryBatch(first, [Run(len(payloads), 1, START)], payloads)


@pytest.fixture
def log(with_admin):
    from raftlog.admin import log

    return log


def looked(log, sizes, matches=lambda entry: True, last=None):
    source = Source(sizes)
    reader = log.Reader(source, lambda table, digest: None, arguments=True)
    entries, to = log.newest_within(reader, matches, 1, last or len(sizes), 8 * MIB)
    return [entry["index"] for entry in entries], to, source.bytes_read


def test_a_page_of_small_entries_is_read_once(log):
    indices, to, read = looked(log, [10] * 3_000)
    assert (indices, to) == (list(range(3_000, 2_950, -1)), 2_951)
    assert read < 100_000


def test_a_filtered_page_stops_where_it_has_looked_through_so_many_bytes_and_goes_on_from_there(log):
    sizes = [100_000] * 300
    seen, last, pages = [], len(sizes), 0
    while last >= 1:
        indices, to, read = looked(log, sizes, lambda entry: entry["index"] % 100 == 0, last)
        assert read < 5 * 8 * MIB
        assert to <= last
        seen += indices
        last = to - 1
        pages += 1
    assert seen == [300, 200, 100]
    assert pages >= 3


def test_a_few_large_entries_among_small_ones_are_all_looked_at(log):
    sizes = [3 * MIB if number % 40 == 0 else 10 for number in range(1, 401)]
    seen, last = [], len(sizes)
    while last >= 1:
        indices, to, _ = looked(log, sizes, lambda entry: entry["bytes"] > MIB, last)
        seen += indices
        last = to - 1
    assert seen == list(range(400, 0, -40))


def test_one_entry_that_is_larger_than_a_page_is_shown(log):
    assert looked(log, [10, 20 * MIB])[:2] == ([2], 2)


def test_the_details_of_an_entry_end_somewhere_and_say_how_to_see_them_all(log):
    text = log.details_of({"index": 7, "command": "x", "arguments": {"note": "y" * 100_000}})
    assert len(text) < 2 * log.DETAILS
    assert "manage.py raft log --from 7 --limit 1 --json" in text


def test_viewers_share_what_the_nodes_answer_until_somebody_else_leads(with_admin, monkeypatch):
    from raftlog.admin import elections

    asked = []
    go_on = threading.Event()

    def ask(settings, name, arguments, *, target, timeout):
        asked.append(target)
        go_on.wait(30)
        return [{"at": 1.0, "term": 2, "kind": "leader", "leader_id": "a", "text": "a leads"}]

    monkeypatch.setattr(elections, "ask", ask)
    monkeypatch.setattr(elections, "SHARED", 3600.0)
    monkeypatch.setattr(elections, "_shared", elections.SharedAnswer())
    rows = [{"node_id": name, "address": f"ws://{name}", "reachable": name != "c"} for name in "abc"]
    report = {"members": rows, "here": "a", "term": 2, "leader_id": "a"}
    answers = []
    viewers = [
        threading.Thread(target=lambda: answers.append(elections.fragment_context(report)["terms"][0]["leader_id"]))
        for _ in range(5)
    ]
    for viewer in viewers:
        viewer.start()
    go_on.set()
    for viewer in viewers:
        viewer.join(30)
    assert answers == ["a"] * 5
    assert sorted(asked, key=str) == [None, "ws://b"]
    elections.fragment_context(report | {"term": 3, "leader_id": "b"})
    assert len(asked) == 4
    monkeypatch.setattr(elections, "SHARED", 0.0)
    elections.fragment_context(report)
    elections.fragment_context(report)
    assert len(asked) == 8


class Row:
    """A row of the history. `said` is what each write made of it, in order with what else happened."""

    def __init__(self, happened, breaks=False):
        self._happened = happened
        self._breaks = breaks

    def save(self, update_fields):
        if self._breaks:
            raise OperationalError("no majority")
        self._happened.append(self.change_message)


def carried_out(monkeypatch, error=None, breaks=False):
    from raftlog.admin import members

    happened = []

    def record(request, change, said):
        happened.append(said)
        return Row(happened, breaks)

    def carry_out():
        happened.append("the change")
        if error:
            raise error

    monkeypatch.setattr(members, "record", record)
    try:
        members.begin_and_record(None, SimpleNamespace(words="Remove c: voters a, b", carry_out=carry_out))
    except (CommandError, KeyboardInterrupt) as raised:
        happened.append(type(raised).__name__)
    return happened


def test_the_history_has_a_row_before_the_change_and_says_afterwards_how_it_went(with_admin, monkeypatch):
    words = "Remove c: voters a, b"
    assert carried_out(monkeypatch) == [f"{words} (asked for)", "the change", f"{words} (begun)"]
    assert carried_out(monkeypatch, CommandError("no leader")) == [
        f"{words} (asked for)", "the change", f"{words} (failed: no leader)", "CommandError",
    ]  # fmt: skip
    # The process dies, or the database is out of reach: what was asked for stays.
    assert carried_out(monkeypatch, KeyboardInterrupt()) == [f"{words} (asked for)", "the change", "KeyboardInterrupt"]
    assert carried_out(monkeypatch, breaks=True) == [f"{words} (asked for)", "the change"]


def test_nothing_is_changed_where_the_history_cannot_be_written(with_admin, monkeypatch):
    from raftlog.admin import members

    def record(request, change, said):
        raise OperationalError("no majority")

    monkeypatch.setattr(members, "record", record)
    change = SimpleNamespace(words="Remove c", carry_out=lambda: pytest.fail("carried out"))
    with pytest.raises(CommandError, match=r"Nothing was done: .*no majority"):
        members.begin_and_record(None, change)


def test_a_row_of_the_history_is_not_part_of_the_request_s_transaction(with_admin, settings):
    from django.contrib.admin.sites import AdminSite

    from raftlog.admin.site import ClusterAdmin
    from raftlog.models import Cluster

    for pattern in ClusterAdmin(Cluster, AdminSite()).get_urls():
        assert pattern.callback._non_atomic_requests == set(settings.DATABASES)
