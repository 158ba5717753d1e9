"""What is measured: a system is started as real processes, and clients put and get through it. One file each."""

from __future__ import annotations

import importlib
import pkgutil
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol, runtime_checkable


class Client(Protocol):
    """One thread uses one client."""

    def put(self, key: str, value: bytes) -> None:
        """Returns once it is committed; raises where it was not, or may not have been."""

    def get(self, key: str) -> bytes | None:
        """Linearizable; None where there is no such key."""

    def close(self) -> None: ...


class Target(Protocol):
    """Where a started system is reached. Picklable: it goes to worker processes, which connect.

    A class without settings of its own may be a frozen dataclass of addresses.
    """

    def connect(self) -> Client: ...


@runtime_checkable
class Pipelines(Protocol):
    """A target that can have many puts under way at once."""

    def pipeline(self, seconds: float, size: int, key: str) -> int:
        """Put for `seconds` with many outstanding, wait for all; returns how many were acknowledged."""


class System(Protocol):
    @property
    def name(self) -> str:
        """As it stands in the rows."""

    @property
    def durability(self) -> str:
        """What an acknowledgement means there, in one line: "fsync on a majority", "no fsync", …"""

    def versions(self) -> dict[str, str]:
        """Of its servers and of the clients that ask them; of what is not installed none, or ""."""

    def missing(self) -> str:
        """Why it cannot be measured here; "" where it can."""

    def start(self, folder: Path, nodes: int) -> AbstractContextManager[Target]:
        """Real processes with their files in `folder`; leaving the block ends them, by pid."""


def find() -> dict[str, System]:
    """The systems by name: each module of this package has a SYSTEMS list."""
    found: dict[str, System] = {}
    for module in pkgutil.iter_modules(__path__):
        for system in getattr(importlib.import_module(f"{__name__}.{module.name}"), "SYSTEMS", ()):
            found[system.name] = system
    return found
