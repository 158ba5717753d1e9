"""raftlog.lock() and its kin on a node of one server: waiting, renewing, losing, forking, guarding."""

import asyncio
import os
import signal
import threading

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.db import connection, transaction

import raftlog
from raftlog.contrib import locks
from raftlog.contrib.locks import api, attempt, keeper, tables
from raftlog.contrib.locks.fence import Fence
from raftlog.contrib.locks.models import Holder, NewestToken, Waiter
from raftlog.exceptions import InsideTransaction, NodeDiverged, NodeUnavailable
from raftlog.models import IdempotencyKey
from raftlog.replication.keyed import next_key, numbered_keys
from raftlog.runtime import clock
from tests.contrib.locks import wait_until


def hold(inside=lambda fence: None, name="x", **options):
    with raftlog.lock(name, **options) as fence:
        inside(fence)


class Contender(threading.Thread):
    """Holds a lock in a thread of its own until told otherwise."""

    def __init__(self, name="x", **options):
        super().__init__()
        self.options = {"name": name, "ttl": 30, "wait": 60} | options
        self.entered, self.may_leave = threading.Event(), threading.Event()
        self.fence = self.error = None
        self.start()

    def run(self):
        try:
            with raftlog.lock(**self.options) as self.fence:
                self.entered.set()
                assert self.may_leave.wait(60)
        except locks.LockError as error:
            self.error = error
        finally:
            connection.close()

    def enters(self):
        assert self.entered.wait(60)
        return self

    def leaves(self):
        self.may_leave.set()
        self.join(60)
        assert not self.is_alive()


def count(node, name):
    """How often a command was proposed."""
    return sum(name.encode() in payload for payload in node.proposed)


def waiting():
    return list(Waiter.objects.order_by("ticket").values_list("label", flat=True))


def test_a_lock_is_held_inside_the_block_and_its_token_grows(lock_node):
    tokens = []
    for _ in range(3):
        with raftlog.lock("x", ttl=5) as fence:
            fence.check()
            assert fence.is_valid
            assert 4 < fence.remaining <= 5 * 0.85
            assert Holder.objects.get(name="x").token == fence.token
            tokens.append(fence.token)
        assert not Holder.objects.exists()
    assert tokens == sorted(set(tokens))


def test_waiters_get_in_in_the_order_in_which_they_came(lock_node):
    first = Contender(label="first").enters()
    order, others = [], []
    for number in range(3):
        others.append(Contender(label=str(number)))
        wait_until(lambda number=number: len(waiting()) == number + 1)
    assert waiting() == ["0", "1", "2"]
    first.leaves()
    for other in others:
        other.enters()
        order.append(other.fence.token)
        other.leaves()
    assert order == sorted(order)
    assert not Waiter.objects.exists()


def test_a_release_hands_over_without_another_entry(lock_node, monkeypatch):
    """Whoever waits finds itself among the holders, and asks nobody."""
    for name in ("PATIENCE", "FRONT_PATIENCE"):
        monkeypatch.setattr(attempt, name, 600.0)  # nobody says that it still waits, however long this takes
    first = Contender().enters()
    others = [Contender() for _ in range(3)]
    wait_until(lambda: len(waiting()) == 3)
    asked = count(lock_node, "raftlog_locks.acquire")
    for other in others:
        other.may_leave.set()
    first.leaves()
    tokens = []
    for other in others:
        other.leaves()
        tokens.append(other.fence.token)
    assert len(set(tokens)) == 3
    assert count(lock_node, "raftlog_locks.acquire") == asked
    assert not Holder.objects.exists()


def test_what_was_handed_over_while_its_waiter_was_asleep_is_asked_for_again():
    """A ttl that is more than a third over is renewed before anybody counts on it."""
    made = attempt.Attempt(attempt.Wanted("x", ttl=9.0))
    made.answered({"token": 0, "elapsed": 0, "ahead": 0}, clock.monotonic() - 1.0)
    made.look([tables.Row(made.owner, "", 9_000_000, 9_000_000, 41, 40)], [])
    assert made.handed_over().token == 40
    assert 6 < made.handed_over().remaining <= 9 * 0.85 - 1
    made.answered({"token": 0, "elapsed": 0, "ahead": 0}, clock.monotonic() - 4.0)
    assert made.handed_over() is None
    assert made.should_ask()


