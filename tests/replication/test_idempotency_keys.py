"""Commands with an idempotency key: done once for each key, whoever proposes them; keys expire, and are bounded."""

import asyncio

import msgspec
import pytest
from django.db import connection

import raftlog
from raftlog import signals
from raftlog.consensus.entries import COMMAND, client_payload
from raftlog.exceptions import IdempotencyKeyReused, InvalidArguments, OutcomeUnknown
from raftlog.models import IdempotencyKey
from raftlog.replication import codec, idempotency, propose
from raftlog.replication.apply import DatabaseStateMachine
from raftlog.replication.client_session import ClientSession
from raftlog.replication.describe import describe
from raftlog.replication.keyed import IdempotencyName, numbered_keys
from raftlog.runtime import abilities
from tests.replication.log import SESSION, START, LogWriter, apply_all, batch, opened, told
from tests.replication.test_propose import is_command, nails, node, stock  # noqa: F401  (node, nails: fixtures)
from tests.replication.warehouse import commands
from tests.replication.warehouse.models import Item

KEY = IdempotencyName("", "k")


@pytest.fixture
def table(request):
    """Made by a migration, elsewhere."""
    name = next(name for name in ("nails", "database") if name in request.fixturenames)
    request.getfixturevalue(name)
    with connection.schema_editor() as editor:
        editor.create_model(IdempotencyKey)


def take(quantity=3, key="k", **options):
    return commands.take.with_options(idempotency_key=key, **options).propose(name="nail", quantity=quantity)


def another_process():
    """A session of its own, as of another process or host."""
    propose._process.session = ClientSession(propose._process.current().proposer)


def test_a_repeat_of_another_process_gets_the_recorded_result_and_is_not_run(nails, table):  # noqa: F811
    assert take() == 97
    another_process()
    assert take() == 97
    assert asyncio.run(commands.take.with_options(idempotency_key="k").apropose(name="nail", quantity=3)) == 97
    assert stock() == 97
    assert take(key="other") == 94
    assert take(idempotency_scope="ann") == 91


def test_a_key_stands_for_what_was_asked_and_for_nothing_else(nails, table):  # noqa: F811
    take()
    with pytest.raises(IdempotencyKeyReused, match="'k' was used for something else"):
        take(quantity=4)
    with pytest.raises(raftlog.IdempotencyKeyReused):
        commands.take_blindly.with_options(idempotency_key="k").propose(name="nail", quantity=3)
    assert stock() == 97


def test_what_failed_is_not_recorded_and_may_be_tried_again(nails, table):  # noqa: F811
    with pytest.raises(commands.OutOfStock):
        take(quantity=1000)
    Item.objects.update(stock=2000)
    assert take(quantity=1000) == 1000
    assert take(quantity=1000) == 1000


def test_an_answer_that_was_lost_is_found_by_the_key(nails, table):  # noqa: F811
    nails.lose_answer = is_command
    with pytest.raises(OutcomeUnknown):
        take(timeout=0.05)
    nails.settle()
    assert raftlog.outcome(key="k") == 97
    assert asyncio.run(raftlog.aoutcome(key="k", timeout=1)) == 97
    with pytest.raises(OutcomeUnknown, match="with key 'other'"):
        raftlog.outcome(key="other")
    with pytest.raises(ValueError, match="and not both"):
        raftlog.outcome("x:1", key="k")
    nails.lose_answer = lambda payloads: False
    another_process()
    assert take() == 97
    assert stock() == 97


@pytest.mark.parametrize("key", ["x" * 201, "a\n", "\x00", "\ud800", 7])
def test_a_key_that_cannot_be_one_is_refused_before_anything_is_proposed(nails, key):  # noqa: F811
    proposed = len(nails.proposed)
    with pytest.raises(InvalidArguments, match="1 to 200 printable characters"):
        take(key=key)
    assert len(nails.proposed) == proposed


def test_commands_of_one_request_get_keys_in_their_order(nails, table):  # noqa: F811
    def request():
        with numbered_keys("ann", "r"):
            return [
                commands.take.propose(name="nail", quantity=1),
                take(key="own", quantity=2),
                commands.take.propose(name="nail", quantity=3),
            ]

    assert request() == request() == [99, 97, 94]
    assert stock() == 94
    assert set(IdempotencyKey.objects.values_list("scope", "key")) == {("ann", "r/1"), ("ann", "r/2"), ("", "own")}
    assert commands.take.propose(name="nail", quantity=1) == 93


# The log


def log_of(*keys, quantity=1):
    log = opened()
    log.add(commands.add_item, name="nail", stock=100)
    for key in keys:
        log.add(commands.take, key=key, name="nail", quantity=quantity)
    return log


def test_repeats_in_one_batch_or_many_end_alike(database, table):
    log = log_of(KEY, KEY, IdempotencyName("", "l"), KEY)
    other = LogWriter(bytes(16)).open()
    other.add(commands.take, key=KEY, name="nail", quantity=1)
    log.payloads += other.payloads
    machine = DatabaseStateMachine("default")
    for sizes in ([], [1] * 9, [5, 1]):
        outcomes = apply_all(machine, log.payloads, sizes)[2:]
        assert [told(outcome) for outcome in outcomes if outcome.index != 9] == [99, 99, 98, 99, 99]
        assert stock() == 98
        IdempotencyKey.objects.all().delete()
        Item.objects.all().delete()
        machine.close()
        with connection.cursor() as cursor:
            cursor.execute("DELETE FROM raftlog_sessionresult")
            cursor.execute("DELETE FROM raftlog_clientsession")
            cursor.execute("DELETE FROM raftlog_appliedindex")
        machine = DatabaseStateMachine("default")
    machine.close()


