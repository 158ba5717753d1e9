"""Stopping apply for a moment right behind one entry, so that every node can look at the same state of its database.

Whoever wants to look adds a pin for the key of an entry that is going to be proposed. The state-machine thread ends a
batch with that entry, and then waits, within a bound, until the pin is let go.
"""

from __future__ import annotations

import threading
from typing import Final

from raftlog.consensus.entries import KEY, EntryBatch

MAX_HOLD: Final = 2.0  # seconds that apply waits for who looks


class Pin:
    """One entry to stop behind, by its `payload[KEY]`. `index`: once `reached` is set."""

    def __init__(self, key: bytes) -> None:
        self.key = key
        self.index = 0
        self.reached = threading.Event()
        self._let_go = threading.Event()

    def let_go(self) -> None:
        """Apply may go on. Any thread, idempotent."""
        self._let_go.set()

    def hold(self, index: int) -> None:
        """Called by the state-machine thread, behind the entry."""
        self.index = index
        self.reached.set()
        self._let_go.wait(MAX_HOLD)


class Pins:
    """Those of one node. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: dict[bytes, Pin] = {}

    def add(self, key: bytes) -> Pin:
        with self._lock:
            pin = self._waiting[key] = Pin(key)
        return pin

    def remove(self, pin: Pin) -> None:
        with self._lock:
            self._waiting.pop(pin.key, None)
        pin.let_go()

    @property
    def are_waited_for(self) -> bool:
        return bool(self._waiting)

    # The state-machine thread

    def cut(self, batch: EntryBatch) -> EntryBatch:
        """`batch`, or its beginning up to the first entry with a pin."""
        if self._waiting:
            for position, payload in enumerate(batch.payloads):
                if payload[KEY] in self._waiting:
                    return batch.slice(batch.first_index, batch.first_index + position)
        return batch

    def applied(self, batch: EntryBatch) -> None:
        """`batch` is in the database, and nothing after it."""
        if self._waiting:
            with self._lock:
                pin = self._waiting.pop(batch.payloads[-1][KEY], None)
            if pin is not None:
                pin.hold(batch.last_index)
