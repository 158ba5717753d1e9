"""An entry gets the verdict that it would get alone, whatever batch it falls into (design 7.1)."""

import os
import random
import sqlite3

import pytest
from django.db import connection

from raftlog.replication import foreign_keys
from raftlog.replication.apply import DatabaseStateMachine, Mode
from raftlog.runtime.ports import APPLIED, FAILED
from tests.replication.log import apply_all, dump, empty, opened, told
from tests.replication.warehouse import commands

SEEDS = int(os.environ.get("RAFTLOG_VERDICT_SEEDS", "30"))
LENGTH = 14


def violate_and_mend():
    """Entries 4 on: each breaks a foreign key alone, and the next would mend it."""
    log = opened()
    log.add(commands.order, item_id=100, quantity=1)  # no such item
    log.add(commands.add_row, table="item", row={"id": 100, "name": "late"})
    log.add(commands.order, item_id=100, quantity=2)  # now there is
    log.add(commands.delete_row, table="item", pk=100)  # it has an order
    log.add(commands.add_row, table="item", row={"id": 100, "name": "again"})  # it was never gone
    log.add(commands.add_row, table="shelf", row={"id": 1, "code": "a", "above_id": 2})
    log.add(commands.add_row, table="shelf", row={"id": 2, "code": "b", "above_id": 2})  # on itself
    log.add(commands.change_rows, table="item", pk=100, values={"id": 101})
    log.add(commands.change_rows, table="order", pk=6, values={"item_id": 101})
    log.add(commands.add_row, table="shelf", row={"id": 3, "code": "c", "item_name_id": "late"})
    log.add(commands.change_rows, table="item", pk=100, values={"name": "early"})
    return log.payloads


EXPECTED = [
    *("IntegrityError", None, 6, "IntegrityError", "IntegrityError", "IntegrityError", None),
    *("IntegrityError", "IntegrityError", None, "IntegrityError"),
]


def short(outcome):
    end = told(outcome)
    return end[1].rpartition(".")[2] if isinstance(end, tuple) else end


@pytest.mark.parametrize("sizes", [(), [1] * 14, [4, 2, 2, 2, 2, 2], [3, 2, 2, 2, 2, 2, 1], [5, 1, 8], [8, 6]], ids=str)
def test_a_violation_that_the_next_entry_mends_is_a_violation(database, sizes):
    outcomes = apply_all(DatabaseStateMachine("default"), violate_and_mend(), sizes)
    assert [short(outcome) for outcome in outcomes[1:]] == EXPECTED


def random_entries(rng: random.Random) -> list[bytes]:
    """Entries over few rows, so that they break, mend and collide."""
    log = opened()
    for number in range(LENGTH):
        pk, other, name = rng.randint(1, 3), rng.randint(1, 3), rng.choice("ab")
        above = rng.choice([None, other])
        command, arguments = rng.choice(
            [
                (commands.add_row, {"table": "item", "row": {"id": pk, "name": name, "stock": other}}),
                (commands.add_row, {"table": "shelf", "row": {"id": pk, "code": str(number), "above_id": above}}),
                (commands.add_row, {"table": "shelf", "row": {"id": pk, "code": "x", "item_name_id": name}}),
                (commands.order, {"item_id": pk, "quantity": other}),
                (commands.delete_row, {"table": rng.choice(["item", "shelf", "order"]), "pk": pk}),
                (commands.change_rows, {"table": "item", "pk": pk, "values": {"id": other}}),
                (commands.change_rows, {"table": "item", "pk": pk, "values": {"name": name}}),
                (commands.change_rows, {"table": "shelf", "pk": pk, "values": {"id": other, "above_id": above}}),
                (commands.take, {"name": name, "quantity": other}),
                (commands.take_blindly, {"name": name, "quantity": other}),
                (commands.get_or_add, {"name": name}),
                (commands.swallow, {"name": name}),
                *([(commands.replace_item, {"pk": pk, "name": name})] if connection.vendor == "sqlite" else []),
            ]
        )
        log.add(command, **arguments)
        if rng.random() < 0.1:
            log.raw(rng.choice(log.payloads[3:]))
    return log.payloads


