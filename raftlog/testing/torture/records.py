"""What client processes write down while they work, one JSON object a line, and how it is read while they do.

A call is written before it is made and its end after it is known, each by one write(2): a client that is killed
leaves calls without an end, whose outcome is then unknown, and at most one unfinished line.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from raftlog.testing.history import Operation

APPLIED: Final = "applied"  # its output is known
REFUSED: Final = "refused"  # the command raised, as commands may: known too
NOTHING: Final = "nothing"  # it certainly had no effect and never will
UNANSWERED: Final = "unknown"

End = Literal["applied", "refused", "nothing", "unknown"]


class Called(msgspec.Struct, tag="call", omit_defaults=True):
    """`action` is one of KeyValueMap, or claim, note, withdraw, read; or one of orm_client.MIX, with the node as `key`.

    `reference` "": a read, not in the ledger.
    """

    number: int
    at: float
    thread: int
    action: str
    key: str
    argument: Any = None
    reference: str = ""


class Prepared(msgspec.Struct, tag="prepared"):
    """What a transaction has read ("r", key, value), written ("w", …) and listed ("s", slot, references) in order.

    Written before its commit: whoever reads of it knows what it did, even if nobody heard how it ended.
    """

    number: int
    steps: list[tuple[str, str, Any]]


class Ended(msgspec.Struct, tag="end", omit_defaults=True):
    """`index` of the entry that had the effect (0: none), `node` that answered."""

    number: int
    at: float
    end: End
    output: Any = None
    index: int = 0
    node: str = ""
    attempts: int = 1


class Broken(msgspec.Struct, tag="broken"):
    """A promise that the client itself saw broken."""

    at: float
    text: str


Line = Called | Prepared | Ended | Broken
_decoder = msgspec.json.Decoder(Line)


class Recorder:
    """Writes one client process's file. Thread-safe."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._lock = threading.Lock()
        self._number = 0

    def number(self) -> int:
        with self._lock:
            self._number += 1
            return self._number

    def write(self, line: Line) -> None:
        data = msgspec.json.encode(line) + b"\n"
        with self._lock:
            while data:
                data = data[os.write(self._descriptor, data) :]


@dataclass(slots=True)
class Call:
    """One call of one client, with its end where that is known."""

    client: str
    called: Called
    ended: Ended | None = None
    steps: list[tuple[str, str, Any]] = field(default_factory=list)

    @property
    def end(self) -> End:
        return self.ended.end if self.ended is not None else UNANSWERED

    def operation(self) -> Operation | None:
        """For the checker's history; None where it does not belong there (no effect, no answer to check)."""
        called, end = self.called, self.end
        if end == NOTHING or called.action == "withdraw":
            return None
        if end == UNANSWERED and not called.reference:
            return None  # a read without an answer says nothing
        action, argument = called.action, frozen(called.argument)
        if action == "claim":
            action, argument = "compare_and_set", (None, called.reference)
        elif action in ("note", "read"):
            action = "exists" if action == "note" else "get"
        operation = Operation(f"{self.client}.{called.thread}", action, argument, called.key, called.at)
        if end != UNANSWERED and self.ended is not None:
            # claim and note end with an IntegrityError where the answer is no
            operation.output = False if end == REFUSED else frozen(self.ended.output)
            operation.returned_at = self.ended.at
        return operation


@dataclass
class Records:
    """The files of all clients in a directory, read as they grow. For one thread."""

    directory: Path
    calls: list[Call] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    # Moments at which a command was acknowledged as applied (or refused by itself), as read.
    acknowledged: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._offsets: dict[Path, int] = {}
        self._open: dict[tuple[str, int], Call] = {}
        self.ends: dict[str, int] = {APPLIED: 0, REFUSED: 0, NOTHING: 0, UNANSWERED: 0}
        self.reads = 0

    def poll(self) -> None:
        """Take in what has been written since."""
        for path in sorted(self.directory.glob("*.jsonl")):
            for line in self._new_lines(path):
                self._take(path.stem, line)

    def _new_lines(self, path: Path) -> Iterator[Line]:
        with path.open("rb") as file:
            file.seek(self._offsets.get(path, 0))
            data = file.read()
        complete = data.rfind(b"\n") + 1
        self._offsets[path] = self._offsets.get(path, 0) + complete
        for text in data[:complete].splitlines():
            yield _decoder.decode(text)

    def _take(self, client: str, line: Line) -> None:
        if isinstance(line, Called):
            call = Call(client, line)
            self.calls.append(call)
            self._open[client, line.number] = call
        elif isinstance(line, Prepared):
            self._open[client, line.number].steps = line.steps
        elif isinstance(line, Ended):
            call = self._open.pop((client, line.number))
            call.ended = line
            self.ends[line.end] += 1
            if line.end in (APPLIED, REFUSED):
                if call.called.reference:
                    self.acknowledged.append(line.at)
                else:
                    self.reads += 1
        else:
            self.broken.append(f"client {client} at {line.at:.3f}: {line.text}")

    @property
    def unanswered(self) -> int:
        """Calls without an answer: given up, under way, or their client was killed."""
        return len(self._open) + self.ends[UNANSWERED]

    def last_acknowledged(self) -> float:
        return self.acknowledged[-1] if self.acknowledged else 0.0


def operations(calls: Iterable[Call]) -> Iterator[Operation]:
    """The history of all calls that say something about the map."""
    for call in calls:
        operation = call.operation()
        if operation is not None:
            yield operation


def frozen(value: Any) -> Any:
    """JSON lists as tuples, as the states of models are."""
    return tuple(frozen(item) for item in value) if isinstance(value, list) else value
