"""Where backups are kept: images and pieces of the log, by name, in one of Django's STORAGES.

    <cluster>/<cluster id>/image-<index>-<when>.raftlog
    <cluster>/<cluster id>/log-<first index>-<last index>.entries

The names say all that a listing must tell, since object stores list names only. A cluster that was recovered or
restored has another id, and so a folder of its own.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple, TypeVar, cast

from django.core.files import File
from django.core.files.storage import InvalidStorageError, Storage, storages

from raftlog.exceptions import RaftlogError
from raftlog.replication.images import ImageHeader

_IMAGE: Final = re.compile(r"image-(\d{20})-(\d{8}T\d{6}Z)\.raftlog")
_PIECE: Final = re.compile(r"log-(\d{20})-(\d{20})\.entries")
COPY_BYTES: Final = 1 << 20

Answer = TypeVar("Answer")


class BackupError(RaftlogError):
    """A backup could not be made, found or read; the text says why."""


class StoredImage(NamedTuple):
    name: str  # within the cluster's folder
    index: int  # type: ignore[assignment]  # hides tuple.index
    made_at: datetime


class StoredPiece(NamedTuple):
    name: str
    first_index: int
    last_index: int


class BackupStore:
    """The folder of one cluster in a storage. Whatever the storage raises comes out as BackupError."""

    def __init__(self, storage: Storage, cluster: str, cluster_id: str) -> None:
        self.storage = storage
        self.folder = f"{cluster}/{cluster_id}"
        self.cluster_id = cluster_id

    def images(self) -> list[StoredImage]:
        """Ascending by index."""
        found = []
        for name in self._names():
            if match := _IMAGE.fullmatch(name):
                made_at = datetime.strptime(match[2], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
                found.append(StoredImage(name, int(match[1]), made_at))
        return sorted(found, key=lambda image: (image.index, image.made_at))

    def pieces(self) -> list[StoredPiece]:
        """Ascending by index."""
        matches = [match for name in self._names() if (match := _PIECE.fullmatch(name))]
        return sorted(
            (StoredPiece(match[0], int(match[1]), int(match[2])) for match in matches),
            key=lambda piece: (piece.first_index, piece.last_index),
        )

    def _names(self) -> list[str]:
        return self._asked(self._listed)

    def _listed(self) -> list[str]:
        try:
            return self.storage.listdir(self.folder)[1]
        except FileNotFoundError:  # a file system's way of saying that there is nothing yet
            return []

    def save(self, name: str, path: Path) -> None:
        """Store the file at `path` under `name`, where there is none yet."""

        def save() -> None:
            target = f"{self.folder}/{name}"
            if self.storage.exists(target):  # else Django would store it under a name of its own making
                self.storage.delete(target)
            with path.open("rb") as source:
                saved = self.storage.save(target, File(source, name=target))
            if saved != target or self.storage.size(target) != path.stat().st_size:
                raise BackupError(f"the storage did not keep {target} as it was given ({saved})")

        self._asked(save)

    @contextlib.contextmanager
    def opened(self, name: str) -> Iterator[BinaryIO]:
        file = self._asked(lambda: self.storage.open(f"{self.folder}/{name}", "rb"))
        try:
            yield cast(BinaryIO, file)
        finally:
            file.close()

    def fetch(self, name: str, path: Path, on_progress: Callable[[int, int], None] = lambda done, total: None) -> None:
        """Copy a stored file to `path`."""

        def copy() -> None:
            total, done = self.storage.size(f"{self.folder}/{name}"), 0
            with self.opened(name) as source, path.open("wb") as target:
                while block := source.read(COPY_BYTES):
                    target.write(block)
                    done += len(block)
                    on_progress(done, total)

        self._asked(copy)

    def delete(self, name: str) -> None:
        self._asked(lambda: self.storage.delete(f"{self.folder}/{name}"))

    def prune(self, keep: int) -> list[str]:
        """Keep the newest `keep` images and the pieces that follow the oldest of them. Returns what was deleted."""
        images = self.images()
        old = images[:-keep] if keep else []
        if not old:
            return []
        oldest = images[-keep].index
        names = [image.name for image in old]
        names += [piece.name for piece in self.pieces() if piece.last_index <= oldest]
        for name in names:
            self.delete(name)
        return names

    def _asked(self, ask: Callable[[], Answer]) -> Answer:
        try:
            return ask()
        except BackupError:
            raise
        except Exception as error:  # each storage has errors of its own
            raise BackupError(f"storage {self.folder}: {type(error).__name__}: {error}") from error


def open_storage_named(alias: str) -> Storage:
    """Raises BackupError."""
    try:
        return storages[alias]
    except InvalidStorageError as error:
        raise BackupError(f"STORAGES has no {alias!r}, or it cannot be used: {error}") from error


def cluster_ids(storage: Storage, cluster: str) -> list[str]:
    """Of which clusters of this name there is anything. Raises BackupError."""
    store = BackupStore(storage, cluster, "")

    def folders() -> list[str]:
        try:
            return sorted(storage.listdir(cluster)[0])
        except FileNotFoundError:
            return []

    return store._asked(folders)


def image_name(header: ImageHeader) -> str:
    when = datetime.fromtimestamp(header.created_at / 1e6, UTC)
    return f"image-{header.index:020d}-{when:%Y%m%dT%H%M%SZ}.raftlog"


def piece_name(first_index: int, last_index: int) -> str:
    return f"log-{first_index:020d}-{last_index:020d}.entries"
