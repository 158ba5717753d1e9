"""What the state-machine thread and the thread that compares nodes tell each other (rule 16).

An entry is *held* where this database refuses it and no entry since its base explains why: then this database,
or that on which the transaction ran, is not what the log made it, and the verdict must not differ from that of the
others. Apply waits, outside of any transaction, until it is known which value of the running hash a majority has.

Thread-safety: any thread may call anything.
"""

from __future__ import annotations

import threading

from raftlog.replication.certify import Unexplained
from raftlog.replication.running_hash import History


class Held(Exception):
    """Raised by apply: `value` is what the running hash becomes if this node's own verdict on the entry stands."""

    def __init__(self, index: int, value: bytes, cause: Unexplained) -> None:
        self.index = index
        self.value = value
        self.cause = cause
        super().__init__(cause.reason)


class Watch:
    """One database's running hash, and what is thought of it.

    Args:
        history: of the running hash; the state-machine thread extends it.
        diverged: as the database remembers it from before a restart.
    """

    def __init__(self, history: History, diverged: str) -> None:
        self.history = history
        # Somebody compares this node with others, so that what is held will be judged. Set once, before apply starts.
        self.has_judge = False
        # How this database differs from the majority's, "": it is not known to. Changes: diverge(), start_over().
        self.diverged = diverged
        # How often another connection was seen to have committed, and the index applied when it was noticed first
        # since the last
        # take_changed_at().
        self.changes = 0
        self.changed_at = 0
        self._condition = threading.Condition()
        self._held: Held | None = None
        self._settled = 0
        self._stopping = False

    # The state-machine thread

    def must_hold(self, index: int) -> bool:
        """Whether this node's own refusal of entry `index` may not stand yet."""
        return self.has_judge and self._settled != index

    def hold(self, held: Held) -> None:
        """Wait until the entry is settled, this database is known to have diverged, or the node stops."""
        with self._condition:
            self._held = held
            self._condition.notify_all()
            while self.must_hold(held.index) and not self.diverged and not self._stopping:
                self._condition.wait()

    def changed_elsewhere(self, applied_index: int) -> None:
        with self._condition:
            self.changes += 1
            self.changed_at = self.changed_at or applied_index
            self._condition.notify_all()

    def start_over(self, history: History, diverged: str) -> None:
        """The database is another one by now: an image was installed. What was thought of the old one is forgotten."""
        with self._condition:
            self.history, self.diverged = history, diverged
            self.changed_at = 0
            self._held = None
            self._condition.notify_all()

    def stop(self) -> None:
        with self._condition:
            self._stopping = True
            self._condition.notify_all()

    # Those who compare

    @property
    def held(self) -> Held | None:
        """The entry that waits, until it is applied."""
        held = self._held
        return held if held is not None and held.index > self.history.last_index else None

    def value_at(self, index: int) -> bytes | None:
        """The running hash at `index`: as applied, or as it would be for an entry that is held; None: not known."""
        held = self.held
        if held is not None and held.index == index:
            return held.value
        return self.history.value_at(index)

    def settle(self, index: int) -> None:
        """A majority has the value that this node's own verdict on entry `index` gives: it stands."""
        with self._condition:
            self._settled = index
            self._condition.notify_all()

    def diverge(self, text: str) -> None:
        """This database is not the majority's: nothing more is applied to it."""
        with self._condition:
            self.diverged = text
            self._condition.notify_all()

    def take_changed_at(self) -> int:
        """The index that was applied when another connection was first seen to have committed (0: none was)."""
        with self._condition:
            changed_at, self.changed_at = self.changed_at, 0
            return changed_at

    def wait(self, timeout: float) -> None:
        """Until something is held or was changed elsewhere since the call, or `timeout` seconds passed."""
        with self._condition:
            if not self._stopping:
                self._condition.wait(timeout)
