"""The thread that pulls an image where this node needs one, and sees it installed.

Waits for: Raft to want an image (an offer of the leader; a database that is behind the log). Then, outside the monitor:
1. asks a peer for an image, first the one that Raft names, and reads it in chunks, at most so many bytes a second;
2. verifies and syncs the file;
3. lets the log go on after it (runtime/snapshots.py: durable before the next step);
4. has the state-machine thread install it;
5. removes the file.

What was received survives lost connections and restarts. Where a peer does not answer, the next one is asked; where
its image is another one, the file is begun anew. A crash after 2 is finished from the file, one before by pulling on.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, Protocol

from raftlog.consensus.snapshot import SnapshotWanted, Transfer
from raftlog.exceptions import ImageError, NodeUnavailable, TransportError
from raftlog.log_fields import log_fields
from raftlog.replication.images import ImageHeader
from raftlog.runtime import snapshots
from raftlog.runtime.consensus_state import ConsensusState
from raftlog.snapshots.healing import Healing
from raftlog.snapshots.incoming import About, Incoming
from raftlog.snapshots.rate import RateLimit, Speed
from raftlog.snapshots.tally import DONE, FAILED, GIVEN_UP, Tally
from raftlog.transport.outstanding import RequestFailed

logger = logging.getLogger("raftlog.snapshots")

LOOK: Final = 0.2  # seconds between two looks whether an image is wanted, or has been made
PAUSE: Final = 1.0  # seconds after all peers were asked in vain
REPORT: Final = 0.25  # seconds between two reports to the leader
TIMEOUT: Final = 10.0  # seconds for an answer
ATTEMPTS: Final = 3  # of a request to one peer, before another is asked


class Ask(Protocol):
    """PeerRequests.ask"""

    def __call__(self, peer: str, name: str, arguments: dict[str, Any], timeout: float) -> Any: ...


class _Stopping(Exception):
    """The node stops."""


class _Overtaken(Exception):
    """The image is not what is wanted (any more)."""


class Puller:
    """Of one node. main() is the body of its thread; stop() and status() from any."""

    def __init__(
        self,
        state: ConsensusState,
        healing: Healing,
        ask: Ask,
        directory: Path,
        bytes_per_second: float,
        tally: Tally,
    ) -> None:
        self._state = state
        self._healing = healing
        self._ask = ask
        self._incoming = Incoming(directory)
        self._bytes_per_second = bytes_per_second
        self._node_id = state.raft.node_id
        self._tally = tally
        self._stopping = threading.Event()
        # For status: what is being done, with whom, how far. `source` "": nothing is.
        self._step = ""
        self._source = ""
        self._speed = Speed(state.monitor.monotonic)
        self._transfer = Transfer()
        self._reported_at = float("-inf")
        self._problem = ""

    def stop(self) -> None:
        self._stopping.set()

    def status(self) -> dict[str, Any] | None:
        """None: no image is wanted."""
        if not self._step:
            return None
        index, received, total = self._transfer
        return {
            "step": self._step,
            "from": self._source,
            "index": index,
            "bytes": received,
            "total": total,
            "percent": round(100 * received / total, 1) if total else 0.0,
            "bytes_per_second": round(self._speed.value),
            "problem": self._problem,
        }

    def words(self) -> str:
        """What is being done, for `raft status`; "": nothing."""
        if not self._step:
            return ""
        index, received, total = self._transfer
        percent = f"{100 * received / total:.0f} % of {total / 1e6:.1f} MB, " if total else ""
        problem = f" ({self._problem})" if self._problem else ""
        rate = f"{self._speed.value / 1e6:.1f} MB/s"
        return f"{self._step} {self._source}, at entry {index}: {percent}{rate}{problem}"

    def main(self, now_doing: Callable[[str], None]) -> None:
        """Monitor: takes it."""
        self._now_doing = now_doing
        self._incoming.load()
        try:
            self._finish_earlier()
            while not self._stopping.is_set():
                self._set_step("")
                wanted = snapshots.wanted(self._state)
                if wanted is None:
                    now_doing("waiting until an image is needed")
                    self._stopping.wait(LOOK)
                    continue
                try:
                    self._pull(wanted)
                except _Overtaken as overtaken:
                    logger.info(
                        "%s: the image that was pulled is of no use: %s",
                        *(self._node_id, overtaken),
                        extra=log_fields("image_useless", node=self._node_id, reason=str(overtaken)),
                    )
                    self._incoming.drop()
                    self._pause(LOOK)
                except (ImageError, OSError) as error:
                    self._has_failed(str(error))
        except _Stopping:
            return

    def _set_step(self, step: str) -> None:
        self._step = step
        if step:
            self._now_doing(f"{step} {self._source}".strip())

    def _has_failed(self, problem: str) -> None:
        if problem != self._problem:
            logger.warning(
                "%s: no image yet: %s",
                *(self._node_id, problem),
                extra=log_fields("image_failed", node=self._node_id, reason=problem),
            )
        self._problem = problem
        self._pause(PAUSE)

    def _pause(self, seconds: float) -> None:
        if self._stopping.wait(seconds):
            raise _Stopping

    def _finish_earlier(self) -> None:
        """An image that was whole before a restart is installed where it still helps, else removed."""
        try:
            header = self._incoming.whole()
            wanted = snapshots.wanted(self._state)
            if header is not None and wanted is not None and header.index >= wanted.minimum_index:
                self._install(header)
            elif header is not None:
                self._incoming.drop()
        except (ImageError, _Overtaken, OSError) as error:
            logger.warning(
                "%s: the image of before the restart is of no use: %s",
                *(self._node_id, error),
                extra=log_fields("image_useless", node=self._node_id, reason=str(error)),
            )
            self._incoming.drop()

    # One image

    def _pull(self, wanted: SnapshotWanted) -> None:
        """Raises ImageError, OSError: no peer gave one; _Overtaken."""
        problems = []
        for peer in self._sources(wanted):
            self._source = peer
            try:
                about, header = self._fetch(peer, wanted)
            except (NodeUnavailable, RequestFailed, TransportError) as error:
                problems.append(f"{peer}: {error}")
                logger.info(
                    "%s: no image from %s: %s",
                    *(self._node_id, peer, error),
                    extra=log_fields("image_failed", node=self._node_id, peer=peer, reason=str(error)),
                )
                continue
            self._install(header)
            self._tell_done(peer, about)
            return
        raise ImageError("; ".join(problems) or "no peer is known")

    def _fetch(self, peer: str, wanted: SnapshotWanted) -> tuple[About, ImageHeader]:
        """One image of one peer, whole and durable. Raises what is counted as a failure, and _Overtaken."""
        began = self._state.monitor.monotonic()
        try:
            about = self._open(peer, wanted)
            began = self._state.monitor.monotonic()  # the peer has made it until now
            self._receive(peer, about)
            self._set_step("verifying the image of")
            header = self._incoming.complete()
        except (NodeUnavailable, RequestFailed, TransportError, ImageError, OSError):
            self._tally.ended("pull", FAILED, self._state.monitor.monotonic() - began)
            raise
        except _Overtaken:
            self._tally.ended("pull", GIVEN_UP, self._state.monitor.monotonic() - began)
            raise
        self._tally.ended("pull", DONE, self._state.monitor.monotonic() - began)
        return about, header

    def _sources(self, wanted: SnapshotWanted) -> Iterator[str]:
        with self._state.monitor:
            members = sorted(self._state.raft.configuration.servers.keys() - {self._node_id})
        if wanted.peer:
            yield wanted.peer
        yield from (member for member in members if member != wanted.peer)

    def _request(self, peer: str, name: str, **arguments: Any) -> Any:
        """Raises NodeUnavailable, RequestFailed, TransportError: also the last of a few attempts failed."""
        for attempt in range(ATTEMPTS):
            try:
                return self._ask(peer, name, {**arguments, "by": self._node_id}, TIMEOUT)
            except RequestFailed:
                raise
            except (NodeUnavailable, TransportError, OSError) as error:
                if attempt == ATTEMPTS - 1:
                    raise TransportError(str(error)) from error
                self._pause(LOOK * (attempt + 1))
        raise AssertionError

    def _open(self, peer: str, wanted: SnapshotWanted) -> About:
        self._set_step("waiting for an image of")
        while True:
            answer = self._request(
                peer, "snapshot_open", minimum_index=wanted.minimum_index, image=self._incoming.about.image
            )
            if answer["image"]:
                about = About(answer["image"], answer["index"], answer["bytes"])
                self._incoming.begin(about)
                return about
            self._report(Transfer(wanted.minimum_index, answer["done"], 0), is_due=True)
            self._check_wanted(wanted.minimum_index)
            self._pause(LOOK)

    def _check_wanted(self, index: int) -> None:
        """Raises _Overtaken where an image at `index` is not wanted any more."""
        wanted = snapshots.wanted(self._state)
        if wanted is None:
            raise _Overtaken("the log has come without it")
        if index < wanted.minimum_index:
            raise _Overtaken(f"entry {wanted.minimum_index} is needed by now, and it ends at {index}")

    def _receive(self, peer: str, about: About) -> None:
        monotonic, incoming = self._state.monitor.monotonic, self._incoming
        received = incoming.received
        logger.info(
            "%s: pulling an image at entry %d from %s: %d bytes, %d are here",
            *(self._node_id, about.index, peer, about.bytes, received),
            extra=log_fields("image_pulling", node=self._node_id, index=about.index, peer=peer, bytes=about.bytes),
        )
        self._set_step("pulling an image from")
        self._speed = Speed(monotonic)
        limit = RateLimit(self._bytes_per_second, monotonic())
        while received < about.bytes:
            data = self._request(peer, "snapshot_read", image=about.image, offset=received)
            if not data:
                raise TransportError(f"the image of {peer} ends after {received} of {about.bytes} bytes")
            incoming.append(data)
            received += len(data)
            self._tally.moved("pull", len(data))
            self._problem = ""
            self._speed.add(len(data))
            if self._report(Transfer(about.index, received, about.bytes)):
                self._check_wanted(about.index)
            self._pause(limit.delay(len(data), monotonic()))
        self._report(Transfer(about.index, received, about.bytes), is_due=True)

    def _report(self, transfer: Transfer, *, is_due: bool = False) -> bool:
        """Whether it was time to."""
        self._transfer = transfer
        now = self._state.monitor.monotonic()
        if not is_due and now - self._reported_at < REPORT:
            return False
        self._reported_at = now
        snapshots.report(self._state, transfer)
        return True

    def _install(self, header: ImageHeader) -> None:
        """Raises _Overtaken, ImageError."""
        self._set_step("installing the image of")
        try:
            self._go_on_after(header)
        except _Overtaken:
            self._tally.ended("install", GIVEN_UP, 0.0)
            raise
        image = self._healing.offer(self._incoming.image)
        with self._state.monitor:
            self._state.apply_work.notify()
        while not image.is_over.wait(LOOK):
            done, total = image.progress
            self._report(Transfer(header.index, done, total), is_due=True)
            self._pause(0)
        if image.failure:
            raise ImageError(image.failure)
        self._incoming.drop()

    def _go_on_after(self, header: ImageHeader) -> None:
        """The log begins after the image, and its file is durable. Raises _Overtaken."""
        with self._state.monitor:
            cluster_id = self._state.raft.configuration.cluster_id
        if cluster_id and header.cluster_id and cluster_id != header.cluster_id:
            raise _Overtaken(f"it is of cluster {header.cluster_id}, this node of {cluster_id}")
        try:
            if not snapshots.restore(self._state, header.base):
                raise _Stopping
        except ValueError as error:
            raise _Overtaken(str(error)) from error

    def _tell_done(self, peer: str, about: About) -> None:
        try:
            self._ask(peer, "snapshot_close", {"image": about.image, "by": self._node_id}, TIMEOUT)
        except (NodeUnavailable, RequestFailed, TransportError, OSError) as error:
            logger.info("%s: %s does not know that its image has arrived: %s", self._node_id, peer, error)
