"""Which rows of two databases differ, wherever each stands; and an entry that is held until a majority is known."""

import sqlite3
import threading

import msgspec
import pytest
from django.db import connection

from raftlog.backends.sqlite3.reading import TableReader
from raftlog.exceptions import ApplyStopped
from raftlog.replication import divergence
from raftlog.replication.apply import DatabaseStateMachine
from raftlog.replication.certify import VerdictKind, decode_verdict
from raftlog.replication.divergence import ANSWERS, differing_tables, row_difference, row_differences
from raftlog.replication.tables import read_diverged
from raftlog.replication.transactions import TransactionApplier
from raftlog.replication.write_set import FORMAT, Inserts, Updates, WriteSet, row_hash
from tests.replication.log import apply_all, batch
from tests.replication.test_running_hash import ITEM, OLD, Log, raw

SCHEMA = """
CREATE TABLE t (id integer PRIMARY KEY, v text);
CREATE TABLE pair (x integer, y text, v blob, PRIMARY KEY (x, y)) WITHOUT ROWID;
CREATE TABLE plain (v);
CREATE TABLE raftlog_appliedindex (applied_index integer);
INSERT INTO raftlog_appliedindex VALUES (0);
"""


class Database:
    """A database that applies inserts and updates of table t."""

    def __init__(self, path):
        self.raw = sqlite3.connect(path, isolation_level=None)
        self.raw.execute("PRAGMA journal_mode = WAL")
        self.raw.executescript(SCHEMA)
        self.applier = TransactionApplier(self.raw)
        self.applier.make_tables()
        self.reader = TableReader(path)
        self.index = 0

    def apply(self, table, rows, *, updates=False):
        self.index += 1
        step = Updates(0, [1], rows) if updates else Inserts(0, rows)
        digest = self.applier.schema.table(table).digest
        write_set = WriteSet(FORMAT, self.index - 1, 0, [(table, digest)], [step], [], [])
        assert self.applier.apply_alone(self.index, write_set).kind is VerdictKind.APPLIED
        self.raw.execute("UPDATE raftlog_appliedindex SET applied_index = ?", (self.index,))

    def ask(self, name, arguments):
        """As over the wire."""
        arguments = msgspec.msgpack.decode(msgspec.msgpack.encode(arguments))
        return msgspec.msgpack.decode(msgspec.msgpack.encode(ANSWERS[name](self.reader, arguments)))

    def close(self):
        self.reader.close()
        self.raw.close()


@pytest.fixture
def two(tmp_path, monkeypatch):
    monkeypatch.setattr(divergence, "CHUNK", 8)
    databases = [Database(tmp_path / f"{name}.sqlite3") for name in "ab"]
    for database in databases:
        database.apply("t", [[n, f"v{n}"] for n in range(50)])
        database.apply("pair", [[n % 5, f"y{n}", bytes([n])] for n in range(50)])
        database.apply("plain", [[n, n / 2] for n in range(1, 30)])
    yield databases
    for database in databases:
        database.close()


def compare(here, there, table):
    return row_differences(here.reader, there.ask, table, lambda: False)


def tables_at_fault(database):
    return [name for name, _ in differing_tables(database.reader, lambda: None)]


def test_equal_databases_have_no_differences(two):
    here, there = two
    assert [compare(here, there, table) for table in ("t", "pair", "plain")] == [[], [], []]
    assert tables_at_fault(here) == tables_at_fault(there) == []


@pytest.mark.parametrize(
    ("table", "sql", "key", "here_value", "there_value"),
    [
        ("t", "UPDATE t SET v = 'x' WHERE id = 17", [17], {"id": 17, "v": "x"}, {"id": 17, "v": "v17"}),
        ("t", "DELETE FROM t WHERE id = 49", [49], None, {"id": 49, "v": "v49"}),
        ("t", "INSERT INTO t VALUES (99, 'new')", [99], {"id": 99, "v": "new"}, None),
        ("t", "INSERT INTO t VALUES (-1, 'new')", [-1], {"id": -1, "v": "new"}, None),
        ("t", "UPDATE t SET v = x'7631' WHERE id = 1", [1], {"id": 1, "v": b"v1"}, {"id": 1, "v": "v1"}),
        (
            "pair",
            "UPDATE pair SET v = NULL WHERE y = 'y8'",
            [3, "y8"],
            {"x": 3, "y": "y8", "v": None},
            {"x": 3, "y": "y8", "v": b"\x08"},
        ),
        ("plain", "UPDATE plain SET v = 0 WHERE rowid = 9", [9], {"rowid": 9, "v": 0}, {"rowid": 9, "v": 4.5}),
    ],
)
def test_a_row_that_differs_is_named_with_both_values(two, table, sql, key, here_value, there_value):
    here, there = two
    here.raw.execute(sql)
    (found,) = compare(here, there, table)
    assert (found.table, found.key, found.here, found.there) == (table, key, here_value, there_value)
    (mirrored,) = compare(there, here, table)
    assert (mirrored.here, mirrored.there) == (there_value, here_value)
    assert (tables_at_fault(here), tables_at_fault(there)) == ([table], [])


