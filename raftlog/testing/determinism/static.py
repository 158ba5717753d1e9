"""What the code of a command shows without running it: lines that are likely to differ from node to node.

Names are resolved as the function would, through its module; what is called on values cannot be known, and is left to
the runs. A suspicion is a hint, not a finding: a clock that is read for a log line harms nobody.
"""

from __future__ import annotations

import ast
import builtins
import contextlib
import datetime
import importlib
import inspect
import os
import random
import secrets
import socket
import textwrap
import time
import uuid
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from django.db import models
from django.db.models.functions import Now
from django.utils import timezone
from django.utils.crypto import get_random_string

from raftlog.replication.registry import Command

_CLOCK: Final = (
    *(timezone.now, timezone.localdate, timezone.localtime, time.localtime, time.gmtime, time.ctime, time.time_ns),
    *(time.time, time.monotonic, time.perf_counter),  # noqa: TID251  (only named)
    *(datetime.datetime.now, datetime.datetime.utcnow),
    *(datetime.datetime.today, datetime.date.today, Now),
)
# With an argument these convert a moment that is given.
_CLOCK_WITHOUT_ARGUMENT: Final = (timezone.localdate, timezone.localtime, time.localtime, time.gmtime, time.ctime)
_CHANCE: Final = (uuid.uuid1, uuid.uuid4, os.urandom, get_random_string)
_HOST: Final = (socket.gethostname, os.getpid, os.getenv, id)
_CREATORS: Final = ("create", "get_or_create", "update_or_create", "bulk_create", "acreate")
_ORDERED: Final = ("order_by", "first", "last", "earliest", "latest", "get", "count", "exists", "aggregate")
_ANY_ORDER: Final = ("sorted", "len", "sum", "min", "max", "any", "all", "set", "frozenset")


THROUGH_SET: Final = "goes through a set"
HASH: Final = "takes hash()"


class Suspicion(NamedTuple):
    command: str
    line: str  # file:line
    words: str
    # Whether it is about the order of a set, or hash().
    is_of_hash: bool


def suspicions(command: Command) -> list[Suspicion]:
    """In order of lines. None where the source is not to be had."""
    function = inspect.unwrap(command.function)
    try:
        lines, first = inspect.getsourcelines(function)
        tree = ast.parse(textwrap.dedent("".join(lines)))
    except (OSError, SyntaxError, TypeError):
        return []
    path = inspect.getsourcefile(function) or ""
    reader = _Reader(function)
    reader.visit(tree)
    return [
        Suspicion(
            command.name, f"{path}:{first + line - 1}", f"{command.name} {words}", words.startswith((THROUGH_SET, HASH))
        )
        for line, words in sorted(set(reader.found))
    ]


