"""A transaction that is done once for each key: `with raftlog.idempotent("key") as request`, and as a decorator.

The row of the key is written in the transaction of what is done under it. So they stand in the log together or not at
all; of two transactions with one key, the second is refused by certification and finds the row of the first.
"""

from __future__ import annotations

import functools
import inspect
import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from types import TracebackType
from typing import Any, Final, ParamSpec, TypeVar

from asgiref.sync import iscoroutinefunction
from django.db import DatabaseError, IntegrityError, connections, transaction

from raftlog.backends.exceptions import TransactionConflict, UniqueConflict
from raftlog.backends.retry import retry_on_conflict
from raftlog.exceptions import InsideTransaction, InvalidArguments, ProposalError
from raftlog.replication import codec, effects, idempotency, propose, written
from raftlog.replication.calling import MAX_RESULT_BYTES
from raftlog.replication.context import is_applying
from raftlog.replication.keyed import IdempotencyName
from raftlog.replication.open_transaction import is_inside_transaction
from raftlog.replication.tables import AppliedIndex, IdempotencyKey, has_tables
from raftlog.runtime import clock

logger = logging.getLogger("raftlog.backends")

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")

_NOTHING: Final = object()


class Request:
    """What is asked for under one key, inside `with raftlog.idempotent(…)`. Used by one thread."""

    def __init__(self, name: IdempotencyName, asked: Any, alias: str) -> None:
        self.key = name.key
        self.scope = name.scope
        # It was done before; `result` is what was recorded then. Whatever is done now is rolled back.
        self.is_repeat = False
        # To be recorded, and returned for a repeat: any value that can be a command's argument.
        self.result: Any = None
        self._alias = alias
        self._keyed = name.asking("transaction", asked)
        self._is_discarded = False

    def discard(self) -> None:
        """Roll back what was done inside, and record nothing: the key stays free."""
        self._is_discarded = True

    # Called by idempotent, inside the transaction

    def _find(self) -> bool:
        """Raises IdempotencyKeyReused."""
        self._log_time = log_time(self._alias)
        self._before = idempotency.find(self._alias, self._keyed, self._log_time)
        if self._before is not None and not self._before.has_expired:
            self.is_repeat = True
            self._recorded = self._before.result
        return self.is_repeat

    def _close(self) -> None:
        """Record, or roll back. Raises InvalidArguments for a result that cannot be recorded, UniqueConflict."""
        if self.is_repeat or self._is_discarded:
            transaction.set_rollback(True, using=self._alias)
            return
        self._recorded = codec.encode(self.result)
        if len(self._recorded) > MAX_RESULT_BYTES:
            raise InvalidArguments(
                f"the result under the idempotency key {self.key!r} takes {len(self._recorded)} bytes, the limit is "
                f"{MAX_RESULT_BYTES}; record what finds it again (a primary key), not itself"
            )
        try:
            idempotency.record(
                self._alias, self._keyed, self._before, index=0, log_time=self._log_time, result=self._recorded
            )
        except TransactionConflict:
            raise
        except IntegrityError as error:
            effects.conflicted()
            raise UniqueConflict(f"the idempotency key {self.key!r} is used by another transaction now") from error

    def _settle(self) -> None:
        """First run and repeat give the same: what the record holds."""
        if not self._is_discarded or self.is_repeat:
            self.result = codec.decode(self._recorded)