def test_rows_that_one_of_them_has_yet_to_write_do_not_differ(two):
    here, there = two
    there.apply("t", [[10, row_hash((10, "v10")), "moved"], [11, row_hash((11, "v11")), "moved"]], updates=True)
    there.apply("t", [[1000 + n, "more"] for n in range(30)])
    assert compare(here, there, "t") == compare(there, here, "t") == []
    here.raw.execute("UPDATE t SET v = 'by hand' WHERE id = 12")
    assert [row.key for row in compare(here, there, "t")] == [[12]]
    # Both have written it, and to different ends: known once they stand at one index.
    here.raw.execute("UPDATE t SET v = 'by hand' WHERE id = 10")
    assert row_difference(here.reader, there.ask, "t", [10]) is None
    for _ in range(2):
        here.apply("plain", [[1000 + here.index, 1]])
    assert row_difference(here.reader, there.ask, "t", [10]).here == {"id": 10, "v": "by hand"}


def test_a_table_that_is_gone_or_new_is_at_fault(two):
    here, there = two
    here.raw.execute("DROP TABLE t")
    here.raw.execute("CREATE TABLE other (id integer PRIMARY KEY)")
    here.raw.execute("INSERT INTO other VALUES (1)")
    assert tables_at_fault(here) == ["other", "t"]
    assert len(compare(here, there, "t")) == divergence.MAX_ROWS


# An entry that is held


@pytest.fixture
def held(replicated_sqlite):
    """A machine whose entry 5 updates a row that was edited by hand before; applied by a thread."""
    with replicated_sqlite():
        machine, log = DatabaseStateMachine("default"), Log()
        machine.watch.has_judge = True
        log.transaction(Inserts(0, [[1, "a", 1], [2, "b", 2]]), base=3)
        log.transaction(Updates(0, [2], [[1, OLD, 7]]), base=4)
        apply_all(machine, log.writer.payloads[:4])
        machine.close()  # the connection is this thread's
        other = raw()
        other.execute(f"UPDATE {ITEM} SET stock = 5 WHERE id = 1")
        other.close()
        yield Held(machine, log.writer.payloads[4:])


class Held:
    def __init__(self, machine, payloads):
        self.machine = machine
        self.outcomes, self.error = [], None
        self.thread = threading.Thread(target=self._apply, args=(payloads,))
        self.thread.start()
        for _ in range(1000):
            if machine.watch.held is not None:
                break
            self.thread.join(0.01)
        assert machine.watch.held.index == 5

    def _apply(self, payloads):
        try:
            self.outcomes = self.machine.apply(batch(payloads, 5))
        except ApplyStopped as error:
            self.error = error
        finally:
            self.machine.close()

    def join(self):
        self.thread.join(10)
        assert not self.thread.is_alive()


def test_the_refusal_stands_where_a_majority_has_the_same(held):
    watch = held.machine.watch
    assert (watch.held.cause.table, watch.held.cause.key) == (ITEM, (1,))
    tentative = watch.value_at(5)
    assert held.machine.last_applied == 4
    assert not held.machine.healthy
    watch.settle(5)
    held.join()
    assert decode_verdict(held.outcomes[0].result).kind is VerdictKind.CONFLICT
    assert watch.value_at(5) == tentative == watch.history.value_at(5)
    assert watch.held is None
    assert held.machine.healthy


def test_nothing_is_applied_where_the_majority_has_another(held):
    held.machine.watch.diverge("as the test says")
    for _ in range(1000):
        if read_diverged(connection):
            break
        held.thread.join(0.01)
    assert read_diverged(connection) == "as the test says"
    assert held.machine.last_applied == 4
    held.machine.stop()
    held.join()
    assert str(held.error) == "as the test says"
    assert DatabaseStateMachine("default").watch.diverged == "as the test says"


def test_a_node_that_stops_meanwhile_has_applied_nothing(held):
    held.machine.stop()
    held.join()
    assert "entry 5 was held" in str(held.error)
    assert held.machine.last_applied == 4


def test_another_connections_commit_is_noticed(replicated_sqlite):
    with replicated_sqlite():
        machine, log = DatabaseStateMachine("default"), Log()
        log.transaction(Inserts(0, [[1, "a", 1]]), base=3)
        apply_all(machine, log.writer.payloads)
        machine.look_around()  # the first look on a connection cannot know
        before = machine.watch.changes
        machine.look_around()
        assert machine.watch.changes == before
        other = raw()
        other.execute(f"UPDATE {ITEM} SET stock = 5 WHERE id = 1")
        other.close()
        machine.look_around()
        assert machine.watch.changes == before + 1
        assert machine.watch.take_changed_at() == 4
        machine.close()
