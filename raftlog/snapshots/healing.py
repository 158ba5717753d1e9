"""A node whose database was deleted, replaced or set back goes on: from what is there now, and what its log has.

What the log does not have any more is pulled from a peer (pulling.py), and installed here. Meanwhile application
processes are told so when they connect (backends/sqlite3/file.py).
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from raftlog.consensus.raft import Raft
from raftlog.exceptions import DatabaseLost, DatabaseReplaced, ImageError
from raftlog.log_fields import log_fields
from raftlog.replication.images import ImageHeader
from raftlog.replication.sessions import Sessions
from raftlog.runtime import clock
from raftlog.runtime.ports import Outcome
from raftlog.snapshots.tally import DONE, FAILED, Tally

logger = logging.getLogger("raftlog.snapshots")


class HealedMachine(Protocol):
    """The half of a state machine that goes over to another database. Used by the state-machine thread."""

    last_error: str

    @property
    def last_applied(self) -> int: ...

    def look_around(self) -> None: ...

    def reopen(self) -> None: ...

    def caught_up(self) -> None: ...

    def install(self, path: str | Path, **keywords: Any) -> ImageHeader: ...

    @property
    def sessions(self) -> Sessions: ...


class Waiting:
    """An image on its way from the thread that pulled it to the state-machine thread."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.progress = (0, 0)
        self.is_over = threading.Event()
        # Why it could not be installed; "": it was.
        self.failure = ""


class Healing:
    """Implements runtime.ports.MachineCare. The state-machine thread calls everything but offer()."""

    def __init__(self, machine: HealedMachine, raft: Raft, check_position: Callable[[], None], tally: Tally) -> None:
        self._machine = machine
        self._raft = raft
        self._check_position = check_position
        self._tally = tally
        self._image: Waiting | None = None

    def offer(self, path: Path) -> Waiting:
        """The log goes on after this image: let it be installed. Any thread; wake the state-machine thread after it."""
        self._image = Waiting(path)
        return self._image

    def look_around(self) -> None:
        self._machine.look_around()

    def recover(self, error: DatabaseReplaced) -> int:
        """See ports.MachineCare. Raises DatabaseLost, ApplyStopped; IdentityMismatch: it is another cluster's."""
        machine, before = self._machine, self._machine.last_applied
        machine.reopen()
        self._check_position()
        refuse_lost(self._raft, machine.last_applied)
        logger.warning(
            "%s: the database had applied entry %d, and the one that is there now %d; it is brought up to date (%s)",
            *(self._raft.node_id, before, machine.last_applied, error),
            extra=log_fields("database_behind", node=self._raft.node_id, index=machine.last_applied, reason=str(error)),
        )
        return min(machine.last_applied, self._raft.log.last_index)  # a log that recovers may be behind

    def caught_up(self) -> None:
        self._machine.caught_up()

    @property
    def has_image(self) -> bool:
        return self._image is not None

    def install(self, keys: list[bytes]) -> tuple[int, list[Outcome]]:
        image, self._image = self._image, None
        if image is None:
            return 0, []

        def told(done: int, total: int) -> None:
            image.progress = (done, total)

        began = clock.monotonic()
        try:
            size = image.path.stat().st_size
            header = self._machine.install(image.path, on_progress=told)
        except (ImageError, OSError) as error:
            logger.error(
                "%s: the image could not be installed: %s",
                *(self._raft.node_id, error),
                extra=log_fields("image_failed", node=self._raft.node_id, reason=str(error)),
            )
            image.failure = str(error)
            self._tally.ended("install", FAILED, clock.monotonic() - began)
            return 0, []
        finally:
            image.is_over.set()
        self._tally.ended("install", DONE, clock.monotonic() - began, size)
        logger.warning(
            "%s: the database is now an image at entry %d, with %d rows",
            *(self._raft.node_id, header.index, header.total_rows),
            extra=log_fields("image_installed", node=self._raft.node_id, index=header.index),
        )
        return header.index, self._machine.sessions.outcomes(keys)


def refuse_lost(raft: Raft, last_applied: int) -> None:
    """Raises DatabaseLost where nobody has what the database lacks: neither this log nor another member."""
    if last_applied < raft.log.base.index and set(raft.configuration.servers) <= {raft.node_id}:
        raise DatabaseLost(
            f"the database has applied entry {last_applied}, the log begins after entry {raft.log.base.index}, and "
            "there is no other member that has what lies between. Put back the database that belongs to this log, or a "
            "newer copy of it; or make a new cluster out of a backup: manage.py raft restore"
        )
