"""The file of an image that is being pulled: what is there already survives a restart.

DATA_DIR/incoming holds `part`, the bytes so far, with `about`, which image that is; and `image` once it is whole,
verified and durable. Only `image` is ever installed.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import msgspec

from raftlog.replication.images import ImageHeader, read_header, verify_image
from raftlog.storage.filesystem import RealFileSystem

FOLDER: Final = "incoming"


class About(msgspec.Struct, frozen=True):
    """Which image `part` is of."""

    image: str
    index: int
    bytes: int


NOTHING: Final = About("", 0, 0)


class Incoming:
    """One thread uses it. All methods raise OSError."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._part, self._about, self.image = (directory / name for name in ("part", "about", "image"))
        self._files = RealFileSystem()
        self.about = NOTHING

    def load(self) -> None:
        """What an earlier process left."""
        try:
            self.about = msgspec.json.decode(self._about.read_bytes(), type=About)
        except (FileNotFoundError, msgspec.DecodeError):
            self.about = NOTHING

    @property
    def received(self) -> int:
        return self._part.stat().st_size if self._part.exists() else 0

    def begin(self, about: About) -> None:
        """Go on with `part` where it is of this image and not too long, else begin anew."""
        self._directory.mkdir(parents=True, exist_ok=True)
        if about != self.about or self.received > about.bytes:
            self.drop()
            self._about.write_bytes(msgspec.json.encode(about))
            self.about = about

    def append(self, data: bytes) -> None:
        with self._part.open("ab") as file:
            file.write(data)

    def complete(self) -> ImageHeader:
        """All bytes are there: verify and sync them. Raises ImageError, and then nothing is left."""
        try:
            header = verify_image(self._part)
        except BaseException:
            self.drop()
            raise
        file = self._files.open(str(self._part))
        try:
            file.sync()
        finally:
            file.close()
        self._files.rename(str(self._part), str(self.image))
        self._files.sync_directory(str(self._directory))
        return header

    def whole(self) -> ImageHeader | None:
        """The image that was complete before a restart, if there is one. Raises ImageError."""
        return read_header(self.image) if self.image.exists() else None

    def drop(self) -> None:
        """Forget everything."""
        for path in (self._part, self._about, self.image):
            path.unlink(missing_ok=True)
        if self._directory.exists():
            self._files.sync_directory(os.fspath(self._directory))
        self.about = NOTHING
