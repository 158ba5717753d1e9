"""Scans and comparison of PostgreSQL databases, row by row."""

import pytest

from raftlog.backends.postgresql.applier import TransactionApplier
from raftlog.backends.postgresql.reading import TableReader
from raftlog.replication import digest, divergence
from raftlog.replication.divergence import ANSWERS, differing_tables, row_differences
from tests.backends.postgresql import SCHEMA, connect, settings

ROWS = """
INSERT INTO parent SELECT n, 'name ' || n, n FROM generate_series(1, 50) AS n;
INSERT INTO pair SELECT n % 5, 'y' || n, n / 2.0 FROM generate_series(1, 50) AS n;
INSERT INTO plain SELECT 'a' || n % 3, '{"n": 1}' FROM generate_series(1, 30) AS n;
"""
APPLIED = """
CREATE TABLE raftlog_appliedindex (applied_index bigint);
INSERT INTO raftlog_appliedindex VALUES (9);
"""


class Database:
    """With rows from before raftlog's tables were made."""

    def __init__(self, number: int) -> None:
        made = settings(number)
        self.raw = connect(made)
        self.raw.execute(SCHEMA + ROWS + APPLIED)
        TransactionApplier(self.raw.cursor(), "public").make_tables()
        self.raw.execute("SET session_replication_role = replica")  # by hand, as a superuser
        where = {"host": made["HOST"], "port": made["PORT"], "user": made["USER"], "dbname": made["NAME"]}
        self.reader = TableReader(where)

    def ask(self, name, arguments):
        return ANSWERS[name](self.reader, arguments)

    def tables_at_fault(self):
        return [name for name, _ in differing_tables(self.reader, lambda: None)]

    def close(self):
        self.reader.close()
        self.raw.close()


@pytest.fixture
def two(monkeypatch):
    monkeypatch.setattr(divergence, "CHUNK", 8)
    databases = [Database(number) for number in range(2)]
    yield databases
    for database in databases:
        database.close()


@pytest.mark.parametrize(
    ("table", "sql", "key", "here_value", "there_value"),
    [
        ("parent", "UPDATE parent SET rank = 7 WHERE id = 17", ["17"], {"rank": "7"}, {"rank": "17"}),
        ("parent", "DELETE FROM parent WHERE id = 9", ["9"], None, {"name": "name 9"}),
        ("parent", "INSERT INTO parent VALUES (99, NULL, 1)", ["99"], {"name": None}, None),
        ("pair", "UPDATE pair SET v = 0 WHERE y = 'y8'", ["3", "y8"], {"v": "0"}, {"v": "4"}),
        ("plain", "INSERT INTO plain VALUES ('new', NULL)", ["new", None], {"a": "new"}, None),
    ],
)
def test_a_row_changed_by_hand_is_named_with_both_values(two, table, sql, key, here_value, there_value):
    here, there = two
    assert here.tables_at_fault() == there.tables_at_fault() == []
    assert row_differences(here.reader, there.ask, table, lambda: False) == []
    here.raw.execute(sql)
    assert (here.tables_at_fault(), there.tables_at_fault()) == ([table], [])
    (found,) = row_differences(here.reader, there.ask, table, lambda: False)
    assert found.key == key
    for image, expected in ((found.here, here_value), (found.there, there_value)):
        assert (image is None) == (expected is None)
        assert expected is None or expected.items() <= image.items()


def test_a_digest_reads_every_row_and_agrees_with_the_sums_that_apply_keeps(two, monkeypatch):
    """Over one snapshot, in chunks, with and without a primary key; what is written meanwhile does not show."""
    monkeypatch.setattr(digest, "CHUNK", 8)
    here, _ = two
    pinned = digest.PinnedReader(here.reader)
    snapshot = pinned.pin()
    here.raw.execute("DELETE FROM parent WHERE id > 20")
    kept = snapshot.kept()
    for table, rows in (("parent", 50), ("pair", 50), ("plain", 30)):
        assert digest.hash_table(pinned, table, lambda count: None) == (rows, kept[table])
        whole = {"table": table, "after": None, "upto": None}
        assert digest.answer_sum(pinned, whole) == kept[table]
    first = digest.QUESTIONS["fingerprint_chunk"](pinned, {"table": "parent", "after": None})
    assert digest.answer_sum(pinned, {"table": "parent", "after": None, "upto": first["last"]}) == first["sum"]
