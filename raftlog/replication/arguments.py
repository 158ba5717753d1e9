"""The arguments of a command against its signature, checked where they are proposed.

A mistake is told to the caller before anything is proposed, and defaults are filled in there, so that every
node runs the command with the same arguments, whatever its own code says is the default.
"""

from __future__ import annotations

import datetime
import difflib
import inspect
import types
import typing
import uuid
from collections.abc import Callable
from decimal import Decimal
from typing import Any, Final

from asgiref.sync import iscoroutinefunction

from raftlog.exceptions import InvalidArguments

CHECKED_TYPES: Final = (
    *(int, str, bool, float, bytes, list, dict, tuple, type(None), Decimal),
    *(datetime.datetime, datetime.date, datetime.time, datetime.timedelta, uuid.UUID),
)
# What is taken for what, beyond the type itself (and its subclasses): annotation -> type of the value
_ALSO: Final[dict[type, tuple[type, ...]]] = {float: (int,), Decimal: (int,), list: (tuple,), tuple: (list,)}
# Subclasses in Python that are not meant by the annotation
_NOT: Final[dict[type, tuple[type, ...]]] = {
    int: (bool,),
    float: (bool,),
    Decimal: (bool,),
    datetime.date: (datetime.datetime,),
}


class Arguments:
    """Names, types and defaults of a command's arguments (its first parameter, the context, left out)."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        parameters = list(inspect.signature(function).parameters.values())
        self._refuse_shape(parameters)
        self._parameters = {parameter.name: parameter for parameter in parameters[1:]}
        self.names = frozenset(self._parameters)
        # Resolved at first use: annotations may name what is imported later.
        self._types: dict[str, tuple[type, ...]] | None = None

    def _refuse_shape(self, parameters: list[inspect.Parameter]) -> None:
        where = f"@command {self._function.__module__}.{self._function.__qualname__}"
        if iscoroutinefunction(self._function) or inspect.isgeneratorfunction(self._function):
            raise TypeError(f"{where} must be a plain function: it runs in the thread that applies the log")
        if not parameters or parameters[0].kind not in (
            inspect.Parameter.POSITIONAL_ONLY,
            inspect.Parameter.POSITIONAL_OR_KEYWORD,
        ):
            raise TypeError(f"{where} must take the context first: def {self._function.__name__}(ctx, *, …)")
        for parameter in parameters[1:]:
            if parameter.kind not in (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY):
                raise TypeError(f"{where}: {parameter} is not possible; name each argument")

    def check(self, command: str, given: dict[str, Any]) -> dict[str, Any]:
        """`given` with defaults filled in. Raises InvalidArguments: command, argument, what was expected and got."""
        if not given.keys() <= self.names:
            self._refuse_unknown(command, given)
        if self._types is None:
            self._types = self._resolve()
        complete = {}
        for name, parameter in self._parameters.items():
            if name in given:
                value = given[name]
                expected = self._types.get(name)
                if expected is not None and type(value) not in expected and not _fits(value, expected):
                    wanted = " or ".join(_name(kind) for kind in expected)
                    got = f"{_shorten(value)} ({type(value).__name__})"
                    raise InvalidArguments(f"{command}: argument {name!r} must be {wanted}, not {got}")
            elif parameter.default is not parameter.empty:
                value = parameter.default
            else:
                raise InvalidArguments(f"{command}: argument {name!r} is missing; it takes {self._described()}")
            complete[name] = value
        return complete

    def accepts(self, names: typing.AbstractSet[str]) -> bool:
        """Whether the function can be called with just these arguments (those of an entry in the log)."""
        if names == self.names:
            return True
        missing = self.names - names
        return names <= self.names and all(
            self._parameters[name].default is not inspect.Parameter.empty for name in missing
        )

    def _refuse_unknown(self, command: str, given: dict[str, Any]) -> None:
        name = sorted(given.keys() - self.names)[0]
        close = difflib.get_close_matches(name, sorted(self.names), n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"it takes {self._described()}"
        raise InvalidArguments(f"{command}: unknown argument {name!r}; {hint}")

    def _described(self) -> str:
        return ", ".join(str(parameter) for parameter in self._parameters.values()) or "no arguments"

    def _resolve(self) -> dict[str, tuple[type, ...]]:
        resolved = {}
        for name, parameter in self._parameters.items():
            expected = _expected_types(self._evaluate(parameter.annotation))
            if expected is not None:
                resolved[name] = expected
        return resolved

    def _evaluate(self, annotation: Any) -> Any:
        if not isinstance(annotation, str):
            return annotation
        holder = types.SimpleNamespace(__annotations__={"value": annotation})
        try:
            return typing.get_type_hints(holder, self._function.__globals__)["value"]
        except NameError:  # imported for type checkers only: not one of the types that are checked
            return Any


def _expected_types(annotation: Any) -> tuple[type, ...] | None:
    """The types that an annotation allows; None where it says nothing that is checked."""
    if annotation is None:
        return (type(None),)
    origin = typing.get_origin(annotation)
    if origin is typing.Union or origin is types.UnionType:
        parts = [_expected_types(part) for part in typing.get_args(annotation)]
        return None if None in parts else tuple(kind for part in parts if part is not None for kind in part)
    if origin is typing.Annotated:
        return _expected_types(typing.get_args(annotation)[0])
    kind = origin if origin in (list, dict, tuple) else annotation
    return (kind,) if kind in CHECKED_TYPES else None


def _fits(value: Any, expected: tuple[type, ...]) -> bool:
    for kind in expected:
        if isinstance(value, (kind, *_ALSO.get(kind, ()))) and not isinstance(value, _NOT.get(kind, ())):
            return True
    return False


def _name(kind: type) -> str:
    return "None" if kind is type(None) else kind.__name__


def _shorten(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
