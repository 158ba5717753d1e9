"""The one thread of a process that keeps its locks: renews them, notices their loss, lets go of what was given up."""

from __future__ import annotations

import atexit
import logging
import os
import threading
from typing import Any, Final

from raftlog import clock
from raftlog.contrib.locks.fence import SURE, Fence
from raftlog.exceptions import CommandNotSupported, RaftlogError
from raftlog.log_fields import log_fields

logger = logging.getLogger("raftlog.locks")

RETRY_INTERVAL: Final = 0.2  # seconds after a renewal or release that failed
LONGEST_WAIT: Final = 2.0  # seconds for the answer to one renewal or release
SHORTEST_WAIT: Final = 0.2
ANSWER_GRACE: Final = 1.0  # seconds that a proposal may take beyond its time limit


class Keeper:
    """Thread-safe. Its thread starts with the first lock."""

    def __init__(self) -> None:
        self._start_over()

    def _start_over(self) -> None:
        """Also in a forked child: what the parent holds is not ours."""
        self._changed = threading.Condition()
        # All below: with _changed held. Owner -> the fence, and when it is to be renewed (clock.monotonic()).
        self._kept: dict[str, tuple[Fence, float]] = {}
        # Owner -> until when it is worth releasing; by then it has expired.
        self._given_up: dict[str, float] = {}
        self._thread: threading.Thread | None = None
        self._retry_at = 0.0

    def keep(self, fence: Fence) -> None:
        with self._changed:
            # A third of the ttl after it was asked for, however long the answer took.
            due = clock.monotonic() + fence.remaining - fence.ttl * (SURE - 1 / 3)
            self._kept[fence.owner] = (fence, due)
            self._wake()

    def forget(self, fence: Fence) -> None:
        with self._changed:
            self._kept.pop(fence.owner, None)

    def release_later(self, owner: str, seconds: float) -> None:
        """Release it as soon as that goes, for at most so many seconds."""
        with self._changed:
            self._given_up[owner] = clock.monotonic() + seconds
            self._wake()

    def flush(self, timeout: float) -> None:
        """Wait until what was given up is released, at most so many seconds: at the end of the process."""
        deadline = clock.monotonic() + timeout
        while clock.monotonic() < deadline:
            with self._changed:
                if not self._given_up:
                    return
            clock.sleep(0.01)

    def _wake(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._main, name="raftlog-locks", daemon=True)
            self._thread.start()
        self._changed.notify_all()

    def _main(self) -> None:
        """Until the process ends, or an error that is ours."""
        try:
            while True:
                self._notice_losses()
                due = self._due()
                if due:
                    self._renew(due)
                self._release()
                self._wait()
        finally:
            with self._changed:
                kept, self._kept, self._thread = self._kept, {}, None
            for fence, _ in kept.values():
                fence.lost("the thread that renews locks has died")

    def _notice_losses(self) -> None:
        with self._changed:
            lost = [fence for fence, _ in self._kept.values() if not fence.is_valid]
        for fence in lost:
            self._tell(fence, "it was not renewed in time")

    def _tell(self, fence: Fence, reason: str) -> None:
        self.forget(fence)
        logger.warning(
            "the lock %r (token %d) is lost: %s",
            *(fence.name, fence.token, reason),
            extra=log_fields("lock_lost", about=fence.name, reason=reason),
        )
        try:
            fence.lost(reason)
        except Exception:  # the project's own callback; the other locks go on
            logger.exception(
                "on_lost of the lock %r failed",
                fence.name,
                extra=log_fields("receiver_failed", about=f"on_lost of {fence.name}"),
            )

    def _due(self) -> dict[str, Fence]:
        """What is to be renewed; where one is, those that soon would be go with it."""
        with self._changed:
            now = clock.monotonic()
            if now < self._retry_at or all(at > now for _, at in self._kept.values()):
                return {}
            return {owner: fence for owner, (fence, at) in self._kept.items() if at <= now + fence.ttl / 10}

    def _renew(self, due: dict[str, Fence]) -> None:
        from raftlog.contrib.locks.commands import renew

        sent_at = clock.monotonic()
        ttls = {owner: microseconds(fence.ttl) for owner, fence in due.items()}
        # In time to tell of a loss: an answer that does not come keeps this thread for the grace, too.
        left = min(fence.remaining for fence in due.values()) - ANSWER_GRACE
        try:
            held = self._propose(renew, min(LONGEST_WAIT, left), ttls=ttls)
        except RaftlogError as error:
            logger.info("locks could not be renewed, which is tried again: %s", error)
            with self._changed:
                self._retry_at = clock.monotonic() + RETRY_INTERVAL
            return
        for owner, fence in due.items():
            if owner in held:
                fence.renewed(sent_at)
                with self._changed:
                    if owner in self._kept:
                        self._kept[owner] = (fence, sent_at + fence.ttl / 3)
            elif owner in self._kept:  # else it was released meanwhile
                self._tell(fence, "it had expired, or was taken away, when it was renewed")

    def _release(self) -> None:
        from raftlog.contrib.locks.commands import release, release_only

        with self._changed:
            now = clock.monotonic()
            self._given_up = {owner: until for owner, until in self._given_up.items() if until > now}
            owners = sorted(self._given_up)
            if not owners or now < self._retry_at:
                return
        timeout = SHORTEST_WAIT if self._kept else LONGEST_WAIT
        try:
            try:
                self._propose(release, timeout, owners=owners)
            except CommandNotSupported:  # a voter has older code: whoever waits asks for it
                self._propose(release_only, timeout, owners=owners)
        except RaftlogError:
            with self._changed:
                self._retry_at = clock.monotonic() + RETRY_INTERVAL
            return
        with self._changed:
            for owner in owners:
                self._given_up.pop(owner, None)

    def _propose(self, command: Any, timeout: float, **arguments: Any) -> Any:
        return command.with_options(timeout=max(timeout, SHORTEST_WAIT)).propose(**arguments)

    def _wait(self) -> None:
        with self._changed:
            now = clock.monotonic()
            moments = [now + fence.remaining for fence, _ in self._kept.values()]
            moments += [max(at, self._retry_at) for _, at in self._kept.values()]
            if self._given_up:
                moments.append(self._retry_at)
            if not moments or min(moments) > now:
                self._changed.wait(min(moments) - now if moments else None)


def microseconds(seconds: float) -> int:
    return int(seconds * 1_000_000)


keeper = Keeper()
os.register_at_fork(after_in_child=keeper._start_over)
atexit.register(keeper.flush, LONGEST_WAIT)
