"""The task queue on a node of one server: enqueueing, claiming, completing, losing a claim, workers."""

import datetime
import io
import json
import threading
import uuid

import pytest
from django.core.management import CommandError, call_command
from django.db import transaction
from django.utils import timezone

from raftlog import TransactionConflict
from raftlog.consensus.entries import COMMAND, TRANSACTION
from raftlog.contrib.queue import Worker, commands, current_attempt, reports, run_all, running, task, task_transaction
from raftlog.contrib.queue.identity import id_in_command, uuid7
from raftlog.contrib.queue.models import QueuedTask, State
from raftlog.contrib.queue.running import Attempt
from raftlog.contrib.queue.signals import task_finished
from raftlog.contrib.queue.tasks import enqueue_described, get_task
from raftlog.replication import propose
from raftlog.replication.context import CommandContext
from tests.contrib.queue_node import queue_node
from tests.replication.warehouse.models import Item

calls = []
gate = threading.Event()


@task(backoff=0)
def note(what, *, fail_until=0):
    calls.append(what)
    if current_attempt().number <= fail_until:
        raise ValueError(f"not {what} yet")
    return {"noted": what}


@task(backoff=100, max_attempts=2)
def slowly_again():
    raise RuntimeError("as told")


@task(visibility=0.4)
def wait_for_gate():
    calls.append("waits")
    assert gate.wait(10)
    return "through"


@task(transactional=True, max_attempts=2)
def store(name, *, fail=False):
    Item.objects.create(name=name, stock=1)
    if fail:
        raise ValueError("after it has written")
    return name


@task
def store_and_go_on(name):
    with task_transaction() as attempt:
        Item.objects.create(name=name, stock=1)
        attempt.result = "stored"
    calls.append("afterwards")
    raise RuntimeError("too late to matter")


@pytest.fixture(autouse=True)
def _fresh():
    calls.clear()
    gate.clear()


@pytest.fixture
def node(tmp_path, django_db_blocker):
    with django_db_blocker.unblock(), queue_node(tmp_path) as made:
        yield made


@pytest.fixture(params=["sqlite", "postgresql"])
def any_node(request, tmp_path, django_db_blocker):
    with django_db_blocker.unblock(), queue_node(tmp_path, vendor=request.param) as made:
        yield made


def claim(count=10, queues=(), worker="w"):
    """(ids, token) of a claim."""
    ids = commands.claim.propose(worker=worker, queues=list(queues), count=count)
    return ids, QueuedTask.objects.get(pk=ids[0]).claim if ids else 0


def complete(task_id, token, result="null", kind="", text=""):
    return commands.complete.propose(outcomes=[[task_id, token, result, kind, text]])[0]


# Enqueueing


def test_a_task_joins_the_transaction_of_its_caller(node):
    with pytest.raises(ZeroDivisionError), transaction.atomic():  # noqa: PT012 (one block)
        note.enqueue("never")
        1 / 0  # noqa: B018
    assert not QueuedTask.objects.exists()
    before = node.machine.last_applied
    with transaction.atomic():
        note.enqueue("a")
        note.enqueue("b")
    assert node.machine.last_applied == before + 1
    note.enqueue_many({"what": n} for n in range(50))
    assert node.machine.last_applied == before + 2
    assert QueuedTask.objects.count() == 52


def test_what_cannot_be_enqueued_is_said_with_its_name(any_node):
    with pytest.raises(TypeError, match="argument 'what' is no JSON"):
        note.enqueue(what={1, 2})
    with pytest.raises(TypeError, match="argument 0 is no JSON"):
        note.enqueue(float("nan"))
    with pytest.raises(ValueError, match="limit is 1048576"):
        note.enqueue("x" * (2 << 20))
    with pytest.raises(TypeError, match="using\\(\\) takes queue, priority"):
        note.using(prio=3)
    for options, words in (
        ({"priority": 101}, "priority is 101, outside -100 to 100"),
        ({"max_attempts": 0}, "max_attempts is 0"),
        ({"queue": "a,b"}, "no comma"),
        ({"visibility": 0}, "visibility is 0"),
        ({"run_after": datetime.datetime(2026, 1, 1)}, "aware"),
    ):
        with pytest.raises(ValueError, match=words):
            note.using(**options)

    async def no_plain_function():
        """Nobody would await it."""

    with pytest.raises(TypeError, match="must be a plain function"):
        task(no_plain_function)
    with pytest.raises(TypeError, match="declared twice"):
        task(name=note.name)(lambda: None)
    assert not QueuedTask.objects.exists()


