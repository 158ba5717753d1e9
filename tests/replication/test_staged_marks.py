"""Marks staged over many entries of one transaction say and store what marks written at once do."""

import random
import sqlite3

from raftlog.replication.certify import LastChanged, TableMarks
from raftlog.replication.staged_marks import StagedMarks


def marks(kind):
    connection = sqlite3.connect(":memory:", isolation_level=None)
    made = kind(connection)
    made.make_tables()
    return connection, made


def test_staged_marks_answer_as_those_written_at_once():
    source = random.Random(6)
    (plain_connection, plain), (staged_connection, staged) = marks(LastChanged), marks(StagedMarks)
    index = 0
    for batch in range(40):
        for connection, kind in ((plain_connection, plain), (staged_connection, staged)):
            connection.execute("BEGIN")
            kind.begin()
        for _ in range(source.randrange(1, 6)):
            index += 1
            name, slots = source.choice("abc"), [source.randrange(50) for _ in range(3)]
            change = source.randrange(4)
            for kind in (plain, staged):
                if change == 0:
                    kind.set_table(name, TableMarks(index, index, 0, index, bytes(16)))
                    kind.set_last_schema(index)
                else:
                    kind.fold(name, index, index * 7, all_rows=change == 1)
                    kind.mark_slots(slots, index)
                    kind.set_last_data(index)
            asked = [source.randrange(50) for _ in range(3)]
            assert plain.newest_slot(asked) == staged.newest_slot(asked)
            assert plain.table(name) == staged.table(name)
            assert plain.tables() == staged.tables()
            assert plain.positions() == staged.positions()
        ends = "ROLLBACK" if batch % 5 == 4 else "COMMIT"
        for connection, kind in ((plain_connection, plain), (staged_connection, staged)):
            kind.set_applied(index)
            connection.execute(ends)
    for table in ("raftlog_positions", "raftlog_tables", "raftlog_slots"):
        rows = [
            connection.execute(f"SELECT * FROM {table} ORDER BY 1").fetchall()
            for connection in (plain_connection, staged_connection)
        ]
        assert rows[0] == rows[1] != []
