"""linearizable(), max_staleness(), catch_up() and last_index(), through one real state machine (no Raft)."""

import threading

import pytest
from asgiref.sync import iscoroutinefunction
from django.db import connections, models, transaction
from django.http import HttpResponse
from django.test import RequestFactory, TestCase
from django.views import View

import raftlog
from raftlog.backends.log import InlineLog, use_log
from raftlog.backends.node_log import NodeLog
from raftlog.replication import propose, written
from raftlog.replication.registry import command
from tests.backends import postgresql
from tests.replication.conftest import default_database, run_async
from tests.replication.node import OneNode


class Note(models.Model):
    text = models.CharField(max_length=20)

    class Meta:
        app_label = "tests_backends"
        db_table = "note"

    def __str__(self):
        return self.text


HOOKS = []


@command
def add_note(ctx, *, text: str) -> int:
    while HOOKS:
        transaction.on_commit(HOOKS.pop())
    if text == "bad":
        raise ValueError(text)
    return Note.objects.create(pk=ctx.index, text=text).pk


@pytest.fixture(
    params=[
        "raftlog.backends.sqlite3",
        "django.db.backends.sqlite3",
        "raftlog.backends.postgresql",
    ]
)
def engine(request):
    return request.param


@pytest.fixture
def node(tmp_path, django_db_blocker, engine):
    with django_db_blocker.unblock():
        use_log("default", NodeLog())
        database = {"ENGINE": engine, "NAME": str(tmp_path / "db.sqlite3")}
        with default_database(postgresql.settings(0) if "postgresql" in engine else database):
            made = OneNode()
            propose.set_proposer_factory(lambda: made)
            try:
                with connections["default"].schema_editor() as editor:
                    editor.create_model(Note)
                made.settle()
                yield made
            finally:
                propose.set_proposer_factory(None)
                made.stop()


def test_a_block_reads_what_was_committed_before_it(node):
    with raftlog.linearizable() as index:
        assert Note.objects.count() == 0
    add_note.propose(text="x")
    with raftlog.linearizable() as later:
        assert Note.objects.get().text == "x"
    assert later > index
    assert node.reads == 2


def test_it_waits_until_this_connection_sees_the_index(node):
    ahead = node.machine.last_applied + 1
    node.confirms = lambda: (ahead, "")
    timer = threading.Timer(0.05, add_note.propose, kwargs={"text": "late"})
    timer.start()
    with raftlog.linearizable(timeout=10):
        assert Note.objects.filter(text="late").exists() or node.machine.last_applied >= ahead
    timer.join()
    node.confirms = lambda: (10**6, "")
    with pytest.raises(raftlog.ReadNotConfirmed, match=r"is at entry \d+, before 1000000"):
        raftlog.linearizable(timeout=0.01).__enter__()


def test_functions_and_coroutine_functions_are_decorated(node):
    @raftlog.linearizable
    def count():
        """Notes there are."""
        return Note.objects.count()

    @raftlog.linearizable(timeout=3)
    async def acount():
        return await Note.objects.acount()

    assert (count(), count(), count.__doc__) == (0, 0, "Notes there are.")
    assert run_async(acount()) == 0
    assert node.reads == 3


def test_an_asynchronous_view_made_of_a_class_is_decorated_as_what_it_is(node):
    class Count(View):
        async def get(self, request):
            return HttpResponse(str(await Note.objects.acount()))

    view = raftlog.linearizable(Count.as_view())

    async def get():
        return await view(RequestFactory().get("/"))

    assert iscoroutinefunction(view)
    assert run_async(get()).content == b"0"
    assert node.reads == 1


def test_async_code_enters_or_awaits_it(node):
    async def read():
        async with raftlog.alinearizable() as index:
            assert await Note.objects.acount() == 0
        assert await raftlog.alinearizable() >= index
        async with raftlog.amax_staleness(60):
            assert await Note.objects.acount() == 0
        await raftlog.acatch_up(index)
        with pytest.raises(raftlog.ReadNotConfirmed):
            await raftlog.acatch_up(index + 10, timeout=0.05)

    run_async(read())
    assert node.reads == 2


def test_it_is_refused_inside_a_transaction_and_not_around_one(node, engine):
    with raftlog.linearizable(), transaction.atomic():
        assert Note.objects.count() == 0
    for barrier in (raftlog.linearizable(), raftlog.max_staleness(1)):
        with transaction.atomic(), pytest.raises(raftlog.InsideTransaction, match="before the atomic block"), barrier:
            pytest.fail("entered")

    with transaction.atomic(), pytest.raises(raftlog.InsideTransaction):
        raftlog.catch_up(1)
    if engine == "raftlog.backends.sqlite3":
        connections["default"].set_autocommit(False)
        try:
            with pytest.raises(raftlog.InsideTransaction), raftlog.linearizable():
                pytest.fail("entered")
        finally:
            connections["default"].set_autocommit(True)


def test_a_command_cannot_wait_for_what_comes_after_it(node):
    seen = []

    def hook():
        try:
            with raftlog.linearizable():
                pytest.fail("entered")
        except raftlog.InsideTransaction as error:
            seen.append(str(error))

    HOOKS.append(hook)
    add_note.propose(text="look")
    assert "being applied" in seen[0]


