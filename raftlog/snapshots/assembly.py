"""Everything of this package that one node runs: its threads, its requests, its status."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from typing import Any

from raftlog.conf import Settings
from raftlog.replication.apply import DatabaseStateMachine
from raftlog.replication.images import estimated_bytes
from raftlog.replication.position import check_position
from raftlog.runtime import snapshots
from raftlog.runtime.server import RaftServer
from raftlog.runtime.threads import NodeThread
from raftlog.snapshots import incoming, serving
from raftlog.snapshots.compaction import Compactor, LogFile, Policy
from raftlog.snapshots.healing import Healing, refuse_lost
from raftlog.snapshots.pulling import Ask, Puller
from raftlog.snapshots.serving import ImageServer
from raftlog.snapshots.tally import Tally
from raftlog.storage import Storage
from raftlog.storage.layout import segment_name
from raftlog.storage.recovery import list_segments


class Snapshots:
    """Of a node with a database. Make it before its RaftServer is started, which runs the threads."""

    def __init__(
        self, settings: Settings, storage: Storage, service: RaftServer, machine: DatabaseStateMachine, ask: Ask
    ) -> None:
        state = service.state
        raft = state.raft

        def check() -> None:
            cluster_id = storage.metadata.cluster_id
            check_position(machine, raft.log, cluster_id, may_be_ahead=raft.recovery_id != 0)

        self.tally = Tally()
        self.healing = service.care = Healing(machine, raft, check, self.tally)
        self.server = ImageServer(
            settings.data_dir / serving.FOLDER,
            machine.make_image,
            partial(snapshots.describe, state),
            partial(estimated_bytes, machine.alias),
            self.tally,
        )
        folder = settings.data_dir / incoming.FOLDER
        self.puller = Puller(state, self.healing, ask, folder, settings.snapshot_bytes_per_second, self.tally)
        self.compactor = Compactor(state, policy_of(settings), partial(log_files, storage), machine.make_durable)
        if not (folder / "image").exists():  # else the last start was interrupted, and this one goes on
            refuse_lost(raft, machine.last_applied)
        for name, main in (
            ("images", self.server.main),
            ("pull", self.puller.main),
            ("compaction", self.compactor.main),
        ):
            service.threads.append(_thread(service, name, main))

    def ask_to_stop(self) -> None:
        for part in (self.server, self.puller, self.compactor):
            part.stop()

    def requests(self) -> dict[str, Callable[[dict[str, Any]], Any]]:
        return self.server.requests()

    def status(self) -> dict[str, Any]:
        return {
            "pulling": self.puller.status(),
            "serving": self.server.status(),
            "compaction": self.compactor.status(),
            "since_start": self.tally.as_data(),
        }


def _thread(service: RaftServer, name: str, main: Callable[[Callable[[str], None]], None]) -> NodeThread:
    thread = NodeThread(f"raftlog-{service.state.raft.node_id}-{name}", lambda: main(thread.now_doing), service.died)
    return thread


def policy_of(settings: Settings) -> Policy:
    return Policy(
        max_bytes=settings.compact_log_bytes,
        max_entries=settings.compact_log_entries,
        max_age=settings.compact_log_age,
        keep_bytes=settings.keep_log_bytes,
        keep_entries=settings.keep_log_entries,
    )


def log_files(storage: Storage) -> list[LogFile]:
    """The files of the log, in order. Any thread; the log may be written meanwhile."""
    found = []
    for sequence, first_index in list_segments(storage.filesystem, storage.directory):
        try:
            size = os.stat(f"{storage.directory}/{segment_name(sequence, first_index)}").st_size
        except FileNotFoundError:
            continue  # compacted just now
        found.append(LogFile(first_index, size))
    return found
