"""The cache: what each operation does, alone, in batches, in transactions and inside commands."""

import asyncio
import pickle
import threading

import pytest
from django.core.cache import caches
from django.core.cache.backends.base import InvalidCacheKey
from django.core.exceptions import ImproperlyConfigured
from django.db import DatabaseError, connection, transaction
from django.test import override_settings
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import raftlog
from raftlog.consensus.entries import COMMAND
from raftlog.contrib import cache as public
from raftlog.contrib.cache import backend, pending
from raftlog.contrib.cache.backend import RaftlogCache
from raftlog.contrib.cache.commands import MISSING, NO_INTEGER, OVERFLOW, write
from raftlog.contrib.cache.models import Entry, Size
from raftlog.contrib.cache.writer import writer
from raftlog.contrib.ratelimit.commands import take
from raftlog.contrib.ratelimit.models import Bucket
from raftlog.exceptions import InsideTransaction, NoLeader, NotProposed, PayloadTooLarge
from raftlog.replication import context
from raftlog.replication.context import CommandContext
from tests.contrib.databases import inline, make_tables, node, stock_file  # noqa: F401
from tests.replication.conftest import postgresql_database, sqlite_database

BACKEND = {"BACKEND": "raftlog.contrib.cache.RaftlogCache"}


@pytest.fixture
def cache(node):  # noqa: F811
    make_tables(Entry, Size)
    node.log_time = backend.clock.wall_microseconds()
    both = {"default": {**BACKEND, "LOCATION": "here"}, "other": {**BACKEND, "LOCATION": "there"}}
    with override_settings(CACHES=both):
        found = caches["default"]
        found.node = node
        yield found


def commands(node):  # noqa: F811
    return [payload for payload in node.proposed if payload[0] == COMMAND]


def test_what_is_set_is_found_with_its_type(cache):
    values = {
        "text": "é",
        "bytes": b"\0\xff",
        "int": 7,
        "bool": True,
        "large": 2**80,
        "none": None,
        "list": [{1: (2,)}],
    }
    assert cache.set_many(values) == []
    assert cache.get_many([*values, "absent"]) == values
    assert [type(cache.get(key)) for key in values] == [type(value) for value in values.values()]
    assert cache.get("absent", "default") == "default"
    assert len(commands(cache.node)) == 1


def test_add_is_won_by_the_first(cache):
    assert [cache.add("key", 1), cache.add("key", 2), cache.get("key")] == [True, False, 1]


def test_incr_counts_and_keeps_the_time_to_live(cache):
    cache.set("n", 5, timeout=100)
    expires_at = Entry.objects.get().expires_at
    cache.node.log_time += 1_000_000
    assert [cache.incr("n"), cache.incr("n", 10), cache.decr("n", 2), cache.get("n")] == [6, 16, 14, 14]
    assert Entry.objects.get().expires_at == expires_at
    with pytest.raises(ValueError, match="'absent' not found"):
        cache.incr("absent")
    cache.set_many({"text": "x", "bool": True, "huge": 2**63 - 1})
    for key in ("text", "bool"):
        with pytest.raises(TypeError, match="no int"):
            cache.incr(key)
    with pytest.raises(OverflowError, match="64 bits"):
        cache.incr("huge")
    with pytest.raises(TypeError, match=r"delta is 1\.5"):
        cache.incr("n", 1.5)


def test_time_to_live_is_decided_by_log_time_and_reads_go_by_the_local_clock(cache, monkeypatch):
    cache.set("key", "old", timeout=10)
    monkeypatch.setattr(backend.clock, "wall_microseconds", lambda: cache.node.log_time + 11_000_000)
    assert cache.get("key") is None  # this host's clock is ahead
    assert cache.add("key", "new") is False  # the log's decides
    cache.node.log_time += 10_000_000
    assert cache.add("key", "new") is True
    assert cache.get("key") == "new"


def test_touch_and_delete_say_whether_it_was_there(cache):
    cache.set("key", "value", timeout=10)
    assert cache.touch("key", 100) is True
    assert Entry.objects.get().expires_at == cache.node.log_time + 100_000_000
    assert cache.get("key") == "value"
    assert cache.touch("key", None) is True
    assert Entry.objects.get().expires_at is None
    assert [cache.touch("absent"), cache.delete("absent"), cache.delete("key"), cache.delete("key")] == [
        False,
        False,
        True,
        False,
    ]
    cache.set("key", "value")
    assert cache.touch("key", 0) is True
    assert cache.get("key") is None


