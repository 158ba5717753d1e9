"""raft_inline: commands apply at once, in the test's own transaction, with the log's verdicts."""

import contextlib
import datetime

import pytest
from asgiref.sync import async_to_sync
from django.db import IntegrityError, connection, transaction
from django.test import TestCase

import raftlog
from raftlog import command
from raftlog.backends.log import InlineLog, log_replaced
from raftlog.replication import propose
from raftlog.replication.registry import registry
from raftlog.testing.django import RaftInlineMixin, RaftInlineTestCase
from raftlog.testing.inline import Inline
from tests.backends import postgresql
from tests.replication.conftest import default_database, make_tables, postgresql_database, sqlite_database
from tests.replication.warehouse.commands import OutOfStock, add_item, order, swallow, take
from tests.replication.warehouse.models import Item, Order


@contextlib.contextmanager
def inline_in_a_test():
    """Inside what Django's TestCase wraps a test in."""
    atomic = transaction.atomic()
    atomic._from_testcase = True
    with atomic, Inline() as inline:
        yield inline
        transaction.set_rollback(True)


@contextlib.contextmanager
def replicated_postgresql():
    with log_replaced("default", InlineLog()), default_database(postgresql.settings(8)):
        make_tables()
        yield


@pytest.fixture
def replicated_inline(replicated_sqlite):
    with replicated_sqlite(), inline_in_a_test() as inline:
        yield inline


@pytest.fixture(params=["sqlite", "replicated sqlite", "postgresql", "replicated postgresql"])
def inline(request, replicated_sqlite, tmp_path, django_db_blocker):
    """Each backend, as a project's tests have it."""
    opened = {
        "sqlite": lambda: sqlite_database(tmp_path),
        "replicated sqlite": replicated_sqlite,
        "postgresql": postgresql_database,
        "replicated postgresql": replicated_postgresql,
    }[request.param]
    with django_db_blocker.unblock(), opened(), inline_in_a_test() as inline:
        yield inline


@pytest.fixture
def new_command():
    made = []

    def declare(function, **options):
        made.append(command(name=f"tests.{function.__name__}", **options)(function))
        return made[-1]

    yield declare
    for one in made:
        registry.remove(one)


def test_what_is_proposed_is_there_at_once_and_recorded(inline):
    key = add_item.propose(name="tea", stock=5)
    assert Item.objects.get(pk=key).stock == 5
    assert take.propose(name="tea", quantity=2) == 3
    first, second = inline.entries
    assert (first.command, first.arguments, first.result) == ("warehouse.add_item", {"name": "tea", "stock": 5}, key)
    assert (second.command, second.result, second.error) == ("warehouse.take", 3, None)
    assert second.entry_index > first.entry_index
    assert raftlog.outcome(second.proposal_id) == 3


def test_a_failure_is_the_verdict_of_the_log_and_undoes_the_commands_changes(inline, new_command):
    add_item.propose(name="tea", stock=1)
    with pytest.raises(OutOfStock, match="1 left"):
        take.propose(name="tea", quantity=2)
    with pytest.raises(IntegrityError):
        add_item.propose(name="tea")
    with pytest.raises(IntegrityError):
        order.propose(item_id=77, quantity=1)  # a foreign key, which SQLite would check at the end of the test
    with pytest.raises(raftlog.CommandFailed, match="TransactionManagementError"):
        swallow.propose(name="tea")

    def half(ctx) -> None:
        Item.objects.create(id=ctx.index, name="half")
        raise KeyError("no")

    with pytest.raises(raftlog.CommandFailed, match="KeyError"):
        new_command(half).propose()

    def unreplicable(ctx) -> object:
        return object()

    with pytest.raises(raftlog.CommandFailed, match="cannot be replicated"):
        new_command(unreplicable).propose()
    assert list(Item.objects.values_list("name", flat=True)) == ["tea"]
    assert not Order.objects.exists()
    assert isinstance(inline.entries[1].error, OutOfStock)


def test_a_transaction_of_the_projects_own_is_refused_as_in_production(inline):
    with transaction.atomic(), pytest.raises(raftlog.InsideTransaction):
        add_item.propose(name="tea")
    with pytest.raises(raftlog.InvalidArguments):
        add_item.propose(nome="tea")
    assert inline.entries == []


def test_reads_with_a_guarantee_have_nobody_to_ask(inline):
    add_item.propose(name="tea")
    with raftlog.linearizable():
        assert Item.objects.get().name == "tea"
    with transaction.atomic(), pytest.raises(raftlog.InsideTransaction), raftlog.linearizable():
        pass


def test_log_time_stands_still_until_the_test_travels(inline, new_command):
    seen = []

    def look(ctx) -> None:
        seen.append(ctx.now)

    look = new_command(look)
    look.propose()
    look.propose()
    assert inline.travel(3600) == seen[0] + datetime.timedelta(hours=1)
    look.propose()
    assert seen == [inline.now - datetime.timedelta(hours=1)] * 2 + [inline.now]
    with pytest.raises(ValueError, match="never goes back"):
        inline.travel(-1)


def test_hooks_and_effects_of_a_command_run_after_it(inline, new_command):
    order_of = []

    def notify(ctx) -> None:
        ctx.on_leader(lambda: order_of.append("effect"))
        transaction.on_commit(lambda: order_of.append(f"hook, applying: {raftlog.is_applying()}"))
        order_of.append("command")

    transaction.on_commit(lambda: order_of.append("the test's own"))
    new_command(notify).propose()
    assert order_of == ["command", "hook, applying: True", "effect"]