def test_a_command_enqueues_alike_on_every_node():
    contexts = [CommandContext(index=7, term=2, log_time=1_700_000_000_000_000, command="x") for _ in range(2)]
    ids = [[id_in_command(ctx)[0] for _ in range(2)] for ctx in contexts]
    assert ids[0] == ids[1]
    assert ids[0][0] != ids[0][1]
    assert {each.version for each in ids[0]} == {7}
    assert uuid7(1, 0) < uuid7(2, 0) < uuid7(2, 1)
    assert uuid7(5, (1 << 74) - 1).variant == uuid.RFC_4122


# Claims


def test_the_highest_priority_first_then_the_oldest(any_node):
    def make(name, **options):
        return note.using(**options).enqueue(name).id.hex

    low, first, second = make("low", priority=-1), make("first"), make("second")
    high, other = make("high", priority=5), make("other", queue="other", priority=9)
    make("later", run_after=timezone.now() + datetime.timedelta(hours=1), priority=100)
    assert claim(2, ["default"])[0] == [high, first]
    assert claim(1)[0] == [other]
    assert claim(10, ["default", "other"])[0] == [second, low]
    assert claim()[0] == []
    any_node.ahead = 3601
    assert len(claim()[0]) == 6  # those whose claims ran out, and the one that is due by now
    assert QueuedTask.objects.get(pk=high).attempts == 2


def test_a_late_completion_is_refused(any_node):
    row = note.enqueue("x")
    (task_id,), first = claim()
    assert QueuedTask.objects.get().claimed_until > timezone.now()
    any_node.ahead = 61
    (again,), second = claim(worker="v")
    assert (again, second > first) == (task_id, True)
    assert not complete(task_id, first, '"late"')
    assert complete(task_id, second, '"in time"')
    assert complete(task_id, second, '"twice"')  # the same attempt again: it is told what it was told
    assert not complete(task_id, first)
    row.refresh_from_db()
    assert (row.state, row.result, row.attempts, row.worker) == (State.SUCCESSFUL, "in time", 2, "v")
    assert row.errors[0][:2] == ["w", "raftlog.contrib.queue.exceptions.ClaimLost"]


def test_a_claim_holds_after_its_time_until_somebody_else_has_it(any_node):
    note.enqueue("x")
    (task_id,), token = claim()
    any_node.ahead = 61
    assert complete(task_id, token)


def test_renewed_claims_hold_longer(any_node):
    note.enqueue("x")
    (task_id,), token = claim()
    any_node.ahead = 50
    claims = [[task_id, token], [task_id, token + 1], [uuid.uuid4().hex, token]]
    assert commands.renew.propose(claims=claims) == [True, False, False]
    any_node.ahead = 100
    assert claim()[0] == []
    any_node.ahead = 111
    assert claim()[0] == [task_id]
    assert commands.renew.propose(claims=[[task_id, token]]) == [False]


def test_failed_attempts_wait_longer_each_time_until_it_is_a_dead_letter(any_node):
    row = note.using(max_attempts=3, backoff=10).enqueue("x")
    for number, pause in ((1, 10), (2, 20)):
        (task_id,), token = claim()
        assert complete(task_id, token, kind="ValueError", text=f"attempt {number}")
        row.refresh_from_db()
        assert row.state == State.READY
        assert claim()[0] == []
        any_node.ahead += pause + 1
    (task_id,), token = claim()
    assert complete(task_id, token, kind="ValueError", text="attempt 3")
    row.refresh_from_db()
    assert (row.state, row.attempts, [each[2] for each in row.errors]) == (
        State.FAILED,
        3,
        ["attempt 1", "attempt 2", "attempt 3"],
    )


