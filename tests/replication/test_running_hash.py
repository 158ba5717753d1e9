"""Two nodes at one index have one running hash, unless they differ (rule 16)."""

import random
import sqlite3
from pathlib import Path

import pytest
from django.db import connection

from raftlog.consensus.entries import TRANSACTION, client_payload
from raftlog.replication import running_hash
from raftlog.replication.apply import DatabaseStateMachine
from raftlog.replication.fingerprint import EMPTY, scan
from raftlog.replication.running_hash import History, Link, decode_differences, extend, first_difference
from raftlog.replication.shapes import Schema
from raftlog.replication.tables import read_applied
from raftlog.replication.write_set import (
    FORMAT,
    Deletes,
    Inserts,
    Updates,
    WriteSet,
    encode_write_set,
    row_hash,
)
from tests.replication.log import SESSION, apply_all, opened
from tests.replication.warehouse import commands

ITEM = "warehouse_item"


def raw():
    return sqlite3.connect(connection.settings_dict["NAME"], isolation_level=None)


def kept_and_scanned():
    other = raw()
    kept = dict(other.execute("SELECT name, fingerprint FROM raftlog_tables"))
    found = {name: kept.get(name, EMPTY) for name in Schema(other).table_names()}, scan(other, Schema(other))
    other.close()
    return found


class Log:
    """Entries of both kinds, of which some fail."""

    def __init__(self) -> None:
        self.writer = opened()
        connection.ensure_connection()
        self.shape = Schema(connection.connection).table(ITEM)

    def transaction(self, *steps, base: int) -> None:
        writer = self.writer
        writer._sequence += 1
        body = encode_write_set(WriteSet(FORMAT, base, 0, [(ITEM, self.shape.digest)], list(steps), [], []))
        writer.raw(client_payload(TRANSACTION, SESSION, writer._sequence, 0, body))


def mixed_log(seed: int) -> list[bytes]:
    rng, log = random.Random(seed), Log()
    for number in range(30):
        choice = rng.randrange(5)
        if choice == 0:
            log.writer.add(commands.add_item, name=rng.choice("abcd"), stock=number)
        elif choice == 1:
            log.writer.add(commands.take, name=rng.choice("abcd"), quantity=rng.choice([1, 100]))
        elif choice == 2:
            log.transaction(Inserts(0, [[1000 + number, f"t{number}", number]]), base=number + 3)
        elif choice == 3:
            log.writer.add(commands.delete_row, table="item", pk=rng.randint(4, 20))
        else:
            log.transaction(Deletes(0, [[1000, b""]]), base=3)
    return log.writer.payloads


@pytest.mark.parametrize("seed", range(6))
def test_the_running_hash_does_not_depend_on_batches(replicated_sqlite, seed):
    found = []
    for sizes in ([], [1] * 33, [7, 2, 11, 5]):
        with replicated_sqlite():
            machine = DatabaseStateMachine("default")
            apply_all(machine, mixed_log(seed), sizes)
            history = machine.watch.history
            assert read_applied(connection).fingerprint == history.value_at(33) != EMPTY
            kept, scanned = kept_and_scanned()
            assert kept == scanned
            found.append([(history.value_at(i), history.differences_at(i)) for i in range(34)])
            machine.close()
    assert found[0] == found[1] == found[2]
    assert len({value for value, _ in found[0]}) > 20


def test_a_command_that_draws_from_its_process_moves_it_differently(replicated_sqlite):
    values = []
    for drawn in (1, 2):
        with replicated_sqlite():
            machine, log = DatabaseStateMachine("default"), opened()
            log.add(commands.add_item, name="same", stock=1)
            log.add(commands.add_row, table="item", row={"id": 9, "name": "drawn", "stock": 0})
            apply_all(machine, log.payloads[:4])
            original = commands.Item.objects.create
            commands.Item.objects.create = lambda original=original, drawn=drawn, **row: original(
                **row | {"stock": drawn}
            )
            try:
                apply_all(machine, log.payloads[4:])
            finally:
                del commands.Item.objects.create
            values.append([machine.watch.history.value_at(i) for i in range(4, 6)])
            assert set(machine.watch.history.differences_at(5)) == {ITEM}
            machine.close()
    assert values[0][0] == values[1][0]
    assert values[0][1] != values[1][1]


