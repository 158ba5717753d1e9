"""One batch, one transaction, the applied index inside it; whose failure is whose."""

import sqlite3
import threading

import pytest
from django.db import OperationalError, connection, connections, transaction

from raftlog import is_applying, signals
from raftlog.consensus.entries import NO_OP_PAYLOAD, TRANSACTION, client_payload
from raftlog.exceptions import ApplyStopped, NodeCannotApply
from raftlog.replication import apply as apply_module
from raftlog.replication import foreign_keys
from raftlog.replication import run as run_module
from raftlog.replication.apply import DatabaseStateMachine
from raftlog.replication.registry import Command, Registry
from raftlog.runtime.ports import APPLIED, FAILED
from tests.replication.log import CLUSTER, SESSION, START, apply_all, batch, configuration, dump, opened, told
from tests.replication.warehouse import commands
from tests.replication.warehouse.models import Item

# What entry 4 of term 1, command warehouse.draw, draws: on every node, whatever its Python.
UUID = "7e86c877-c7ae-40a7-b64f-48ef528eca30"


def failed(name: str, text: str = ""):
    return ("failed", name, text)


def test_every_kind_of_end(database):
    """A command ends with its value, or with the failure that is recorded alike on every node."""
    machine = DatabaseStateMachine("default")
    log = opened()
    cases = [
        (commands.add_item, {"name": "nail", "stock": 5}, 4),
        (commands.take, {"name": "nail", "quantity": 2}, 3),
        (commands.take, {"name": "nail", "quantity": 9}, "tests.replication.warehouse.commands.OutOfStock"),
        (commands.add_item, {"name": "nail"}, "django.db.utils.IntegrityError"),
        (commands.take_blindly, {"name": "nail", "quantity": 9}, "django.db.utils.IntegrityError"),
        (commands.order, {"item_id": 77, "quantity": 1}, "django.db.utils.IntegrityError"),
        (commands.add_row, {"table": "item", "row": {"id": 77, "name": "too late for the order"}}, None),
        (commands.order, {"item_id": 77, "quantity": 1}, 11),
        (commands.take, {"name": "none such", "quantity": 1}, "tests.replication.warehouse.models.Item.DoesNotExist"),
        (commands.fail, {"kind": "value"}, "ValueError"),
        (commands.fail, {"kind": "key"}, "KeyError"),
        (commands.swallow, {"name": "nail"}, "django.db.transaction.TransactionManagementError"),
        (commands.get_or_add, {"name": "nail"}, False),
        (commands.get_or_add, {"name": "screw"}, True),
        (commands.return_object, {}, "TypeError"),
        (commands.return_much, {"size": 2 << 20}, "ValueError"),
    ]
    for command, arguments, _ in cases:
        log.add(command, **arguments)
    outcomes = [told(outcome) for outcome in apply_all(machine, log.payloads)[1:]]
    assert [end[1] if isinstance(end, tuple) else end for end in outcomes] == [expected for *_, expected in cases]
    assert outcomes[2] == failed("tests.replication.warehouse.commands.OutOfStock", "3 left")
    assert sorted(Item.objects.values_list("name", "stock")) == [
        ("nail", 3),
        ("screw", 0),
        ("too late for the order", 0),
    ]
    assert machine.position() == (CLUSTER, len(log.payloads), 1)


def test_entries_are_applied_once_over_a_restart(database):
    """A repeat gets the recorded answer, in the same batch, in another, and from another process."""
    log = opened()
    log.add(commands.add_item, name="nail", stock=10)
    take = log.add(commands.take, name="nail", quantity=3)
    log.raw(take)
    fails = log.add(commands.take, name="nail", quantity=100)
    first = apply_all(DatabaseStateMachine("default"), log.payloads)
    assert [told(outcome) for outcome in first[1:4]] == [4, 7, 7]
    before = dump()["warehouse_item"]

    again = DatabaseStateMachine("default")
    assert again.last_applied == 7
    repeats = again.apply(batch([take, fails, take], 8, term=2))
    assert [(o.status, o.index, o.result) for o in repeats] == [
        (o.status, o.index, o.result) for o in (first[2], first[4], first[2])
    ]
    assert [outcome.index for outcome in repeats] == [5, 7, 5]
    assert dump()["warehouse_item"] == before
    assert again.position() == (CLUSTER, 10, 2)


def test_a_command_of_an_unknown_session_is_refused(database):
    machine = DatabaseStateMachine("default")
    log = opened()
    log.session = b"x" * 16
    log.add(commands.add_item, name="nail")
    (outcome,) = apply_all(machine, log.payloads)[1:]
    assert told(outcome)[:2] == ("refused", "SessionExpired")
    assert not Item.objects.exists()


