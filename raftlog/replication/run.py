"""What one database transaction of apply does: how its entries are run, and what is kept until it is committed."""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from raftlog.consensus.entries import COMMAND, HEADER_BYTES, ClientHeader, EntryBatch
from raftlog.exceptions import ApplyStopped, UnknownEntry
from raftlog.replication import codec, running_hash
from raftlog.replication.changes import EntryChanges, FeedWriter, Group
from raftlog.replication.context import CommandContext
from raftlog.replication.fingerprint import EMPTY
from raftlog.replication.registry import Command, Registry
from raftlog.replication.running_hash import Link
from raftlog.replication.sessions import Result, Sessions, Stage
from raftlog.replication.tables import Applied, write_applied
from raftlog.runtime.ports import Outcome


class Mode(enum.Enum):
    """How the entries of one transaction are run."""

    TOGETHER = "together"
    GUARDED = "guarded"
    ALONE = "alone"


class TryAgain(Exception):
    """Rolled back, nothing has changed: run it again in this mode."""

    def __init__(self, mode: Mode) -> None:
        self.mode = mode
        super().__init__(mode)


class Cut(Exception):
    """This entry is not applied in this transaction. `stop`: nor in any; else it is run alone."""

    def __init__(self, stop: ApplyStopped | None) -> None:
        self.stop = stop
        super().__init__(stop)


class Entry(msgspec.Struct, frozen=True):
    """One entry of a batch, while it is applied."""

    index: int
    term: int
    log_time: int
    payload: bytes


class Run:
    """What one transaction did: kept until it is committed, dropped if it is not."""

    def __init__(self, sessions: Sessions, applied: Applied) -> None:
        self.stage = Stage(sessions)
        self.before = applied
        self.applied = applied
        self.outcomes: list[Outcome] = []
        self.done: list[tuple[CommandContext, Command, int]] = []  # with its status
        self.hooks: list[Callable[[], Any]] = []
        # The next entry cannot be part of this transaction.
        self.cut: Cut | None = None
        # The running hash as far as this transaction has come, and what its entries did to it.
        self.value = applied.fingerprint
        self.links: list[Link] = []
        # What its entries changed, for the change feed.
        self.changes: list[EntryChanges] = []
        # The feed begins anew after this entry; 0: it goes on.
        self._feed_begins_after = 0

    def feed_begins(self, index: int) -> None:
        """Entry `index` begins another cluster: what was fed before does not lead to what comes."""
        self._feed_begins_after = index
        self.changes.clear()

    def write(self, cursor: Any, feed: FeedWriter) -> bytes:
        """What goes with the changes of the entries, in their transaction; what is left to write for the feed.

        Raises as write_applied().
        """
        self.stage.write(cursor)
        write_applied(cursor, self.before, self.applied)
        if self._feed_begins_after:
            feed.start_anew(cursor, self._feed_begins_after)
        return feed.take(cursor, self.applied.index, self.changes)

    def changed(self, entry: Entry, header: ClientHeader, groups: list[Group]) -> None:
        """What `entry` changed, for the change feed."""
        command = self.done[-1][0].command if header.kind == COMMAND else ""
        self.changes.append(EntryChanges(entry.index, header.session, command, groups))

    def fold(self, entry: Entry, result: Result, differences: bytes) -> None:
        """The running hash takes in what `entry` did."""
        essence = running_hash.essence(entry.payload[0], result.status, result.result)
        self.value = running_hash.extend(self.value, entry.index, result.status, essence, differences)
        self.links.append(Link(entry.index, self.value, differences))

    def passed(self, entry: Entry, *, keeps_hash: bool) -> None:
        """`entry` is done. Without `keeps_hash` nobody captures what commands change: the running hash begins anew."""
        since = self.applied.fingerprint_since
        if not keeps_hash:
            self.value, since = EMPTY, entry.index
            self.links.append(Link(entry.index, EMPTY, b""))
        self.applied = Applied(self.applied.cluster_id, entry.index, entry.term, entry.log_time, self.value, since)


def entries(batch: EntryBatch) -> Iterator[Entry]:
    """The entries of a batch, one by one: a command costs so much more than the object for it."""
    index = batch.first_index
    for count, term, log_time in batch.runs:
        start = index - batch.first_index
        for payload in batch.payloads[start : start + count]:
            yield Entry(index, term, log_time, payload)
            index += 1


def find_command(commands: Registry, entry: Entry) -> tuple[Command, codec.CommandBody]:
    """The function that an entry names, and what else it says. Raises Cut where this node's code has none such."""
    try:
        body = codec.decode_body(memoryview(entry.payload)[HEADER_BYTES:])
    except msgspec.DecodeError as error:
        raise Cut(ApplyStopped(f"entry {entry.index} holds no command that can be decoded: {error}")) from error
    name, version, arguments = body.name, body.version, body.arguments
    command = commands.get(name, version)
    if command is None:
        known = [v for n, v in commands.known() if n == name]
        have = f"it knows version {', '.join(map(str, known))}" if known else "it knows none of that name"
        raise Cut(
            UnknownEntry(
                f"entry {entry.index} is the command {name!r} version {version}, which this node does not know "
                f"({have}); install the code that has it and start the node again"
            )
        )
    if not command.arguments.accepts(arguments.keys()):
        raise Cut(
            UnknownEntry(
                f"entry {entry.index}: {command!r} does not take the arguments {sorted(arguments)}; this node's "
                "code differs from that of the node which proposed it (raise @command(version=…) with each change)"
            )
        )
    return command, body
