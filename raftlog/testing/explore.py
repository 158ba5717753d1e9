"""python -m raftlog.testing.explore: every interleaving of a three-node cluster of the real core, breadth first.

    python -m raftlog.testing.explore --states 1000000
    python -m raftlog.testing.explore --terms 3 --proposals 2 --crashes 1 --duplicates 1 --json

Servers are the real class Raft (`model_server.py`). The wire is a set of messages: any of them may arrive
next, in any order, or never, which is how one gets lost; `--losses` of them besides are lost for good, and
`--duplicates` arrive and stay. A server may crash at any moment, `--crashes` times in all, and starts again from
what is durable. Terms and proposals are bounded, so that the space is finite.

Checked in every state: those of consensus/invariants.py for the server that moved (Leader Append-Only among
them), Election Safety, Log Matching, Leader Completeness, State Machine Safety, and that what is committed is
durable on a majority. With `--compactions`, servers give up their logs, and images of their databases may come to the
others at any moment. A violation prints the actions that lead to it, the fewest there are. Exit code 1.
"""

from __future__ import annotations

import argparse
import json
import sys
from array import array
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import combinations, pairwise
from typing import Any, Final, TextIO

import msgspec

from raftlog.consensus.invariants import InvariantViolated, last_agreement
from raftlog.consensus.messages import AppendEntriesResponse, InstallSnapshotResponse, RequestVoteResponse
from raftlog.consensus.raft import Raft
from raftlog.consensus.state import Role
from raftlog.exceptions import RaftlogError
from raftlog.runtime import clock
from raftlog.testing.model_server import NODES, ModelMessage, Step, digest, diverged_server, first_server, take_step
from raftlog.testing.mutations import MUTATIONS, mutated

# A global state: ids of the three servers, what is left of crashes, losses, duplicates, proposals and compactions, the
# id of what history remembers, then the ids of the messages on the wire, sorted. As bytes, it is its own name.
HEADER: Final = 9
SERVER, CRASHES, LOSSES, DUPLICATES, PROPOSALS, COMPACTIONS, HISTORY = slice(0, 3), 3, 4, 5, 6, 7, 8

SPENDS: Final = {"duplicate": DUPLICATES, "crash": CRASHES, "propose": PROPOSALS, "compact": COMPACTIONS}

Action = tuple[str, int, int]  # what, the server's number, the message's id (-1: none)

_encode = msgspec.msgpack.Encoder().encode


@dataclass(frozen=True, slots=True)
class Bounds:
    """How far to go."""

    states: int = 1_000_000
    terms: int = 3
    proposals: int = 1
    crashes: int = 1
    losses: int = 0
    duplicates: int = 0
    compactions: int = 0
    # More messages than these on the wire at once are not looked at.
    messages: int = 4
    # Begin where one server has missed a committed entry, and has another in its place (terms: at least 4).
    diverged: bool = False
    # Candidates ask for pre-votes first. Else they stand at once, as after TimeoutNow: deeper for as many states,
    # and nothing that matters for safety depends on pre-votes.
    pre_vote: bool = False


@dataclass(slots=True)
class Result:
    """What was seen. `is_complete`: every state within the bounds was."""

    bounds: Bounds
    states: int = 0
    transitions: int = 0
    depth: int = 0
    server_states: int = 0
    messages: int = 0
    is_complete: bool = False
    seconds: float = 0.0
    violation: str = ""
    trace: list[str] = field(default_factory=list)