def test_an_unknown_outcome_may_be_asked_for_and_repeated(inline):
    inline.fail_next(raftlog.OutcomeUnknown)
    with pytest.raises(raftlog.OutcomeUnknown) as lost:
        add_item.propose(name="tea")
    assert not Item.objects.exists()
    with pytest.raises(raftlog.OutcomeUnknown):
        raftlog.outcome(lost.value.proposal_id)
    key = add_item.with_options(proposal_id=lost.value.proposal_id).propose(name="tea")
    assert add_item.with_options(proposal_id=lost.value.proposal_id).propose(name="tea") == key
    assert Item.objects.count() == len(inline.entries) == 1

    inline.fail_next(raftlog.OutcomeUnknown, applied=True)
    with pytest.raises(raftlog.OutcomeUnknown) as lost:
        add_item.propose(name="milk")
    assert raftlog.outcome(lost.value.proposal_id) == Item.objects.get(name="milk").pk


def test_a_proposal_that_is_refused_did_nothing(inline):
    inline.fail_next(raftlog.NoLeader, times=2)
    for _ in range(2):
        with pytest.raises(raftlog.NoLeader):
            add_item.propose(name="tea")
    add_item.propose(name="tea")
    assert Item.objects.count() == 1
    with pytest.raises(TypeError, match="a proposal fails with NotProposed"):
        inline.fail_next(ValueError)
    with pytest.raises(ValueError, match="nothing was done"):
        inline.fail_next(raftlog.NoLeader, applied=True)


def test_a_conflict_meets_the_next_commit_and_the_projects_retry(replicated_inline):
    attempts = []

    @raftlog.retry_on_conflict
    def rename() -> None:
        attempts.append(1)
        with transaction.atomic():
            Item.objects.create(name=f"attempt {len(attempts)}")

    replicated_inline.fail_next(raftlog.TransactionConflict, times=2)
    rename()
    assert len(attempts) == 3
    assert [item.name for item in Item.objects.all()] == ["attempt 3"]

    replicated_inline.fail_next(raftlog.UniqueConflict)
    with pytest.raises(IntegrityError), transaction.atomic():
        Item.objects.create(name="other")
    assert Item.objects.count() == 1


def test_a_conflict_meets_a_real_commit_too(replicated_sqlite):
    attempts = []

    @raftlog.retry_on_conflict
    def create() -> None:
        attempts.append(1)
        with transaction.atomic():
            Item.objects.create(name=f"attempt {len(attempts)}")

    with replicated_sqlite(), Inline() as inline:
        inline.fail_next(raftlog.TransactionConflict)
        create()
        assert [item.name for item in Item.objects.all()] == ["attempt 2"]


def test_what_has_committed_before_the_conflict_is_not_run_again(replicated_inline):
    attempts = []

    @raftlog.retry_on_conflict
    def two_steps() -> None:
        attempts.append(1)
        with transaction.atomic():
            Item.objects.create(name="first")
        replicated_inline.fail_next(raftlog.TransactionConflict)
        with transaction.atomic():
            Item.objects.create(name="second")

    with pytest.raises(raftlog.TransactionConflict):
        two_steps()
    assert len(attempts) == 1


def test_a_conflict_is_no_failure_of_a_backend_that_knows_none(raft_inline):
    with pytest.raises(TypeError, match=r"backends\.sqlite3, whose transactions meet no TransactionConflict"):
        raft_inline.fail_next(raftlog.TransactionConflict)


def test_async_code_proposes_through_the_connection_of_synchronous_code(raft_inline):
    async def view():
        key = await add_item.apropose(name="tea")
        return await Item.objects.aget(pk=key)

    assert async_to_sync(view)().name == "tea"
    assert [entry.command for entry in raft_inline.entries] == ["warehouse.add_item"]


@pytest.mark.django_db(transaction=True)
def test_it_commits_where_the_test_has_no_transaction(raft_inline):
    add_item.propose(name="tea")
    assert not connection.in_atomic_block
    assert Item.objects.get().name == "tea"


def test_nothing_of_it_is_left(db):
    before = propose._process.factory, propose._process.session
    with Inline():
        add_item.propose(name="tea")
    assert (propose._process.factory, propose._process.session) == before
    assert "commit" not in vars(connection)
    assert connection.execute_wrappers == []
    with pytest.raises(raftlog.InsideTransaction, match="raft_inline"):
        add_item.propose(name="milk")


class InlineCaseTest(RaftInlineTestCase):
    """Django's own runner gives the same."""

    @classmethod
    def setUpTestData(cls):
        cls.key = add_item.propose(name="tea", stock=2)

    def test_the_classes_data_is_there(self):
        assert self.raft_inline.entries == []
        assert take.propose(name="tea", quantity=1) == 1
        assert len(self.raft_inline.entries) == 1

    def test_and_each_test_begins_anew(self):
        assert take.propose(name="tea", quantity=2) == 0


class MixinTest(RaftInlineMixin, TestCase):
    def test_it_stands_before_any_test_case(self):
        self.raft_inline.fail_next(raftlog.Overloaded)
        with pytest.raises(raftlog.Overloaded):
            add_item.propose(name="tea")
