"""From committed entries to the database: one batch, one transaction, the applied index inside it (design 7.1).

A batch is tried *together*, without savepoints. If an entry fails, it is rolled back and run again *guarded*: a
savepoint for each entry. An entry whose verdict only a commit can give (foreign_keys.py) is run *alone*. The
verdict is the same in all three, so it does not matter how a node's batches fall.

Nothing is skipped: where the database is unavailable, the batch is tried again until it is not; where an entry
cannot be applied on this node, apply stops with all before it applied.

Every signal and on_commit hook fires on every node; `is_applying()` tells. Hooks run after the commit of the batch.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from django.db import IntegrityError, connections
from django.db.utils import Error as DjangoDatabaseError

from raftlog.conf import load_settings
from raftlog.consensus.configuration import decode_configuration
from raftlog.consensus.entries import (
    COMMAND,
    CONFIGURATION,
    HEADER_BYTES,
    KEY,
    NO_OP,
    OPEN_SESSION,
    RESERVE,
    TRANSACTION,
    WRITE_SET_KINDS,
    EntryBatch,
    client_header,
)
from raftlog.exceptions import (
    ApplyStopped,
    DatabaseReplaced,
    InvalidEntry,
    NodeCannotApply,
    NotProposed,
    UnknownEntry,
)
from raftlog.log_fields import log_fields
from raftlog.replication import images
from raftlog.replication.after_commit import after_commit
from raftlog.replication.calling import call
from raftlog.replication.certify import VerdictKind, encode_verdict
from raftlog.replication.changes import FeedWriter
from raftlog.replication.context import CommandContext, applying, is_applying
from raftlog.replication.database import ApplyConnection
from raftlog.replication.failures import is_infrastructure
from raftlog.replication.foreign_keys import SchemaChanged, Suspect
from raftlog.replication.judge import judge
from raftlog.replication.registry import Registry, registry
from raftlog.replication.run import Cut, Entry, Mode, Run, TryAgain, entries, find_command
from raftlog.replication.running_hash import History
from raftlog.replication.sessions import Result, Sessions
from raftlog.replication.tables import Applied, ensure_tables, read_applied, read_diverged, write_diverged
from raftlog.replication.watch import Held, Watch
from raftlog.runtime.ports import APPLIED, FAILED, Outcome

__all__ = ["DatabaseStateMachine", "is_applying"]

logger = logging.getLogger("raftlog.apply")

FIRST_RETRY: Final = 0.05  # seconds until an unavailable database is tried again; doubled up to
LAST_RETRY: Final = 2.0
# Kinds of entries that run no code of the project and change no schema.
_SHORT: Final = frozenset({TRANSACTION, RESERVE, NO_OP, OPEN_SESSION})
GUARDED_BATCHES: Final = 8  # how many batches are guarded from the start after one had a failure


class DatabaseStateMachine:
    """Implements ports.StateMachine over `connections[alias]`.

    Made in any thread, which reads where the database stands; apply() and close() belong to one thread, whose
    connection to the alias is the apply connection. `last_applied`, `healthy`, `last_error` may be read anywhere.
    """

    max_entries = 256  # one transaction of about 25 to 250 ms
    gathers = True

    def __init__(
        self,
        alias: str = "default",
        *,
        commands: Registry = registry,
        is_leader: Callable[[], bool] = lambda: False,
    ) -> None:
        self.alias = alias
        self.is_leader = is_leader
        # False while the database is unavailable, or apply has stopped; `last_error` says why, "" where it is healthy.
        self.healthy = True
        self.last_error = ""
        # Called with what this node's code cannot apply; then apply() waits until the node stops. None: it raises.
        self.on_unknown_entry: Callable[[str, type[NotProposed]], None] | None = None
        self._commands = commands
        self.sessions = Sessions()
        self._database: ApplyConnection | None = None
        self._stopping = threading.Event()
        # A run whose commit began and of which no answer has come: the database knows.
        self._committing: Run | None = None
        self._guarded_left = 0
        self.feed = FeedWriter(load_settings().change_feed_entries)
        self._applied, diverged = self._load()
        # What this thread and the one that compares nodes tell each other.
        self.watch = Watch(History(self._applied.index, self._applied.fingerprint), diverged)
        self._is_marked = bool(diverged)

    def _load(self) -> tuple[Applied, str]:
        connection = connections[self.alias]
        getattr(connection, "begin_filling", lambda: None)()  # no application opens a file that is made now
        was_open = connection.connection is not None
        applying_the_log = getattr(connection, "applying", contextlib.nullcontext)  # as a raftlog backend is told
        with applying_the_log():
            ensure_tables(self.alias)
            applied, diverged = read_applied(connection), read_diverged(connection)
            self.feed.begin(connection, applied.index)
            with connection.cursor() as cursor:
                self.sessions.load(cursor)
        if not was_open:
            connection.close()
        return applied, diverged

    @property
    def last_applied(self) -> int:
        return self._applied.index

    def waits_for(self) -> str:
        """Who keeps the database from being applied to, in words; "" if nobody does. Thread-safe."""
        database = self._database
        return database.waits_for() if database is not None else ""

    @property
    def fingerprint_since(self) -> int:
        """The running hash takes in what was applied after this index."""
        return self._applied.fingerprint_since

    def position(self) -> tuple[str, int, int]:
        """(cluster id, applied index, its term): the point of the log at which the database stands (rule 5)."""
        return self._applied.cluster_id, self._applied.index, self._applied.term

    def make_durable(self) -> int:
        """The index up to which a power cut takes nothing from the database. Any thread. Raises ImageError, OSError."""
        return images.make_durable(self.alias)

    def make_image(self, path: str | Path, describe: images.Describe, **keywords: Any) -> images.ImageHeader:
        """See images.make_image(). Any thread."""
        return images.make_image(self.alias, path, describe, **keywords)

    def install(self, path: str | Path, **keywords: Any) -> images.ImageHeader:
        """The database becomes what the image holds; see images.install_image(). Called by the thread that applies.

        Raises ImageError, OSError: then the database is what it was.
        """
        if self._database is not None:
            self._database.close()
        header = images.install_image(self.alias, path, **keywords)
        self._start_over()
        database = self._open()
        if isinstance(database, ApplyConnection):
            database.was_changed_elsewhere()  # from here on; what was installed is nobody's doing but ours
        return header

    def stop(self) -> None:
        """Give up waiting for an unavailable database: apply() raises ApplyStopped. Thread-safe."""
        self._stopping.set()
        self.watch.stop()

    def close(self) -> None:
        if self._database is not None:
            if self.watch.diverged and not self._is_marked:
                self.look_around()
            self._database.close()
            self._database = None

    def apply(self, batch: EntryBatch) -> list[Outcome]:
        """See ports.StateMachine. Raises ValueError where `batch` does not start at last_applied + 1."""
        if batch.first_index != self.last_applied + 1:
            raise ValueError(f"entries from {batch.first_index} on given, {self.last_applied} was applied last")
        self._stop_if_diverged()
        outcomes: list[Outcome] = []
        mode = self.first_mode()
        delay = FIRST_RETRY
        while self.last_applied < batch.last_index:
            try:
                run = self._apply_some(batch.slice(self.last_applied + 1, batch.last_index), mode)
                outcomes += run.outcomes
                self._stop_if_diverged()
                mode = Mode.ALONE if run.cut else Mode.GUARDED if mode is Mode.ALONE else mode
                delay = FIRST_RETRY
            except TryAgain as again:
                mode = again.mode
                self._guarded_left = GUARDED_BATCHES
            except Held as held:
                self._unhealthy(f"entry {held.index}, which is held until a majority's running hash is known: {held}")
                self.watch.hold(held)
                self._stop_if_diverged()
                if self._stopping.is_set():
                    raise ApplyStopped(f"stopped while entry {held.index} was held") from held
            except ApplyStopped as stopped:
                self._unhealthy(str(stopped))
                if isinstance(stopped, UnknownEntry) and self.on_unknown_entry is not None:
                    self.on_unknown_entry(str(stopped), NodeCannotApply)
                    self._stopping.wait()
                raise
            except DjangoDatabaseError as error:
                self._wait_for_database(error, f"entries {self.last_applied + 1}-{batch.last_index}", delay)
                delay = min(delay * 2, LAST_RETRY)
        return outcomes

    def first_mode(self) -> Mode:
        """How a batch is tried first: guarded for a while after one that had a failure, since the next may have one."""
        if not self._guarded_left:
            return Mode.TOGETHER
        self._guarded_left -= 1
        return Mode.GUARDED

    # One transaction

    def _apply_some(self, part: EntryBatch, mode: Mode) -> Run:
        """Apply `part`, or its first entries, in one transaction. Raises TryAgain, ApplyStopped, database errors."""
        database = self._open()
        if isinstance(database, Run):
            return database
        if mode is Mode.ALONE:
            part = part.slice(part.first_index, part.first_index)
        try:
            run = self._transact(database, part, mode, None)
        except IntegrityError as error:
            if self._committing is None:
                raise ApplyStopped(
                    f"raftlog's own tables refused entries from {part.first_index} on: {error}"
                ) from error
            # The commit itself: a deferred constraint does not hold.
            self._committing = None
            if mode is not Mode.ALONE:
                raise TryAgain(Mode.ALONE) from error
            run = self._transact(database, part, mode, error)
        except SchemaChanged:
            database.close()
            raise TryAgain(mode) from None
        self._finish(run)
        return run

    def _transact(self, database: ApplyConnection, part: EntryBatch, mode: Mode, verdict: IntegrityError | None) -> Run:
        run = Run(self.sessions, self._applied)
        try:
            is_short = mode is not Mode.ALONE and all(payload[0] in _SHORT for payload in part.payloads)
            with database.transaction(part.payloads[0] if mode is Mode.ALONE else b"", is_short=is_short) as cursor:
                if mode is not Mode.ALONE and not database.guard.can_batch:
                    raise TryAgain(Mode.ALONE)
                self._run_entries(database, part, mode, run, verdict)
                if mode is not Mode.ALONE:
                    database.before_commit()
                changes = run.write(cursor, self.feed)
                database.moved_to(run.applied.index, changes)
                run.hooks = database.take_hooks()
                self._committing = run
        except Suspect:
            raise TryAgain(Mode.ALONE) from None
        return run

    def _run_entries(
        self, database: ApplyConnection, part: EntryBatch, mode: Mode, run: Run, verdict: IntegrityError | None
    ) -> None:
        for entry in entries(part):
            try:
                self._run_entry(database, entry, mode, run, verdict)
            except Cut as cut:
                if run.applied is run.before:  # nothing before it
                    raise (cut.stop or TryAgain(Mode.ALONE)) from cut.__cause__
                run.cut = cut
                return
            run.passed(entry, keeps_hash=database.transactions is not None)

    def _run_entry(
        self, database: ApplyConnection, entry: Entry, mode: Mode, run: Run, verdict: IntegrityError | None
    ) -> None:
        kind = entry.payload[0]
        if kind == COMMAND or kind in WRITE_SET_KINDS:
            header = client_header(entry.payload)
            result = run.stage.admit(header, entry.log_time)
            if result is None:
                try:
                    if kind == COMMAND:
                        result = self._run_command(database, entry, mode, run, verdict)
                    else:
                        result = self._run_transaction(database, entry, mode, run, verdict)
                except Cut:
                    run.stage.undo_admit()
                    raise
                run.fold(entry, result, differences := database.take_differences())
                if (groups := database.take_changes()) or differences:
                    run.changed(entry, header, groups)
                run.stage.record(header, result)
            run.outcomes.append(Outcome(entry.payload[KEY], *result))
        elif kind == OPEN_SESSION:
            result = run.stage.open(client_header(entry.payload), entry.index, entry.log_time)
            run.outcomes.append(Outcome(entry.payload[KEY], *result))
        elif kind == CONFIGURATION:
            self._adopt_cluster(database, entry, run)
        elif kind != NO_OP:
            raise Cut(
                UnknownEntry(f"entry {entry.index} is of kind {kind}, which this version of raftlog cannot apply")
            )

    def _adopt_cluster(self, database: ApplyConnection, entry: Entry, run: Run) -> None:
        """The database takes the cluster's id from the first configuration entry, and keeps it (rule 5).

        Only a cluster that goes on with this one's log changes it. Keys reserved before are then void: what had
        reserved them may not be in this log (rule 12).
        """
        try:
            configuration = decode_configuration(entry.payload)
        except InvalidEntry as error:
            raise Cut(ApplyStopped(f"entry {entry.index}: {error}")) from error
        known, cluster_id = run.applied.cluster_id, configuration.cluster_id
        if known and cluster_id != known:
            if configuration.recovered_from != known:
                text = f"entry {entry.index} is of cluster {cluster_id}, the database of cluster {known}"
                raise Cut(ApplyStopped(text))
            database.void_reserved_keys(entry.index)
            run.feed_begins(entry.index)
        run.applied = run.applied._replace(cluster_id=cluster_id)

    # One transaction

    def _run_transaction(
        self, database: ApplyConnection, entry: Entry, mode: Mode, run: Run, failed_commit: IntegrityError | None
    ) -> Result:
        if failed_commit is not None:
            text = f"entry {entry.index}: a certified transaction was refused at its commit: {failed_commit}"
            raise Cut(ApplyStopped(text)) from failed_commit
        try:
            verdict = database.apply_transaction(entry.index, entry.payload[HEADER_BYTES:], alone=mode is Mode.ALONE)
        except Suspect as suspect:
            if mode is Mode.TOGETHER:
                raise TryAgain(Mode.GUARDED) from suspect
            raise Cut(None) from suspect
        except ApplyStopped as stopped:
            raise Cut(stopped) from stopped
        status = APPLIED if verdict.kind is VerdictKind.APPLIED else FAILED
        result = Result(status, entry.index, encode_verdict(verdict))
        cause = database.unexplained()
        if cause is not None and self.watch.must_hold(entry.index):
            if mode is not Mode.ALONE:
                raise Cut(None)
            run.fold(entry, result, b"")
            raise Held(entry.index, run.value, cause)
        return result

    # One command

    def _run_command(
        self, database: ApplyConnection, entry: Entry, mode: Mode, run: Run, verdict: IntegrityError | None
    ) -> Result:
        command, body = find_command(self._commands, entry)
        context = CommandContext(index=entry.index, term=entry.term, log_time=entry.log_time, command=command.name)
        applying.command = context
        try:
            if verdict is not None:
                raise verdict
            if mode is Mode.TOGETHER:
                result = call(database, command, context, body, alone=False)
            else:
                with database.entry_savepoint():
                    result = call(database, command, context, body, alone=mode is Mode.ALONE)
        except BaseException as error:  # noqa: BLE001  (judged: recorded, or raised again as what it is)
            result = judge(database, command, entry, mode, error)
            context.effects.clear()
        finally:
            applying.command = None
        if result.at == entry.index:  # not done before, under the same idempotency key
            run.done.append((context, command, result.status))
        return result

    # After the commit

    def _finish(self, run: Run) -> None:
        """The transaction of `run` is in the database."""
        self._committing = None
        self.sessions.take(run.stage)
        self._applied = run.applied
        self.watch.history.extend(run.links, run.applied.index)
        if not self.healthy:
            logger.warning(
                "applying again, up to entry %d (%s)",
                *(run.applied.index, self.last_error),
                extra=log_fields("apply_resumed", index=run.applied.index),
            )
            self.healthy, self.last_error = True, ""
        after_commit(run, self.is_leader, DatabaseStateMachine)
        if run.cut is not None and run.cut.stop is not None:
            raise run.cut.stop

    # Between batches, and where this database has diverged (rule 16)

    def look_around(self) -> None:
        """Has anybody else written this database? Called by the apply thread. Raises DatabaseReplaced."""
        try:
            database = self._open()
            if isinstance(database, Run):
                return
            if self.watch.diverged and not self._is_marked:
                write_diverged(database.connection, self.watch.diverged)
                self._is_marked = True
            if database.was_changed_elsewhere():
                self.watch.changed_elsewhere(self.last_applied)
        except DjangoDatabaseError as error:
            if isinstance(error, DatabaseReplaced):
                raise
            self._unhealthy(f"{type(error).__name__}: {error}")
            if self._database is not None:
                self._database.close()

    def _stop_if_diverged(self) -> None:
        """Apply nothing more to a database that has diverged, until the node stops. Raises ApplyStopped."""
        if self.watch.diverged:
            more = self.last_applied + 1
            self._unhealthy(f"entries from {more} on: nothing more is applied to a database that has diverged")
            self.look_around()
            self._stopping.wait()
            raise ApplyStopped(self.watch.diverged)

    # The database, when it is not there

    def _open(self) -> ApplyConnection | Run:
        """The apply connection, opened where it is not; or the run whose commit, as it turns out, had gone through."""
        if self._database is None:
            self._database = self._make_connection()
        if self._database.is_open:
            return self._database
        applied = self._database.open()
        committing, self._committing = self._committing, None
        if committing is not None and applied == committing.applied:
            self._finish(committing)
            return committing
        if applied != self._applied:
            kind = DatabaseReplaced if applied.index < self._applied.index else ApplyStopped
            raise kind(
                f"the database stands at entry {applied.index} of term {applied.term} (cluster {applied.cluster_id!r}),"
                f" this node had applied {self._applied.index}: something else wrote it. Is another node using this "
                "database, or was it restored while the node ran?"
            )
        return self._database

    def _make_connection(self) -> ApplyConnection:
        return ApplyConnection(self.alias, gathers_changes=self.feed.bound > 0)

    def reopen(self) -> None:
        """After DatabaseReplaced: go on from what is there now, a new one if need be. Raises ApplyStopped."""
        delay = FIRST_RETRY
        self._database = self._database or self._make_connection()
        while True:
            self._database.close()
            try:
                return self._start_over()
            except DjangoDatabaseError as error:
                self._wait_for_database(error, "anything", delay)
                delay = min(delay * 2, LAST_RETRY)

    def _start_over(self) -> None:
        """The database is another one now."""
        self._committing = None
        self._applied, diverged = self._load()
        self._is_marked = bool(diverged)
        self.watch.start_over(History(self._applied.index, self._applied.fingerprint), diverged)
        self.healthy, self.last_error = True, ""

    def caught_up(self) -> None:
        """Applications may use the database. Called by the apply thread."""
        getattr(connections[self.alias], "end_filling", lambda: None)()

    def _wait_for_database(self, error: DjangoDatabaseError, what: str, delay: float) -> None:
        """Say what is wrong, close the connection, wait. Raises ApplyStopped where waiting mends nothing."""
        text = f"{what}: {type(error).__name__}: {error}"
        self._unhealthy(text)
        database = self._database
        if database is None or not is_infrastructure(error, database.driver_error):
            raise ApplyStopped(text) from error
        database.close()
        if self._stopping.wait(delay):
            raise ApplyStopped(f"stopped while the database was unavailable; {text}") from error

    def _unhealthy(self, text: str) -> None:
        if text != self.last_error:
            logger.error("cannot apply %s", text, extra=log_fields("apply_failed", reason=text))
        self.healthy, self.last_error = False, text