def test_it_survives_a_restart_and_upgrades_start_it_where_they_stand(replicated_sqlite):
    with replicated_sqlite():
        machine, log = DatabaseStateMachine("default"), opened()
        log.add(commands.add_item, name="a")
        apply_all(machine, log.payloads)
        value = machine.watch.value_at(4)
        machine.close()
        again = DatabaseStateMachine("default")
        assert again.watch.value_at(4) == value
        assert again.watch.value_at(3) is None
        other = raw()
        for column in ("fingerprint", "fingerprint_since", "diverged"):
            other.execute(f"ALTER TABLE raftlog_appliedindex DROP COLUMN {column}")
        other.execute("UPDATE raftlog_appliedindex SET schema_version = 1")
        other.close()
        again.close()
        DatabaseStateMachine("default")
        assert read_applied(connection)[-2:] == (EMPTY, 4)


def test_rows_that_were_there_before_count(replicated_sqlite):
    with replicated_sqlite():
        commands.Item.objects.create(id=1, name="from before")
        other = raw()
        for table in ("raftlog_positions", "raftlog_tables", "raftlog_slots"):
            other.execute(f"DROP TABLE {table}")
        other.close()
        connection.close()
        machine, log = DatabaseStateMachine("default"), opened()
        log.add(commands.add_item, name="a")
        apply_all(machine, log.payloads)
        kept, scanned = kept_and_scanned()
        assert kept == scanned
        assert kept[ITEM] != EMPTY
        machine.close()


# Refusals that nothing explains


def refused(steps, *, base, edit, entries=()):
    """Entry 5 is `steps` after an edit by hand; what the machine makes of it as it stands."""
    machine, log = DatabaseStateMachine("default"), Log()
    log.transaction(Inserts(0, [[1, "a", 1], [2, "b", 2]]), base=3)
    for entry in entries:
        log.writer.add(*entry[:1], **entry[1])
    log.transaction(*steps, base=base)
    apply_all(machine, log.writer.payloads[:-1])
    if edit:
        other = raw()
        other.execute(edit)
        other.close()
    apply_all(machine, log.writer.payloads[-1:])
    database = machine._open()
    found = database.unexplained()
    machine.close()
    return found


OLD = row_hash((1, "a", 1))


@pytest.mark.parametrize(
    ("steps", "edit", "expected"),
    [
        ([Updates(0, [2], [[1, OLD, 7]])], "", None),
        ([Updates(0, [2], [[1, OLD, 7]])], f"UPDATE {ITEM} SET stock = 5 WHERE id = 1", (ITEM, (1,))),
        ([Updates(0, [2], [[1, OLD, 7]])], f"DELETE FROM {ITEM} WHERE id = 1", (ITEM, (1,))),
        ([Deletes(0, [[1, OLD]])], f"UPDATE {ITEM} SET stock = 5 WHERE id = 1", (ITEM, (1,))),
        ([Inserts(0, [[3, "c", 3]])], f"INSERT INTO {ITEM} VALUES (3, 'x', 1)", (ITEM, None)),
    ],
)
def test_a_refusal_after_an_edit_by_hand_is_unexplained(replicated_sqlite, steps, edit, expected):
    with replicated_sqlite():
        found = refused(steps, base=4, edit=edit)
        assert (found and found[:2]) == expected


@pytest.mark.parametrize(
    ("steps", "entry"),
    [
        ([Updates(0, [2], [[1, OLD, 7]])], (commands.change_rows, {"table": "item", "pk": 1, "values": {"stock": 5}})),
        ([Inserts(0, [[3, "c", 3]])], (commands.add_row, {"table": "item", "row": {"id": 3, "name": "x"}})),
        ([Updates(0, [2], [[1, OLD, 7]])], (commands.delete_row, {"table": "item", "pk": 1})),
    ],
)
def test_a_refusal_after_an_entry_that_explains_it_is_none(replicated_sqlite, steps, entry):
    with replicated_sqlite():
        assert refused(steps, base=4, edit="", entries=[entry]) is None


# Two histories


def history(values: list[int], first: int = 0) -> History:
    made = History(first, bytes([values[0]]))
    made.extend([Link(first + n, bytes([v]), b"") for n, v in enumerate(values) if n], first + len(values) - 1)
    return made


