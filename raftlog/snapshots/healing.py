"""A node whose database was deleted, replaced or set back goes on: from what is there now, and what its log has.

What the log does not have any more is pulled from a peer (pull.py). Meanwhile application processes are told so when
they connect (backends/sqlite3/file.py).

Thread-safety: the state-machine thread calls everything here.
"""

from __future__ import annotations

import logging

from raftlog.consensus.raft import Raft
from raftlog.exceptions import DatabaseReplaced
from raftlog.replication.apply import DatabaseStateMachine
from raftlog.replication.position import check_position
from raftlog.storage import Storage

logger = logging.getLogger("raftlog.apply")


class Healing:
    """Implements runtime.ports.MachineCare over a database."""

    def __init__(self, machine: DatabaseStateMachine, raft: Raft, storage: Storage) -> None:
        self._machine = machine
        self._raft = raft
        self._storage = storage

    def look_around(self) -> None:
        self._machine.look_around()

    def recover(self, error: DatabaseReplaced) -> int:
        """See ports.MachineCare. Raises ApplyStopped, IdentityMismatch where the database is of another cluster."""
        machine, before = self._machine, self._machine.last_applied
        machine.reopen()
        check_position(machine, self._raft.log, self._storage.metadata.cluster_id)
        logger.warning(
            "%s: the database had applied entry %d, and the one that is there now %d; it is brought up to date (%s)",
            *(self._raft.node_id, before, machine.last_applied, error),
        )
        return machine.last_applied

    def caught_up(self) -> None:
        self._machine.caught_up()
