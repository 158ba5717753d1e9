"""What this process holds more of than it did: objects by type (gc), and bytes by the line that asked for them.

`python -m benchmarks.held …` is `python -m django …`, which at SIGUSR1 begins to count, and at the next one prints what
there is more of.

Tracing costs time and memory of its own, so that it is for finding what grows, not for saying whether something does.
"""

from __future__ import annotations

import collections
import gc
import signal
import sys
import threading
import tracemalloc
from collections.abc import Mapping
from pathlib import Path
from typing import Final

SHOWN: Final = 12  # lines of each kind
KIB: Final = 1 << 10


class Held:
    """Counts now, to be compared with later ones. Traces from the first one on. For one thread."""

    def __init__(self) -> None:
        if not tracemalloc.is_tracing():
            tracemalloc.start(8)
        self._types = types()
        self._snapshot = tracemalloc.take_snapshot()
        self._traced, _ = tracemalloc.get_traced_memory()

    def grown(self) -> list[str]:
        """In words, what there is more of than when this was made; first what Python allocated in all."""
        traced, _ = tracemalloc.get_traced_memory()
        lines = [f"Python's memory: {self._traced / KIB:,.0f} KiB, then {traced / KIB:,.0f} KiB; resident {resident()}"]
        lines += more(self._types, types())
        for one in tracemalloc.take_snapshot().compare_to(self._snapshot, "traceback")[:SHOWN]:
            places = " < ".join(f"{Path(frame.filename).name}:{frame.lineno}" for frame in reversed(one.traceback))
            lines.append(f"{one.size_diff / KIB:+,.0f} KiB in {one.count_diff:+,} blocks: {places}")
        return lines


def types() -> collections.Counter[str]:
    """Type -> how many objects the collector knows of it, once it has removed what can be."""
    gc.collect()
    return collections.Counter(f"{type(one).__module__}.{type(one).__qualname__}" for one in gc.get_objects())


def more(before: Mapping[str, int], after: Mapping[str, int]) -> list[str]:
    """The types of which there are most more, in words."""
    found = collections.Counter({name: count - before.get(name, 0) for name, count in after.items()})
    return [f"{count:+,} {name}" for name, count in found.most_common(SHOWN) if count > 0]


def resident() -> str:
    status = Path("/proc/self/status").read_text()
    return status.partition("VmRSS:")[2].partition("\n")[0].strip()


def watch() -> None:
    """Body of a thread: count, and compare, whenever the signal has come."""
    while True:
        wanted.acquire()
        held = Held()
        wanted.acquire()
        print("\n".join(f"held: {line}" for line in held.grown()), file=sys.stderr, flush=True)


wanted = threading.Semaphore(0)


def main() -> None:
    from django.core.management import execute_from_command_line

    threading.Thread(target=watch, name="held", daemon=True).start()
    signal.signal(signal.SIGUSR1, lambda number, frame: wanted.release())
    execute_from_command_line(sys.argv)


if __name__ == "__main__":
    main()