@pytest.mark.parametrize(
    ("mine", "theirs", "differing", "expected"),
    [
        (history([1, 2, 3, 4]), history([1, 2, 9, 8]), 3, (2, True)),
        (history([1, 2, 3, 4]), history([1, 7, 9, 8]), 2, (1, True)),
        (history([1, 2, 3, 4]), history([5, 7, 9, 8]), 3, (0, False)),
        (history([3, 4], first=2), history([1, 2, 9, 8]), 3, (2, False)),
        (history([1, 2, 3, 4]), history([9, 8], first=2), 3, (2, False)),
    ],
)
def test_the_first_index_at_which_two_histories_differ(mine, theirs, differing, expected):
    assert first_difference(mine, theirs.value_at, differing) == expected


def test_a_history_remembers_so_much_and_no_more(monkeypatch):
    monkeypatch.setattr(running_hash, "REMEMBERED", 10)
    made = History(0, EMPTY)
    for index in range(1, 40):
        made.extend([Link(index, bytes([index]), b"")], index)
    assert made.value_at(39) == bytes([39])
    assert made.value_at(30) == bytes([30])
    assert made.first_index >= 20
    assert made.value_at(made.first_index - 1) is None
    assert made.value_at(40) is None


def test_test_vector():
    """docs/internals/fingerprints.md prints these."""
    page = Path("docs/internals/fingerprints.md").read_text()
    assert all(vector in page for vector in VECTORS.values())
    assert row_hash([1, "a", None, 2.5, b"\x00"]).hex() == VECTORS["row"]
    value = extend(EMPTY, 7, 0, b"\xc0", running_hash.encode_differences([("t", EMPTY[:-1] + b"\x01")]))
    assert value.hex() == VECTORS["value"]
    assert decode_differences(running_hash.encode_differences([("t", b"1")])) == {"t": b"1"}


VECTORS = {"row": "893d697a17bdddf3836a2f4119763786", "value": "69fdbf9ed3aaaec74273a0da76d30032"}


def test_a_short_transaction_that_fails_leaves_nothing_and_gives_the_turn_back(replicated_sqlite):
    with replicated_sqlite():
        machine, log = DatabaseStateMachine("default"), opened()
        apply_all(machine, log.payloads)
        machine.close()
        port = connection.apply_port()

        def failing():
            with port.short_transaction() as cursor:
                assert port._control.turn.held
                cursor.execute("UPDATE raftlog_appliedindex SET applied_index = %s", [77])
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            failing()
        assert not port._control.turn.held
        assert not connection.connection.in_transaction
        assert read_applied(connection).index == 3
        with port.short_transaction() as cursor:
            cursor.execute("UPDATE raftlog_appliedindex SET log_time = %s", [77])
        assert read_applied(connection)[:4] == ("c" * 32, 3, 1, 77)


def test_a_schema_that_a_command_has_changed_does_not_stop_the_next_transactions(replicated_sqlite):
    """What watches foreign keys on the connection that applies names a table that is gone by then."""
    with replicated_sqlite():
        machine, log = DatabaseStateMachine("default"), Log()
        log.writer.add(commands.add_item, name="watched", stock=1)
        apply_all(machine, log.writer.payloads)
        del log.writer.payloads[:]
        with machine._open().connection.cursor() as cursor:
            cursor.execute("CREATE TABLE upstairs (id integer PRIMARY KEY)")
            cursor.execute("CREATE TABLE beside (id integer PRIMARY KEY, up integer REFERENCES upstairs (id))")
        machine._database.close()
        machine._open()
        [watching] = connection.connection.execute(
            "SELECT count(*) FROM sqlite_temp_master WHERE tbl_name IN ('upstairs', 'beside')"
        ).fetchone()
        assert watching
        other = raw()
        other.execute("ALTER TABLE upstairs RENAME TO downstairs")
        other.close()
        log.transaction(Inserts(0, [[1000, "t", 0]]), base=4)
        [outcome] = apply_all(machine, log.writer.payloads)
        assert outcome.status == 0
        names = connection.connection.execute("SELECT group_concat(sql) FROM sqlite_temp_master").fetchone()[0]
        assert "downstairs" in names
        assert "upstairs" not in names