class idempotent:
    """Do what is inside once for each key, in a transaction: `with raftlog.idempotent(key) as request: …`.

        with raftlog.idempotent("order-4711", asked={"item": 3}) as request:
            if not request.is_repeat:
                order = Order.objects.create(item_id=3)
                request.result = order.pk
        return request.result

    It is an atomic() block, or part of the one that is open around it. A repeat changes nothing, even where the body
    does not ask `is_repeat`: what it writes is rolled back. What raises is rolled back as ever, and records nothing.
    Should another transaction with the same key be first, this one ends as a repeat (or, inside an open atomic(), with
    the TransactionConflict after which that is run again).

    As a decorator, `key` may be a function of the arguments; the function is not called for a repeat, and called again
    after a conflict, as by retry_on_conflict. Its return value is the result.

        @raftlog.idempotent(lambda order_number, item: order_number)
        def buy(order_number, item): …

    Args:
        key: 1 to 200 printable characters.
        scope: whose key it is: the same key in another scope is another one. Up to 200 characters.
        asked: what is asked for, any value that can be a command's argument. The same key with another one is refused.
            As a decorator: by default the function's name and arguments.

    Raises:
        IdempotencyKeyReused: the key was used with another `asked`, or for a command.
        InvalidArguments: a key, `asked` or result that is too long, or cannot be encoded.
        InsideTransaction: called by a command, whose caller can give it a key.
        TransactionConflict, and what else a transaction raises.
    """

    def __init__(
        self, key: str | Callable[..., str], *, scope: str | Callable[..., str] = "", asked: Any = _NOTHING
    ) -> None:
        self._key = key
        self._scope = scope
        self._asked = asked
        self._block: AbstractContextManager[Request] | None = None

    def __enter__(self) -> Request:
        if callable(self._key) or callable(self._scope):
            raise TypeError("idempotent(): a key or scope that is a function is for the decorator; give a str")
        if self._block is not None:
            raise TypeError("idempotent(): each `with` needs an idempotent() of its own")
        asked = None if self._asked is _NOTHING else self._asked
        self._block = once(IdempotencyName(self._scope, self._key), asked, propose.limits().alias)
        return self._block.__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        assert self._block is not None
        return self._block.__exit__(kind, error, traceback)

    def __call__(self, function: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
        """As a decorator. Raises TypeError."""
        if iscoroutinefunction(function):
            raise TypeError(
                f"{getattr(function, '__qualname__', function)} is a coroutine function:"
                " put what it writes into a synchronous function, "
                "decorate that, and await sync_to_async(it)(…)"
            )

        signature = inspect.signature(function)

        def run(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
            key = self._key(*args, **kwargs) if callable(self._key) else self._key
            scope = self._scope(*args, **kwargs) if callable(self._scope) else self._scope
            if callable(self._asked):
                asked = self._asked(*args, **kwargs)
            elif self._asked is _NOTHING:
                given = signature.bind(*args, **kwargs)
                given.apply_defaults()
                asked = [f"{function.__module__}.{function.__qualname__}", given.arguments]
            else:
                asked = self._asked
            with once(IdempotencyName(scope, key), asked, propose.limits().alias) as request:
                if not request.is_repeat:
                    request.result = function(*args, **kwargs)
            result: Result = request.result
            return result

        run.__qualname__ = function.__qualname__
        retried = retry_on_conflict(run)

        @functools.wraps(function)
        def wrapper(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
            is_inside = is_inside_transaction(connections[propose.limits().alias])
            return run(*args, **kwargs) if is_inside else retried(*args, **kwargs)

        return wrapper


@contextmanager
def once(name: IdempotencyName, asked: Any, alias: str) -> Iterator[Request]:
    """What idempotent() does, on one database."""
    if is_applying():
        raise InsideTransaction(
            "idempotent() was used by a command that is being applied: give the key to the command where it is "
            "proposed, with_options(idempotency_key=…)"
        )
    request = Request(name, asked, alias)
    is_outermost = not is_inside_transaction(connections[alias])
    try:
        with transaction.atomic(using=alias):
            request._find()
            yield request
            request._close()
    except TransactionConflict:
        if not is_outermost or not request._find():
            raise
    request._settle()
    if request.is_repeat:
        written.note(position(alias)[0])  # what was done then is to be seen by whoever is answered with it now
    if is_outermost and not request.is_repeat and request._keyed.digest[0] < 256 // idempotency.FORGET_EVERY:
        _forget_expired(alias)


def position(alias: str) -> tuple[int, int]:
    """(applied index, log time) of the state that this transaction sees; zeros where there is no log."""
    if not has_tables(connections[alias]):
        return 0, 0
    # Without a WHERE: its one row changes with every entry, and is not to count as a row that was read.
    found = AppliedIndex.objects.using(alias).values_list("applied_index", "log_time").first()
    return found or (0, 0)


def log_time(alias: str) -> int:
    """Of the state that this transaction sees, in microseconds; by the wall clock where there is no log."""
    return position(alias)[1] or clock.wall_microseconds()


def _forget_expired(alias: str) -> None:
    """In a transaction of its own: what it looks at is then nothing that the caller's depends on."""
    try:
        upto = idempotency.expired(alias, log_time(alias))
        if upto is not None:
            rows = IdempotencyKey.objects.using(alias)
            ids = list(rows.filter(log_time__lte=upto).values_list("pk", flat=True)[: idempotency.FORGOTTEN_AT_ONCE])
            rows.filter(pk__in=ids).delete()
    except (DatabaseError, ProposalError) as error:  # conflicts among them; what the caller has done stands
        logger.info("expired idempotency keys are left to a later transaction: %s", error)
