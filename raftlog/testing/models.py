"""Sequential models for the linearizability checker: what each operation would answer if it ran alone.

A model of your own is a class with `init()` and `step()`; see `Model`.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

from raftlog.testing.history import Operation


class Model:
    """Base of all models. States are values: hashable, never changed in place.

    1. `init()` gives the state before any operation.
    2. `step(state, operation)` gives (True, next state) where an operation that ran alone in `state` may
       answer `operation.output`, and (False, anything) where it may not. An operation that is_unknown
       may answer anything, so for it the first part is always True.
    3. `partition(operation)`: operations with different values never influence each other, and each part
       of the history is checked by itself.
    4. `is_read(operation)`: true only where the operation never changes any state.
    """

    def init(self) -> Hashable:
        raise NotImplementedError

    def step(self, state: Any, operation: Operation) -> tuple[bool, Any]:
        raise NotImplementedError

    def partition(self, operation: Operation) -> Hashable:
        return None

    def is_read(self, operation: Operation) -> bool:
        return False


class Register(Model):
    """`write(value)` and `read() -> value`. A new register holds `initial`."""

    def __init__(self, initial: Hashable = None) -> None:
        self.initial = initial

    def init(self) -> Hashable:
        return self.initial

    def step(self, state: Any, operation: Operation) -> tuple[bool, Any]:
        if operation.action == "write":
            return True, operation.argument
        if operation.action == "read":
            return operation.is_unknown or operation.output == state, state
        raise ValueError(f"{type(self).__name__} has no action {operation.action!r}")

    def is_read(self, operation: Operation) -> bool:
        return operation.action == "read"


class CompareAndSetRegister(Register):
    """A register that also knows `compare_and_set((expected, value)) -> bool`."""

    def step(self, state: Any, operation: Operation) -> tuple[bool, Any]:
        if operation.action != "compare_and_set":
            return super().step(state, operation)
        expected, value = operation.argument
        matches = state == expected
        return operation.is_unknown or operation.output == matches, value if matches else state


class KeyValueMap(Model):
    """A map, each key by itself (P-compositionality): an absent key holds None.

    `get() -> value`, `put(value)`, `delete() -> it was there`, `compare_and_set((expected, value)) -> bool`,
    `append(item) -> the tuple with the item at its end` (shows each lost or doubled command).
    """

    def init(self) -> Hashable:
        return None

    def step(self, state: Any, operation: Operation) -> tuple[bool, Any]:
        answer, after = map_step(state, operation.action, operation.argument)
        return operation.is_unknown or operation.output == answer, after

    def partition(self, operation: Operation) -> Hashable:
        return operation.key  # type: ignore[no-any-return]

    def is_read(self, operation: Operation) -> bool:
        return operation.action == "get"


def map_step(value: Any, action: str, argument: Any) -> tuple[Any, Any]:
    """(answer, new value) of one action on the value of one key; the simulation's state machine runs it too."""
    if action == "get":
        return value, value
    if action == "put":
        return None, argument
    if action == "delete":
        return value is not None, None
    if action == "compare_and_set":
        expected, new = argument
        return (True, new) if value == expected else (False, value)
    if action == "append":
        items = value if isinstance(value, tuple) else ()
        after = (*items, argument)
        return after, after
    raise ValueError(f"KeyValueMap has no action {action!r}")
