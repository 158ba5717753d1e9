"""One attempt at a task: what runs it, and what of it stands in the same transaction as its completion."""

from __future__ import annotations

import contextlib
import contextvars
import json
import sys
import traceback
from collections.abc import Iterator
from typing import Any, Final

from django.db import transaction
from django.utils import timezone

import raftlog
from raftlog.contrib.queue.commands import holds, succeed
from raftlog.contrib.queue.exceptions import ClaimLost
from raftlog.contrib.queue.models import QueuedTask
from raftlog.contrib.queue.tasks import Task, alias, get_task

MAX_RESULT_BYTES: Final = 256 << 10
MAX_TRACEBACK: Final = 8_000  # characters, the end of it

_current: contextvars.ContextVar[Attempt | None] = contextvars.ContextVar("raftlog_queue_attempt", default=None)


class Attempt:
    """A claim of a task, while its worker runs it. `number` counts from 1."""

    def __init__(self, row: QueuedTask) -> None:
        self.row = row
        self.id = row.id
        self.token = row.claim
        self.number = row.attempts
        # What task_transaction() records as the task's result, where the function completes it before it returns.
        self.result: Any = None
        # The task was completed in a transaction of its own, or that is in doubt: nobody needs to record it.
        self.is_settled = False

    def outcome(self) -> list[Any] | None:
        """Run it; what `complete` is to record of it, None where there is nothing to record any more."""
        token = _current.set(self)
        try:
            result = self._run()
        except ClaimLost:
            return None
        except raftlog.OutcomeUnknown:
            if self.row.transactional or self.is_settled:
                # Committed, and so completed; or not, and then it is claimed again when its time is up.
                return None
            return self._failure()
        except (Exception, SystemExit):  # noqa: BLE001  (whatever the task raises is recorded)
            return None if self.is_settled else self._failure()
        finally:
            _current.reset(token)
        return None if self.is_settled else [self.id.hex, self.token, result, "", ""]

    def _run(self) -> str | None:
        found = get_task(self.row.name, self.row.backend)
        if not self.row.transactional:
            return encode_result(self.row.name, self._call(found))

        @raftlog.retry_on_conflict
        def in_one_transaction() -> None:
            with task_transaction() as attempt:
                attempt.result = self._call(found)

        in_one_transaction()
        return None

    def _call(self, found: Any) -> Any:
        if isinstance(found, Task):
            return found.function(*self.row.arguments["args"], **self.row.arguments["kwargs"])
        from raftlog.contrib.queue.backend import call  # needs Django's tasks API, which not everybody has

        return call(found, self.row)

    def _failure(self) -> list[Any]:
        kind = sys.exc_info()[0] or Exception
        text = traceback.format_exc()[-MAX_TRACEBACK:]
        return [self.id.hex, self.token, None, f"{kind.__module__}.{kind.__qualname__}", text]

    def check(self) -> QueuedTask:
        """The row, if this attempt's claim is the current one, as the open transaction sees it. Raises ClaimLost."""
        row = QueuedTask.objects.filter(pk=self.id).first()
        if row is None or not holds(row, self.token):
            raise ClaimLost(f"{self.row.name} {self.id}: the claim {self.token} of {self.row.worker} has ended")
        return row


def current_attempt() -> Attempt | None:
    """The attempt that this thread runs; None outside a worker."""
    return _current.get()


@contextlib.contextmanager
def task_transaction() -> Iterator[Attempt]:
    """Inside a task: one transaction for what the block writes and for the task's completion.

    Both are committed, once, or neither is: the row of the task is read when the block begins and written when it ends,
    so that the transaction conflicts where the task was claimed by another worker, or finished, in between. Set
    `result` of what `as` gives for the task's result. What the task does after the block is not part of it, and is not
    done again. Raises ClaimLost, RuntimeError outside a task, and what a commit raises.
    """
    attempt = current_attempt()
    if attempt is None:
        raise RuntimeError("task_transaction() is for tasks that a worker runs; elsewhere use transaction.atomic()")
    if attempt.is_settled:
        raise RuntimeError(f"{attempt.row.name}: this attempt has completed its task already")
    try:
        with transaction.atomic(using=alias(), durable=True):
            attempt.check()
            yield attempt
            row = attempt.check()
            succeed([row], timezone.now(), encode_result(row.name, attempt.result))
    except raftlog.OutcomeUnknown:
        attempt.is_settled = True
        raise
    attempt.is_settled = True


def encode_result(name: str, value: Any) -> str | None:
    """As JSON text; None for None. Raises TypeError, ValueError: then the attempt has failed."""
    if value is None:
        return None
    try:
        text = json.dumps(value, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name}: its result {type(value).__name__} is no JSON: {error}") from None
    if len(text) > MAX_RESULT_BYTES:
        raise ValueError(f"{name}: its result takes {len(text)} bytes as JSON, the limit is {MAX_RESULT_BYTES}")
    return text