def test_locations_are_apart(cache):
    other = caches["other"]
    cache.set("key", 1)
    other.set("key", 2)
    assert [cache.get("key"), other.get("key")] == [1, 2]
    cache.clear()
    assert [cache.get("key"), other.get("key")] == [None, 2]
    assert list(Size.objects.order_by("pk").values_list("pk", "entries")) == [("here", 0), ("there", 1)]


def test_many_keys_go_into_several_entries_only_where_they_must(cache):
    cache._max_entries = 10_000
    cache.set_many({f"k{n}": n for n in range(pending.CHUNK_KEYS + 1)})
    assert len(commands(cache.node)) == 2
    cache.set_many({"a": b"x" * 200_000, "b": b"x" * 200_000})
    assert len(commands(cache.node)) == 4
    cache.delete_many(["a", "b"])
    assert len(commands(cache.node)) == 5
    assert len(cache.get_many([f"k{n}" for n in range(pending.CHUNK_KEYS + 1)])) == pending.CHUNK_KEYS + 1


def test_culling_takes_what_has_expired_first_then_what_was_written_longest_ago(cache):
    cache._max_entries = 6
    cache.set("short", 0, timeout=1)
    for n in range(5):
        cache.set(f"k{n}", n)
    cache.node.log_time += 2_000_000
    cache.set("k5", 5)
    assert sorted(Entry.objects.values_list("number", flat=True)) == [0, 1, 2, 3, 4, 5]
    cache.set("k0", 0)  # written anew, so not among the oldest
    cache.set("k6", 6)
    assert sorted(Entry.objects.values_list("number", flat=True)) == [0, 3, 4, 5, 6]
    assert Size.objects.get().entries == 5
    cache._cull_frequency = 0
    cache.set_many({"k7": 7, "k8": 8})
    assert sorted(Entry.objects.values_list("number", flat=True)) == [7, 8]


def test_a_count_that_is_wrong_is_corrected_when_it_matters(cache):
    cache._max_entries = 3
    cache.set_many({"a": 1, "b": 2, "c": 3})
    Entry.objects.filter(number=1).delete()
    cache.set("d", 4)
    assert Size.objects.get().entries == 3
    assert cache.get_many("abcd") == {"b": 2, "c": 3, "d": 4}


# In transactions


def test_writes_of_a_transaction_wait_for_its_commit_and_are_seen_by_it_alone(cache):
    cache.set_many({"a": 1, "b": 2, "c": 3})
    before = len(commands(cache.node))
    with transaction.atomic():
        cache.set("a", 10)
        assert cache.delete("b") is True
        assert cache.delete("b") is False
        assert cache.touch("c", 50) is True
        cache.set_many({"d": 4, "e": 5}, timeout=0)
        assert cache.get_or_set("f", lambda: 6) == 6
        assert cache.get_many("abcdef") == {"a": 10, "c": 3, "f": 6}
        assert len(commands(cache.node)) == before
        with connection.cursor() as cursor:
            cursor.execute("SELECT number FROM raftlog_cache_entry WHERE name LIKE %s", ["%a"])
            assert cursor.fetchone() == (1,)
    assert len(commands(cache.node)) == before + 1
    assert cache.get_many("abcdef") == {"a": 10, "c": 3, "f": 6}


def test_a_transaction_may_write_more_than_one_entry_holds(cache):
    with transaction.atomic():
        cache.clear()
        for key in "abcdef":
            cache.set(key, b"x" * 200_000)
    assert cache.get_many("abcdef") == dict.fromkeys("abcdef", b"x" * 200_000)
    assert len(commands(cache.node)) == 6


def test_what_is_rolled_back_is_not_written(cache):
    cache.set("a", 1)
    with transaction.atomic():
        cache.set("a", 2)
        with pytest.raises(ZeroDivisionError), transaction.atomic():  # noqa: PT012
            cache.clear()
            cache.set("b", 1)
            assert cache.get_many("ab") == {"b": 1}
            raise ZeroDivisionError
        assert cache.get_many("ab") == {"a": 2}
        cache.set("c", 3)
    assert cache.get_many("abc") == {"a": 2, "c": 3}
    with pytest.raises(ZeroDivisionError), transaction.atomic():  # noqa: PT012
        cache.clear()
        raise ZeroDivisionError
    assert cache.get_many("abc") == {"a": 2, "c": 3}


