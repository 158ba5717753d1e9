"""`raftlog.idempotent`: a transaction is done once for each key, on whatever host and vendor, however it ends."""

import contextvars

import pytest
from django.core.management import call_command
from django.db import OperationalError, connections, transaction

import raftlog
from raftlog.backends import idempotent as idempotent_module
from raftlog.backends.exceptions import TransactionConflict, TransactionOutcomeUnknown
from raftlog.exceptions import IdempotencyKeyReused, InsideTransaction, InvalidArguments
from raftlog.models import IdempotencyKey
from raftlog.replication import idempotency, propose
from raftlog.replication.context import CommandContext, applying
from raftlog.replication.written import Written
from tests.backends import cluster as sqlite_cluster
from tests.backends import postgresql
from tests.backends.test_cluster import Thing, things


class Hosts:
    """Two hosts of one cluster, and the one on which the application runs now."""

    def __init__(self, cluster, monkeypatch):
        self.cluster = cluster
        self.all = cluster.hosts
        self._monkeypatch = monkeypatch
        self.on(0)

    def on(self, number):
        host = self.all[number]
        limits = propose.Limits(host.name, 1.0, 1 << 20)
        self._monkeypatch.setattr(propose, "limits", lambda: limits)
        return host

    @property
    def here(self):
        return next(host for host in self.all if host.name == propose.limits().alias)

    def names(self):
        return sorted(things(self.here).values_list("name", flat=True))

    def keys(self):
        return sorted(IdempotencyKey.objects.using(self.here.name).values_list("key", flat=True))


@pytest.fixture(params=["sqlite", "postgresql"])
def hosts(request, tmp_path, django_db_blocker, monkeypatch):
    with django_db_blocker.unblock():
        made = sqlite_cluster.Cluster(tmp_path, 2) if request.param == "sqlite" else postgresql.Cluster(2)
        try:
            with made.hosts[0].connection.schema_editor() as editor:
                editor.create_model(Thing)
                editor.create_model(IdempotencyKey)
            made.assert_equal()
            yield Hosts(made, monkeypatch)
            made.assert_equal()
        finally:
            made.close()


def add(hosts, key="k", name="one", **options):
    with raftlog.idempotent(key, asked=name, **options) as request:
        if not request.is_repeat:
            request.result = ("made", things(hosts.here).create(name=name).name)
    return request


def test_a_repeat_finds_the_recorded_result_and_changes_nothing(hosts):
    first = add(hosts)
    entries = len(hosts.cluster.entries)
    again = add(hosts)
    assert (first.is_repeat, again.is_repeat) == (False, True)
    assert first.result == again.result == ["made", "one"]
    hosts.on(1).catch_up()
    assert add(hosts).is_repeat
    assert len(hosts.cluster.entries) == entries
    assert hosts.names() == ["one"]
    assert raftlog.outcome(key="k") == ["made", "one"]
    assert not add(hosts, scope="ann", name="two").is_repeat


def test_who_repeats_counts_as_having_written(hosts, monkeypatch):
    """Another host must show what was done, also to whoever has only heard the repeat."""
    add(hosts)
    monkeypatch.setattr(idempotent_module, "position", lambda alias: (7, 0))
    with Written() as written:
        assert add(hosts).is_repeat
    assert written.index == 7


def test_what_a_repeat_writes_without_asking_is_rolled_back(hosts):
    for number in range(2):
        with raftlog.idempotent("k") as request:
            things(hosts.here).create(name=f"thing {number}")
            request.result = number
        assert request.result == 0
    assert hosts.names() == ["thing 0"]


def test_two_at_once_are_done_once_and_give_one_result(hosts):
    """The second has looked for the key before the first was there."""
    with raftlog.idempotent("k", asked="one") as second:
        mine = things(hosts.here).create(name="mine")
        second.result = mine.name
        hosts.on(1).catch_up()
        add(hosts)
        hosts.on(0)
    assert second.is_repeat
    assert second.result == ["made", "one"]
    assert hosts.names() == ["one"]


def test_what_is_done_is_done_though_expired_keys_cannot_be_removed(hosts, monkeypatch):
    def locked(alias, log_time):
        raise OperationalError("database is locked")

    monkeypatch.setattr(idempotency, "FORGET_EVERY", 1)
    monkeypatch.setattr(idempotency, "expired", locked)
    assert add(hosts).result == ["made", "one"]
    assert hosts.names() == ["one"]


def test_different_keys_do_not_conflict(hosts):
    with raftlog.idempotent("k") as request:
        request.result = things(hosts.here).create(name="one").name
        hosts.on(1).catch_up()
        add(hosts, key="l", name="two")
        hosts.on(0)
    assert not request.is_repeat
    hosts.here.catch_up()
    assert hosts.names() == ["one", "two"]


def test_inside_an_open_transaction_the_conflict_is_the_outer_ones(hosts):
    alias = hosts.here.name

    def outer(elsewhere):
        with transaction.atomic(using=alias):
            things(hosts.all[0]).create(name="outer")
            with raftlog.idempotent("k", asked="one") as request:
                if not request.is_repeat:
                    request.result = ("made", things(hosts.all[0]).create(name="inner").name)
                if elsewhere:
                    hosts.on(1).catch_up()
                    add(hosts)
                    hosts.on(0)
        return request

    with pytest.raises(TransactionConflict):
        outer(elsewhere=True)
    assert hosts.names() == ["one"]
    assert outer(elsewhere=False).is_repeat
    assert hosts.names() == ["one", "outer"]


