"""Who differs, where, since when: from the sums and rows that nodes tell."""

import contextlib

import pytest

from raftlog.management import digest_report
from raftlog.management.digest_report import ALIKE, DIFFERENT, INCOMPLETE, first_difference, report
from raftlog.management.raft.digest import difference_lines, sentence
from raftlog.replication.digest import PinnedReader, answer_sum, hash_table
from raftlog.replication.divergence import Row, answer_chunk, answer_hashes, answer_row


class FakeSnapshot:
    """A table `t` with columns id and v."""

    def __init__(self, applied_index, rows, written):
        self.applied_index = applied_index
        self._rows, self._written = rows, written

    def columns(self, table):
        return ["id", "v"]

    def rows(self, table, after, upto, limit):
        keys = [k for k in sorted(self._rows) if (not after or k > after[0]) and (not upto or k <= upto[0])]
        return [Row([k], [k, self._rows[k]]) for k in keys[:limit]]

    def image(self, table, key):
        return [key[0], self._rows[key[0]]] if key[0] in self._rows else None

    def last_written(self, table, key):
        return self._written.get(key[0], 1)


class FakeReader:
    def __init__(self, snapshot):
        self._snapshot = snapshot

    def snapshot(self):
        return contextlib.nullcontext(self._snapshot)

    def close(self):
        pass


class FakeMember:
    """A node as MemberDigest shows it. `hashes`: its running hash, an item an index."""

    def __init__(self, node_id, rows, *, index=9, kept=None, written=None, hashes="", error="", standing=""):
        self.node_id, self.error = node_id, error
        self.reader = PinnedReader(FakeReader(FakeSnapshot(index, rows, written or {})))
        self.reader.pin()
        count, total = hash_table(self.reader, "t", lambda rows: None)
        kept = total if kept is None else kept
        tables = {"t": {"rows": count, "sum": total, "kept": kept}}
        self.status = {"index": index, "tables": tables, "rows": count, "standing": standing}
        self.hashes = hashes or "x" * index
        self.since = 0

    @property
    def is_done(self):
        return not self.error

    def ask(self, name, arguments):
        if name == "fingerprint":
            at = arguments["index"]
            value = self.hashes[at - 1].encode() if at <= len(self.hashes) else None
            return {"at": value, "since": self.since}
        answer = {"digest_chunk": answer_chunk, "digest_sum": answer_sum, "digest_hashes": answer_hashes}[name]
        return answer(self.reader, arguments)

    def about_row(self, table, key):
        return answer_row(self.reader, {"table": table, "key": key})


class FakeDigest:
    leader_id = "a"

    def __init__(self, *members, voters="abc"):
        self.members, self.voters = list(members), list(voters)


ROWS = {1: "one", 2: "two", 3: "three"}


def test_nodes_with_equal_rows_are_alike():
    found = report(FakeDigest(*(FakeMember(name, ROWS) for name in "abc")))
    assert (found["alike"], found["exit_code"], found["differences"]) == (["a", "b", "c"], ALIKE, [])
    assert sentence(found) == "a, b, c are alike at entry 9: 1 tables, 3 rows."


@pytest.mark.parametrize(
    ("theirs", "expected"),
    [
        (ROWS | {2: "zwei"}, [([2], {"id": 2, "v": "two"}, {"id": 2, "v": "zwei"})]),
        ({1: "one", 3: "three"}, [([2], {"id": 2, "v": "two"}, None)]),
        (ROWS | {9: "nine"}, [([9], None, {"id": 9, "v": "nine"})]),
    ],
    ids=["changed", "missing", "added"],
)
def test_the_minority_is_named_with_its_rows_and_those_of_the_majority(theirs, expected):
    members = FakeMember("a", ROWS), FakeMember("b", theirs), FakeMember("c", ROWS)
    found = report(FakeDigest(*members))
    assert (found["reference"], found["majority"], found["exit_code"]) == ("a", True, DIFFERENT)
    [difference] = found["differences"]
    assert (difference["node"], difference["table"], difference["cause"]) == ("b", "t", "not by the log")
    assert [(row["key"], row["reference"], row["node"]) for row in difference["rows"]] == expected
    assert "b differ from the majority" in sentence(found)
    assert len(difference_lines(difference, "a")) == 3