def test_who_waits_costs_hardly_an_entry(lock_node):
    first = Contender().enters()
    second = Contender()
    wait_until(lambda: waiting())
    before = len(lock_node.proposed)
    clock.sleep(0.5)
    assert len(lock_node.proposed) == before, "it looks at the rows only"
    first.leaves()
    second.enters().leaves()


def test_who_does_not_get_it_in_time_is_told_who_holds_it_and_leaves_the_queue(lock_node):
    first = Contender(label="shop-1: nightly").enters()
    with pytest.raises(locks.LockNotAcquired, match=r"'x' could not be had within 0.2 s, held by shop-1: nightly"):
        hold(wait=0.2)
    with pytest.raises(locks.LockNotAcquired, match="within 0 s"):
        hold(wait=0)
    wait_until(lambda: not waiting())
    first.leaves()


def test_a_lock_is_renewed_for_as_long_as_the_block_lasts(lock_node):
    with raftlog.lock("x", ttl=2) as fence:
        clock.sleep(2.2)
        fence.check()
        assert Holder.objects.get().token == fence.token


def test_several_locks_are_renewed_in_one_entry(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(clock, "monotonic", lambda: now[0])
    made = keeper.Keeper()
    monkeypatch.setattr(made, "_wake", lambda: None)
    for owner, at in (("a", 100.0), ("b", 102.0), ("c", 105.0)):
        now[0] = at
        made.keep(Fence(name=owner, owner=owner, token=1, ttl=30, sent_at=at, on_lost=None))
    now[0] = 109.9
    assert made._due() == {}
    now[0] = 110.0
    assert set(made._due()) == {"a", "b"}, "what is due soon goes along"


def test_a_lock_that_cannot_be_renewed_is_lost_before_the_log_lets_another_have_it(lock_node):
    lost = []

    def lose(fence):
        lock_node.unavailable = True
        wait_until(lambda: not fence.is_valid)
        assert Holder.objects.filter(token=fence.token).exists()
        wait_until(lambda: lost)
        lock_node.unavailable = False
        clock.sleep(0.3)
        with pytest.raises(locks.LockLost):  # for good
            fence.check()

    with pytest.raises(locks.LockLost, match=r"'x' \(token \d+\) is not held any more: it was not renewed in time"):
        hold(lose, ttl=1, on_lost=lost.append)
    assert [fence.name for fence in lost] == ["x"]


def take_away(fence):
    assert locks.force_release("x", fence.token) == 1
    wait_until(lambda: not fence.is_valid)


def test_a_lock_that_was_taken_away_is_noticed_at_the_next_renewal(lock_node):
    lost = []
    with pytest.raises(locks.LockLost, match="had expired, or was taken away"):
        hold(take_away, ttl=1, on_lost=lost.append)
    assert len(lost) == 1


def test_what_the_block_raises_goes_before_its_loss(lock_node):
    def fail(fence):
        take_away(fence)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        hold(fail, ttl=1)


def test_a_callback_that_fails_keeps_no_other_lock_from_being_renewed(lock_node, caplog):
    with raftlog.lock("y", ttl=3) as kept:
        with pytest.raises(locks.LockLost):
            hold(take_away, ttl=1, on_lost=lambda fence: 1 / 0)
        clock.sleep(1.2)
        kept.check()
    assert "on_lost of the lock 'x' failed" in caplog.text


def test_an_answer_that_is_lost_is_asked_for_again_and_gives_the_same_token(lock_node, monkeypatch):
    monkeypatch.setattr("raftlog.replication.propose.ANSWER_GRACE", 0.0)
    struck = []
    lock_node.lose_answer = lambda payloads: (
        b"raftlog_locks.acquire" in payloads[0] and not struck and not struck.append(1)
    )
    with raftlog.lock("x", ttl=2, wait=30) as fence:
        assert struck
        fence.check()
        assert Holder.objects.get().token == fence.token


def test_an_answer_that_took_long_leaves_time_to_renew():
    fence = Fence(name="x", owner="o", token=1, ttl=30, sent_at=clock.monotonic() - 15, on_lost=None)
    kept = keeper.Keeper()
    kept._wake = lambda: None
    kept.keep(fence)
    assert kept._due() == {"o": fence}


def test_a_request_with_an_idempotency_key_may_take_locks(lock_node):
    """How many commands that takes is chance, so they are not among those that the request numbers."""
    with connection.schema_editor() as editor:
        editor.create_model(IdempotencyKey)
    try:
        for _ in range(2):
            with numbered_keys("ann", "r"):
                hold()
                assert next_key().key == "r/1"
    finally:
        with connection.schema_editor() as editor:
            editor.delete_model(IdempotencyKey)


def test_without_a_node_it_waits_as_long_as_it_was_told_to(lock_node):
    lock_node.unavailable = True
    with pytest.raises(locks.LockNotAcquired, match=r"within 0\.3 s: the node is not there"):
        hold(wait=0.3)
    with pytest.raises(NodeUnavailable):
        hold(wait=0)
    lock_node.unavailable = False
    refusals = ["NoLeader", "Overloaded", ""]
    lock_node.refuse = lambda payloads: refusals.pop(0) if refusals else ""
    with raftlog.lock("x", wait=5):
        assert refusals == []


def test_what_waiting_does_not_mend_is_told_at_once(lock_node):
    lock_node.refuse = lambda payloads: "NodeDiverged"
    with pytest.raises(NodeDiverged):
        hold(wait=5)


def test_locks_are_not_reentrant_and_say_so(lock_node):
    with raftlog.lock("x"), raftlog.lock("y"), pytest.raises(locks.AlreadyHeld, match="holds 'x' already"):
        hold(wait=5)


def test_inside_a_transaction_a_lock_is_refused(lock_node):
    with transaction.atomic(), pytest.raises(InsideTransaction):
        hold()
    assert not Holder.objects.exists()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"name": ""}, "give it 1 to 200 characters"),
        ({"name": "x" * 201}, "give it 1 to 200 characters"),
        ({"name": "x", "ttl": 0.5}, r"ttl of the lock 'x' is 0.5 s; 1 to"),
        ({"name": "x", "wait": -1}, "None: for ever, 0: not at all"),
    ],
)
def test_what_cannot_be_is_refused_by_name_value_and_limit(lock_node, options, says):
    with pytest.raises(ValueError, match=says), raftlog.lock(**options):
        pass
    with pytest.raises(ValueError, match="limit of the semaphore 'x' is 0"), raftlog.semaphore("x", limit=0):
        pass