def test_claims_given_back_are_no_attempts(any_node):
    row = note.enqueue("x")
    (task_id,), token = claim()
    assert commands.release.propose(claims=[[task_id, token - 1]]) == 0
    assert commands.release.propose(claims=[[task_id, token]]) == 1
    row.refresh_from_db()
    assert (row.state, row.attempts) == (State.READY, 0)
    assert not complete(task_id, token)


def test_finished_tasks_are_kept_for_their_time(any_node):
    done, waits = note.using(keep=5).enqueue("x"), note.using(priority=-1).enqueue("y")
    (task_id,), token = claim(1)
    complete(task_id, token)
    assert commands.prune.propose() == 0
    any_node.ahead = 6
    assert commands.prune.propose() == 1
    assert list(QueuedTask.objects.values_list("pk", flat=True)) == [waits.pk]
    assert done.pk != waits.pk


@pytest.mark.parametrize("checks_tokens", [True, False])
def test_each_task_is_finished_once_whatever_happens_to_its_claims(any_node, monkeypatch, checks_tokens):
    """Without the check of the token this test finds the second completion."""
    if not checks_tokens:
        monkeypatch.setattr(commands, "holds", lambda task, token: True)
    seen = []

    def receiver(sender, task, **kwargs):
        seen.append((task.pk.hex, task.state))

    task_finished.connect(receiver)
    try:
        note.using(max_attempts=9).enqueue_many({"what": n} for n in range(20))
        tokens = []
        for _ in range(4):
            ids, token = claim(20)
            tokens.append((ids, token))
            any_node.ahead += 61
        for ids, token in reversed(tokens):
            answers = commands.complete.propose(outcomes=[[each, token, "1", "", ""] for each in ids])
            assert answers == [token == tokens[-1][1] or not checks_tokens] * 20
    finally:
        task_finished.disconnect(receiver)
    once = sorted((row.pk.hex, row.state) for row in QueuedTask.objects.all())
    assert (sorted(seen) == once) is checks_tokens


# Workers


def test_a_worker_runs_what_is_due_and_keeps_results_and_failures(node):
    good, again, bad = note.enqueue("good"), note.enqueue("again", fail_until=2), slowly_again.enqueue()
    counts = run_all(threads=2)
    assert counts == (2, 3, 0)  # completed, failed, lost
    for row in (good, again, bad):
        row.refresh_from_db()
    assert (good.state, good.result) == (State.SUCCESSFUL, {"noted": "good"})
    assert (again.state, again.attempts, len(again.errors)) == (State.SUCCESSFUL, 3, 2)
    assert (bad.state, bad.attempts) == (State.READY, 1)
    assert "RuntimeError: as told" in bad.error
    QueuedTask.objects.filter(pk=bad.pk).update(run_after=timezone.now())
    assert run_all() == (0, 1, 0)
    bad.refresh_from_db()
    assert bad.state == State.FAILED


def test_a_batch_of_short_tasks_takes_few_entries(node):
    note.enqueue_many({"what": n} for n in range(300))
    before = node.machine.last_applied
    assert run_all().completed == 300
    assert node.machine.last_applied - before < 150
    assert sorted(calls) == list(range(300))


def test_only_the_queues_it_serves(node):
    note.using(queue="mail").enqueue("mail")
    note.enqueue("default")
    assert run_all(["mail"]).completed == 1
    assert calls == ["mail"]


def test_a_task_that_this_code_does_not_know_fails(node):
    row = note.using(max_attempts=1).enqueue("x")
    QueuedTask.objects.update(name="tests.contrib.test_queue.gone")
    assert run_all().failed == 1
    row.refresh_from_db()
    assert "NoSuchTask" in row.error
    assert get_task(note.name) is note


def test_a_long_task_is_renewed_and_a_stopped_worker_gives_back_what_it_has_not_begun(node):
    first, second = wait_for_gate.enqueue(), wait_for_gate.using(priority=-1).enqueue()
    worker = Worker()
    worker._batch = 2  # as after short tasks
    thread = threading.Thread(target=worker.run)
    thread.start()
    stop_at = timezone.now() + datetime.timedelta(seconds=1.0)  # more than twice its visibility
    while timezone.now() < stop_at:
        threading.Event().wait(0.05)
    assert QueuedTask.objects.get(pk=first.pk).attempts == 1
    worker.stop()
    threading.Event().wait(0.1)
    gate.set()
    thread.join(10)
    assert worker.counts == (1, 0, 0)
    first.refresh_from_db()
    second.refresh_from_db()
    assert (first.state, first.attempts, first.result) == (State.SUCCESSFUL, 1, "through")
    assert (second.state, second.attempts) == (State.READY, 0)


