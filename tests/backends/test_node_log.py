"""Transactions, schema changes and commands through one real state machine (no Raft): one log, one database."""

import sqlite3
import threading

import pytest
from django.db import IntegrityError, connections, models, transaction

from raftlog import retry_on_conflict
from raftlog.backends.exceptions import TransactionConflict, TransactionNotProposed, TransactionOutcomeUnknown
from raftlog.backends.log import use_log
from raftlog.backends.node_log import NodeLog
from raftlog.consensus.entries import RESERVE
from raftlog.replication import propose
from raftlog.replication.certify import LastChanged
from raftlog.replication.fingerprint import scan
from raftlog.replication.registry import command
from raftlog.replication.shapes import Schema
from tests.backends.conftest import SCHEMA
from tests.replication.conftest import default_database
from tests.replication.node import OneNode


class Good(models.Model):
    name = models.CharField(max_length=20, unique=True)
    stock = models.IntegerField(default=0)

    class Meta:
        app_label = "tests_backends"
        db_table = "good"

    def __str__(self):
        return self.name


class Order(models.Model):
    good = models.ForeignKey(Good, models.CASCADE)

    class Meta:
        app_label = "tests_backends"
        db_table = "good_order"

    def __str__(self):
        return f"order {self.pk}"


@command
def restock_good(ctx, *, name: str, amount: int) -> int:
    good, _ = Good.objects.get_or_create(name=name)
    good.stock += amount
    good.save()
    return good.stock


@pytest.fixture
def node(tmp_path, django_db_blocker):
    settings = {
        "ENGINE": "raftlog.backends.sqlite3",
        "NAME": str(tmp_path / "db.sqlite3"),
        "OPTIONS": {"init_command": "PRAGMA synchronous = OFF"},
    }
    with django_db_blocker.unblock():
        use_log("default", NodeLog())
        with default_database(settings):
            made = OneNode()
            propose.set_proposer_factory(lambda: made)
            try:
                with connections["default"].schema_editor() as editor:
                    editor.create_model(Good)
                    editor.create_model(Order)
                yield made
            finally:
                propose.set_proposer_factory(None)
                made.stop()


def assert_fingerprints(node):
    node.settle()
    raw = sqlite3.connect(connections["default"].settings_dict["NAME"])
    found = scan(raw, Schema(raw))
    marks = LastChanged(raw).tables()
    assert {name: marks[name].fingerprint for name in found} == found
    assert LastChanged(raw).positions().applied == node.machine.last_applied
    raw.close()


def test_orm_writes_are_entries(node):
    before = node.machine.last_applied
    good = Good.objects.create(name="ale", stock=3)
    assert node.machine.last_applied == before + 2  # a block of keys, the row
    Good.objects.filter(pk=good.pk).update(stock=models.F("stock") + 1)
    with transaction.atomic():
        order = Order.objects.create(good=good)
        Good.objects.create(name="beer")
    assert Good.objects.get(pk=good.pk).stock == 4
    assert Order.objects.get().pk == order.pk
    with transaction.atomic():
        Order.objects.all().delete()
        good.delete()
    assert list(Good.objects.values_list("name", flat=True)) == ["beer"]
    assert Order.objects.count() == 0
    assert_fingerprints(node)


def test_errors_are_djangos(node):
    Good.objects.create(name="ale")
    with pytest.raises(IntegrityError):
        Good.objects.create(name="ale")
    with pytest.raises(IntegrityError, match="FOREIGN KEY"):
        Order.objects.create(good_id=99)
    _, made = Good.objects.get_or_create(name="ale")
    assert not made
    assert Good.objects.count() == 1
    assert_fingerprints(node)


def test_commands_and_transactions_share_one_log_and_see_each_other(node):
    assert restock_good.propose(name="ale", amount=2) == 2
    Good.objects.filter(name="ale").update(stock=10)
    assert restock_good.propose(name="ale", amount=1) == 11
    with pytest.raises(TransactionConflict), transaction.atomic():  # noqa: PT012 (one block)
        Good.objects.get(name="ale")
        thread = threading.Thread(target=restock_good.propose, kwargs={"name": "ale", "amount": 1})
        thread.start()
        thread.join()
        Good.objects.create(name="based on what has changed")
    assert Good.objects.get().stock == 12
    assert_fingerprints(node)


