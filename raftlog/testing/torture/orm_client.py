"""One application process of a host: `python -m raftlog.testing.torture.orm_client`, an OrmWork as JSON on stdin.

Plain ORM code on `ENGINE = raftlog.backends.sqlite3`, as workers of a web server run it: beside their host's node, on
its database, proposing through its local socket. What a transaction read and wrote is recorded before it commits, so
that whatever the commit says (or if nobody is left to hear it) its place in a serial order can be checked.
"""

from __future__ import annotations

import os
import random
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import msgspec

from raftlog.runtime import clock
from raftlog.testing.torture import records
from raftlog.testing.torture.records import Broken, Called, Ended, Prepared, Recorder

ASK_TIMEOUT: Final = 2.0  # seconds that one asks how a transaction ended whose outcome is unknown
CONFLICT: Final = "conflict"  # an Ended's output: another transaction was first; else nothing was proposed

# (action, weight): what threads do
MIX: Final = (
    ("transfer", 22),
    ("transfer_by_save", 14),
    ("draw", 16),
    ("book", 12),
    ("make_jobs", 6),
    ("take_job", 8),
    ("register", 8),
    ("hit", 6),
    ("audit", 8),
)


class OrmWork(msgspec.Struct):
    """What to do, beside which node. Durations in seconds."""

    client: str
    seed: int
    node: str
    record: str
    threads: int = 3
    think: float = 0.02
    # Slots and names are new ones this often: it keeps what is read of each short.
    rotation: float = 3.0
    # How long to wait where nothing could be proposed, at least.
    pause: float = 0.1


class Attempt:
    """What one transaction has read and written so far."""

    def __init__(self, reference: str) -> None:
        self.reference = reference
        self.steps: list[tuple[str, str, Any]] = []

    def read(self, key: str, value: str | None) -> None:
        self.steps.append(("r", key, value))

    def write(self, key: str, value: str) -> None:
        self.steps.append(("w", key, value))

    def scan(self, slot: str, references: list[str]) -> None:
        """All bookings of a slot were read: these, and no others."""
        self.steps.append(("s", slot, references))