def test_a_worker_goes_on_after_answers_that_were_lost(node, settings, monkeypatch):
    monkeypatch.setattr(propose, "ANSWER_GRACE", 0.1)
    note.enqueue_many({"what": what} for what in ("a", "b"))
    settings.RAFTLOG = {"PROPOSAL_TIMEOUT": 0.2}
    lost = iter([True, True, False, True])
    node.lose_answer = lambda payloads: b"raftlog_queue" in payloads[0] and next(lost, False)
    assert run_all().completed == 2
    assert sorted(calls) == ["a", "b"]
    assert next(lost, None) is None


# Transactional tasks


def test_what_a_transactional_task_writes_is_one_entry_with_its_completion(node):
    row = store.enqueue("bolt")
    before = len(node.proposed)
    assert run_all().completed == 1
    row.refresh_from_db()
    assert (row.state, row.result) == (State.SUCCESSFUL, "bolt")
    assert Item.objects.filter(name="bolt").count() == 1
    kinds = [payload[0] for payload in node.proposed[before:] if payload[0] in (COMMAND, TRANSACTION)]
    assert kinds == [COMMAND, TRANSACTION]  # the claim; what it wrote and its completion


def test_a_transactional_task_that_fails_has_written_nothing(node):
    row = store.using(max_attempts=1).enqueue("bolt", fail=True)
    assert run_all().failed == 1
    row.refresh_from_db()
    assert row.state == State.FAILED
    assert not Item.objects.exists()


def attempt_at(row, **claimed):
    ids, _ = claim(**claimed)
    assert ids == [row.pk.hex]
    return Attempt(QueuedTask.objects.get(pk=row.pk))


def test_of_two_attempts_at_a_transactional_task_one_writes(node):
    row = store.enqueue("bolt")
    stale = attempt_at(row)
    node.ahead = 61
    current = attempt_at(row, worker="v")
    assert stale.outcome() is None  # ClaimLost
    assert (stale.is_settled, Item.objects.count()) == (False, 0)
    assert current.outcome() is None
    assert (current.is_settled, Item.objects.count()) == (True, 1)
    assert stale.outcome() is None
    assert Item.objects.count() == 1


def test_a_claim_that_is_lost_while_the_transaction_runs_is_a_conflict(node):
    row = store.enqueue("bolt")
    stale = attempt_at(row)
    token = running._current.set(stale)
    try:
        with pytest.raises(TransactionConflict), task_transaction():  # noqa: PT012 (one block)
            Item.objects.filter(name="nothing").exists()
            node.ahead = 61
            thread = threading.Thread(target=claim, kwargs={"worker": "v"})
            thread.start()
            thread.join()
            Item.objects.create(name="bolt", stock=1)
    finally:
        running._current.reset(token)
    assert not Item.objects.exists()
    row.refresh_from_db()
    assert (row.state, row.attempts) == (State.RUNNING, 2)


def test_other_tasks_do_not_conflict_with_a_transactional_one(node):
    """Completing one reads and writes its own row alone, however busy the queue is."""
    row = store.enqueue("bolt")
    mine = attempt_at(row)
    note.enqueue_many({"what": n} for n in range(150))

    def others():
        ids, token = claim(150, worker="v")
        commands.complete.propose(outcomes=[[each, token, "1", "", ""] for each in ids])
        note.enqueue("more")

    token = running._current.set(mine)
    try:
        with task_transaction():
            Item.objects.filter(name="nothing").exists()
            thread = threading.Thread(target=others)
            thread.start()
            thread.join()
    finally:
        running._current.reset(token)
    row.refresh_from_db()
    assert row.state == State.SUCCESSFUL


def test_what_comes_after_the_transaction_is_not_tried_again(node):
    row = store_and_go_on.enqueue("bolt")
    assert run_all().completed == 1
    row.refresh_from_db()
    assert (row.state, row.result, calls) == (State.SUCCESSFUL, "stored", ["afterwards"])
    with pytest.raises(RuntimeError, match="for tasks that a worker runs"), task_transaction():
        pass