def test_a_batch_must_begin_where_the_last_one_ended(sqlite):
    machine = DatabaseStateMachine("default")
    with pytest.raises(ValueError, match="entries from 2 on given, 0 was applied last"):
        machine.apply(batch([NO_OP_PAYLOAD], 2))


# What stops apply


def stopped_at(machine, payloads, match):
    with pytest.raises(ApplyStopped, match=match):
        apply_all(machine, payloads)
    assert not machine.healthy
    assert machine.last_error


@pytest.mark.parametrize("sizes", [(), (4, 1), (5,)])
def test_an_unknown_command_stops_apply_with_all_before_it_applied(database, sizes):
    known, theirs = Registry(), Registry()
    machine = DatabaseStateMachine("default", commands=known)
    known.add(commands.add_item)
    newer = Command(lambda ctx: None, name="shop.newer", version=3)
    theirs.add(newer)
    known.add(Command(lambda ctx: None, name="shop.newer", version=2))
    log = opened()
    log.add(commands.add_item, name="nail")
    log.add(newer)
    log.add(commands.add_item, name="after")
    match = "entry 5 is the command 'shop.newer' version 3, which this node does not know .it knows version 2."
    with pytest.raises(ApplyStopped, match=match):
        apply_all(machine, log.payloads, sizes)
    assert machine.last_applied == 4
    assert list(Item.objects.values_list("name", flat=True)) == ["nail"]

    updated = Registry()  # the node is started again with the newer code
    for command in (commands.add_item, newer):
        updated.add(command)
    outcomes = apply_all(DatabaseStateMachine("default", commands=updated), log.payloads[4:])
    assert [told(outcome) for outcome in outcomes] == [None, 6]


def test_a_node_that_meets_an_unknown_entry_stands_still_until_it_is_stopped(database):
    """The process goes on: it votes and keeps the log, and says what it waits for."""
    known = Registry()
    known.add(commands.add_item)
    machine = DatabaseStateMachine("default", commands=known)
    told_at = threading.Event()
    told = []

    def on_unknown_entry(text, error):
        told.append((text, error))
        told_at.set()

    machine.on_unknown_entry = on_unknown_entry
    log = opened()
    log.add(Command(lambda ctx: None, name="shop.newer", version=3))
    raised = []

    def body():
        try:
            apply_all(machine, log.payloads)
        except ApplyStopped as stopped:
            raised.append(stopped)
        finally:
            machine.close()

    thread = threading.Thread(target=body)
    thread.start()
    assert told_at.wait(60)
    assert "entry 4 is the command 'shop.newer' version 3" in told[0][0]
    assert told[0][1] is NodeCannotApply
    assert machine.last_error == told[0][0]
    assert not raised
    machine.stop()
    thread.join(60)
    assert [str(stopped) for stopped in raised] == [told[0][0]]
    assert machine.last_applied == 3


@pytest.mark.parametrize(("kind", "name"), [("memory", "MemoryError"), ("os", "OSError"), ("exit", "SystemExit")])
def test_what_is_this_nodes_trouble_stops_apply_and_names_the_entry(database, kind, name):
    machine = DatabaseStateMachine("default")
    log = opened()
    log.add(commands.add_item, name="nail")
    log.add(commands.fail, kind=kind)
    stopped_at(machine, log.payloads, f"entry 5, command 'warehouse.fail': {name}: as told")
    assert machine.last_applied == 4
    assert list(Item.objects.values_list("name", flat=True)) == ["nail"]
    assert DatabaseStateMachine("default").last_applied == 4


@pytest.mark.parametrize(
    ("payload", "match"),
    [
        (
            client_payload(TRANSACTION, SESSION, 1, 0, b""),
            "entry 4 is a transaction, which .* set its ENGINE to raftlog.backends.sqlite3",
        ),
        (client_payload(3, SESSION, 1, 0, b"\xc1"), "entry 4 holds no command that can be decoded"),
        (configuration("d" * 32), f"entry 4 is of cluster {'d' * 32}, the database of cluster {CLUSTER}"),
    ],
    ids=["kind", "body", "cluster"],
)
def test_an_entry_that_cannot_be_understood_stops_apply(sqlite, payload, match):
    machine = DatabaseStateMachine("default")
    stopped_at(machine, [*opened().payloads, payload], match)
    assert machine.last_applied == 3


def test_arguments_that_this_nodes_code_does_not_take_stop_apply(sqlite):
    known = Registry()
    known.add(Command(lambda ctx, *, old: None, name="warehouse.add_item"))
    log = opened()
    log.add(commands.add_item, name="nail")
    stopped_at(DatabaseStateMachine("default", commands=known), log.payloads, "does not take the arguments")