def cut(rng: random.Random, length: int) -> list[int]:
    sizes = []
    while sum(sizes) < length:
        sizes.append(rng.choice([1, 1, 2, 3, 5, 8]))
    return sizes


def run(payloads, sizes=(), mode=None):
    empty()
    machine = DatabaseStateMachine("default")
    if mode is not None:
        machine.first_mode = lambda: mode
    outcomes = apply_all(machine, payloads, sizes)
    return [(outcome.key, outcome.status, outcome.index, outcome.result) for outcome in outcomes], dump()


@pytest.mark.parametrize("seeds", [range(start, start + 5) for start in range(0, SEEDS, 5)], ids=str)
def test_all_ways_to_cut_a_log_give_the_same_outcomes_and_databases(database, seeds):
    """The oracle runs each entry in a transaction of its own, where the COMMIT is the verdict and nothing watches."""
    for seed in seeds if database == "sqlite" else seeds[:1]:  # there, each statement is a round trip
        compare_cuts(random.Random(seed))


def compare_cuts(rng):
    payloads = random_entries(rng)
    alone = run(payloads, [1] * len(payloads), Mode.ALONE)
    assert alone[0]
    for sizes in ((), [1] * len(payloads), cut(rng, len(payloads)), cut(rng, len(payloads))):
        assert run(payloads, sizes) == alone, sizes
    assert run(payloads, (), Mode.GUARDED) == alone


def test_the_oracle_notices_where_nothing_watches(sqlite, monkeypatch):
    """Without the triggers the verdicts depend on the batch: these tests can fail."""
    monkeypatch.setattr(foreign_keys, "watching_triggers", lambda number, key: [])
    whole, _ = run(violate_and_mend())
    alone, _ = run(violate_and_mend(), [1] * 14)
    assert whole != alone


def test_triggers_of_the_project_keep_entries_apart_and_work_as_ever(sqlite):
    """With one in the schema, recursive_triggers stays off, and a REPLACE is judged by its own commit."""
    with connection.cursor() as cursor:
        cursor.execute(
            "CREATE TRIGGER restock AFTER UPDATE ON warehouse_item BEGIN "
            "UPDATE warehouse_item SET stock = stock + 1 WHERE id = NEW.id; END"
        )
    log = opened()
    log.add(commands.add_row, table="item", row={"id": 100, "name": "nail", "stock": 5})
    log.add(commands.order, item_id=100, quantity=2)
    log.add(commands.take_blindly, name="nail", quantity=3)
    log.add(commands.replace_item, pk=200, name="nail")  # deletes item 100, which has an order
    log.add(commands.add_row, table="item", row={"id": 100, "name": "other"})
    whole = run(log.payloads)
    assert whole == run(log.payloads, [1] * len(log.payloads))
    assert whole[1]["warehouse_item"] == [(100, "nail", 3)]
    statuses = [status for _, status, *_ in whole[0][1:]]
    assert statuses == [APPLIED, APPLIED, APPLIED, FAILED, FAILED]


def test_a_command_that_changes_the_schema_is_watched_from_the_next_transaction_on(sqlite):
    log = opened()
    log.add(commands.make_child_table)
    log.add(commands.add_child, item_id=1)
    log.add(commands.add_row, table="item", row={"id": 1, "name": "late"})
    log.add(commands.add_child, item_id=1)
    outcomes = apply_all(DatabaseStateMachine("default"), log.payloads)
    assert [short(outcome) for outcome in outcomes[1:]] == [None, "IntegrityError", None, None]


def test_a_schema_changed_by_another_connection_is_noticed(sqlite):
    machine = DatabaseStateMachine("default")
    log = opened()
    log.add(commands.add_row, table="item", row={"id": 1, "name": "late"})
    apply_all(machine, log.payloads)
    other = sqlite3.connect(connection.settings_dict["NAME"], isolation_level=None)
    other.execute(commands.CHILD_TABLE)
    other.close()
    del log.payloads[:]
    log.add(commands.add_child, item_id=2)
    log.add(commands.add_row, table="item", row={"id": 2, "name": "later"})
    outcomes = apply_all(machine, log.payloads)
    assert [short(outcome) for outcome in outcomes] == ["IntegrityError", None]
