"""Commands that apply at once, in the test's own transaction: no node, no threads, nothing to configure.

What a project proposes while an `Inline` is entered runs on the connection of the calling thread, each command in a
savepoint, and is judged as the log would judge it: what it returns or raises is what propose() returns or raises.
Transactions of a raftlog backend behave as in every test database. Works with Django's own backends too, for projects
that only use commands.
"""

from __future__ import annotations

import datetime
import threading
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, Final, NamedTuple

import msgspec
from django.db import connections, transaction
from django.db.utils import DatabaseError

from raftlog.backends.log import InlineLog, log_for, log_replaced
from raftlog.consensus.entries import COMMAND, KEY, OPEN_SESSION
from raftlog.exceptions import NotProposed, OutcomeUnknown
from raftlog.replication import codec
from raftlog.replication.after_commit import after_commit
from raftlog.replication.apply import DatabaseStateMachine
from raftlog.replication.calling import run as run_command
from raftlog.replication.context import CommandContext, applying
from raftlog.replication.failures import Blame, blame, decode_failure, encode_failure
from raftlog.replication.propose import format_proposal_id, limits, proposing_to
from raftlog.replication.registry import Command, registry
from raftlog.replication.run import Cut, Entry, Run, find_command
from raftlog.replication.sessions import Sessions
from raftlog.replication.tables import Applied
from raftlog.runtime import clock
from raftlog.runtime.ports import APPLIED, FAILED, UNKNOWN, Outcome
from raftlog.testing.inline_commits import CommitWatch

_EPOCH: Final = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
TERM: Final = 1


class Proposed(NamedTuple):
    """One command that was proposed and applied."""

    # As in the log: "<app label>.<function>".
    command: str
    version: int
    arguments: dict[str, Any]
    # What propose() returned; None where it raised `error`.
    result: Any
    error: Exception | None
    # ctx.index of the command.
    entry_index: int
    proposal_id: str


