"""`@task`: functions that workers run. Enqueueing one inserts a row, and so joins the caller's transaction."""

from __future__ import annotations

import datetime
import functools
import inspect
import json
from collections.abc import Callable, Iterable
from typing import Any, Final, overload

from asgiref.sync import iscoroutinefunction
from django.db import router
from django.utils import timezone
from django.utils.module_loading import import_string

import raftlog
from raftlog.contrib.queue.exceptions import NoSuchTask
from raftlog.contrib.queue.identity import id_in_command, new_id
from raftlog.contrib.queue.models import NAME_LENGTH, QUEUE_LENGTH, QueuedTask

MIN_PRIORITY: Final = -100
MAX_PRIORITY: Final = 100
MAX_ATTEMPTS: Final = 1_000
DEFAULT_VISIBILITY: Final = 60.0  # seconds
DEFAULT_KEEP: Final = 86_400.0  # seconds: a day
DEFAULT_BACKOFF: Final = 5.0  # seconds
MAX_SECONDS: Final = 10 * 366 * 86_400.0
MAX_ARGUMENT_BYTES: Final = 1 << 20

# What may be said anew for one call: Task.using()
_CHANGEABLE: Final = ("queue", "priority", "run_after", "max_attempts", "backoff", "visibility", "keep")

_DESCRIBED: Final = (
    *("name", "queue", "priority", "arguments", "max_attempts", "backoff", "visibility", "keep", "transactional"),
)


