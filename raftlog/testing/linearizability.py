"""A linearizability checker.

Is there an order of the operations in which each takes effect at one moment between its call and its
answer, and each answers as the sequential model says?

- J. M. Wing and C. Gong, "Testing and Verifying Concurrent Objects", JPDC 17, 1993: the search, which
  takes a minimal operation (called before any other pending one has returned), tries it, and backtracks.
- G. Lowe, "Testing for linearizability", Concurrency and Computation 29(4), 2017: remember each
  configuration (the set of operations placed, and the state) that was seen, and never search it again.
- A. Horn and D. Kroening, "Faster linearizability checking via P-compositionality", FORTE 2015: where
  operations on different keys cannot influence each other, each key is checked by itself; and the doubly
  linked list of calls and returns, from which placing an operation takes both of its events.

An operation that holds in a state and leaves it as it is (a read, a failed compare-and-set) is placed at once
and never taken back: an order that has it later also holds with it here.

Operations with unknown outcome may be placed at any time after their call, or never. They are tried last,
those that would change nothing not at all, and a configuration that has used up more of them than one
seen before, with all else equal, is not searched again: what it could do, the other could.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from raftlog.testing.history import Operation
from raftlog.testing.models import Model

MAX_CONFIGURATIONS: Final = 2_000_000


@dataclass(slots=True)
class Counterexample:
    """Why a history is not linearizable: the longest order found, and the operation that fits nowhere after it."""

    partition: Hashable
    operations: list[Operation]
    placed: list[Operation]
    states: list[Any]  # states[i] after placed[i]
    failed: Operation
    tried: list[Operation]  # what was pending besides; none of it leads to an order that holds

    def text(self) -> str:
        from raftlog.testing.timeline import counterexample_text

        return counterexample_text(self)

    def html(self) -> str:
        """A timeline, self-contained."""
        from raftlog.testing.timeline import counterexample_html

        return counterexample_html(self)


@dataclass(slots=True)
class Verdict:
    """Result of check(). `undecided` names partitions whose search was given up at the limit."""

    is_linearizable: bool
    operations: int
    partitions: int
    configurations: int
    counterexample: Counterexample | None = None
    undecided: list[Hashable] = field(default_factory=list)


def check(history: Iterable[Operation], model: Model, max_configurations: int = MAX_CONFIGURATIONS) -> Verdict:
    """Check a history against a model.

    Args:
        history: operations of all clients, in any order. Operations with equal times count as concurrent.
        max_configurations: for each partition; a search beyond it is given up, which the verdict says.
            A verdict with `undecided` partitions has `is_linearizable` False: it was not shown.
    """
    parts: dict[Hashable, list[Operation]] = defaultdict(list)
    total = 0
    for operation in history:
        total += 1
        parts[model.partition(operation)].append(operation)
    verdict = Verdict(True, total, len(parts), 0)
    for partition, operations in parts.items():
        search = _Search(operations, model, max_configurations)
        outcome = search.run()
        verdict.configurations += search.configurations
        if outcome is None:
            verdict.undecided.append(partition)
            verdict.is_linearizable = False
        elif not outcome:
            verdict.is_linearizable = False
            verdict.counterexample = search.counterexample(partition)
            break
    return verdict


class _Event:
    """A call or a return in the list of what is not placed yet."""

    __slots__ = ("bit", "match", "next", "operation", "position", "previous")

    def __init__(self, operation: Operation, bit: int, position: int) -> None:
        self.operation = operation
        self.bit = bit
        self.position = position
        self.match = self  # on a call: its return
        self.previous = self
        self.next = self


# An event of an answered operation (None where it has no answer), its bit, the operation, the state after it.
Candidate = tuple[_Event | None, int, Operation, Any]


def _answered_last(candidate: Candidate) -> int:
    event = candidate[0]
    assert event is not None
    return -event.match.position


def _unlink(event: _Event) -> None:
    event.previous.next = event.next
    event.next.previous = event.previous


def _relink(event: _Event) -> None:
    event.previous.next = event
    event.next.previous = event


class _Search:
    """One partition's depth-first search. `known` operations have answers, `unknown` ones have none."""

    def __init__(self, operations: list[Operation], model: Model, limit: int) -> None:
        self.model = model
        self.limit = limit
        self.configurations = 0
        self.operations = sorted(operations, key=lambda operation: operation.invoked_at)
        known = [operation for operation in self.operations if not operation.is_unknown]
        self.remaining = len(known)
        self.head = _Event(Operation("", ""), 0, -1)
        self.unknown: list[tuple[int, int, Operation]] = []  # (position of the call, bit, operation)
        self._build(known)
        # (bits of the known placed, state) -> minimal sets of the unknown placed
        self.seen: dict[tuple[int, Hashable], list[int]] = {}
        self.state: Any = None
        self.placed_known = self.placed_unknown = 0
        self.path: list[tuple[_Event | None, Operation, Any, int, int]] = []  # what was placed, and what held before
        self.best_position = -1
        self.best: list[Operation] = []
        self.best_states: list[Any] = []
        self.best_failed: Operation | None = None
        self.best_tried: list[Operation] = []

    def _build(self, known: list[Operation]) -> None:
        moments: list[tuple[float, bool, int, Operation]] = []
        for number, operation in enumerate(known):
            moments.append((operation.invoked_at, False, number, operation))
            moments.append((operation.returned_at, True, number, operation))
        for number, operation in enumerate(self.operations):
            if operation.is_unknown and not self.model.is_read(operation):
                moments.append((operation.invoked_at, False, -number - 1, operation))
        moments.sort(key=lambda moment: moment[:3])
        calls: dict[int, _Event] = {}
        last = self.head
        for position, (_, is_return, number, operation) in enumerate(moments):
            if number < 0:
                self.unknown.append((position, 1 << len(self.unknown), operation))
                continue
            event = _Event(operation, 0 if is_return else 1 << number, position)
            if is_return:
                calls[number].match = event
            else:
                calls[number] = event
            event.previous, last.next = last, event
            last = event
        last.next = self.head
        self.head.previous = last

    def run(self) -> bool | None:
        """True: linearizable; False: not; None: given up."""
        self.state = self.model.init()
        stack = [self._candidates()]
        while self.remaining:
            if self.configurations > self.limit:
                return None
            if self._place_one(stack[-1]):
                stack.append(self._candidates() if self.remaining else [])
                continue
            self._remember()
            stack.pop()
            if not self.path:
                return False
            self._take_back()
        return True

    def _place_one(self, candidates: list[Candidate]) -> bool:
        """Place the next candidate that holds and leads to a configuration not seen before."""
        state = self.state
        while candidates:
            event, bit, operation, after = candidates.pop()
            known, unknown = self.placed_known, self.placed_unknown
            if event is None:
                unknown |= bit
            else:
                known |= bit
            if self._was_seen(known, unknown, after):
                continue
            self.path.append((event, operation, state, self.placed_known, self.placed_unknown))
            if event is not None:
                _unlink(event)
                _unlink(event.match)
                self.remaining -= 1
            self.state, self.placed_known, self.placed_unknown = after, known, unknown
            return True
        return False

    def _take_back(self) -> None:
        event, _, self.state, self.placed_known, self.placed_unknown = self.path.pop()
        if event is not None:
            _relink(event.match)
            _relink(event)
            self.remaining += 1

    def _candidates(self) -> list[Candidate]:
        """What may come next, last choice first: calls before the first return that is not placed."""
        step, state = self.model.step, self.state
        found: list[Candidate] = []
        event = self.head.next
        while event.bit:
            ok, after = step(state, event.operation)
            if ok:
                if after == state:
                    return [(event, event.bit, event.operation, after)]  # see the module: needs no alternative
                found.append((event, event.bit, event.operation, after))
            event = event.next
        found.sort(key=_answered_last)
        candidates = self._unanswered(event.position)
        candidates.extend(found)
        return candidates

    def _unanswered(self, limit: int) -> list[Candidate]:
        candidates: list[Candidate] = []
        alike = set()
        for position, bit, operation in self.unknown:
            if position > limit:
                break
            if not self.placed_unknown & bit:
                # Unknown calls that ask the same are interchangeable: the earliest will do.
                question = (operation.action, operation.argument, operation.key)
                _, after = self.model.step(self.state, operation)
                if question not in alike and after != self.state:
                    alike.add(question)
                    candidates.append((None, bit, operation, after))
        return candidates

    def _was_seen(self, known: int, unknown: int, state: Hashable) -> bool:
        key = (known, state)
        minimal = self.seen.get(key)
        if minimal is None:
            self.seen[key] = [unknown]
        else:
            if any(used & unknown == used for used in minimal):
                return True
            minimal[:] = [used for used in minimal if used & unknown != unknown]
            minimal.append(unknown)
        self.configurations += 1
        return False

    def _remember(self) -> None:
        """At a dead end: keep the order if no other came as far in time."""
        first_return = self.head.next
        while first_return.bit:
            first_return = first_return.next
        if first_return.position > self.best_position:
            self.best_position = first_return.position
            self.best_failed = first_return.operation
            self.best = [step[1] for step in self.path]
            self.best_states = [step[2] for step in self.path[1:]] + [self.state][: len(self.path)]
            self.best_tried = self._pending()

    def _pending(self) -> list[Operation]:
        pending: list[Operation] = []
        event = self.head.next
        while event.bit:
            pending.append(event.operation)
            event = event.next
        unknown = [
            o for position, bit, o in self.unknown if position < event.position and not self.placed_unknown & bit
        ]
        return pending + unknown

    def counterexample(self, partition: Hashable) -> Counterexample:
        """After run() gave False."""
        failed = self.best_failed
        assert failed is not None
        relevant = [operation for operation in self.operations if operation.invoked_at <= failed.returned_at]
        return Counterexample(partition, relevant, self.best, self.best_states, failed, self.best_tried)
