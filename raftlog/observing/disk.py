"""What a node's folder takes, and what is left beside it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path


def usage(directory: Path) -> dict[str, int]:
    """Bytes: of the folder's files as the disk counts them, free to this user, and of the whole disk. Any thread."""
    taken = 0
    for folder, _, names in os.walk(directory):
        for name in names:
            try:
                taken += os.lstat(os.path.join(folder, name)).st_blocks * 512
            except FileNotFoundError:  # sealed, compacted or replaced meanwhile
                continue
    disk = shutil.disk_usage(directory)
    return {"taken": taken, "free": disk.free, "total": disk.total}
