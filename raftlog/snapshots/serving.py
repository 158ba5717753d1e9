"""Images for peers: made once, read in chunks by any number of pullers, removed when nobody has read for a while.

A puller asks for an image by "snapshot_open", again and again until it is ready, and then for pieces of it by
"snapshot_read". The requests are answered by the threads for requests of clients, of which no heartbeat has need; the
image is made by a thread of its own.
"""

from __future__ import annotations

import logging
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Protocol

from raftlog.exceptions import ImageError, RaftlogError
from raftlog.log_fields import log_fields
from raftlog.replication.images import Describe, ImageHeader
from raftlog.runtime import clock
from raftlog.snapshots import tally
from raftlog.snapshots.tally import Tally

logger = logging.getLogger("raftlog.snapshots")

FOLDER: Final = "images"  # of DATA_DIR
CHUNK_BYTES: Final = 256 << 10  # the most that one answer holds
KEEP: Final = 600.0  # seconds after it was last read that an image stays for pullers whose connection broke
LINGER: Final = 30.0  # the same once every puller has said that it has all
MAX_IMAGES: Final = 2  # at one time, the one that is being made included
WAIT: Final = 1.0  # seconds between two looks whether an image is to be made or removed
MIN_FREE: Final = 64 << 20  # bytes of the disk that an image must leave free


class MakeImage(Protocol):
    """DatabaseStateMachine.make_image"""

    def __call__(self, path: str | Path, describe: Describe, **keywords: Any) -> ImageHeader: ...


class NoSuchImage(RaftlogError):
    """The image that a puller asks for is not here any more: it opens another one."""


class Image:
    """One image, complete. Fields: the server's lock protects `read_at` and `readers`."""

    def __init__(self, path: Path, header: ImageHeader) -> None:
        self.path = path
        self.header = header
        self.id = f"{header.index}-{header.digest.hex()[:16]}"
        self.bytes = path.stat().st_size
        self.read_at = clock.monotonic()
        # Who reads it, and has not said that it has all.
        self.readers: set[str] = set()