class Explorer:
    """Breadth-first search. Servers, messages and histories are interned; what an action does to a server is computed
    once, whatever the rest of the cluster is like."""

    def __init__(self, bounds: Bounds) -> None:
        self.bounds = bounds
        self.servers: list[Raft] = []
        self.server_ids: dict[bytes, int] = {}
        self.messages: list[ModelMessage] = []
        self.message_ids: dict[bytes, int] = {}
        # (leader by term, ((term of the entry, term in which it was committed), …))
        self.histories: list[tuple[tuple[str, ...], tuple[tuple[int, int], ...]]] = []
        self.history_ids: dict[Any, int] = {}
        self.steps: dict[tuple[int, str, int], tuple[int, tuple[int, ...]] | None] = {}
        self.pairs: set[tuple[int, int]] = set()
        self.order: list[bytes] = []
        self.parents = array("q")
        self.known: set[bytes] = set()
        self.result = Result(bounds)

    def run(self, progress: TextIO | None = None) -> Result:
        began = clock.monotonic()
        result = self.result
        self._add(self._first_state(), -1)
        position = level_end = 0
        level_end = len(self.order)
        while position < len(self.order) and len(self.order) < self.bounds.states:
            if position == level_end:
                result.depth += 1
                level_end = len(self.order)
                if progress is not None:
                    rate = len(self.order) / max(clock.monotonic() - began, 1e-9)
                    progress.write(f"depth {result.depth}: {len(self.order)} states, {rate:.0f} a second\n")
            if not self._expand(position):
                break
            position += 1
        result.is_complete = position == len(self.order) and not result.violation
        result.states, result.server_states, result.messages = len(self.order), len(self.servers), len(self.messages)
        result.seconds = clock.monotonic() - began
        return result

    def _first_state(self) -> bytes:
        bounds = self.bounds
        first = diverged_server if bounds.diverged else first_server
        servers = [self._server_id(first(node)) for node in NODES]
        leaders: tuple[str, ...] = ("", "", "c", "a") if bounds.diverged else ()
        leaders += ("",) * (bounds.terms + 1 - len(leaders))
        history = self._history_id((leaders, ((1, 1), (3, 3)) if bounds.diverged else ((1, 1),)))
        return array(
            "I",
            [
                *(*servers, bounds.crashes, bounds.losses, bounds.duplicates),
                *(bounds.proposals, bounds.compactions, history),
            ],
        ).tobytes()

    def _add(self, state: bytes, parent: int) -> None:
        if state not in self.known:
            self.known.add(state)
            self.order.append(state)
            self.parents.append(parent)

    def _expand(self, position: int) -> bool:
        """All successors of one state. False where an invariant fell."""
        state = array("I", self.order[position])
        for action in self._actions(state):
            try:
                successor = self._successor(state, action)
            except (InvariantViolated, RaftlogError, AssertionError, ValueError) as error:
                self.result.violation = f"{type(error).__name__}: {error}"
                self.result.trace = [*self._trace(position), self._describe(action)]
                return False
            self.result.transitions += 1
            if successor is not None:
                self._add(successor, position)
        return True

    # What may happen next

    def _actions(self, state: array[int]) -> Iterator[Action]:
        for message in state[HEADER:]:
            number = NODES.index(self.messages[message].recipient)
            yield "deliver", number, message
            if state[DUPLICATES]:
                yield "duplicate", number, message
            if state[LOSSES]:
                yield "lose", number, message
        for number, server in enumerate(state[SERVER]):
            raft = self.servers[server]
            if raft.role is Role.LEADER:
                yield from _actions_of_leader(state, number, raft)
            elif raft.current_term < self.bounds.terms:
                yield "timeout" if self.bounds.pre_vote else "campaign", number, -1
            if state[CRASHES]:
                yield "crash", number, -1
            if state[COMPACTIONS] and min(raft.commit_index, raft.log.stable_index) > raft.log.base.index:
                yield "compact", number, -1

    def _successor(self, state: array[int], action: Action) -> bytes | None:
        what, number, message = action
        after = array("I", state[:HEADER])
        wire = set(state[HEADER:])
        if what == "lose":
            after[LOSSES] -= 1
            wire.discard(message)
        else:
            step = self._local_step(state[number], "deliver" if what == "duplicate" else what, message)
            if step is None:
                return None
            after[number], sent = step
            if what == "deliver":
                wire.discard(message)
            if what in SPENDS:
                after[SPENDS[what]] -= 1
            wire.update(each for each in sent if not self._is_void(each, after))
            if len(wire) > self.bounds.messages or self.servers[after[number]].current_term > self.bounds.terms:
                return None
            if after[number] != state[number]:
                after[HISTORY] = self._check(after, number)
                wire = {each for each in wire if not self._is_void(each, after)}
        after.extend(sorted(wire))
        return after.tobytes()

    def _is_void(self, message: int, state: array[int]) -> bool:
        """An answer of a term that is over for its recipient: ignored now and for ever, so it may as well be lost."""
        answer = self.messages[message]
        is_vote = isinstance(answer, RequestVoteResponse) and not answer.pre_vote
        if is_vote or isinstance(answer, AppendEntriesResponse | InstallSnapshotResponse):
            return answer.term < self.servers[state[NODES.index(answer.recipient)]].current_term
        return False

    def _local_step(self, server: int, what: str, message: int) -> tuple[int, tuple[int, ...]] | None:
        key = (server, what, message)
        if key not in self.steps:
            step = take_step(self.servers[server], what, self.messages[message] if message >= 0 else None)
            self.steps[key] = None if step is None else self._interned(step)
        return self.steps[key]

    def _interned(self, step: Step) -> tuple[int, tuple[int, ...]]:
        return self._server_id(step.raft), tuple(self._message_id(message) for message in step.sent)

    def _server_id(self, raft: Raft) -> int:
        name = digest(raft)
        if name not in self.server_ids:
            self.server_ids[name] = len(self.servers)
            self.servers.append(raft)
        return self.server_ids[name]

    def _message_id(self, message: ModelMessage) -> int:
        name = _encode(message)
        if name not in self.message_ids:
            self.message_ids[name] = len(self.messages)
            self.messages.append(message)
        return self.message_ids[name]

    def _history_id(self, history: tuple[tuple[str, ...], tuple[tuple[int, int], ...]]) -> int:
        if history not in self.history_ids:
            self.history_ids[history] = len(self.histories)
            self.histories.append(history)
        return self.history_ids[history]

    # What must hold

    def _check(self, state: array[int], number: int) -> int:
        """Check the server that moved against the others and against history. Returns the history's new id."""
        raft = self.servers[state[number]]
        self._check_logs(state)
        leaders, committed = self.histories[state[HISTORY]]
        if raft.role is Role.LEADER and not leaders[raft.current_term]:
            leaders = (*leaders[: raft.current_term], raft.node_id, *leaders[raft.current_term + 1 :])
            _check_completeness(raft, committed)
        if raft.role is Role.LEADER and leaders[raft.current_term] != raft.node_id:
            raise InvariantViolated(
                f"Election Safety: {leaders[raft.current_term]} and {raft.node_id} lead term {raft.current_term}"
            )
        base_index = raft.log.base.index
        if base_index > len(committed):
            raise InvariantViolated(f"{raft.node_id} begins its log after entry {base_index}, which is not committed")
        for index in range(max(base_index, 1), raft.commit_index + 1):
            term = raft.log.term_at(index)
            if index > len(committed):
                committed = (*committed, (term, raft.current_term))
                self._check_majority(state, index, term)
            elif committed[index - 1][0] != term:
                raise InvariantViolated(
                    f"State Machine Safety: {raft.node_id} commits another entry {index}: term {term}"
                )
        return self._history_id((leaders, committed))

    def _check_logs(self, state: array[int]) -> None:
        for one, two in combinations(state[SERVER], 2):
            if (one, two) not in self.pairs:
                last_agreement(self.servers[one].log, self.servers[two].log)
                self.pairs.add((one, two))

    def _check_majority(self, state: array[int], index: int, term: int) -> None:
        logs = [self.servers[server].log for server in state[SERVER]]
        holders = [log for log in logs if log.stable_index >= index and log.matches(index, term)]
        if len(holders) * 2 <= len(logs):
            raise InvariantViolated(f"entry {index} of term {term} is committed, and durable on {len(holders)} only")

    # How it came about

    def _trace(self, position: int) -> list[str]:
        chain = []
        while position >= 0:
            chain.append(position)
            position = self.parents[position]
        chain.reverse()
        lines = []
        for before, after in pairwise(chain):
            state = array("I", self.order[before])
            action = next(a for a in self._actions(state) if self._successor(state, a) == self.order[after])
            lines.append(self._describe(action))
        return lines

    def _describe(self, action: Action) -> str:
        what, number, message = action
        return f"{what} {NODES[number]}" if message < 0 else f"{what} {self.messages[message]}"