def test_an_unfinished_query_serves_no_old_state(node, engine):
    for number in range(300):
        add_note.propose(text=str(number))
    notes = Note.objects.order_by("pk").iterator(chunk_size=2)
    assert next(notes).text == "0"
    add_note.propose(text="new")
    if engine.startswith("raftlog."):
        with raftlog.linearizable():
            assert Note.objects.filter(text="new").exists()
        assert [note.text for note in notes] == [str(number) for number in range(1, 300)]
    else:  # SQLite itself goes on in the snapshot of the open query, and nobody else can end that
        with pytest.raises(raftlog.ReadNotConfirmed, match=r"unfinished query \(\.iterator\(\)\)"):
            raftlog.linearizable(timeout=0.05).__enter__()
        notes.close()
        with raftlog.linearizable():
            assert Note.objects.filter(text="new").exists()


def test_without_a_leader_or_node_it_says_what_to_do(node):
    node.confirms = lambda: (0, "no leader confirmed its leadership in time")
    with pytest.raises(raftlog.ReadNotConfirmed, match=r"no leader confirmed .* Try again"), raftlog.linearizable():
        pytest.fail("entered")
    node.unavailable = True
    with pytest.raises(raftlog.NodeUnavailable), raftlog.linearizable():
        pytest.fail("entered")
    with pytest.raises(ValueError, match="timeout is 0"):
        raftlog.linearizable(timeout=0)


def test_one_answer_serves_until_it_is_too_old(node, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr("raftlog.runtime.clock.monotonic", lambda: now[0])
    with raftlog.max_staleness(10) as index:
        assert node.reads == 1
    now[0] += 4
    with raftlog.max_staleness(10):
        assert node.reads == 1
    now[0] += 2  # more than half: renewed in the background
    with raftlog.max_staleness(10):
        assert node.reads == 2
    node.confirms = lambda: (0, "no leader confirmed its leadership in time")
    now[0] += 10
    with raftlog.max_staleness(10) as same:
        assert same == index
    now[0] += 0.5
    with pytest.raises(raftlog.TooStale, match=r"last confirmed it 10\.5 s ago \(no leader") as caught:
        raftlog.max_staleness(10).__enter__()
    assert caught.value.behind == 10.5
    with raftlog.max_staleness(11):
        pass
    node.unavailable = True
    with pytest.raises(raftlog.TooStale, match="the node is not there"):
        raftlog.max_staleness(10).__enter__()


def test_a_process_that_heard_nothing_yet_is_infinitely_behind(node):
    node.silent = True
    with pytest.raises(raftlog.TooStale, match="never to this process") as caught:
        raftlog.max_staleness(10, timeout=0.01).__enter__()
    assert caught.value.behind == float("inf")


def test_a_node_that_has_not_applied_what_was_committed_is_too_stale(node):
    node.confirms = lambda: (10**6, "")
    with pytest.raises(raftlog.TooStale, match="is at entry"):
        raftlog.max_staleness(10, timeout=0.01).__enter__()


def in_new_context(function):
    results = []
    thread = threading.Thread(target=lambda: results.append(function()))
    thread.start()
    thread.join()
    return results[0]


def test_last_index_is_that_of_the_contexts_own_writes(node, engine):
    def write():
        before = raftlog.last_index()
        add_note.propose(text="x")
        first = raftlog.last_index()
        with pytest.raises(raftlog.CommandFailed):
            add_note.propose(text="bad")
        after_failure = raftlog.last_index()
        with written.Written() as scope:
            add_note.propose(text="y")
        connections.close_all()
        return before, first, after_failure, scope.index, raftlog.last_index()

    before, first, after_failure, inner, last = in_new_context(write)
    assert before == 0
    assert first == after_failure
    assert first + 2 == inner == last == node.machine.last_applied
    raftlog.catch_up(last)
    with pytest.raises(raftlog.ReadNotConfirmed):
        raftlog.catch_up(last + 1, timeout=0)


@pytest.mark.parametrize("engine", ["raftlog.backends.sqlite3"], indirect=True)
def test_a_transaction_counts_and_what_only_reads_does_not(node):
    def write():
        with transaction.atomic():
            Note.objects.create(text="x")
            before_commit = raftlog.last_index()
        index = raftlog.last_index()
        Note.objects.count()
        with transaction.atomic():
            Note.objects.filter(text="nobody").delete()
        connections.close_all()
        return before_commit, index, raftlog.last_index()

    assert in_new_context(write) == (0, node.machine.last_applied, node.machine.last_applied)


def test_inside_a_test_databases_own_transaction_nothing_is_waited_for(tmp_path, django_db_blocker):
    with (
        django_db_blocker.unblock(),
        default_database({"ENGINE": "raftlog.backends.sqlite3", "NAME": str(tmp_path / "t.sqlite3")}),
    ):
        use_log("default", InlineLog())
        with connections["default"].schema_editor() as editor:
            editor.create_model(Note)

        class Inside(TestCase):
            def runTest(self):
                Note.objects.create(text="x")
                with raftlog.linearizable(), raftlog.max_staleness(1):
                    assert Note.objects.count() == 1
                raftlog.catch_up(10**6)
                with transaction.atomic(), pytest.raises(raftlog.InsideTransaction), raftlog.linearizable():
                    pytest.fail("entered")

        result = Inside().run()
        assert result.wasSuccessful(), result
        use_log("default", NodeLog())