class Task:
    """A function that can be enqueued. Calling it runs it here and now, as ever. Immutable, thread-safe."""

    def __init__(
        self,
        function: Callable[..., Any],
        *,
        name: str = "",
        queue: str = "default",
        priority: int = 0,
        max_attempts: int = 3,
        backoff: float = DEFAULT_BACKOFF,
        visibility: float = DEFAULT_VISIBILITY,
        keep: float = DEFAULT_KEEP,
        transactional: bool = False,
        run_after: datetime.datetime | None = None,
    ) -> None:
        self.function = function
        self.name = name or f"{function.__module__}.{function.__qualname__}"
        self.queue = queue
        self.priority = priority
        self.max_attempts = max_attempts
        self.backoff = backoff
        self.visibility = visibility
        self.keep = keep
        self.transactional = transactional
        self.run_after = run_after
        self._check()
        functools.update_wrapper(self, function)

    def __repr__(self) -> str:
        return f"<Task {self.name}>"

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(*args, **kwargs)

    def using(self, **options: Any) -> Task:
        """The same task with other options: queue, priority, run_after, max_attempts, backoff, visibility, keep.

        `run_after` is an aware datetime, or a timedelta from now. Raises TypeError, ValueError.
        """
        if unknown := sorted(set(options) - set(_CHANGEABLE)):
            raise TypeError(f"{self.name}: using() takes {', '.join(_CHANGEABLE)}, not {', '.join(unknown)}")
        if isinstance(after := options.get("run_after"), datetime.timedelta):
            options["run_after"] = timezone.now() + after
        mine = {key: getattr(self, key) for key in _CHANGEABLE}
        return Task(self.function, name=self.name, transactional=self.transactional, **mine | options)

    def enqueue(self, /, *args: Any, **kwargs: Any) -> QueuedTask:
        """Insert it into the queue: with the open transaction, where there is one, or not at all.

        Arguments must be JSON: pass keys of rows, not rows. Raises TypeError, ValueError.
        """
        refuse_in_command(self.name)
        row = self.row(*new_id(), args, kwargs)
        row.save(force_insert=True)
        return row

    def enqueue_many(self, calls: Iterable[dict[str, Any]]) -> list[QueuedTask]:
        """One call for each dictionary of keyword arguments, in one transaction and so in one entry of the log."""
        refuse_in_command(self.name)
        rows = [self.row(*new_id(), (), kwargs) for kwargs in calls]
        return QueuedTask.objects.bulk_create(rows)

    def describe(self, /, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """A call of it as plain data, for the arguments of a command: see enqueue_described()."""
        row = self.row(None, timezone.now(), args, kwargs)
        return {key: getattr(row, key) for key in _DESCRIBED}

    def enqueue_in(self, ctx: Any, /, *args: Any, **kwargs: Any) -> QueuedTask:
        """enqueue() for a command, which must do the same on every node: id and time come from its context.

        The task's options come from each node's code. Where they may differ (during an upgrade), hand describe() to
        the command as an argument, and call enqueue_described().
        """
        row = self.row(*id_in_command(ctx), args, kwargs)
        row.save(force_insert=True)
        return row

    def row(
        self, task_id: Any, now: datetime.datetime, args: tuple[Any, ...], kwargs: dict[str, Any], backend: str = ""
    ) -> QueuedTask:
        return QueuedTask(
            id=task_id,
            name=self.name,
            backend=backend,
            queue=self.queue,
            priority=self.priority,
            arguments=as_json(self.name, args, kwargs),
            run_after=self.run_after or now,
            max_attempts=self.max_attempts,
            backoff=self.backoff,
            visibility=self.visibility,
            keep=self.keep,
            transactional=self.transactional,
            enqueued_at=now,
        )

    def _check(self) -> None:
        """Raises ValueError, TypeError naming option, value and limit."""
        for key, low, high in (
            ("priority", MIN_PRIORITY, MAX_PRIORITY),
            ("max_attempts", 1, MAX_ATTEMPTS),
            ("backoff", 0, MAX_SECONDS),
            ("visibility", 0.1, MAX_SECONDS),
            ("keep", 0, MAX_SECONDS),
        ):
            value = getattr(self, key)
            kinds = int if key in ("priority", "max_attempts") else (int, float)
            if not isinstance(value, kinds) or isinstance(value, bool):
                raise TypeError(f"task {self.name}: {key} must be a number, not {value!r}")
            if not low <= value <= high:
                raise ValueError(f"task {self.name}: {key} is {value!r}, outside {low} to {high}")
        for key, length in (("name", NAME_LENGTH), ("queue", QUEUE_LENGTH)):
            value = getattr(self, key)
            if not isinstance(value, str) or not 0 < len(value) <= length or "," in value:
                raise ValueError(f"task {self.name}: {key} is {value!r}; use 1 to {length} characters, no comma")
        after = self.run_after
        if after is not None and (not isinstance(after, datetime.datetime) or timezone.is_naive(after)):
            raise ValueError(f"task {self.name}: run_after is {after!r}; give an aware datetime, or a timedelta")


def enqueue_described(ctx: Any, call: dict[str, Any]) -> QueuedTask:
    """In a command: enqueue what describe() gave, due at once, the same on every node whatever its code says.

    Raises TypeError, ValueError: the command fails, alike on every node.
    """
    check_described(call)
    task_id, now = id_in_command(ctx)
    row = QueuedTask(id=task_id, enqueued_at=now, run_after=now, **call)
    row.save(force_insert=True)
    return row


def check_described(call: dict[str, Any]) -> None:
    """Raises TypeError, ValueError for what describe() did not give: the field, its value and its limit."""
    if unknown := sorted(set(call) - set(_DESCRIBED)):
        raise TypeError(f"a described task has the fields {', '.join(_DESCRIBED)}; not {', '.join(map(str, unknown))}")
    if missing := [key for key in ("name", "arguments") if key not in call]:
        raise TypeError(f"a described task lacks {', '.join(missing)}; hand over what describe() gave")
    name, arguments = call["name"], call["arguments"]
    if not name:
        raise ValueError(f"a described task's name is {name!r}; use 1 to {NAME_LENGTH} characters")
    options = {key: value for key, value in call.items() if key != "arguments"}
    Task(enqueue_described, **options)  # its options are checked as those of any task
    if not isinstance(arguments, dict) or arguments.keys() != {"args", "kwargs"}:
        raise TypeError(f'task {name}: arguments must be {{"args": […], "kwargs": {{…}}}}, not {arguments!r}')
    as_json(name, arguments["args"], arguments["kwargs"])


def as_json(name: str, args: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments as they come back from the database. Raises TypeError, ValueError naming the argument."""
    arguments: dict[str, Any] = {"args": [], "kwargs": {}}
    size = 0
    for where, value in [*enumerate(args), *kwargs.items()]:
        try:
            text = json.dumps(value, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise TypeError(
                f"{name}: argument {where!r} is no JSON ({error}); pass numbers, text, lists, dicts"
            ) from None
        size += len(text)
        if isinstance(where, int):
            arguments["args"].append(json.loads(text))
        else:
            arguments["kwargs"][where] = json.loads(text)
    if size > MAX_ARGUMENT_BYTES:
        raise ValueError(f"{name}: the arguments take {size} bytes as JSON, the limit is {MAX_ARGUMENT_BYTES}")
    return arguments


def refuse_in_command(name: str) -> None:
    """Raises TypeError: an id of chance and a clock's time would differ between nodes."""
    if raftlog.is_applying():
        raise TypeError(
            f"{name}: inside a command, which runs on every node, use {name.rpartition('.')[2]}.enqueue_in(ctx, …)"
        )


def alias() -> str:
    """The database alias of the queue."""
    return router.db_for_write(QueuedTask)


# By name

_named: dict[str, Task] = {}


def get_task(name: str, backend: str = "") -> Any:
    """What a row names: a Task, or a task of Django's tasks API where a backend of it enqueued the row.

    Raises NoSuchTask.
    """
    if name in _named and not backend:
        return _named[name]
    try:
        found = import_string(name)
    except ImportError as error:
        if name in _named and not backend:  # its module registered it just now, under another name
            return _named[name]
        raise NoSuchTask(f"this process knows no task {name!r}: {error}") from error
    if not isinstance(found, Task) and not (backend and hasattr(found, "call")):
        raise NoSuchTask(f"{name} is no task: {found!r}")
    return found


@overload
def task(function: Callable[..., Any], /) -> Task: ...


@overload
def task(
    *,
    name: str = ...,
    queue: str = ...,
    priority: int = ...,
    max_attempts: int = ...,
    backoff: float = ...,
    visibility: float = ...,
    keep: float = ...,
    transactional: bool = ...,
) -> Callable[[Callable[..., Any]], Task]: ...


def task(function: Callable[..., Any] | None = None, /, **options: Any) -> Task | Callable[[Callable[..., Any]], Task]:
    """Make a function a task, bare or with options.

    Args:
        name: in the queue; by default module and function. Give it before the function is moved or renamed.
        queue: name of its queue; workers may be told which to serve.
        priority: -100 to 100, higher ones first.
        max_attempts: after so many failed ones it is a dead letter.
        backoff: seconds from the first failed attempt to the second; doubled with each one more.
        visibility: seconds that a claim holds. Workers renew it while they run the task; when one dies, it is
            tried again after at most so long.
        keep: seconds that result or failure are kept.
        transactional: run it in one transaction with its completion, so that what it writes is written once.
    """

    def declare(function: Callable[..., Any]) -> Task:
        if not callable(function) or iscoroutinefunction(function) or inspect.isgeneratorfunction(function):
            raise TypeError(
                f"@task: {function!r} must be a plain function; in it, call async code with async_to_sync()"
            )
        made = Task(function, **options)
        other = _named.setdefault(made.name, made)
        if (other.function.__module__, other.function.__qualname__) != (function.__module__, function.__qualname__):
            raise TypeError(f"the task {made.name!r} is declared twice, by {other.function!r} and {function!r}")
        _named[made.name] = made
        return made

    return declare if function is None else declare(function)
