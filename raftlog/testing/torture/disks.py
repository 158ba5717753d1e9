"""Faults of the disk under a node's log: a file that the node reads (raftlog.storage.faults)."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Final

from raftlog.storage.faults import ENVIRONMENT_VARIABLE

SEGMENTS: Final = ".segment"  # what stands in the paths of the log's files

Fault = dict[str, dict[str, Any]]  # operation -> what it meets, as raftlog.storage.faults reads it


class Disks:
    """One control file for each node, under `directory`."""

    def __init__(self, directory: Path, node_ids: list[str]) -> None:
        self._paths = {node_id: directory / f"{node_id}.faults.json" for node_id in node_ids}
        self._faults: dict[str, dict[str, Fault]] = {node_id: {} for node_id in node_ids}
        for node_id in node_ids:
            self._write(node_id)

    def environment(self, node_id: str) -> dict[str, str]:
        return {ENVIRONMENT_VARIABLE: str(self._paths[node_id])}

    def fill(self, node_id: str, *, also_reserved: bool) -> None:
        """No room: for new segments, and where `also_reserved` not even in those whose space was taken before."""
        full = {"errno": "ENOSPC"}
        self._set(node_id, "disk_full", {"write": full | {"match": SEGMENTS}} if also_reserved else {"create": full})

    def slow(self, node_id: str, seconds: float) -> None:
        """Every sync takes so much longer."""
        self._set(node_id, "disk_slow", {"sync": {"delay": seconds}})

    def stall(self, node_id: str) -> None:
        """Every sync hangs until mend()."""
        self._set(node_id, "disk_stall", {"sync": {"stall": True}})

    def fail_sync(self, node_id: str) -> None:
        self._set(node_id, "fsync_fails", {"sync": {"errno": "EIO"}})

    def _set(self, node_id: str, name: str, fault: Fault) -> None:
        self._faults[node_id][name] = fault
        self._write(node_id)

    def mend(self, node_id: str, fault: str) -> None:
        if self._faults[node_id].pop(fault, None) is not None:
            self._write(node_id)

    def _write(self, node_id: str) -> None:
        path = self._paths[node_id]
        fresh = path.with_suffix(".new")
        together: Fault = {}
        for fault in self._faults[node_id].values():
            for operation, effect in fault.items():
                together[operation] = together.get(operation, {}) | effect
        fresh.write_text(json.dumps(together))
        os.replace(fresh, path)
