"""Somebody waits for a directory's lock: how a process that could let it go learns of that.

A shared flock on a file beside the lock. It goes with the process that holds it, however that ends.
"""

from __future__ import annotations

import fcntl
import os
from typing import Final

WANTED: Final = "wanted"


class Interest:
    """Used as a context manager by the one who waits; asked with `is_shown()` by the owner. The directory exists."""

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self._path = os.path.join(directory, WANTED)
        self._descriptor = -1

    def __enter__(self) -> Interest:
        self._descriptor = self._open()
        fcntl.flock(self._descriptor, fcntl.LOCK_SH)
        return self

    def __exit__(self, *exc_info: object) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        os.close(descriptor)

    def is_shown(self) -> bool:
        """Whether another process (or another Interest of this one) waits."""
        descriptor = self._open()
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(descriptor)
        return False

    def _open(self) -> int:
        return os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
