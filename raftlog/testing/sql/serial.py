"""At the end of a run: the log once more, one entry after another, by the applier and by plain SQLite.

The second knows nothing of write sets, certification or raftlog's tables: it runs the statements of the
applications, where the log says that they took place, and wants the same answers.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import msgspec
from django.db import connections

from raftlog.consensus.entries import CLIENT_KINDS, COMMAND, KEY, OPEN_SESSION, EntryBatch, Run
from raftlog.replication.certify import Verdict, VerdictKind, decode_verdict
from raftlog.replication.context import CommandContext
from raftlog.replication.idempotency import row_id
from raftlog.replication.keyed import IdempotencyName
from raftlog.replication.run import Entry
from raftlog.replication.shapes import is_replicated
from raftlog.runtime.ports import APPLIED, Outcome
from raftlog.testing.safety import Violation
from raftlog.testing.sql import commands
from raftlog.testing.sql.attempt import Attempt, Call, Ending
from raftlog.testing.sql.engine.base import turns
from raftlog.testing.sql.host import declare, forget
from raftlog.testing.sql.machine import ImpatientStateMachine, contents, difference, executor, in_words
from raftlog.testing.sql.program import INSERT_KEY
from raftlog.testing.sql.turn import HostTurn

if TYPE_CHECKING:
    from raftlog.testing.sql.workload import SqlWorkload

ALIAS: Final = "simulated_serial"


def check_serial(workload: SqlWorkload) -> None:
    """Raises Violation."""
    last_index, end = workload.end_state()
    log = [workload.entries[index] for index in range(1, last_index + 1)]
    _apply_one_by_one(workload, log, end)
    _Check(workload, log).run(end)


def _apply_one_by_one(workload: SqlWorkload, log: list[Entry], end: dict[str, Any]) -> None:
    turns[ALIAS] = HostTurn(workload.simulation.after)
    declare(ALIAS, ":memory:")
    try:
        machine = ImpatientStateMachine(ALIAS, commands=commands.REGISTRY)
        commands.database.execute = executor(ALIAS)
        for entry in log:
            batch = EntryBatch(entry.index, [Run(1, entry.term, entry.log_time)], [entry.payload])
            for outcome in machine.apply(batch):
                if outcome != workload.outcomes[entry.index]:
                    text = f"entry {entry.index} alone: {in_words(outcome)}; in the cluster: "
                    text += in_words(workload.outcomes[entry.index])
                    raise Violation("verdicts are those of a serial run", text)
        workload.compare(log[-1].index, "contents", "a serial run", contents(connections[ALIAS].connection))
    finally:
        forget(ALIAS)


class _Check:
    """The applications' statements on plain SQLite."""

    def __init__(self, workload: SqlWorkload, log: list[Entry]) -> None:
        self.workload = workload
        self.log = log
        self.connection = sqlite3.connect(":memory:", isolation_level=None)
        self.connection.execute("PRAGMA foreign_keys = ON")
        # Indices of entries that changed something.
        self.effective: set[int] = set()
        self.applied: dict[bytes, int] = {}
        self.keys: dict[tuple[str, int], str] = {}
        self.reserved: dict[str, list[tuple[int, int]]] = {}
        self.based_on: dict[int, list[Attempt]] = {}
        for attempt in workload.attempts:
            if attempt.base >= 0:
                self.based_on.setdefault(attempt.base, []).append(attempt)

    def run(self, end: dict[str, Any]) -> None:
        for attempt in self.based_on.get(0, ()):
            self.look_back(attempt)
        for entry in self.log:
            if entry.payload[0] in CLIENT_KINDS and entry.payload[0] != OPEN_SESSION:
                self.take(entry, self.workload.outcomes[entry.index])
            for attempt in self.based_on.get(entry.index, ()):
                self.look_back(attempt)
        for attempt in self.workload.attempts:
            if not attempt.key:
                self.check_ending(attempt)
        self.check_keys()
        self.compare(end)
        self.connection.close()

    # Entry by entry

    def take(self, entry: Entry, outcome: Outcome) -> None:
        if outcome.index != entry.index:
            return  # a repeat, or refused
        key = entry.payload[KEY]
        if self.applied.setdefault(key, entry.index) != entry.index:
            raise Violation("exactly once", f"entries {self.applied[key]} and {entry.index} are one, and both ran")
        attempt = self.workload.proposed[key]
        if entry.payload[0] == COMMAND:
            self.command(entry, outcome, attempt)
            return
        verdict = decode_verdict(outcome.result)
        if verdict.kind is not VerdictKind.APPLIED:
            self.check_refusal(entry.index, verdict, attempt)
            return
        self.effective.add(entry.index)
        if key in attempt.entries:  # else it reserved keys for it
            self.rerun(attempt, f"entry {entry.index}", keep=True)
            self.count_keys(attempt, entry.index)

    def check_refusal(self, index: int, verdict: Verdict, attempt: Attempt) -> None:
        """5. A transaction is refused only if an entry that it could not know of had an effect."""
        if attempt.base >= 0 and not any(attempt.base < other < index for other in self.effective):
            text = f"entry {index} got {verdict.kind.name} ({verdict.reason}), and none came between:\n{attempt.text()}"
            raise Violation("refused for a reason", text)

    def count_keys(self, attempt: Attempt, index: int) -> None:
        for key in attempt.keys:
            who = self.keys.setdefault(key, f"entry {index}")
            if who != f"entry {index}":
                raise Violation("no key is used twice", f"key {key[1]} of {key[0]}: {who} and entry {index}")

    def look_back(self, attempt: Attempt) -> None:
        """4. Each transaction saw one state. What it did there is undone."""
        if attempt.ending is Ending.ROLLED_BACK:
            return
        before = _replicated(contents(self.connection)) if attempt.ending is Ending.READ else {}
        self.rerun(attempt, f"entry {attempt.base}, on which it was based", keep=False, before=before)

    def rerun(self, attempt: Attempt, where: str, *, keep: bool, before: dict[str, Any] | None = None) -> None:
        execute = self.connection.execute
        if attempt.foreign_keys_off:
            execute("PRAGMA foreign_keys = OFF")
        execute("BEGIN")
        for call in attempt.calls:
            answer = self.answer(call)
            if call.result is not None and answer != call.result:
                text = f"at {where}, {call.sql} {call.parameters} gives {answer}:\n{attempt.text()}"
                raise Violation("serializable", text)
        if before and before != _replicated(contents(self.connection)):
            raise Violation("no update lost", f"it made changes and no entry:\n{attempt.text()}")
        refusal = self.commit() if keep or attempt.ending is Ending.INTEGRITY else ""
        if self.connection.in_transaction:
            execute("ROLLBACK")
        execute("PRAGMA foreign_keys = ON")
        if bool(refusal) != (attempt.ending is Ending.INTEGRITY and not keep):
            raise Violation("serializable", f"at {where}, its COMMIT says {refusal or 'yes'}:\n{attempt.text()}")

    def answer(self, call: Call) -> Any:
        sql = call.sql % (("?",) * len(call.parameters)) if call.parameters else call.sql
        try:
            cursor = self.connection.execute(sql, call.parameters)
        except sqlite3.IntegrityError:
            return ("error", "IntegrityError")
        if cursor.description is None:
            return ("count", cursor.rowcount)
        return ("rows", repr(cursor.fetchall()))

    def commit(self) -> str:
        try:
            self.connection.execute("COMMIT")
        except sqlite3.IntegrityError as error:
            return str(error)
        return ""

    # Commands

    def command(self, entry: Entry, outcome: Outcome, attempt: Attempt) -> None:
        command = commands.REGISTRY.get(attempt.command, 1)
        assert command is not None
        context = CommandContext(index=entry.index, term=entry.term, log_time=entry.log_time, command=attempt.command)
        has_succeeded = outcome.status == APPLIED
        result: Any = msgspec.msgpack.decode(outcome.result) if has_succeeded else None
        commands.database.execute = self.plain_executor()
        self.connection.execute("BEGIN")
        if attempt.command == "open_account" and has_succeeded:
            # Plain SQLite has reserved no blocks: its counter stands elsewhere.
            self.connection.execute("DELETE FROM sqlite_sequence WHERE name = 'account'")
            self.connection.execute("INSERT INTO sqlite_sequence VALUES ('account', ?)", (result - 1,))
            attempt.keys = [("account", result)]
            self.count_keys(attempt, entry.index)
        error = ""
        answer = None
        try:
            answer = command.function(context, **attempt.arguments)
            error = self.commit()
        except (sqlite3.IntegrityError, commands.Refusal) as refusal:
            error = str(refusal)
        if self.connection.in_transaction:
            self.connection.execute("ROLLBACK")
        if bool(error) == has_succeeded or (answer != result and has_succeeded):
            text = f"entry {entry.index} gives {answer} {error!r}, in the cluster {result}:\n{attempt.text()}"
            raise Violation("serializable", text)
        if has_succeeded:
            self.effective.add(entry.index)
            if attempt.key:
                self.connection.execute(INSERT_KEY.replace("%s", "?"), key_row(attempt, entry, outcome))

    def plain_executor(self) -> Callable[..., list[Any]]:
        def execute(sql: str, *parameters: Any) -> list[Any]:
            return self.connection.execute(sql.replace("%s", "?"), parameters).fetchall()

        return execute

    # At the end

    def check_ending(self, attempt: Attempt) -> None:
        """6. What was acknowledged is in the log exactly once; what was refused had no effect."""
        had_effect = [self.had_effect(key) for key in attempt.entries]
        least, most = {Ending.APPLIED: (1, 1), Ending.UNKNOWN: (0, 1), Ending.OPEN: (0, 1)}.get(attempt.ending, (0, 0))
        if attempt.alone and attempt.ending is Ending.APPLIED and had_effect[-1] is False:
            least, most = 0, 0  # run again after a conflict, it found nothing to change
        if not least <= had_effect.count(True) <= most:
            raise Violation("acknowledged exactly once", f"its entries had an effect: {had_effect}:\n{attempt.text()}")

    def check_keys(self) -> None:
        """6. Under one idempotency key one entry has an effect, and all who are answered are told its result."""
        by_key: dict[str, list[Attempt]] = {}
        for attempt in self.workload.proposed.values():
            if attempt.key and attempt not in by_key.setdefault(attempt.key, []):
                by_key[attempt.key].append(attempt)
        for attempt in self.workload.attempts:
            if attempt.key and attempt not in by_key.setdefault(attempt.key, []):
                by_key[attempt.key].append(attempt)
        for key, attempts in by_key.items():
            effects = sum(self.had_effect(entry) is True for attempt in attempts for entry in attempt.entries)
            told = {attempt.told for attempt in attempts if attempt.told}
            if effects > 1 or len(told) > effects:
                text = "\n".join(attempt.text() for attempt in attempts)
                words = f"{effects} entries with the key {key} had an effect, and {sorted(told)} were told:\n{text}"
                raise Violation("once for each key", words)

    def had_effect(self, key: bytes) -> bool | None:
        """None: it is not in the log."""
        index = self.applied.get(key)
        return None if index is None else index in self.effective

    def compare(self, end: dict[str, Any]) -> None:
        """3. Nothing is lost, and nothing else is there."""
        mine, theirs = _replicated(contents(self.connection)), _replicated(end)
        if mine != theirs:
            raise Violation("no update lost", f"plain SQLite against the cluster: {difference(mine, theirs)}")


def key_row(attempt: Attempt, entry: Entry, outcome: Outcome) -> tuple[Any, ...]:
    """What stands in the database of a command that was done under a key."""
    keyed = IdempotencyName("", attempt.key).asking("command", attempt.command, attempt.arguments)
    return row_id("", attempt.key), "", attempt.key, keyed.digest, entry.index, entry.log_time, outcome.result


def _replicated(found: dict[str, Any]) -> dict[str, Any]:
    """Without raftlog's tables, and without counters, which reservations have moved."""
    rows = {name: rows for name, rows in found.items() if name and is_replicated(name)}
    return {**rows, "": [each for each in found[""] if is_replicated(each[1])]}