def test_a_semaphore_lets_in_as_many_as_its_limit(lock_node):
    with raftlog.semaphore("s", 2) as one:
        other = tables.read("s")
        assert len(other[0]) == 1
        second = api.take(attempt.Wanted("s", limit=2, wait=1))
        with pytest.raises(locks.LockNotAcquired):
            api.take(attempt.Wanted("s", limit=2, wait=0))
        api.give_back(second)
        assert second.token > one.token


def test_async_blocks_wait_in_the_same_queue(lock_node):
    async def enter(name, log):
        async with raftlog.alock("x", ttl=5, wait=5) as fence:
            log.append(name)
            fence.check()
            await asyncio.sleep(0.05)
            with pytest.raises(locks.AlreadyHeld):
                async with raftlog.alock("x"):
                    pass
            log.append(name)

    async def main():
        log = []
        await asyncio.gather(*(enter(name, log) for name in "abc"))
        async with raftlog.asemaphore("s", 2):
            pass
        return log

    log = asyncio.run(main())
    assert log[0::2] == log[1::2]
    assert sorted(log) == list("aabbcc")
    assert not Holder.objects.exists()


def test_a_cancelled_wait_leaves_the_queue(lock_node):
    async def main():
        async with raftlog.alock("x"):
            task = asyncio.create_task(api.atake(attempt.Wanted("x", wait=5)))
            while not await Waiter.objects.acount():
                await asyncio.sleep(0.01)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(main())
    wait_until(lambda: not waiting())


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork.*:DeprecationWarning")
def test_a_fork_does_not_hold_what_its_parent_holds(lock_node):
    read_end, write_end = os.pipe()
    with raftlog.lock("x", ttl=5) as fence:
        pid = os.fork()
        if not pid:
            try:
                fence.check()
            except locks.LockLost as error:
                os.write(write_end, str(error).encode())
            os.write(write_end, str((len(keeper.keeper._kept), len(api._held))).encode())
            os._exit(0)
        os.waitpid(pid, 0)
        fence.check()
        said = os.read(read_end, 1000).decode()
    os.close(read_end)
    os.close(write_end)
    assert f"process {os.getpid()} holds it, and this one is a fork of that" in said
    assert said.endswith("(0, 0)")


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork.*:DeprecationWarning")
def test_a_fork_waits_for_no_lock_that_a_thread_of_its_parent_held(lock_node):
    with raftlog.lock("x", ttl=5) as fence:
        with fence._guard, attempt.sightings._guard:
            pid = os.fork()
            if not pid:
                signal.alarm(10)
                attempt.sightings.note([])
                os._exit(int(fence.is_valid))
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_async_code_in_a_fork_releases_nothing(lock_node):
    fences = []

    async def main():
        async with raftlog.alock("x", ttl=5) as fence:
            fences.append(fence)
            fence._pid = 0  # as in a fork, which asyncio does not survive

    with pytest.raises(locks.LockLost, match="a fork of that"):
        asyncio.run(main())
    assert Holder.objects.count() == 1
    api.give_back(fences[0])


