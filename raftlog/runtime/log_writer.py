"""How the log comes to the disk, and what is known of that disk: the part of ConsensusState that writes.

Rules about this file:
- Storage has one writer at a time (rule 6): a service thread of a follower, inside the monitor, or the log-sync thread,
  outside of it, which has set `log_writer_busy`.
- A full disk keeps its order: what found no room is written before anything that comes later.
- A disk that stalls is not a slow one: a write that has taken an election timeout makes this server unfit to lead
  (design section 4); heartbeats have gone out all the while.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

from raftlog.consensus.log import UnstableEntries
from raftlog.consensus.messages import AppendEntries
from raftlog.consensus.raft import Raft
from raftlog.exceptions import DiskFull
from raftlog.log_fields import log_fields
from raftlog.runtime.monitor import Monitor
from raftlog.runtime.ports import PeerMessage
from raftlog.storage.interface import LogStore

logger = logging.getLogger("raftlog.consensus")


class LogWriter:
    """See the module; the base of ConsensusState."""

    def __init__(self, raft: Raft, log_store: LogStore, monitor: Monitor, election_timeout: float) -> None:
        self.raft = raft
        self.log_store = log_store
        self.monitor = monitor
        # Why appends are refused just now ("": they are not), and the work that found no room; order is kept:
        # it is written before anything that take_unstable() gives later, a truncation included.
        self.disk_full = ""
        self.unwritten: UnstableEntries | None = None
        # True while the log-sync thread writes outside the monitor, or the log is compacted (snapshots.py).
        # Invariant: nobody else writes or compacts the log meanwhile.
        self.log_writer_busy = False
        # True while who compacts waits for the log-sync thread, which lets it go first.
        self.log_writer_wanted = False
        self.log_writer_idle = monitor.condition()
        # Since when it has been writing, inf: it is not; and what is said of it once that has taken an election timeout
        # ("": it has not).
        self.log_write_began_at = float("inf")
        self.disk_stalled = ""
        # What the scrubber found in the log ("": nothing): this node goes on, and leads only where no other can.
        self.damaged = ""
        self._election_timeout = election_timeout

    def must_wait(self, messages: Iterable[PeerMessage]) -> bool:
        """Whether these wait until the log-sync thread has written. Monitor: held.

        Rule 6: its batch is waited for before anything may truncate or append. And while the disk stalls, nothing may
        change the term, which would have to be synced inside the monitor.
        """
        if not self.log_writer_busy:
            return False
        if self.disk_stalled and any(message.term > self.raft.current_term for message in messages):
            return True
        return any(isinstance(message, AppendEntries) for message in messages)

    def take_log_work(self, now: float) -> UnstableEntries | None:
        """What the log's writer is to write next. Monitor: held."""
        if self.unwritten is not None:
            work, self.unwritten = self.unwritten, None
            return work
        return self.raft.take_unstable(now)

    def begin_log_write(self, now: float) -> UnstableEntries | None:
        """Work for the log-sync thread; until end_log_write() the log has no other writer. Monitor: held."""
        work = self.take_log_work(now)
        if work is not None:
            self.log_writer_busy = True
            self.log_write_began_at = now
        return work

    def end_log_write(self, work: UnstableEntries, succeeded: bool) -> None:
        """Monitor: held."""
        self.log_writer_busy = False
        self.log_write_began_at = float("inf")
        if self.disk_stalled:
            logger.error("the disk answers again", extra=log_fields("disk_answers", node=self.raft.node_id))
            self.disk_stalled = ""
        self.log_writer_idle.notify()
        self.written(work, succeeded)

    @property
    def stall_deadline(self) -> float:
        """When the write that is under way counts as stalled; inf: none is, or it does already. Monitor: held."""
        return float("inf") if self.disk_stalled else self.log_write_began_at + self._election_timeout

    def watch_disk(self, now: float) -> None:
        """Design section 4: a leader with a stalled disk hands over, though its heartbeats go out. Monitor: held."""
        if now < self.stall_deadline:
            return
        self.disk_stalled = f"the disk does not answer: a write has taken over {self._election_timeout:g} s"
        logger.error(
            "%s", self.disk_stalled, extra=log_fields("disk_stalled", node=self.raft.node_id, reason=self.disk_stalled)
        )
        self.raft.set_unfit(self.disk_stalled, now)

    def write(self, work: UnstableEntries) -> bool:
        """Reset or truncate, append and sync; False where the disk is full. Raises StorageFailed.

        Monitor: held on a follower, not held by the log-sync thread, which has set log_writer_busy.
        """
        try:
            if work.reset_to is not None:
                self.log_store.reset_to(work.reset_to)
            if work.truncate_from:
                self.log_store.truncate_from(work.truncate_from)
            if len(work.entries):
                self.log_store.append(work.entries)
                self.log_store.sync()
        except DiskFull as error:
            if not self.disk_full:
                logger.error(
                    "the disk is full; this node takes no entries until there is room: %s",
                    error,
                    extra=log_fields("disk_full", node=self.raft.node_id, reason=str(error)),
                )
            self.disk_full = str(error)
            return False
        if self.disk_full:
            logger.warning(
                "there is room on the disk again; this node takes entries",
                extra=log_fields("disk_has_room", node=self.raft.node_id),
            )
        self.disk_full = ""
        return True

    def written(self, work: UnstableEntries, succeeded: bool) -> None:
        """Tell the core what is durable now, and whether it may lead; keep what could not be written. Monitor: held."""
        now = self.monitor.monotonic()
        if self.disk_full:
            self.raft.set_unfit("its disk is full", now)
        else:
            self.raft.set_unfit(self.damaged, now, takes_entries=True)
        if not succeeded:
            self.unwritten = work
        elif work.last_id is not None:
            self.raft.stable_to(*work.last_id)

    def write_log(self, now: float) -> None:
        """A follower's disk write, inside the monitor. Monitor: held."""
        while not self.disk_full and (work := self.take_log_work(now)) is not None:
            self.written(work, self.write(work))
