"""State outside the database that travels in images: RAFTLOG["SNAPSHOT_HOOKS"] (docs/howto/files.md).

A hook is packed after the database's transaction was opened, so that what it packs is as new as the rows that refer to
it, or newer. It is unpacked before the database becomes the image; a crash in between means that it is unpacked again.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import IO, BinaryIO, Protocol, cast

from django.utils.module_loading import import_string

from raftlog.conf import load_settings
from raftlog.exceptions import ImageError
from raftlog.replication.images.header import Attachment, ImageHeader
from raftlog.storage.filesystem import Buffer


class Hook(Protocol):
    """What RAFTLOG["SNAPSHOT_HOOKS"] names: an object with these two, or a class, of which one is made."""

    def pack(self, stream: BinaryIO) -> None:
        """Write the state. Only write() is to be used: the stream is a part of a file."""
        ...

    def unpack(self, stream: BinaryIO) -> None:
        """Make the state what pack() has written; idempotent. The stream ends where pack() did."""
        ...


def load_hooks() -> dict[str, Hook]:
    """By name. Raises ImageError where one cannot be imported, or is none."""
    found = {}
    for name, path in load_settings().snapshot_hooks.items():
        try:
            hook = import_string(path)
        except ImportError as error:
            raise ImageError(f"RAFTLOG['SNAPSHOT_HOOKS'][{name!r}]: {path!r} cannot be imported: {error}") from error
        if isinstance(hook, type):
            hook = hook()
        if not (callable(getattr(hook, "pack", None)) and callable(getattr(hook, "unpack", None))):
            raise ImageError(f"RAFTLOG['SNAPSHOT_HOOKS'][{name!r}]: {path!r} has no pack(stream) and unpack(stream)")
        found[name] = cast(Hook, hook)
    return found


def pack_all(hooks: Mapping[str, Hook], file: IO[bytes]) -> list[Attachment]:
    """Let each write at the end of `file`. Raises what they raise."""
    attachments = []
    for name, hook in sorted(hooks.items()):
        offset = file.seek(0, io.SEEK_END)
        stream = _Writer(file)
        hook.pack(cast(BinaryIO, stream))
        attachments.append(Attachment(name, offset, stream.written))
    return attachments


def check_hooks(hooks: Mapping[str, Hook], header: ImageHeader, where: object) -> None:
    """Raises ImageError where nobody would unpack what the image holds."""
    for attachment in header.attachments:
        if attachment.name not in hooks:
            raise ImageError(
                f"{where} holds what the hook {attachment.name!r} packed, and RAFTLOG['SNAPSHOT_HOOKS'] of this node "
                "names none of that name"
            )


def unpack_all(hooks: Mapping[str, Hook], header: ImageHeader, file: IO[bytes]) -> None:
    for attachment in header.attachments:
        stream = io.BufferedReader(cast(io.RawIOBase, _Reader(file, attachment)))
        hooks[attachment.name].unpack(cast(BinaryIO, stream))


class _Writer(io.RawIOBase):
    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.written = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Buffer) -> int:  # type: ignore[override]
        count = self._file.write(data)
        self.written += count
        return count

    def tell(self) -> int:
        return self.written


class _Reader(io.RawIOBase):
    def __init__(self, file: IO[bytes], attachment: Attachment) -> None:
        self._file = file
        self._position = attachment.offset
        self._end = attachment.offset + attachment.size

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray) -> int:  # type: ignore[override]
        self._file.seek(self._position)
        data = self._file.read(min(len(buffer), self._end - self._position))
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)