def test_a_fence_counts_from_before_the_question_and_not_the_whole_ttl(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(clock, "monotonic", lambda: now[0])
    fence = Fence(name="x", owner="o", token=1, ttl=10, sent_at=98.0, on_lost=None)
    assert fence.remaining == pytest.approx(6.5)
    fence.renewed(99.0)
    assert fence.remaining == pytest.approx(7.5)
    fence.renewed(90.0)  # an old answer that comes late
    assert fence.remaining == pytest.approx(7.5)
    now[0] = 107.5
    assert not fence.is_valid
    fence.renewed(107.4)
    assert not fence.is_valid


def test_a_guard_refuses_a_token_that_is_older_than_the_newest(lock_node):
    for token in (5, 5, 7):
        with transaction.atomic():
            locks.guard("stock", token)
    assert NewestToken.objects.get().token == 7
    with pytest.raises(locks.StaleToken, match="token 6 comes after token 7"), transaction.atomic():
        locks.guard("stock", 6)
    with transaction.atomic():
        locks.guard("other", 1)
    with pytest.raises(locks.LockError, match="called outside a transaction"):
        locks.guard("stock", 8)


def test_a_fence_guards_in_the_transaction_that_changes_the_resource(lock_node):
    def inside(fence):
        with transaction.atomic():
            fence.guard("stock")
        assert NewestToken.objects.get().token == fence.token
        fence.lost("for the test")
        with transaction.atomic(), pytest.raises(locks.LockLost):
            fence.guard("stock")

    with pytest.raises(locks.LockLost, match="for the test"):
        hold(inside)


def test_the_list_names_holders_and_waiters(lock_node):
    first, second = Contender(label="one").enters(), Contender(label="two")
    wait_until(lambda: waiting())
    holds, waits = locks.listing()
    assert (holds["name"], holds["state"], holds["who"], holds["token"]) == ("x", "holds", "one", first.fence.token)
    assert (waits["state"], waits["who"]) == ("waits", "two")
    assert 25 < holds["expires_in"] <= 30
    first.leaves()
    second.enters().leaves()
    assert locks.listing() == []


def test_without_the_app_or_its_tables_it_says_what_to_do(lock_node, monkeypatch):
    with connection.schema_editor() as editor:
        editor.delete_model(locks.models.Done)
    tables._remembered.cache_clear()
    with pytest.raises(locks.LockError, match=r"run `manage\.py migrate raftlog_locks`"), raftlog.lock("x"):
        pass
    with connection.schema_editor() as editor:
        editor.create_model(locks.models.Done)
    with raftlog.lock("x"):
        pass
    monkeypatch.setattr(tables.apps, "is_installed", lambda name: False)
    with pytest.raises(ImproperlyConfigured, match=r"add 'raftlog.contrib.locks' to INSTALLED_APPS"), raftlog.lock("x"):
        pass
