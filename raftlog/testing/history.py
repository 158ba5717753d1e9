"""What clients saw: operations with the time of their call and of their answer, for the linearizability checker.

An operation whose client was never answered has an *unknown outcome*: it may take effect at any time
after its call, or never. One that certainly had no effect (a refusal) does not belong in a history.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final


class _Unknown:
    """The output of an operation that was never answered."""

    def __repr__(self) -> str:
        return "?"


UNKNOWN: Final = _Unknown()


@dataclass(slots=True, eq=False)
class Operation:
    """One call of a client. Times are seconds on any one clock that all clients share."""

    client: str
    action: str
    argument: Any = None
    key: Any = None
    invoked_at: float = 0.0
    returned_at: float = math.inf
    output: Any = UNKNOWN

    @property
    def is_unknown(self) -> bool:
        return self.output is UNKNOWN

    def __str__(self) -> str:
        key = "" if self.key is None else f"{self.key}"
        argument = "" if self.argument is None else f"{self.argument!r}"
        inside = ", ".join(part for part in (key, argument) if part)
        return f"{self.client}: {self.action}({inside}) -> {self.output!r}"


class History:
    """Operations of all clients, in the order of their calls. Not thread-safe: one for each thread, merged later."""

    def __init__(self, operations: Iterable[Operation] = ()) -> None:
        self.operations: list[Operation] = list(operations)

    def __len__(self) -> int:
        return len(self.operations)

    def __iter__(self) -> Iterator[Operation]:
        return iter(self.operations)

    def invoke(self, client: str, action: str, argument: Any = None, *, key: Any = None, at: float) -> Operation:
        """Record a call; hand the operation to complete() or forget() later, or leave its outcome unknown."""
        operation = Operation(client, action, argument, key, at)
        self.operations.append(operation)
        return operation

    def complete(self, operation: Operation, output: Any, *, at: float) -> None:
        """Record the answer."""
        if at < operation.invoked_at:
            raise ValueError(f"{operation} returned at {at}, before its call at {operation.invoked_at}")
        operation.output = output
        operation.returned_at = at

    def forget(self, operation: Operation) -> None:
        """Take out a call that certainly had no effect and never will (it was refused)."""
        self.operations.remove(operation)

    def to_json_lines(self) -> str:
        """One operation a line. Keys, arguments and outputs must be JSON values (tuples come back as lists)."""
        return "".join(json.dumps(_as_dict(operation)) + "\n" for operation in self.operations)

    @classmethod
    def from_json_lines(cls, text: str) -> History:
        """The inverse of to_json_lines(); files of several clients may simply be joined."""
        operations = [_from_dict(json.loads(line)) for line in text.splitlines() if line.strip()]
        return cls(sorted(operations, key=lambda operation: operation.invoked_at))


def _as_dict(operation: Operation) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "client": operation.client,
        "action": operation.action,
        "invoked_at": operation.invoked_at,
    }
    if operation.argument is not None:
        fields["argument"] = operation.argument
    if operation.key is not None:
        fields["key"] = operation.key
    if not operation.is_unknown:
        fields |= {"returned_at": operation.returned_at, "output": operation.output}
    return fields


def _from_dict(fields: dict[str, Any]) -> Operation:
    return Operation(
        client=fields["client"],
        action=fields["action"],
        argument=_frozen(fields.get("argument")),
        key=_frozen(fields.get("key")),
        invoked_at=fields["invoked_at"],
        returned_at=fields.get("returned_at", math.inf),
        output=_frozen(fields["output"]) if "output" in fields else UNKNOWN,
    )


def _frozen(value: Any) -> Any:
    """JSON lists as tuples, so that values can be compared with what models hold (hashable states)."""
    return tuple(_frozen(item) for item in value) if isinstance(value, list) else value
