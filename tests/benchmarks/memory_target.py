"""A system in memory, for tests of the load loops: workers import it."""

from __future__ import annotations

import dataclasses
import time


@dataclasses.dataclass(frozen=True)
class MemoryTarget:
    """Each client has a store of its own. `taken` seconds for a put; every `fails_each`-th fails (0: none)."""

    taken: float = 0.0
    fails_each: int = 0
    connects: bool = True

    def connect(self) -> MemoryClient:
        if not self.connects:
            raise ConnectionRefusedError("nobody listens")
        return MemoryClient(self)

    def pipeline(self, seconds: float, size: int, key: str) -> int:
        end = time.monotonic() + seconds
        count = 0
        while time.monotonic() < end:
            count += 1
        return count


class MemoryClient:
    def __init__(self, target: MemoryTarget) -> None:
        self.target = target
        self.values: dict[str, bytes] = {}
        self.puts = 0

    def put(self, key: str, value: bytes) -> None:
        self.puts += 1
        time.sleep(self.target.taken)
        if self.target.fails_each and self.puts > 3 and self.puts % self.target.fails_each == 0:
            raise TimeoutError("the disk is slow")
        assert self.puts <= 3 or self.values.get(key) != value, "each put of the loop changes what is there"
        self.values[key] = value

    def get(self, key: str) -> bytes | None:
        assert key in self.values, "a get of the loop asks for what was put"
        return self.values[key]

    def close(self) -> None: ...