def test_an_argument_added_with_a_default_is_no_trouble(sqlite):
    known = Registry()
    known.add(Command(lambda ctx, *, name, stock, colour="red": colour, name="warehouse.add_item"))
    log = opened()
    log.add(commands.add_item, name="nail")
    assert told(apply_all(DatabaseStateMachine("default", commands=known), log.payloads)[1]) == "red"


def test_a_database_that_something_else_moved_stops_apply(database):
    machine = DatabaseStateMachine("default")
    apply_all(machine, opened().payloads)
    with connection.cursor() as cursor:
        cursor.execute("UPDATE raftlog_appliedindex SET applied_index = 2")
    stopped_at(machine, [NO_OP_PAYLOAD], "the applied index in the database is not 3")


@pytest.mark.parametrize(
    "expression", ["json_extract('{', '$.a')", "sum(n) FROM (SELECT 9223372036854775807 AS n UNION ALL SELECT 1)"]
)
def test_what_sqlite_says_of_the_data_alone_is_the_commands_failure(sqlite, expression):
    def compute(ctx):
        with connection.cursor() as cursor:
            cursor.execute(f"SELECT {expression}")
            return cursor.fetchone()[0]

    known = Registry()
    command = Command(compute, name="compute")
    known.add(command)
    log = opened()
    log.add(command)
    (outcome,) = apply_all(DatabaseStateMachine("default", commands=known), log.payloads)[1:]
    assert told(outcome)[:2] == ("failed", "django.db.utils.OperationalError")


# What makes apply wait


class Failing:
    """Raises at the calls told, then does what it stands for."""

    def __init__(self, real, error, times=1, after=False):
        self.real, self.error, self.times, self.after = real, error, times, after

    def __call__(self, *args, **kwargs):
        if self.times:
            self.times -= 1
            if self.after:
                self.real(*args, **kwargs)
            raise self.error
        return self.real(*args, **kwargs)


def unavailable(text="disk I/O error"):
    error = OperationalError(text)
    error.__cause__ = connection.Database.OperationalError(text)
    return error


@pytest.fixture(autouse=True)
def quick_retries(monkeypatch):
    monkeypatch.setattr(apply_module, "FIRST_RETRY", 0.001)


def test_an_infrastructure_failure_is_retried_and_changes_nothing(database, monkeypatch):
    """After the rollback neither rows nor sessions remember the attempt; then each entry is applied once."""
    machine = DatabaseStateMachine("default")
    log = opened()
    log.add(commands.add_item, name="nail", stock=9)
    log.add(commands.take, name="nail", quantity=1)
    seen = []
    monkeypatch.setattr(run_module, "write_applied", Failing(run_module.write_applied, unavailable(), times=3))
    monkeypatch.setattr(
        machine._stopping, "wait", lambda delay: seen.append((machine.healthy, machine.last_error, dump()))
    )
    outcomes = apply_all(machine, log.payloads)
    assert [told(outcome) for outcome in outcomes[1:]] == [4, 8]
    assert len(seen) == 3
    for healthy, error, content in seen:
        assert not healthy
        assert error == "entries 1-5: OperationalError: disk I/O error"
        assert content["warehouse_item"] == content["raftlog_sessionresult"] == []
    assert machine.healthy
    assert machine.last_error == ""
    assert Item.objects.get().stock == 8


def test_a_commit_that_went_through_though_it_failed_is_not_repeated(database, monkeypatch):
    machine = DatabaseStateMachine("default")
    log = opened()
    apply_all(machine, log.payloads)
    monkeypatch.setattr(
        connections["default"], "commit", Failing(connections["default"].commit, unavailable("gone"), after=True)
    )
    del log.payloads[:]
    log.add(commands.add_item, name="nail", stock=9)
    take = log.add(commands.take, name="nail", quantity=1)
    outcomes = apply_all(machine, [*log.payloads, take])
    assert [told(outcome) for outcome in outcomes] == [4, 8, 8]
    assert Item.objects.get().stock == 8
    assert machine.healthy


def test_a_commit_that_did_not_go_through_is_repeated(database, monkeypatch):
    machine = DatabaseStateMachine("default")
    log = opened()
    log.add(commands.add_item, name="nail", stock=9)
    monkeypatch.setattr(connections["default"], "commit", Failing(connections["default"].commit, unavailable("gone")))
    assert told(apply_all(machine, log.payloads)[1]) == 4


def test_an_infrastructure_failure_that_a_command_swallows_is_still_one(database, monkeypatch):
    """Else its outcome would differ from that of a node whose database was well."""
    machine = DatabaseStateMachine("default")
    attempts = []

    def careless(ctx):
        attempts.append(ctx.index)
        try:
            with transaction.atomic(), connection.cursor() as cursor:
                cursor.execute("SELECT 1 FROM no_such_table" if len(attempts) < 3 else "SELECT 1")
        except Exception:  # noqa: BLE001
            return "swallowed"
        return "well"

    known = Registry()
    command = Command(careless, name="careless")
    known.add(command)
    machine = DatabaseStateMachine("default", commands=known)
    log = opened()
    log.add(command)
    assert told(apply_all(machine, log.payloads)[1]) == "well"
    assert attempts == [4, 4, 4]