def test_a_savepoint_that_repeats_takes_nothing_of_the_outer_transaction_with_it(hosts):
    add(hosts)
    with transaction.atomic(using=hosts.here.name):
        things(hosts.here).create(name="outer")
        with raftlog.idempotent("k", asked="one") as request:
            things(hosts.here).create(name="inner")
    assert request.result == ["made", "one"]
    assert hosts.names() == ["one", "outer"]


def test_a_key_stands_for_what_was_asked_and_for_nothing_else(hosts):
    add(hosts)
    with pytest.raises(IdempotencyKeyReused):
        add(hosts, name="two")
    assert hosts.names() == ["one"]


def test_what_fails_or_is_discarded_records_nothing(hosts):
    def fail():
        with raftlog.idempotent("k", asked="one"):
            things(hosts.here).create(name="lost")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    with raftlog.idempotent("k", asked="one") as request:
        things(hosts.here).create(name="lost")
        request.discard()
    assert hosts.keys() == hosts.names() == []
    assert not add(hosts).is_repeat


def test_a_commit_without_an_answer_is_found_by_its_key(hosts, monkeypatch):
    host = hosts.here
    commit = type(host).commit

    def lose_answer(self, *arguments):
        commit(self, *arguments)
        raise TransactionOutcomeUnknown("no answer", "id")

    monkeypatch.setattr(type(host), "commit", lose_answer)
    with pytest.raises(raftlog.OutcomeUnknown):
        add(hosts)
    monkeypatch.setattr(type(host), "commit", commit)
    assert add(hosts).is_repeat
    assert hosts.names() == ["one"]


def test_the_decorator_calls_the_function_once_for_each_key(hosts):
    calls = []

    @raftlog.idempotent(lambda number, name: number)
    def buy(number, name):
        """Buys."""
        calls.append(name)
        return things(hosts.here).create(name=name).name

    assert [buy("n1", "one"), buy("n1", name="one"), buy("n2", "two")] == ["one", "one", "two"]
    assert hosts.names() == ["one", "two"]
    assert buy.__doc__ == "Buys."
    with pytest.raises(IdempotencyKeyReused):
        buy("n1", "other")
    with transaction.atomic(using=hosts.here.name):
        assert buy("n1", "one") == "one"
    assert calls == ["one", "two"]


def test_the_decorator_runs_the_function_again_after_a_conflict(hosts, monkeypatch):
    things(hosts.here).create(name="hot", rank=0)
    hosts.all[1].catch_up()
    calls = []

    @raftlog.idempotent("k")
    def bump():
        calls.append(1)
        found = things(hosts.here).get(name="hot")
        if len(calls) == 1:
            # Not a part of this work, as far as it is asked what it has done.
            contextvars.Context().run(things(hosts.all[1]).filter(name="hot").update, rank=5)
        found.rank += 1
        found.save(using=hosts.here.name)
        return found.rank

    assert bump() == bump() == 6
    assert len(calls) == 2


def test_misuse_is_told(hosts):
    with pytest.raises(TypeError, match="for the decorator"), raftlog.idempotent(lambda: "k"):
        pass
    block = raftlog.idempotent("k")
    with block:
        pass
    with pytest.raises(TypeError, match="of its own"), block:
        pass
    with pytest.raises(InvalidArguments, match="printable"), raftlog.idempotent(""):
        pass
    with pytest.raises(InvalidArguments, match="cannot be replicated"), raftlog.idempotent("l") as request:
        request.result = object()
    with pytest.raises(InvalidArguments, match="limit is 1048576"), raftlog.idempotent("l") as request:
        request.result = "x" * (1 << 20)
    with pytest.raises(TypeError, match="coroutine"):

        @raftlog.idempotent("k")
        async def never():
            """It cannot be."""

    applying.command = CommandContext()
    try:
        with pytest.raises(InsideTransaction, match="idempotency_key"), raftlog.idempotent("k"):
            pass
    finally:
        applying.command = None


def test_keys_expire_and_are_removed_by_a_transaction(hosts, monkeypatch):
    now = [1_000_000]
    monkeypatch.setattr(idempotent_module, "log_time", lambda alias: now[0])
    monkeypatch.setattr(idempotency, "FORGET_EVERY", 1)
    add(hosts)
    add(hosts, key="l", name="two")
    now[0] += idempotency.KEY_TTL + 1
    assert not add(hosts, name="three").is_repeat
    assert hosts.keys() == ["k"]
    assert hosts.names() == ["one", "three", "two"]


def test_a_stock_project_gets_the_table_by_migrating(make_database):
    database = make_database()
    call_command("migrate", "raftlog", database=database.connection.alias, verbosity=0)
    assert IdempotencyKey._meta.db_table in connections[database.connection.alias].introspection.table_names()
    database.assert_equal()