class Inline:
    """Enter it around a test. One at a time in a process; used by one thread at a time.

    Args:
        alias: of the replicated database; RAFTLOG["DATABASE"] where it is not given.

    `entries` lists what was proposed, in order. Log time (`ctx.now`) is `now`, and stands still but for travel().
    """

    def __init__(self, alias: str = "") -> None:
        self.alias = alias or limits().alias
        self.entries: list[Proposed] = []
        # Called before each command, with what it is about to be given.
        self.observers: list[Callable[[Command, dict[str, Any], CommandContext], None]] = []
        self._log_time = self._began_at = clock.wall_microseconds()
        self._last_index = 0
        self._results: dict[bytes, Outcome] = {}
        # What the next proposals meet: the exception, and whether the command is applied all the same.
        self._failures: list[tuple[Exception, bool]] = []
        self._commits = CommitWatch(self.alias)
        self._lock = threading.Lock()
        self._entered = ExitStack()

    def __enter__(self) -> Inline:
        if not log_for(self.alias).holds_turn:  # Django's own backend; reads go by who applies inline
            self._entered.enter_context(log_replaced(self.alias, InlineLog()))
        self._entered.enter_context(proposing_to(self, inline=self))
        self._entered.enter_context(self._commits)
        return self

    def __exit__(self, *_: object) -> None:
        self._entered.close()

    # What tests do

    @property
    def now(self) -> datetime.datetime:
        """What `ctx.now` of the next command will be."""
        return _EPOCH + datetime.timedelta(microseconds=self._log_time)

    def travel(self, seconds: float) -> datetime.datetime:
        """Let log time go on by so many seconds; returns the new `now`. Raises ValueError: it never goes back."""
        if seconds < 0:
            raise ValueError(f"log time cannot travel by {seconds} s: it never goes back")
        self._log_time += round(seconds * 1_000_000)
        return self.now

    def fail_next(self, failure: type[Exception] | Exception, *, applied: bool = False, times: int = 1) -> None:
        """Let the next proposals, or commits, fail with `failure`, a class or an exception.

        A `NotProposed` (NoLeader, Overloaded, …) or `OutcomeUnknown` meets the next propose(); a database error
        (TransactionConflict, UniqueConflict, TransactionOutcomeUnknown, …) the next commit of an outermost atomic().

        Args:
            applied: with OutcomeUnknown: the command was applied, only the answer was lost. Else it was not.
            times: so often in a row.

        Raises TypeError for any other exception, and ValueError for `applied` with one that says that nothing was done.
        """
        made = failure if isinstance(failure, Exception) else make_failure(failure)
        is_commit = isinstance(made, DatabaseError)
        if not is_commit and not isinstance(made, NotProposed | OutcomeUnknown):
            raise TypeError(
                f"fail_next({failure!r}): a proposal fails with NotProposed (NoLeader, Overloaded, …) or "
                "OutcomeUnknown, a commit with TransactionConflict or another database error"
            )
        if applied and (is_commit or not isinstance(made, OutcomeUnknown)):
            raise ValueError(f"applied=True goes with OutcomeUnknown; {type(made).__name__} says that nothing was done")
        for _ in range(times):
            if is_commit:
                self._commits.fail_next(made)
            else:
                self._failures.append((made, applied))

    def reset(self) -> None:
        """Forget entries and failures, and the time that has been travelled, for another test on the same data."""
        self._log_time = self._began_at
        self.entries.clear()
        self._failures.clear()
        self._commits.failures.clear()

    # ports.Proposer, and propose.InlineProposer

    def propose(self, payloads: list[bytes], timeout: float, done: Callable[[list[Outcome]], None]) -> None:
        """See ports.Proposer. The outcomes are there when it returns."""
        outcomes = []
        for payload in payloads:
            with self._lock:
                outcomes.append(self._outcome(payload))
        done(outcomes)

    def _outcome(self, payload: bytes) -> Outcome:
        key = payload[KEY]
        if payload[0] == OPEN_SESSION:
            return Outcome(key, APPLIED, self._last_index, b"")
        if payload[0] != COMMAND:
            raise NotProposed(f"an entry of kind {payload[0]} cannot be proposed inline: use the fixture raft_cluster")
        if key in self._results:  # proposed again under the same id
            return self._results[key]
        failure, is_applied = self._failures.pop(0) if self._failures else (None, True)
        if isinstance(failure, NotProposed):
            raise failure
        if is_applied:
            self._results[key] = self._apply(payload)
        if failure is not None:
            text = failure.args[0] if failure.args else ""
            return Outcome(key, UNKNOWN, 0, msgspec.msgpack.encode((type(failure).__name__, str(text))))
        return self._results[key]

    def read(self, timeout: float, done: Callable[[int, str], None]) -> None:
        done(self._last_index, "")

    def find(self, key: bytes) -> Outcome | None:
        return self._results.get(key)

    def take_turn(self, key: bytes, *, is_fence: bool, timeout: float) -> bool:
        return True  # nobody else writes

    def renew_turn(self, key: bytes, *, is_fence: bool) -> None:
        """Nobody else wants it."""

    def release_turn(self, key: bytes) -> None:
        """Nobody else wants it."""

    def status(self) -> dict[str, Any]:
        return {"leader_id": "inline", "term": TERM, "last_applied": self._last_index}

    # One command

    def _apply(self, payload: bytes) -> Outcome:
        self._last_index += 1
        entry = Entry(self._last_index, TERM, self._log_time, payload)
        try:
            command, body = find_command(registry, entry)
        except Cut as cut:
            raise cut.stop or cut from cut.__cause__
        context = CommandContext(index=entry.index, term=TERM, log_time=entry.log_time, command=command.name)
        for observer in self.observers:
            observer(command, body.arguments, context)
        connection: Any = connections[self.alias]
        hooks_before = len(connection.run_on_commit)
        value, error = None, None
        applying.command = context
        try:
            with transaction.atomic(using=self.alias):
                status, _, result = run_command(self.alias, command, context, body)
                value = codec.decode(result)
                check_whole(self.alias)
        except Exception as raised:
            if blame(raised, command.raises, connection.Database.Error) is not Blame.COMMAND:
                raise  # nobody's verdict: on a node, apply would wait or stop
            status, result = FAILED, encode_failure(raised, command.raises)
            value, error = None, decode_failure(result)
            context.effects.clear()
        finally:
            applying.command = None
        session, sequence = payload[KEY][:16], int.from_bytes(payload[KEY][16:], "big")
        proposal_id = format_proposal_id(session, sequence)
        self.entries.append(
            Proposed(command.name, command.version, body.arguments, value, error, entry.index, proposal_id)
        )
        self._afterwards(context, command, status, hooks_before)
        return Outcome(payload[KEY], status, entry.index, result)

    def _afterwards(self, context: CommandContext, command: Command, status: int, hooks_before: int) -> None:
        """Hooks of the command, which would wait for the end of the test, and effects: this node is the leader."""
        connection = connections[self.alias]
        run = Run(Sessions(), Applied("", context.index, TERM, context.log_time, b"", 0))
        run.done.append((context, command, status))
        hooks = connection.run_on_commit
        connection.run_on_commit, run.hooks = hooks[:hooks_before], [hook[1] for hook in hooks[hooks_before:]]
        after_commit(run, lambda: True, DatabaseStateMachine)


def make_failure(kind: type[Exception]) -> Exception:
    text = "as the test asked fail_next() for"
    return kind(text, proposal_id="") if issubclass(kind, OutcomeUnknown) else kind(text)


def check_whole(alias: str) -> None:
    """What ApplyConnection.check_entry() asks of a command whose function has returned. Raises IntegrityError."""
    connection = connections[alias]
    if connection.needs_rollback:
        raise transaction.TransactionManagementError(
            "the command caught a database error outside an atomic() of its own, so its changes are not whole"
        )
    connection.check_constraints()