def _actions_of_leader(state: array[int], number: int, raft: Raft) -> Iterator[Action]:
    yield "retry", number, -1
    yield "quorum", number, -1
    if state[PROPOSALS]:
        yield "propose", number, -1
    if raft.log.taken_index < raft.log.last_index:
        yield "sync", number, -1


def _check_completeness(raft: Raft, committed: tuple[tuple[int, int], ...]) -> None:
    for index, (term, committed_in) in enumerate(committed, 1):
        if committed_in < raft.current_term and not raft.log.matches(index, term):
            raise InvariantViolated(
                f"Leader Completeness: {raft.node_id} leads term {raft.current_term} without entry {term}:{index}"
            )


def main(arguments: list[str] | None = None, out: TextIO = sys.stdout) -> int:
    """Exit code 1 where an invariant fell."""
    parser = argparse.ArgumentParser(prog="python -m raftlog.testing.explore", description=__doc__.split("\n")[0])
    for name in ("states", "terms", "proposals", "crashes", "losses", "duplicates", "compactions", "messages"):
        parser.add_argument(f"--{name}", type=int, default=getattr(Bounds(), name), help="default: %(default)s")
    parser.add_argument("--diverged", action="store_true", help="begin where one server missed a committed entry")
    parser.add_argument("--pre-vote", action="store_true", help="candidates ask for pre-votes first")
    parser.add_argument("--mutation", choices=tuple(MUTATIONS), metavar="NAME", help="switch one known bug on")
    parser.add_argument("--json", action="store_true")
    options = vars(parser.parse_args(arguments))
    as_json, mutation = options.pop("json"), options.pop("mutation")
    with mutated(mutation) if mutation else nullcontext():
        result = Explorer(Bounds(**options)).run(None if as_json else out)
    if as_json:
        out.write(json.dumps(msgspec.to_builtins(result)) + "\n")
    else:
        out.write(_in_words(result) + "\n")
    return 1 if result.violation else 0


def _in_words(result: Result) -> str:
    extent = "all states within the bounds" if result.is_complete else "stopped at the number of states asked for"
    lines = [
        f"{result.states} distinct states ({extent}), {result.transitions} transitions, depth {result.depth}, "
        f"{result.server_states} states of single servers, {result.messages} messages, "
        f"{result.seconds:.1f} s, {result.states / max(result.seconds, 1e-9):.0f} states/s"
    ]
    if result.violation:
        lines += [
            f"an invariant fell: {result.violation}",
            *(f"  {n}. {line}" for n, line in enumerate(result.trace, 1)),
        ]
    else:
        lines.append("no invariant fell")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