def test_a_commit_of_unknown_outcome_leaves_the_task_to_its_claim(node):
    row = store.enqueue("bolt")
    attempt = attempt_at(row)
    Item.objects.create(name="first", stock=1)  # takes the block of keys
    node.answer_unknown = lambda payloads: True
    assert attempt.outcome() is None
    assert attempt.is_settled
    node.answer_unknown = lambda payloads: False
    row.refresh_from_db()
    assert row.state == State.RUNNING
    assert claim()[0] == []


# Operating it


def raft(*arguments):
    output = io.StringIO()
    call_command("raft", *arguments, stdout=output)
    return output.getvalue()


def test_the_queue_on_the_command_line(node, monkeypatch):
    monkeypatch.setattr(reports, "PURGED_AT_ONCE", 1)
    for name in ("a", "b"):
        note.using(max_attempts=1, queue="mail").enqueue(name, fail_until=1)
    note.using(run_after=timezone.now() + datetime.timedelta(hours=1)).enqueue("later")
    assert json.loads(raft("worker", "--burst", "--queues", "mail", "--json"))["failed"] == 2
    shown = json.loads(raft("queue", "--json"))
    by_name = {row["queue"]: row for row in shown["queues"]}
    assert (by_name["mail"]["failed"], by_name["default"]["later"], by_name["default"]["oldest"]) == (2, 1, None)
    assert {letter["error"] for letter in shown["dead_letters"]} == {"ValueError: not a yet", "ValueError: not b yet"}
    dead = shown["dead_letters"][0]["id"]
    assert dead in raft("queue")
    assert "1 will be tried again" in raft("queue", "retry", dead)
    assert QueuedTask.objects.get(pk=dead).attempts == 0
    with pytest.raises(CommandError, match="only 0 of 1 are FAILED"):
        raft("queue", "retry", str(uuid.uuid4()))
    with pytest.raises(CommandError, match="no id of a task"):
        raft("queue", "retry", "nonsense")
    asked = []
    monkeypatch.setattr("builtins.input", lambda question: asked.append(question) or "no")
    with pytest.raises(CommandError, match="nothing was changed"):
        raft("queue", "purge")
    assert "Remove 1 FAILED tasks?" in asked[0]
    assert json.loads(raft("queue", "purge", "--queue", "mail", "--noinput", "--json")) == {"purged": 1}
    assert QueuedTask.objects.count() == 2
    assert json.loads(raft("queue", "purge", "--state", "READY", "--noinput", "--json")) == {"purged": 2}


def test_wrong_options_of_a_worker_are_told():
    with pytest.raises(CommandError, match="--processes is 0"):
        raft("worker", "--processes", "0")
    with pytest.raises(ValueError, match="threads is 0"):
        Worker(threads=0)


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"max_attempts": 1001}, "max_attempts is 1001, outside 1 to 1000"),
        ({"max_attempts": "3"}, "max_attempts must be a number, not '3'"),
        ({"priority": 40_000}, "priority is 40000, outside -100 to 100"),
        ({"queue": "q" * 65}, "queue is 'q+'; use 1 to 64 characters"),
        ({"name": ""}, "name is ''; use 1 to 200 characters"),
        ({"arguments": [1]}, r"arguments must be .*, not \[1\]"),
        ({"arguments": {"args": [{1}], "kwargs": {}}}, "argument 0 is no JSON"),
        ({"colour": "red"}, "not colour"),
    ],
)
def test_a_described_task_that_cannot_be_is_refused_by_field_value_and_limit(changed, says):
    """In the command, alike on every node: one vendor's column would take what the other's refuses."""
    described = note.describe("x") | changed
    with pytest.raises((TypeError, ValueError), match=says):
        enqueue_described(CommandContext(index=5, term=1, log_time=1_700_000_000_000_000), described)


def test_a_described_task_lacks_nothing_that_it_needs():
    with pytest.raises(TypeError, match="lacks name, arguments"):
        enqueue_described(CommandContext(index=5, term=1, log_time=1_700_000_000_000_000), {})
