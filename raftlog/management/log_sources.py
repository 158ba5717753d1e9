"""Where `raft log` reads: a node, by asking it; or a folder, read only and without its lock."""

from __future__ import annotations

import os
from typing import Any, Protocol

import msgspec

from raftlog.asking import client_tls
from raftlog.conf import Settings
from raftlog.consensus.entries import EntryBatch
from raftlog.exceptions import RaftlogError
from raftlog.storage.inspect import open_for_reading
from raftlog.storage.segmented_log import SegmentedLog
from raftlog.transport.client import NodeClient

READ_BYTES = 1 << 20
TIMEOUT = 10.0  # seconds for one answer


class LogSource(Protocol):
    """One log. The bounds are those of the last refresh(). `commit_index` None: nobody says what is committed."""

    name: str
    first_index: int
    last_index: int
    commit_index: int | None

    def refresh(self) -> None: ...

    def read(self, first: int, last: int) -> EntryBatch | None:
        """Some entries from `first` on, at most up to `last`; None where `first` is not there (any more)."""
        ...

    def close(self) -> None: ...


class FolderSource:
    """A node's folder, or a copy of one; a node may be running in it. Raises StorageError, OSError."""

    commit_index: int | None = None

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.name = os.fspath(path)
        self._log = self._open()

    def _open(self) -> SegmentedLog:
        log = open_for_reading(self.name)
        self.first_index, self.last_index = log.first_index, log.last_index
        return log

    def refresh(self) -> None:
        self._log.close()
        self._log = self._open()

    def read(self, first: int, last: int) -> EntryBatch | None:
        if not self.first_index <= first <= self.last_index:
            return None
        return self._log.read(first, min(last, self.last_index), READ_BYTES)

    def close(self) -> None:
        self._log.close()


class NodeSource:
    """A running node. Raises NodeUnavailable, RequestFailed."""

    def __init__(self, settings: Settings, address: str | None = None) -> None:
        self.name = address or "this host's node"
        context = client_tls(settings) if address and address.startswith("wss://") else None
        target = address or f"unix:{settings.socket_path}"
        self._client = NodeClient(target, settings.secret_keys, settings.cluster, ssl_context=context)
        self.first_index = self.last_index = 0
        self.commit_index: int | None = 0
        try:
            self.refresh()
        except RaftlogError:
            self._client.close()
            raise

    def refresh(self) -> None:
        self._ask(1, -1)

    def read(self, first: int, last: int) -> EntryBatch | None:
        batch = self._ask(first, last)["batch"]
        return msgspec.convert(batch, EntryBatch) if batch is not None else None

    def _ask(self, first: int, last: int) -> dict[str, Any]:
        answer: dict[str, Any] = self._client.request("log_read", {"first": first, "last": last}, timeout=TIMEOUT)
        self.first_index, self.last_index = answer["first_index"], answer["last_index"]
        self.commit_index = answer["commit_index"]
        return answer

    def close(self) -> None:
        self._client.close()