def test_a_repeat_says_which_entry_had_the_effect_and_is_not_signalled(database, table):
    told_of = []

    def hear(**kwargs):
        told_of.append(kwargs["index"])

    signals.entry_applied.connect(hear)
    try:
        outcomes = apply_all(DatabaseStateMachine("default"), log_of(KEY, KEY).payloads)
    finally:
        signals.entry_applied.disconnect(hear)
    assert [outcome.index for outcome in outcomes[1:]] == [4, 5, 5]
    assert told_of == [4, 5]


def test_a_key_expires_by_log_time(database, table):
    machine = DatabaseStateMachine("default")
    apply_all(machine, log_of(KEY).payloads)
    other = LogWriter(bytes(16)).open()
    other.add(commands.take, key=KEY, name="nail", quantity=1)
    outcomes = apply_all(machine, other.payloads, log_time=START + idempotency.KEY_TTL + 1)
    assert told(outcomes[-1]) == 98
    assert IdempotencyKey.objects.get().log_time == START + idempotency.KEY_TTL + 1
    machine.close()


def test_keys_that_have_expired_or_are_too_many_are_removed(database, table, monkeypatch):
    monkeypatch.setattr(idempotency, "FORGET_EVERY", 1)
    monkeypatch.setattr(idempotency, "MAX_KEYS", 3)
    machine = DatabaseStateMachine("default")
    apply_all(machine, log_of(IdempotencyName("", "first")).payloads)
    log = LogWriter(bytes(16)).open()
    for number in range(5):
        log.add(commands.take, key=IdempotencyName("", f"k{number}"), name="nail", quantity=1)
    for number, payload in enumerate(log.payloads):
        apply_all(machine, [payload], log_time=START + number)
    assert set(IdempotencyKey.objects.values_list("key", flat=True)) == {"k2", "k3", "k4"}
    log = LogWriter(bytes(15) + b"1").open()
    log.add(commands.take, key=KEY, name="nail", quantity=1)
    apply_all(machine, log.payloads, log_time=START + idempotency.KEY_TTL + 1000)
    assert IdempotencyKey.objects.get().key == "k"
    machine.close()


def test_keys_are_captured_with_what_was_done_under_them(replicated_sqlite):
    """So they are in the sums that nodes compare, and transactions are certified against them."""
    seen = []
    for _ in range(2):
        with replicated_sqlite():
            with connection.schema_editor() as editor:
                editor.create_model(IdempotencyKey)
            machine = DatabaseStateMachine("default")
            apply_all(machine, log_of(KEY, KEY).payloads)
            with connection.cursor() as cursor:
                cursor.execute("SELECT name, changed FROM raftlog_tables WHERE name LIKE 'raftlog%'")
                seen.append((cursor.fetchall(), machine._applied.fingerprint))
            machine.close()
    assert seen[0] == seen[1]
    assert seen[0][0] == [("raftlog_idempotencykey", 5)]


def test_without_the_table_a_keyed_command_fails_alike_everywhere(replicated_sqlite):
    with replicated_sqlite():
        machine = DatabaseStateMachine("default")
        outcomes = apply_all(machine, log_of(KEY).payloads)
        assert told(outcomes[-1])[:2] == ("failed", "LookupError")
        assert "manage.py migrate" in told(outcomes[-1])[2]
        machine.close()


# What older code makes of it


def test_entries_without_a_key_are_as_they_always_were():
    body = commands.take.encode({"name": "nail", "quantity": 1}, 1000)
    assert msgspec.msgpack.decode(body) == ["warehouse.take", 1, {"name": "nail", "quantity": 1}]
    assert codec.decode_body(body).keyed is None


def test_a_version_that_knows_no_keys_refuses_an_entry_that_has_one():
    body = commands.take.encode({"name": "nail", "quantity": 1}, 1000, KEY)
    with pytest.raises(msgspec.ValidationError):
        msgspec.msgpack.Decoder(tuple[str, int, msgspec.Raw]).decode(body)


def test_the_digest_is_the_same_for_equal_arguments():
    assert codec.digest({"a": 1, "b": {"d": 2, "c": 3}}) == codec.digest({"b": {"c": 3, "d": 2}, "a": 1})
    assert codec.digest({"a": 1}) != codec.digest({"a": "1"})


def test_the_log_shows_the_key():
    payload = client_payload(COMMAND, SESSION, 1, 0, commands.take.encode({"name": "n", "quantity": 1}, 1000, KEY))
    (shown,) = describe(batch([payload], 7), lambda name: None)
    assert (shown["command"], shown["idempotency_scope"], shown["idempotency_key"]) == ("warehouse.take", "", "k")


def test_nodes_say_that_they_heed_keys():
    from raftlog.node import known_commands

    name, version = abilities.IDEMPOTENCY_KEYS
    assert known_commands()[name] == [version]