def test_schema_changes_between_rows(node):
    Good.objects.create(name="ale")
    field = models.IntegerField(default=5)
    field.set_attributes_from_name("size")
    connection = connections["default"]
    with connection.schema_editor() as editor:
        editor.add_field(Good, field)
    with connection.cursor() as cursor:
        cursor.execute("SELECT name, size FROM good")
        assert cursor.fetchall() == [("ale", 5)]
        cursor.execute("INSERT INTO good (name, stock, size) VALUES ('beer', 1, 6)")
        cursor.executescript(SCHEMA)
        cursor.execute("INSERT INTO plain VALUES (1, 2)")
        cursor.execute("ALTER TABLE plain RENAME TO fancy")
        cursor.execute("INSERT INTO fancy VALUES (3, 4)")
        cursor.execute("SELECT count(*) FROM fancy")
        assert cursor.fetchone() == (2,)
    assert_fingerprints(node)


def test_foreign_keys_off_and_actions_of_sqlite(node):
    connection = connections["default"]
    with connection.constraint_checks_disabled():
        Order.objects.create(good_id=77)
    assert Order.objects.get().good_id == 77
    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE tag (id integer PRIMARY KEY, g integer REFERENCES good (id) ON DELETE CASCADE)")
        good = Good.objects.create(name="ale")
        cursor.execute("INSERT INTO tag (g) VALUES (%s)", [good.pk])
        cursor.execute("DELETE FROM good WHERE id = %s", [good.pk])
        cursor.execute("SELECT count(*) FROM tag")
        assert cursor.fetchone() == (0,)
    assert_fingerprints(node)


def test_what_the_node_does_not_take_is_told(node):
    Good.objects.create(name="ale")
    node.unavailable = True
    with pytest.raises(TransactionNotProposed, match="not there"):
        Good.objects.create(name="beer")
    node.unavailable = False
    node.refuse = lambda payloads: "Overloaded"
    with pytest.raises(TransactionNotProposed, match="as told"):
        Good.objects.create(name="beer")
    node.refuse = lambda payloads: ""
    node.answer_unknown = lambda payloads: True
    with pytest.raises(TransactionOutcomeUnknown) as caught:
        Good.objects.create(name="beer")
    assert caught.value.proposal_id
    node.answer_unknown = lambda payloads: False
    assert Good.objects.count() == 1
    Good.objects.create(name="beer")
    assert_fingerprints(node)


def test_keys_that_were_perhaps_reserved_are_no_outcome_of_the_insert(node):
    """Who asked for the reservation's outcome would be told that it was applied, and the row is not there."""
    node.answer_unknown = lambda payloads: any(payload[0] == RESERVE for payload in payloads)
    with pytest.raises(TransactionNotProposed, match="automatic keys of good could not be reserved"):
        Good.objects.create(name="ale")
    with pytest.raises(TransactionNotProposed), transaction.atomic():
        Good.objects.get_or_create(name="ale")
    node.answer_unknown = lambda payloads: False
    assert not Good.objects.exists()
    Good.objects.create(name="ale")
    assert_fingerprints(node)


def test_writers_of_many_threads(node):
    pk = Good.objects.create(name="ale").pk
    errors = []

    def work(number):
        try:
            for count in range(8):
                Good.objects.filter(pk=pk).update(stock=models.F("stock") + 1)
                Good.objects.create(name=f"{number}-{count}")
        except Exception as error:  # noqa: BLE001 (it fails the test, in its own thread)
            errors.append(error)
        finally:
            connections["default"].close()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert errors == []
    assert Good.objects.get(pk=pk).stock == 32
    assert Good.objects.count() == 33
    assert_fingerprints(node)


def test_a_function_that_proposed_a_command_is_not_run_again(node):
    restock_good.propose(name="ale", amount=1)
    runs = []

    @retry_on_conflict
    def work(proposes):
        runs.append(proposes)
        if proposes:
            restock_good.propose(name="beer", amount=1)
        with transaction.atomic():
            count = Good.objects.get(name="ale").stock
            if len(runs) == 1:
                thread = threading.Thread(target=restock_good.propose, kwargs={"name": "ale", "amount": 1})
                thread.start()
                thread.join()
            Good.objects.create(name=f"{count}")

    with pytest.raises(TransactionConflict):
        work(True)
    assert runs == [True]
    runs.clear()
    work(False)
    assert runs == [False, False]
    assert_fingerprints(node)