class _Reader(ast.NodeVisitor):
    def __init__(self, function: Any) -> None:
        self.found: list[tuple[int, str]] = []
        closure = inspect.getclosurevars(function)
        self._names: dict[str, Any] = {**vars(builtins), **function.__globals__, **closure.nonlocals}
        self._harmless: set[ast.AST] = set()  # sets that are put in order, or whose order does not show

    def _note(self, node: ast.AST, words: str) -> None:
        self.found.append((node.lineno, words))  # type: ignore[attr-defined]

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            with contextlib.suppress(ImportError):
                module = importlib.import_module(alias.name)
                name = alias.asname or alias.name.partition(".")[0]
                self._names[name] = module if alias.asname else importlib.import_module(name)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        if node.level or not node.module:
            return
        with contextlib.suppress(ImportError):
            module = importlib.import_module(node.module)
            for alias in node.names:
                self._names[alias.asname or alias.name] = getattr(module, alias.name, None)

    def visit_Call(self, node: ast.Call) -> None:
        called = self._resolve(node.func)
        if isinstance(node.func, ast.Name) and called in (getattr(builtins, name) for name in _ANY_ORDER):
            self._harmless.update(node.args)
        elif called in (list, tuple, enumerate, iter) and node.args:
            self._iterated(node.args[0])
        if called is not None:
            self._called(node, called)
        self._created(node, called)
        self.generic_visit(node)

    def _called(self, node: ast.Call, called: Any) -> None:
        if _is_one_of(called, _CLOCK):
            if not (node.args and _is_one_of(called, _CLOCK_WITHOUT_ARGUMENT)):
                self._note(node, "reads the clock: take ctx.now")
        elif _is_chance(called):
            self._note(node, "takes chance: take ctx.random, or ctx.uuid()")
        elif _is_one_of(called, _HOST):
            self._note(node, "asks for what differs from host to host: give it as an argument")
        elif called is hash:
            self._note(node, f"{HASH}, which is seeded anew in each process: use hashlib")

    def _created(self, node: ast.Call, called: Any) -> None:
        """Fields that fill themselves when a row is made."""
        model = called
        if isinstance(node.func, ast.Attribute) and node.func.attr in _CREATORS:
            model = self._model_of(node.func.value)
        if not (isinstance(model, type) and issubclass(model, models.Model)):
            return
        given = {keyword.arg for keyword in node.keywords}
        for field in model._meta.concrete_fields:
            label = f"{model.__name__}.{field.name}"
            if getattr(field, "auto_now", False) or getattr(field, "auto_now_add", False):
                self._note(node, f"writes {label}, which auto_now fills from the clock: a plain field, from ctx.now")
            elif field.name in given or field.attname in given or None in given or "defaults" in given:
                continue
            elif _is_one_of(field.default, _CLOCK) or _is_chance(field.default):
                self._note(node, f"leaves {label} to its default, which differs: give it, from ctx")

    def visit_For(self, node: ast.For) -> None:
        self._iterated(node.iter)
        self.generic_visit(node)

    def visit_comprehension(self, node: ast.comprehension) -> None:
        self._iterated(node.iter)
        self.generic_visit(node)

    def visit_GeneratorExp(self, node: ast.GeneratorExp) -> None:
        if node in self._harmless:
            self._harmless.update(generator.iter for generator in node.generators)
        self.generic_visit(node)

    visit_ListComp = visit_GeneratorExp  # type: ignore[assignment]

    def visit_SetComp(self, node: ast.SetComp) -> None:
        self._harmless.update(generator.iter for generator in node.generators)
        self.generic_visit(node)

    def _iterated(self, node: ast.expr) -> None:
        is_set = isinstance(node, ast.Set | ast.SetComp)
        if isinstance(node, ast.Call):
            is_set = self._resolve(node.func) in (set, frozenset)
        if is_set and node not in self._harmless:
            self._note(node, f"{THROUGH_SET}, whose order differs from process to process: sort it")

    def visit_Subscript(self, node: ast.Subscript) -> None:
        calls = list(_attributes(node.value))
        model = self._model_of(node.value)
        if model is not None and calls and not set(calls) & set(_ORDERED) and not model._meta.ordering:
            self._note(node, f"takes some rows of {model.__name__} in no order: add order_by()")
        self.generic_visit(node)

    def _model_of(self, node: ast.expr) -> Any:
        """The model at the root of `Model.objects.….…()`."""
        while isinstance(node, ast.Call | ast.Attribute):
            if isinstance(node, ast.Attribute):
                found = self._resolve(node.value)
                if isinstance(found, type) and issubclass(found, models.Model):
                    return found
            node = node.func if isinstance(node, ast.Call) else node.value
        return None

    def _resolve(self, node: ast.expr) -> Any:
        """What a dotted name stands for; None where that depends on a value."""
        if isinstance(node, ast.Name):
            return self._names.get(node.id)
        if isinstance(node, ast.Attribute):
            owner = self._resolve(node.value)
            if inspect.ismodule(owner) or isinstance(owner, type):
                return getattr(owner, node.attr, None)
        return None


def _attributes(node: ast.expr) -> Iterator[str]:
    while isinstance(node, ast.Call | ast.Attribute):
        if isinstance(node, ast.Attribute):
            yield node.attr
        node = node.func if isinstance(node, ast.Call) else node.value


def _is_one_of(thing: Any, known: tuple[Any, ...]) -> bool:
    return callable(thing) and any(thing == one for one in known)


def _is_chance(thing: Any) -> bool:
    if not callable(thing):
        return False
    is_module_random = getattr(thing, "__self__", None) is random._inst
    is_secret = getattr(thing, "__module__", "") == "secrets" or isinstance(
        getattr(thing, "__self__", None), random.SystemRandom
    )
    return is_module_random or (is_secret and thing is not secrets.compare_digest) or _is_one_of(thing, _CHANCE)