def test_rows_are_found_in_any_chunk(monkeypatch):
    monkeypatch.setattr("raftlog.replication.divergence.CHUNK", 2)
    monkeypatch.setattr("raftlog.replication.digest.CHUNK", 2)
    many = {number: str(number) for number in range(1, 12)}
    odd = {key: value for key, value in many.items() if key not in (3, 11)} | {7: "seven", 12: "12"}
    found = report(FakeDigest(FakeMember("a", many), FakeMember("b", odd), FakeMember("c", many)))
    assert [row["key"] for row in found["differences"][0]["rows"]] == [[3], [7], [11], [12]]


def test_since_which_entry_by_the_running_hashes():
    other = FakeMember("b", ROWS | {2: "zwei"}, hashes="xxxxyyyyy")
    found = report(FakeDigest(FakeMember("a", ROWS), other, FakeMember("c", ROWS)))
    [difference] = found["differences"]
    assert (difference["cause"], difference["since"]) == ("by an entry", {"index": 5, "exact": True})
    assert "differs since entry 5" in difference_lines(difference, "a")[0]


def test_a_node_whose_rows_are_not_what_its_own_log_made_is_at_fault_without_a_majority_too():
    edited = FakeMember("b", ROWS | {2: "zwei"}, kept=b"something else")
    found = report(FakeDigest(edited, FakeMember("a", ROWS), voters="ab"))
    assert (found["reference"], found["majority"]) == ("a", False)
    assert [(d["node"], len(d["rows"])) for d in found["differences"]] == [("b", 1)]
    assert "no majority is alike" in sentence(found)
    alone = report(FakeDigest(edited, voters="b"))
    assert alone["exit_code"] == DIFFERENT


def test_a_node_that_stands_still_is_judged_by_rows_that_no_later_entry_has_written():
    """Row 1 was written at 8, which it has not applied; row 2 before both stood where they stand."""
    standing = FakeMember("b", {1: "old", 2: "zwei", 3: "three"}, index=6, standing="it has diverged")
    healthy = [FakeMember(name, ROWS, written={1: 8, 2: 4}) for name in "ac"]
    found = report(FakeDigest(*healthy, standing))
    assert [row["key"] for row in found["differences"][0]["rows"]] == [[2]]
    behind = FakeMember("b", {1: "old", 2: "two", 3: "three"}, index=6, standing="it waits for newer code")
    found = report(FakeDigest(*healthy, behind))
    assert (found["exit_code"], found["incomplete"]) == (INCOMPLETE, ["b"])
    assert found["nodes"]["b"]["verdict"] == "alike so far"


def test_equal_rows_with_another_result_of_a_command_differ():
    other = FakeMember("b", ROWS, index=6, hashes="xxxxyy", standing="it has diverged")
    found = report(FakeDigest(FakeMember("a", ROWS), other, FakeMember("c", ROWS)))
    assert (found["exit_code"], found["nodes"]["b"]["verdict"]) == (DIFFERENT, "differs")
    [difference] = found["differences"]
    assert difference_lines(difference, "a") == ["b, what an entry returned: differs since entry 5, by an entry"]


def test_who_did_not_answer_is_not_called_alike():
    found = report(FakeDigest(FakeMember("a", ROWS), FakeMember("b", ROWS), FakeMember("c", ROWS, error="is down")))
    assert (found["exit_code"], found["incomplete"]) == (INCOMPLETE, ["c"])
    assert sentence(found).endswith("c could not be compared there.")
    assert report(FakeDigest(FakeMember("a", ROWS, error="is down")))["exit_code"] == INCOMPLETE


@pytest.mark.parametrize(
    ("theirs", "expected"),
    [
        ("aaaa", (4, False, False)),
        ("aabb", (3, True, True)),
        ("bbbb", (1, False, True)),
        ("..bb", (3, False, True)),
    ],
)
def test_the_first_difference_of_two_running_hashes(theirs, expected):
    def at(text):
        return lambda index: None if text[index - 1] == "." else text[index - 1].encode()

    assert first_difference(at("aaaa"), at(theirs), 4) == expected


def test_running_hashes_that_began_at_two_entries_are_not_compared():
    other = FakeMember("b", ROWS, hashes="yyyyyyyyy")
    other.since = 4
    found = report(FakeDigest(FakeMember("a", ROWS), other, FakeMember("c", ROWS)))
    assert (found["exit_code"], found["differences"]) == (ALIKE, [])


def test_at_most_ten_rows_of_a_table_are_named():
    many = dict.fromkeys(range(1, 50), "x")
    found = report(FakeDigest(FakeMember("a", many), FakeMember("b", {}), FakeMember("c", many)))
    assert len(found["differences"][0]["rows"]) == digest_report.MAX_ROWS