class ImageServer:
    """Of one node. Requests from any thread; main() is the body of the thread that makes images.

    Args:
        directory: a folder of this class alone.
        make, describe: how an image is made.
        size: about how many bytes one will have.
        tally: counts what was made, and what could not be.
    """

    def __init__(
        self, directory: Path, make: MakeImage, describe: Describe, size: Callable[[], int], tally: Tally
    ) -> None:
        self._directory = directory
        self._make_image = make
        self._describe = describe
        self._size = size
        self._tally = tally
        self._lock = threading.Condition()
        self._images: dict[str, Image] = {}
        # An image that holds the entries up to there is wanted, and is being made or will be; 0: none is.
        self._wanted_index = 0
        self._progress = (0, 0)
        # Why the last attempt to make one failed, and when.
        self._failure = ("", 0.0)
        self._stopping = False

    def requests(self) -> dict[str, Callable[[dict[str, Any]], Any]]:
        return {"snapshot_open": self._open, "snapshot_read": self._read, "snapshot_close": self._close}

    def status(self) -> dict[str, Any]:
        with self._lock:
            done, total = self._progress
            return {
                "making": {"bytes": done, "total": total} if self._wanted_index else None,
                "images": [
                    {"image": image.id, "index": image.header.index, "bytes": image.bytes, "to": sorted(image.readers)}
                    for image in self._images.values()
                ],
            }

    # Requests

    def _open(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """{"minimum_index", "image": one that the puller has begun, or "", "by"} -> what there is.

        {"image", "index", "bytes"}, or {"image": "", "done", "total"} while it is being made: ask again. Raises
        ImageError where none can be made.
        """
        minimum_index, by = int(arguments["minimum_index"]), str(arguments["by"])
        with self._lock:
            image = self._images.get(str(arguments["image"])) or self._newest()
            if image is not None and image.header.index >= minimum_index:
                image.read_at = clock.monotonic()
                image.readers.add(by)
                return {"image": image.id, "index": image.header.index, "bytes": image.bytes}
            failure, failed_at = self._failure
            if failure and clock.monotonic() - failed_at < WAIT:
                raise ImageError(failure)
            if not self._wanted_index:
                self._wanted_index, self._progress = max(minimum_index, 1), (0, 0)
                self._lock.notify_all()
            done, total = self._progress
            return {"image": "", "done": done, "total": total}

    def _newest(self) -> Image | None:
        return max(self._images.values(), key=lambda image: image.header.index, default=None)

    def _read(self, arguments: dict[str, Any]) -> bytes:
        """{"image", "offset", "by"} -> the next piece; empty at the end. Raises NoSuchImage."""
        with self._lock:
            image = self._images.get(str(arguments["image"]))
            if image is None:
                raise NoSuchImage(f"image {arguments['image']} is not here (any more)")
            image.read_at = clock.monotonic()
            image.readers.add(str(arguments["by"]))
        with image.path.open("rb") as file:
            file.seek(int(arguments["offset"]))
            return file.read(CHUNK_BYTES)

    def _close(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """{"image", "by"}: the puller has all of it."""
        with self._lock:
            image = self._images.get(str(arguments["image"]))
            if image is not None:
                image.readers.discard(str(arguments["by"]))
        return {}

    # The thread

    def stop(self) -> None:
        with self._lock:
            self._stopping = True
            self._lock.notify_all()

    def main(self, now_doing: Callable[[str], None]) -> None:
        """Make what is asked for, remove what is not read any more. Body of the thread."""
        shutil.rmtree(self._directory, ignore_errors=True)  # of the process before this one
        while True:
            with self._lock:
                self._remove_unread()
                if not self._wanted_index and not self._stopping:
                    now_doing("waiting for somebody who needs an image")
                    self._lock.wait(WAIT)
                if self._stopping:
                    return
                if not self._wanted_index:
                    continue
            now_doing("making an image")
            self._make()

    def _make(self) -> None:
        began = clock.monotonic()
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            self._check_room()
            path = self._directory / "new"
            header = self._make_image(path, self._describe, on_progress=self._made)
            path = path.rename(self._directory / f"{header.index}")
        except (RaftlogError, OSError, ValueError, IndexError) as error:
            if not self._stopping:
                self._tally.ended("make", tally.FAILED, clock.monotonic() - began)
                logger.error("no image could be made: %s", error, extra=log_fields("image_failed", reason=str(error)))
            with self._lock:
                self._failure, self._wanted_index = (str(error), clock.monotonic()), 0
            return
        image = Image(path, header)
        took = clock.monotonic() - began
        self._tally.ended("make", tally.DONE, took, image.bytes)
        logger.info(
            "an image at entry %d was made: %d bytes in %.1f s",
            *(header.index, image.bytes, took),
            extra=log_fields("image_made", index=header.index, bytes=image.bytes, seconds=round(took, 3)),
        )
        with self._lock:
            self._images[image.id] = image
            self._failure, self._wanted_index = ("", 0.0), 0

    def _made(self, done: int, total: int) -> None:
        self._progress = (done, total)
        if self._stopping:
            raise ImageError("the node is stopping")

    def _check_room(self) -> None:
        """Raises ImageError."""
        with self._lock:
            while len(self._images) >= MAX_IMAGES:
                self._remove(min(self._images.values(), key=lambda image: image.header.index))
        needed, free = self._size() + MIN_FREE, shutil.disk_usage(self._directory).free
        if free < needed:
            raise ImageError(f"an image takes about {needed} bytes of {self._directory}, where {free} are free")

    def _remove_unread(self) -> None:
        """Lock: held."""
        now = clock.monotonic()
        for image in list(self._images.values()):
            if now - image.read_at > (KEEP if image.readers else LINGER):
                self._remove(image)

    def _remove(self, image: Image) -> None:
        """Lock: held. Whoever is reading from it finds out with the next request."""
        del self._images[image.id]
        image.path.unlink(missing_ok=True)
        logger.info(
            "the image at entry %d was removed",
            image.header.index,
            extra=log_fields("image_removed", index=image.header.index),
        )