def test_a_locked_database_is_waited_for(sqlite, monkeypatch):
    monkeypatch.setattr(foreign_keys, "BUSY_TIMEOUT_MS", 1)
    machine = DatabaseStateMachine("default")
    log = opened()
    log.add(commands.add_item, name="nail")
    holder = sqlite3.connect(connection.settings_dict["NAME"], isolation_level=None)
    holder.execute("PRAGMA journal_mode = WAL")
    holder.execute("BEGIN IMMEDIATE")
    errors = []

    def wait(delay):
        errors.append(machine.last_error)
        if len(errors) == 2:
            holder.execute("ROLLBACK")

    monkeypatch.setattr(machine._stopping, "wait", wait)
    assert told(apply_all(machine, log.payloads)[1]) == 4
    assert errors == ["entries 1-4: OperationalError: database is locked"] * 2
    holder.close()


def test_stop_ends_the_waiting(sqlite, monkeypatch):
    monkeypatch.setattr(run_module, "write_applied", Failing(run_module.write_applied, unavailable(), times=10**9))
    machine = DatabaseStateMachine("default")
    raised = []

    def run():
        try:
            apply_all(machine, opened().payloads)
        except ApplyStopped as error:
            raised.append(str(error))
        finally:
            machine.close()

    thread = threading.Thread(target=run)
    thread.start()
    machine.stop()
    thread.join(10)
    assert raised == ["stopped while the database was unavailable; entries 1-3: OperationalError: disk I/O error"]


# Around the commit


def test_hooks_and_effects_run_after_the_commit_and_cannot_fail_it(database, caplog):
    seen = []

    def effects(ctx, *, fails: bool):
        ctx.on_leader(lambda: seen.append(("leader", ctx.index, is_applying())))
        transaction.on_commit(lambda: seen.append(("hook", ctx.index, is_applying())))
        transaction.on_commit(lambda: 1 / 0)
        Item.objects.create(id=ctx.index, name=f"item {ctx.index}")
        seen.append(("command", ctx.index, is_applying()))
        if fails:
            raise ValueError("undone")

    known = Registry()
    command = Command(effects, name="effects")
    known.add(command)
    leads = [True]
    machine = DatabaseStateMachine("default", commands=known, is_leader=lambda: leads[0])
    log = opened()
    log.add(command, fails=False)
    apply_all(machine, log.payloads)
    assert seen == [("command", 4, True), ("hook", 4, True), ("leader", 4, True)]
    assert "an on_commit hook of entries up to 4 failed" in caplog.text
    del seen[:], log.payloads[:]

    log.add(command, fails=True)
    apply_all(machine, log.payloads)
    assert {what for what, *_ in seen} == {"command"}
    del seen[:], log.payloads[:]

    leads[0] = False
    log.add(command, fails=False)
    apply_all(machine, log.payloads)
    assert ("hook", 6, True) in seen
    assert not [what for what, *_ in seen if what == "leader"]
    assert not is_applying()


def test_entry_applied_is_sent_for_each_command_after_the_commit(sqlite, caplog):
    sent = []

    def receive(sender, index, command, status, **kwargs):
        sent.append((index, command, status, connection.in_atomic_block))
        raise RuntimeError("a careless receiver")

    signals.entry_applied.connect(receive)
    try:
        log = opened()
        log.add(commands.add_item, name="nail")
        log.add(commands.fail, kind="value")
        apply_all(DatabaseStateMachine("default"), log.payloads)
    finally:
        signals.entry_applied.disconnect(receive)
    assert sent == [(4, "warehouse.add_item", APPLIED, False), (5, "warehouse.fail", FAILED, False)]
    assert "entry_applied receiver" in caplog.text


def test_the_context_follows_from_the_entry_alone(database):
    """The same on another node, whatever the batches; different from entry to entry; never going back."""
    log = opened()
    for _ in range(3):
        log.add(commands.draw)
    together = [told(o) for o in apply_all(DatabaseStateMachine("default"), log.payloads)[1:]]
    assert [drawn["index"] for drawn in together] == [4, 5, 6]
    assert together[0]["now"].timestamp() * 1e6 == START
    assert len({drawn["uuid"] for drawn in together}) == len({tuple(drawn["numbers"]) for drawn in together}) == 3
    assert str(together[0]["uuid"]) == UUID
    assert together[0]["uuid"].version == 4