class Worker:
    """One thread: one transaction after the other."""

    def __init__(self, number: int, work: OrmWork, recorder: Recorder) -> None:
        self.number = number
        self.work = work
        self.recorder = recorder
        self.rng = random.Random(f"{work.seed}/{work.client}/{number}")

    def run(self, stopping: Callable[[], bool]) -> None:
        from django.db import connection

        names, weights = zip(*MIX, strict=True)
        while not stopping():
            action = self.rng.choices(names, weights)[0]
            if action == "hit":
                self._alone(action, self._hit)
            elif action == "register":
                self._alone(action, self._register)
            else:
                self._transaction(action)
            if self.rng.random() < 0.1:
                connection.close()  # as at the end of a request
            clock.sleep(self.work.think * self.rng.uniform(0.2, 1.8))
        connection.close()

    def slot(self) -> str:
        return f"{int(clock.monotonic() / self.work.rotation)}-{self.rng.randrange(3)}"

    # One call: recorded when it begins, when all but its commit is done, and when it has ended

    def _called(self, action: str) -> Called:
        number = self.recorder.number()
        reference = "" if action == "audit" else f"{self.work.client}-{number}"
        called = Called(number, clock.monotonic(), self.number, action, self.work.node, None, reference)
        self.recorder.write(called)
        return called

    def _transaction(self, action: str) -> None:
        """Run it in atomic(), and again (with another reference) while it conflicts."""
        from raftlog import TransactionConflict, retry_on_conflict
        from raftlog.testing.torture import orm_actions

        function = getattr(orm_actions, action)

        def attempt() -> None:
            called = self._called(action)
            self._ends(called, lambda: self._in_atomic(called, function))

        try:
            retry_on_conflict(attempt)()
        except TransactionConflict:
            return  # as often as retry_on_conflict tries

    def _in_atomic(self, called: Called, function: Callable[[Attempt, Worker], None]) -> None:
        from django.db import transaction

        attempt = Attempt(called.reference)
        with transaction.atomic():
            function(attempt, self)
            self.recorder.write(Prepared(called.number, attempt.steps))

    def _alone(self, action: str, function: Callable[[Called], Any]) -> None:
        """Statements that are transactions by themselves."""
        from raftlog import TransactionConflict

        called = self._called(action)
        try:
            self._ends(called, lambda: function(called))
        except TransactionConflict:
            return

    def _ends(self, called: Called, function: Callable[[], Any]) -> None:
        """Call it, and write down how it ended. Raises TransactionConflict."""
        from django.db.utils import OperationalError

        from raftlog import NotProposed, OutcomeUnknown, TransactionConflict, TurnExpired

        try:
            output = function()
        except TransactionConflict:
            self._ended(called, records.NOTHING, CONFLICT)
            raise
        except OutcomeUnknown as unknown:
            self._ended(called, *self._asked(unknown.proposal_id))
        except (NotProposed, TurnExpired):
            self._ended(called, records.NOTHING)
            clock.sleep(self.work.pause * self.rng.uniform(1.0, 3.0))
        except OperationalError as error:
            self.broken(f"{called.action} {called.reference} ended with {type(error).__name__}: {error}")
            self._ended(called, records.UNANSWERED)
        else:
            self._ended(called, records.APPLIED, output)

    def _asked(self, proposal_id: str) -> tuple[records.End, Any]:
        """How a transaction ended after all, as far as this host will know soon."""
        import raftlog

        try:
            raftlog.outcome(proposal_id, ASK_TIMEOUT)
        except (raftlog.OutcomeUnknown, raftlog.SessionExpired):
            return records.UNANSWERED, None
        except raftlog.TransactionConflict:
            return records.NOTHING, CONFLICT
        return records.APPLIED, None

    def _ended(self, called: Called, end: records.End, output: Any = None) -> None:
        node = self.work.node if end == records.APPLIED else ""
        self.recorder.write(Ended(called.number, clock.monotonic(), end, output, node=node))

    def broken(self, text: str) -> None:
        self.recorder.write(Broken(clock.monotonic(), f"on {self.work.node}, thread {self.number}: {text}"))

    # Transactions of one statement, or of a few that are not in atomic()

    def _hit(self, called: Called) -> None:
        from django.db.models import F

        from raftlog.testing.torture_site.models import Hit

        if Hit.objects.filter(pk=1).update(count=F("count") + 1) != 1:
            self.broken("the counter of hits is gone")

    def _register(self, called: Called) -> list[Any]:
        """[name, whose it is now]"""
        from raftlog import retry_on_conflict
        from raftlog.testing.torture_site.models import Username

        name = f"{self.slot()}-{self.rng.randrange(10)}"
        self.recorder.write(
            Prepared(called.number, [("r", f"name {name}", None), ("w", f"name {name}", called.reference)])
        )
        get_or_create = retry_on_conflict(Username.objects.get_or_create)
        user, is_new = get_or_create(name=name, defaults={"reference": called.reference})
        if is_new != (user.reference == called.reference):
            self.broken(f"get_or_create({name}) says created={is_new}, and gives that of {user.reference}")
        return [name, user.reference]


def run(work: OrmWork, stopping: Callable[[], bool]) -> None:
    """Work in `work.threads` threads until `stopping()`. What a thread raises ends the process."""
    recorder = Recorder(Path(work.record))
    errors: list[BaseException] = []
    workers = [Worker(number, work, recorder) for number in range(work.threads)]

    def main(worker: Worker) -> None:
        try:
            worker.run(lambda: stopping() or bool(errors))
        except BaseException as error:
            errors.append(error)
            raise

    threads = [threading.Thread(target=main, args=(worker,), name=f"worker-{worker.number}") for worker in workers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        recorder.write(Broken(clock.monotonic(), f"the application itself failed: {errors[0]!r}"))
        raise errors[0]


def main() -> None:
    work = msgspec.json.decode(sys.stdin.readline(), type=OrmWork)
    import django

    django.setup()
    stopping = threading.Event()

    def wait_for_the_end() -> None:
        sys.stdin.read()
        stopping.set()

    threading.Thread(target=wait_for_the_end, name="stdin", daemon=True).start()
    run(work, stopping.is_set)
    # What is left are daemons and sockets: nothing to wait for.
    os._exit(0)


if __name__ == "__main__":
    main()
