"""What a node does by itself for the day after: it archives committed entries, and makes backups by schedule.

Two threads, on every node; only the leader's do anything but look. *archive* writes what was committed since the last
piece every ARCHIVE_INTERVAL, so that no more than that is lost with the cluster. *backup* makes an image once the
newest one is older than BACKUP_INTERVAL, and deletes what is beyond BACKUP_KEEP.

A change of leader may write a piece twice: entries that are committed are the same wherever they are read.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any, Final

from raftlog.conf import Settings
from raftlog.consensus.entries import EntryBatch
from raftlog.consensus.snapshot import LogBase
from raftlog.consensus.state import Role
from raftlog.disaster.backups import OUTGOING, back_up_to_storage
from raftlog.disaster.pieces import write_piece
from raftlog.disaster.store import BackupError, BackupStore, open_storage_named, piece_name
from raftlog.exceptions import RaftlogError
from raftlog.log_fields import log_fields
from raftlog.runtime import clock
from raftlog.runtime.server import RaftServer
from raftlog.runtime.threads import NodeThread
from raftlog.storage.interface import LogStore

logger = logging.getLogger("raftlog.backup")

PIECE_BYTES: Final = 16 << 20
READ_BYTES: Final = 1 << 20
# The log keeps what is not archived, up to so many bytes of log files; then it gives it up, and says so.
MAX_HELD_BYTES: Final = 4 << 30
NOTHING: Final = 1 << 62  # an index beyond every log
LOOK_INTERVAL: Final = 60.0  # seconds between two looks whether a backup is due


class Keeper:
    """start(), ask_to_stop() and join() once; the rest from any thread."""

    def __init__(
        self,
        settings: Settings,
        service: RaftServer,
        store: LogStore,
        describe: Callable[[int], LogBase],
        on_death: Callable[[str, BaseException], None],
    ) -> None:
        self._settings = settings
        self._state = service.state
        self._log = store
        self._describe = describe
        self._stopping = threading.Event()
        self._storage = open_storage_named(settings.backup_storage)
        # Highest index that is in the archive, as far as is known; -1: it was not looked at yet.
        # Changes: archive thread.
        self.archived_index = -1
        self._archived_at = 0
        self._cluster_id = ""
        self._led = False
        # Why the last attempt failed; "" where it did not.
        self._problems = {"archive": "", "backup": ""}
        self._newest_backup: dict[str, Any] | None = None
        name = f"raftlog-{settings.node_id}"
        self._threads = []
        if settings.archive_interval:
            self._threads.append(NodeThread(f"{name}-archive", self._archive_main, on_death))
        if settings.backup_interval:
            self._threads.append(NodeThread(f"{name}-backup", self._backup_main, on_death))

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def ask_to_stop(self) -> None:
        self._stopping.set()

    def join(self, timeout: float) -> list[str]:
        deadline = clock.monotonic() + timeout
        return [t.name for t in self._threads if not t.join(deadline - clock.monotonic())]

    def status(self) -> dict[str, Any]:
        return {
            "backup": {
                "storage": self._settings.backup_storage,
                "archived_index": max(self.archived_index, 0) if self._settings.archive_interval else None,
                "archived_at": self._archived_at or None,
                "newest": self._newest_backup,
            },
            "warnings": [f"{what}: {problem}" for what, problem in self._problems.items() if problem],
        }

    def log_must_keep_after(self) -> int:
        """The log's entries after this index are not archived yet, and must be kept: compaction asks.

        Bounded by MAX_HELD_BYTES of log files.
        """
        if not self._settings.archive_interval:
            return NOTHING
        held = sum(file.stat().st_size for file in self._settings.data_dir.glob("log-*.segment"))
        if held > MAX_HELD_BYTES:
            self._failed(
                "archive",
                f"more than {MAX_HELD_BYTES >> 20} MiB of log are kept, so what is not archived is given up: a restore "
                "cannot go through it",
            )
            return NOTHING
        return max(self.archived_index, 0)

    # The archive

    def _archive_main(self) -> None:
        self._repeat("archive", self._settings.archive_interval, self.archive)

    def archive(self) -> None:
        """Bring what was committed since the last time to the storage. Raises RaftlogError, OSError."""
        is_leader, commit_index, cluster_id = self._standing()
        if not cluster_id:
            return
        store = BackupStore(self._storage, self._settings.cluster, cluster_id)
        if not (is_leader and self._led and cluster_id == self._cluster_id):
            self.archived_index = self._found_in(store)
        self._led, self._cluster_id = is_leader, cluster_id
        while is_leader and self.archived_index < commit_index and not self._stopping.is_set():
            self._archive_piece(store, commit_index)

    def _found_in(self, store: BackupStore) -> int:
        pieces = store.pieces()
        if pieces:
            return max(piece.last_index for piece in pieces)
        images = store.images()
        return images[-1].index if images else self._log.base.index

    def _archive_piece(self, store: BackupStore, commit_index: int) -> None:
        base = self._log.base
        if self.archived_index < base.index:
            logger.warning(
                "entries %d-%d were compacted before they were archived: a restore cannot go through them. Make a new "
                "backup (raft backup --storage %s)",
                self.archived_index + 1, base.index, self._settings.backup_storage,
                extra=log_fields("archive_gap", index=self.archived_index + 1),
            )  # fmt: skip
            self.archived_index = base.index
            return
        first_index = self.archived_index + 1
        batches = self._read(first_index, commit_index)
        previous_term = self._term_before(first_index)
        folder = self._settings.data_dir / OUTGOING
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "entries-new"
        with path.open("wb") as file:
            write_piece(file, self._settings.cluster, store.cluster_id, previous_term, batches)
        last_index = batches[-1].last_index
        try:
            store.save(piece_name(first_index, last_index), path)
        finally:
            path.unlink(missing_ok=True)
        self.archived_index, self._archived_at = last_index, clock.wall_microseconds()
        logger.debug("archived entries %d-%d", first_index, last_index)

    def _read(self, first_index: int, last_index: int) -> list[EntryBatch]:
        batches: list[EntryBatch] = []
        size, index = 0, first_index
        while index <= last_index and size < PIECE_BYTES:
            batch = self._log.read(index, last_index, READ_BYTES)
            batches.append(batch)
            size += batch.payload_bytes
            index = batch.last_index + 1
        return batches

    def _term_before(self, first_index: int) -> int:
        """Raises BackupError where it has been compacted meanwhile."""
        try:
            with self._state.monitor:
                return self._state.raft.log.term_at(first_index - 1)
        except IndexError as error:
            raise BackupError(f"the log does not begin before entry {first_index} any more: {error}") from error

    # Backups

    def _backup_main(self) -> None:
        interval = min(LOOK_INTERVAL, self._settings.backup_interval)
        self._repeat("backup", interval, self.back_up_if_due)

    def back_up_if_due(self) -> None:
        """Raises RaftlogError, OSError, and what the database raises."""
        is_leader, _, cluster_id = self._standing()
        if not is_leader or not cluster_id:
            return
        settings = self._settings
        store = BackupStore(self._storage, settings.cluster, cluster_id)
        images = store.images()
        if images and clock.wall_microseconds() / 1e6 - images[-1].made_at.timestamp() < settings.backup_interval:
            return
        header, name = back_up_to_storage(
            settings,
            lambda made_of: BackupStore(self._storage, settings.cluster, made_of),
            lambda index, term: self._describe(index),
            self._stop_if_asked,
        )
        deleted = store.prune(settings.backup_keep)
        self._newest_backup = {"name": name, "index": header.index, "made_at": header.created_at}
        logger.info(
            "backup %s of entry %d; %d older files deleted",
            *(name, header.index, len(deleted)),
            extra=log_fields("backup_made", index=header.index, about=name),
        )

    def _stop_if_asked(self, done: int, total: int) -> None:
        if self._stopping.is_set():
            raise BackupError("the node stopped before the backup was complete")

    # Both

    def _standing(self) -> tuple[bool, int, str]:
        with self._state.monitor:
            raft = self._state.raft
            return raft.role is Role.LEADER, raft.commit_index, raft.configuration.cluster_id

    def _repeat(self, what: str, interval: float, work: Callable[[], None]) -> None:
        while not self._stopping.wait(interval):
            try:
                work()
                self._problems[what] = ""
            except (RaftlogError, OSError) as error:
                self._failed(what, str(error))

    def _failed(self, what: str, text: str) -> None:
        if self._problems[what] != text:
            logger.warning("%s: %s", what, text, extra=log_fields("backup_failed", about=what, reason=text))
        self._problems[what] = text


def make_keeper(
    settings: Settings,
    service: RaftServer,
    store: LogStore,
    describe: Callable[[int], LogBase],
    on_death: Callable[[str, BaseException], None],
) -> Keeper | None:
    """None where nothing is to be kept. Raises BackupError where the storage is none."""
    if not (settings.archive_interval or settings.backup_interval):
        return None
    return Keeper(settings, service, store, describe, on_death)