def test_add_and_incr_are_refused_in_a_transaction(cache):
    with transaction.atomic():
        with pytest.raises(InsideTransaction, match=r"cache\.add\('a'\) inside an open transaction: its answer"):
            cache.add("a", 1)
        with pytest.raises(InsideTransaction, match=r"cache\.incr\('a'\)"):
            cache.decr("a")


def test_a_commit_stands_though_the_cache_could_not_be_written(cache, caplog):
    cache.node.refuse = lambda payloads: "NoLeader"
    with transaction.atomic():
        cache.set("a", 1)
    (record,) = [record for record in caplog.records if record.name == "raftlog.cache"]
    assert record.levelname == "ERROR"
    assert "here: not written after a commit: :1:a" in record.getMessage()
    with pytest.raises(NoLeader):
        cache.set("a", 1)
    cache.node.refuse = lambda payloads: ""
    assert cache.get("a") is None


def test_on_the_replicated_backend_a_read_counts_for_its_key_only(inline):  # noqa: F811
    make_tables(Entry, Size)
    with override_settings(CACHES={"default": {**BACKEND, "LOCATION": "here"}}), transaction.atomic():
        caches["default"].get("a")
        caches["default"].get_many(["b", "c"])
        read = connection.connection.control.observed
        with connection.connection.control._internal():  # as a commit does it
            read.settle()
        assert read.tables == set()
        assert {key for table, key in read.rows} == {("here::1:a",), ("here::1:b",), ("here::1:c",)}


def test_in_tests_of_ones_own_project_everything_applies_at_once(raft_inline):
    with override_settings(CACHES={"default": BACKEND}):
        cache = caches["default"]
        cache.set("a", 1)
        assert [cache.incr("a"), cache.add("a", 5), cache.add("b", [6])] == [2, False, True]
        with transaction.atomic():
            cache.set("a", 10)
            with pytest.raises(InsideTransaction):
                cache.incr("a")
        assert cache.get_many("ab") == {"a": 10, "b": [6]}  # seen, though a test's commit never comes
        assert [entry.command for entry in raft_inline.entries] == ["raftlog_cache.write"] * 4
        assert raftlog.ratelimit("x", "1/m")
        assert not raftlog.ratelimit("x", "1/m")


# In commands


def test_a_command_forgets_keys_by_calling_and_cannot_write_otherwise(cache, monkeypatch):
    cache.set_many({"a": 1, "b": 2})
    assert public.delete_in_command(CommandContext(index=50), "a", "absent") == 1
    assert cache.get_many("ab") == {"b": 2}
    monkeypatch.setattr(context.applying, "command", CommandContext(), raising=False)
    with pytest.raises(InsideTransaction, match="delete_in_command"):
        cache.set("a", 1)
    with pytest.raises(InsideTransaction, match="inside a command"):
        cache.incr("b")
    with pytest.raises(InsideTransaction):
        cache.get_or_set("c", 1)
    monkeypatch.undo()
    with (
        override_settings(CACHES={"default": {"BACKEND": "django.core.cache.backends.dummy.DummyCache"}}),
        pytest.raises(TypeError, match="no RaftlogCache"),
    ):
        public.delete_in_command(CommandContext(), "a")


# What is not as it should be


def test_errors_name_what_is_wrong(cache):
    with pytest.raises(PayloadTooLarge, match=r"raftlog_cache\.write: the arguments take"):
        cache.set("key", b"x" * (1 << 20))
    with pytest.raises(InvalidCacheKey, match="may have 500"), pytest.warns(match="memcached"):
        cache.set("x" * 500, 1)
    with pytest.raises(ImproperlyConfigured, match="LOCATION is 'a:b'"):
        RaftlogCache("a:b", {})
    with pytest.raises(ImproperlyConfigured, match=r"SERIALIZER.*dumps"):
        RaftlogCache("a", {"OPTIONS": {"SERIALIZER": 3}})
    cache.node.unavailable = True
    with pytest.raises(NotProposed):
        cache.set("key", 1)
    assert cache.get("key") is None


