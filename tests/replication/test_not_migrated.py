"""A command that comes before its table: a recorded failure where the schema comes through the log, else waited for."""

import pytest
from django.db import Error as DjangoDatabaseError
from django.db import connection, transaction

from raftlog.exceptions import NotMigrated
from raftlog.replication import apply as apply_module
from raftlog.replication.apply import DatabaseStateMachine, Mode
from raftlog.replication.failures import decode_failure, lacks_schema
from raftlog.replication.registry import Command, Registry
from raftlog.runtime.ports import APPLIED, FAILED
from tests.replication.log import apply_all, opened, told
from tests.replication.warehouse.models import Item, Order

MISSING = (
    "SELECT 1 FROM no_such_table",
    "SELECT no_such_column FROM warehouse_item",
    "INSERT INTO warehouse_item (no_such_column) VALUES (1)",
    "INSERT INTO no_such_table VALUES (1)",
    "UPDATE warehouse_item SET no_such_column = 1",
)


def add(ctx, *, name: str) -> int:
    return Item.objects.create(id=ctx.index, name=name, stock=0).pk


def add_and_meet(ctx, *, sql: str, swallows: bool) -> str:
    """Writes a row, then a statement that names what is not there."""
    Item.objects.create(id=ctx.index, name=str(ctx.index), stock=0)
    try:
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute(sql)
    except DjangoDatabaseError:
        if not swallows:
            raise
    return "went on"


ADD, MEET = Command(add, name="add"), Command(add_and_meet, name="meet")


def machine() -> DatabaseStateMachine:
    known = Registry()
    for command in (ADD, MEET):
        known.add(command)
    return DatabaseStateMachine("default", commands=known)


@pytest.mark.parametrize("mode", [None, Mode.GUARDED, Mode.ALONE], ids=str)
def test_it_is_recorded_undone_and_passed_by(replicated_sqlite, mode):
    """Alike however entries are batched; what comes after it is applied."""
    with replicated_sqlite():
        made, log = machine(), opened()
        if mode is not None:
            made.first_mode = lambda: mode
        for swallows in (False, True):
            for sql in MISSING:
                log.add(MEET, sql=sql, swallows=swallows)
        log.add(ADD, name="last")
        *ends, last = apply_all(made, log.payloads)[1:]
        made.close()
        assert [end.status for end in ends] == [FAILED] * 2 * len(MISSING)
        for end in ends:
            error = decode_failure(end.result)
            assert isinstance(error, NotMigrated)
            assert "no_such" in str(error)
        assert (last.status, told(last)) == (APPLIED, Item.objects.get().pk)


def test_nodes_whose_batches_fall_differently_agree_on_it(replicated_sqlite):
    """The running hash says so."""
    found = []
    for sizes in ((), [1] * 20, [4, 2, 3]):
        with replicated_sqlite():
            made, log = machine(), opened()
            for number in range(4):
                log.add(ADD, name=f"before {number}")
                log.add(MEET, sql=MISSING[number], swallows=False)
            apply_all(made, log.payloads, sizes)
            found.append((made.watch.history.value_at(11), sorted(Item.objects.values_list("name", flat=True))))
            made.close()
    assert found[0] == found[1] == found[2]
    assert found[0][0] is not None


def test_with_an_engine_of_djangos_own_it_is_waited_for(database, monkeypatch):
    """There each host is migrated by itself: the next one may have the table."""
    monkeypatch.setattr(apply_module, "FIRST_RETRY", 0.001)
    with connection.schema_editor() as editor:
        editor.delete_model(Order)

    def order(ctx) -> int:
        return Order.objects.count()

    waited = []

    def wait(delay):
        waited.append(made.last_error)
        if len(waited) == 3:
            with connection.schema_editor() as editor:
                editor.create_model(Order)

    known = Registry()
    known.add(command := Command(order, name="order"))
    made, log = DatabaseStateMachine("default", commands=known), opened()
    monkeypatch.setattr(made._stopping, "wait", wait)
    log.add(command)
    assert told(apply_all(made, log.payloads)[1]) == 0
    assert len(waited) == 3
    assert all("warehouse_order" in text for text in waited)


@pytest.mark.parametrize("sql", MISSING)
def test_both_vendors_say_what_is_missing(database, sql):
    with pytest.raises(DjangoDatabaseError) as caught, transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(sql)
    assert lacks_schema(caught.value)


@pytest.mark.parametrize("sql", ["SELEC 1", "INSERT INTO warehouse_item (id, name, stock) VALUES (1, NULL, 1)"])
def test_other_errors_are_not_that(database, sql):
    with pytest.raises(DjangoDatabaseError) as caught, transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(sql)
    assert not lacks_schema(caught.value)
