"""A hook for uploaded files: the folder MEDIA_ROOT as a tar archive.

RAFTLOG = {"SNAPSHOT_HOOKS": {"media": "raftlog.replication.images.media.MediaFiles"}}

It brings a node that is made from an image the files that others have; what is uploaded later is not replicated by it
(see docs/howto/files.md).
"""

from __future__ import annotations

import contextlib
import os
import tarfile
from pathlib import Path
from typing import BinaryIO, Final

from django.conf import settings

from raftlog.exceptions import ImageError
from raftlog.replication.images.container import make_durable_file

COPY_BYTES: Final = 256 << 10
PART: Final = ".raftlog-part"


class MediaFiles:
    """Packs and unpacks the regular files under MEDIA_ROOT."""

    def __init__(self) -> None:
        if not settings.MEDIA_ROOT:
            raise ImageError("the hook MediaFiles needs settings.MEDIA_ROOT, which is empty")
        self.root = Path(settings.MEDIA_ROOT).absolute()

    def pack(self, stream: BinaryIO) -> None:
        with tarfile.open(fileobj=stream, mode="w|", format=tarfile.PAX_FORMAT) as archive:
            for path in self._files():
                with contextlib.suppress(FileNotFoundError):  # deleted meanwhile
                    archive.add(path, path.relative_to(self.root).as_posix(), recursive=False)

    def unpack(self, stream: BinaryIO) -> None:
        """Each file appears whole, under its name; those that the archive does not have are removed."""
        wanted = set()
        with tarfile.open(fileobj=stream, mode="r|") as archive:
            for member in archive:
                path = Path(os.path.normpath(self.root / member.name))
                # Resolved, so that neither ".." nor a symbolic link on the way leads out.
                if not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(self.root)):
                    raise ImageError(f"the file {member.name!r} in the image lies outside of MEDIA_ROOT")
                if member.isfile():
                    wanted.add(path)
                    self._write(archive, member, path)
        for path in self._files():
            if path not in wanted:
                path.unlink(missing_ok=True)

    def _write(self, archive: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(path.name + PART)
        source = archive.extractfile(member)
        assert source is not None
        with source, part.open("wb") as file:
            while block := source.read(COPY_BYTES):
                file.write(block)
        os.utime(part, (member.mtime, member.mtime))
        make_durable_file(part)
        part.replace(path)

    def _files(self) -> list[Path]:
        return sorted(path for path in self.root.rglob("*") if path.is_file() and not path.is_symlink())