def test_another_serializer(cache):
    found = RaftlogCache("json", {"OPTIONS": {"SERIALIZER": "django.core.signing.JSONSerializer"}})
    found.set("key", {"a": [1, "é"]})
    assert Entry.objects.get().data == b'{"a":[1,"\\u00e9"]}'
    assert found.get("key") == {"a": [1, "é"]}
    with pytest.raises(TypeError, match="not JSON serializable"):
        found.set("key", object())


@pytest.fixture
def hasty(cache):
    with override_settings(CACHES={"default": {**BACKEND, "LOCATION": "here", "OPTIONS": {"FIRE_AND_FORGET": True}}}):
        found = caches["default"]
        found.node = cache.node
        yield found
        found.node.release()
        assert writer.flush("here", 10)


def test_fire_and_forget_returns_at_once_and_this_process_sees_it(hasty):
    hasty.set_many({"a": 1, "b": 2})
    assert writer.flush("here", 10)
    before = len(commands(hasty.node))
    hasty.node.hold = True
    for n in range(100):
        hasty.set("a", n)
    assert [hasty.delete("b"), hasty.delete("b"), hasty.delete("absent")] == [True, False, False]
    hasty.set("c", 3, timeout=0)
    assert hasty.get_many("abc") == {"a": 99}
    assert Entry.objects.get(pk="here::1:a").number == 1
    hasty.node.release()
    assert hasty.incr("a") == 100  # after all that was written before
    assert hasty.get_many("abc") == {"a": 100}
    assert len(commands(hasty.node)) <= before + 3  # the one under way, what was gathered meanwhile, and incr()


def test_fire_and_forget_in_a_transaction_waits_for_its_commit(hasty):
    with transaction.atomic():
        hasty.set("a", 1)
        assert hasty.get("a") == 1
        assert hasty.delete("a") is True
        hasty.set("b", 2)
    assert hasty.get_many("ab") == {"b": 2}
    assert writer.flush("here", 10)
    assert list(Entry.objects.values_list("number", flat=True)) == [2]
    with pytest.raises(ZeroDivisionError), transaction.atomic():  # noqa: PT012
        hasty.set("b", 3)
        raise ZeroDivisionError
    assert hasty.get("b") == 2


def test_fire_and_forget_says_in_the_log_what_was_not_written(hasty, caplog):
    hasty.node.refuse = lambda payloads: "NoLeader"
    hasty.set("a", 1)
    assert writer.flush("here", 10)
    assert hasty.get("a") is None
    assert "cache here: not written: :1:a" in caplog.text
    hasty.node.refuse = lambda payloads: ""
    hasty.set("a", 2)
    assert writer.flush("here", 10)
    assert Entry.objects.get().number == 2


def test_stored_bytes_are_loaded_by_readers_only(cache, monkeypatch):
    loaded = []
    monkeypatch.setattr(pickle, "loads", loaded.append)
    cache.set("key", ["value"])
    cache.touch("key", 5)
    cache.add("key", "x")
    assert loaded == []
    cache.get("key")
    assert len(loaded) == 1


def test_async_methods(cache):
    async def use():
        await cache.aset("a", 1)
        await cache.aset_many({"b": 2})
        return [await cache.aget("a"), await cache.aadd("a", 3), await cache.aincr("b"), await cache.aget_many("ab")]

    assert asyncio.run(use()) == [1, False, 3, {"a": 1, "b": 3}]


# The command against a model

KEYS = st.sampled_from("abcd")
TTLS = st.sampled_from([None, -1, 0, 5, 50])
VALUES = st.one_of(st.integers(-3, 3), st.just(2**63 - 2), st.binary(max_size=2))
CHANGES = st.one_of(
    st.tuples(st.sampled_from(["set", "add"]), KEYS, VALUES, TTLS),
    st.tuples(st.just("touch"), KEYS, TTLS),
    st.tuples(st.just("delete"), KEYS),
    st.tuples(st.just("increment"), KEYS, st.integers(-2, 2)),
    st.just(("clear",)),
)


class Model:
    """What a dictionary would do, one change after the other."""

    def __init__(self):
        self.rows = {}

    def apply(self, now, kind, key="", *rest):
        value, expires = self.rows.get(key, (None, now))
        live = expires is None or expires > now
        if kind == "clear":
            self.rows.clear()
        elif kind == "set" or (kind == "add" and not live):
            self.put(now, key, *rest)
        elif kind == "add":
            return False
        elif kind == "touch" and live:
            self.put(now, key, value, *rest)
        elif kind == "touch":
            return False
        elif kind == "delete":
            self.rows.pop(key, None)
            return live
        else:
            return self.increment(key, live, value, expires, *rest)
        return True

    def increment(self, key, live, value, expires, delta):
        if not live:
            return MISSING
        if not isinstance(value, int):
            return NO_INTEGER
        if abs(value + delta) >= 2**63:
            return OVERFLOW
        self.rows[key] = (value + delta, expires)
        return value + delta

    def put(self, now, key, value, ttl):
        self.rows[key] = (value, None if ttl is None else now + ttl)
        if ttl is not None and ttl <= 0:
            del self.rows[key]


@pytest.mark.parametrize("vendor", [sqlite_database, postgresql_database])
def test_both_vendors_answer_and_read_alike(vendor, tmp_path, django_db_blocker):
    changes = [
        ["set", "a", b"\0\xff", None],
        ["set", "b", 2**63 - 1, 10],
        ["add", "a", 1, None],
        ["set", "c", 5, None],
        ["increment", "c", -7],
        ["increment", "b", 1],
        ["touch", "a", 20],
        ["delete", "b"],
    ]
    with django_db_blocker.unblock(), vendor(*[tmp_path][: vendor is sqlite_database]):
        make_tables(Entry, Size, Bucket)
        ctx = CommandContext(index=7, log_time=backend.clock.wall_microseconds() + 10**9)
        found = write(ctx, location="here", changes=changes, max_entries=2, cull_frequency=3)
        assert found == [True, True, False, True, -2, OVERFLOW, True, True]
        assert write(ctx, location="here", changes=[["set", "é", 1, 5]], max_entries=2, cull_frequency=2) == [True]
        assert RaftlogCache("here", {})._read(["a", "b", "c", "é"]) == {"é": 1}  # a and c came with one entry
        arguments = {"name": "x", "tokens": 2, "at_least": 2, "burst": 3, "interval": 10**6}
        assert [take(ctx, **arguments)["taken"], take(ctx, **arguments)["wait"]] == [2, 10**6]


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(0, 20), st.lists(CHANGES, min_size=1, max_size=6)), max_size=8))
def test_batches_answer_and_leave_what_single_changes_in_a_dictionary_would(stock_file, batches):  # noqa: F811
    if not connection.introspection.table_names():
        make_tables(Entry, Size)
    write(CommandContext(), location="m", changes=[["clear"]], max_entries=100, cull_frequency=3)
    model, now = Model(), 1000
    for index, (passed, changes) in enumerate(batches, 2):
        now += passed
        found = write(
            CommandContext(index=index, log_time=now),
            location="m",
            changes=[list(change) for change in changes],
            max_entries=100,
            cull_frequency=3,
        )
        assert found == [model.apply(now, *change) for change in changes]
        rows = {
            entry.name.removeprefix("m:"): (entry.data if entry.number is None else entry.number, entry.expires_at)
            for entry in Entry.objects.all()
        }
        assert rows == model.rows
        assert Size.objects.get().entries == len(rows)


def test_before_migrate_nothing_is_proposed_that_no_node_could_apply(cache):
    with connection.schema_editor() as editor:
        editor.delete_model(Entry)
    before = len(commands(cache.node))
    with override_settings(CACHES={"default": {**BACKEND, "LOCATION": "other"}}):
        with pytest.raises(DatabaseError, match="raftlog_cache_entry"):
            caches["default"].set("a", 1)
        assert len(commands(cache.node)) == before
        make_tables(Entry)
        caches["default"].set("a", 1)
        assert caches["default"].get("a") == 1


def test_fire_and_forget_outlives_a_thread_that_could_not_begin(hasty, monkeypatch):
    def no_more(thread):
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", no_more)
        with pytest.raises(RuntimeError, match="can't start new thread"):
            hasty.set("a", 1)
    assert writer.flush("here", 10)
    hasty.set("a", 2)
    assert writer.flush("here", 10)
    assert Entry.objects.get().number == 2
