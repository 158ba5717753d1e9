"""Images in a simulated cluster: how a node makes one, pulls one over the wire, installs it, and compacts its log.

What the runtime does (design section 7.3, rule 17), in the order that keeps a node whole wherever it is cut off:

    wanted_snapshot -> chunks, each asked for and written -> synced and renamed: it is whole
    -> restore_snapshot: the log goes on after it, durably -> the database becomes the image -> the file is removed

After a crash a whole file is gone on with where the database still needs it; anything else is pulled again.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from zlib import crc32

import msgspec

from raftlog.consensus.messages import Message
from raftlog.consensus.snapshot import LogBase, Transfer
from raftlog.consensus.state import Role
from raftlog.exceptions import DiskFull, StorageFailed
from raftlog.runtime.consensus_state import run

if TYPE_CHECKING:
    from raftlog.testing.simulated_node import SimulatedNode

DIRECTORY: Final = "/incoming"
PART: Final = f"{DIRECTORY}/image.part"
IMAGE: Final = f"{DIRECTORY}/image"
MAX_UNANSWERED: Final = 4
CHECKSUM_BYTES: Final = 4


class ImageRequest(Message, frozen=True, tag="image request"):
    """`image_id` 0: make one that holds at least `minimum_index`."""

    image_id: int
    minimum_index: int
    offset: int


class ImageChunk(Message, frozen=True, tag="image chunk"):
    """`total` 0: there is no such image here."""

    image_id: int
    offset: int
    total: int
    data: bytes


@dataclass(slots=True)
class Pull:
    """One image that is on its way here."""

    peer: str
    minimum_index: int
    image_id: int = 0
    offset: int = 0
    unanswered: int = 0
    asked: int = 0  # how often: an older answer timer is void


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(tuple[LogBase, Any]).decode


def encode_image(base: LogBase, content: Any) -> bytes:
    body = _encode((base, content))
    return crc32(body).to_bytes(CHECKSUM_BYTES, "big") + body


def decode_image(image: bytes) -> tuple[LogBase, Any] | None:
    """None: it is not whole."""
    body = image[CHECKSUM_BYTES:]
    return _decode(body) if crc32(body).to_bytes(CHECKSUM_BYTES, "big") == image[:CHECKSUM_BYTES] else None


class Images:
    """Of one node. What is on its disk outlives its processes, the rest begins with each: opened()."""

    def __init__(self, node: SimulatedNode) -> None:
        self.node = node
        self.machine: Any = None  # a KeyValueMachine
        self._made: dict[int, bytes] = {}
        self._pull: Pull | None = None
        # The image that is whole here, until the database is it.
        self.restoring: LogBase | None = None
        self._content: Any = None
        self._is_installing = False
        self._wait_until = 0.0

    def opened(self) -> None:
        """A process begins; its raft is made."""
        self.machine = self.node.machine
        self._made.clear()
        self._pull = self.restoring = self._content = None
        self._is_installing = False
        self._wait_until = 0.0
        disk = self.node.disk
        disk.make_directory(DIRECTORY)
        if not disk.exists(IMAGE):
            return
        file = disk.open(IMAGE)
        found = decode_image(file.pread(file.size(), 0))
        raft = self.node.raft
        if found is not None and raft.lacks_database and found[0].index >= raft.log.base.index:
            self.node.simulation.count("images gone on with")
            self.node._later(0.0, lambda: self.node._when_free(self._restore_file))
        else:
            disk.remove(IMAGE)

    # Whoever has the image

    def receive(self, message: ImageRequest | ImageChunk) -> None:
        if isinstance(message, ImageRequest):
            self._answer(message)
        else:
            self._receive_chunk(message)

    def _answer(self, message: ImageRequest) -> None:
        node = self.node
        image_id, image = message.image_id, self._made.get(message.image_id, b"")
        if not image_id and not self.restoring and node.raft.last_applied >= message.minimum_index:
            image_id, image = node.rng.getrandbits(40) + 1, self.make()
            if image:
                self._made[image_id] = image
        size = node.simulation.profile.chunk_bytes
        data = image[message.offset : message.offset + size]
        node.simulation.network.send(
            ImageChunk(0, node.node_id, message.sender, image_id, message.offset, len(image), data)
        )

    def make(self) -> bytes:
        """The database as one consistent read shows it, and the log that goes on after it; b"": not from here."""
        raft = self.node.raft
        if raft.lacks_database or self.machine.last_applied > raft.last_applied:
            return b""  # behind the log, or ahead of a log that is being repaired
        self.node.simulation.count("images made")
        index = self.describe_index()
        return encode_image(raft.base_at(index), self.machine.content())

    def describe_index(self) -> int:
        """Of the last entry that the image holds: what stands in the database beside the data."""
        return int(self.machine.last_applied)

    # Whoever needs it

    def look(self) -> None:
        """After every step: is an image needed, or gone on with?"""
        node = self.node
        if self.restoring is not None:
            if not self._is_installing and node.raft.log.stable_index >= self.restoring.index:
                self._is_installing = True
                delay = node.simulation.profile.apply_delay * node.rng.random()
                node._later(delay, lambda: node._when_free(self._install))
            return
        wanted = node.raft.wanted_snapshot
        if wanted is None:
            self._pull = None
            return
        pull = self._pull
        if pull is not None and pull.minimum_index >= wanted.minimum_index:
            return
        now = node.simulation.now
        if pull is None and now < self._wait_until:
            return
        peer = wanted.peer
        if not peer or peer == node.node_id or node.rng.random() < 0.3:
            servers = [each for each in node.raft.configuration.servers if each != node.node_id]
            peer = node.rng.choice(sorted(servers) or node.peers)
        self._pull = Pull(peer, wanted.minimum_index)
        self._ask()

    def _ask(self) -> None:
        pull, node = self._pull, self.node
        assert pull is not None
        pull.asked += 1
        asked = pull.asked
        node.simulation.network.send(
            ImageRequest(0, node.node_id, pull.peer, pull.image_id, pull.minimum_index, pull.offset)
        )
        node._later(0.25, lambda: node._when_free(lambda: self._unanswered(pull, asked)))

    def _unanswered(self, pull: Pull, asked: int) -> None:
        if pull is not self._pull or asked != pull.asked:
            return
        pull.unanswered += 1
        if pull.unanswered >= MAX_UNANSWERED:
            self._give_up()
        else:
            self._ask()

    def _give_up(self) -> None:
        """Begin again a little later, maybe elsewhere."""
        self._pull = None
        self._wait_until = self.node.simulation.now + 0.2
        self.node._later(0.21, lambda: self.node._when_free(self.look))

    def _receive_chunk(self, chunk: ImageChunk) -> None:
        pull = self._pull
        if pull is None or chunk.sender != pull.peer or pull.image_id not in (0, chunk.image_id):
            return
        if chunk.offset != pull.offset or self.restoring is not None:
            return
        if not chunk.total:
            self._give_up()
            return
        pull.image_id, pull.unanswered = chunk.image_id, 0
        try:
            is_whole = self._write(chunk)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise StorageFailed(f"{PART}: {error}") from error
            self.node.simulation.count("images without room")
            self._give_up()
            return
        pull.offset += len(chunk.data)
        self.node.raft.report_transfer(Transfer(pull.minimum_index, pull.offset, chunk.total))
        if is_whole:
            self._pull = None
            self._restore_file()
        else:
            self._ask()

    def _write(self, chunk: ImageChunk) -> bool:
        """Returns whether the image is whole now, and durable."""
        disk = self.node.disk
        if not chunk.offset:
            if disk.exists(PART):
                disk.remove(PART)
            disk.create(PART, chunk.total)
        file = disk.open(PART, writable=True)
        file.pwrite(chunk.data, chunk.offset)
        if chunk.offset + len(chunk.data) < chunk.total:
            return False
        file.sync()
        disk.rename(PART, IMAGE)
        disk.sync_directory(DIRECTORY)
        return True

    def _restore_file(self) -> None:
        node = self.node
        file = node.disk.open(IMAGE)
        found = decode_image(file.pread(file.size(), 0))
        raft = node.raft
        if found is None:
            raise AssertionError(f"{node.node_id}: the image that it wrote is not what it was sent")
        base, content = found
        if raft.role is Role.LEADER or base.index < raft.log.base.index or base.index <= raft.last_applied:
            node.disk.remove(IMAGE)  # overtaken: entries have brought more
            return
        state = node.state
        with state.monitor:
            now = state.monitor.monotonic()
            kept = raft.restore_snapshot(base, now)
            self.restoring, self._content = base, content
            afterwards = state.settle(now, wake=state.peer_work)
        node.simulation.trace("restore", node.node_id, base.index, "log kept" if kept else "log reset")
        run(afterwards)

    def _install(self) -> None:
        """The database becomes the image, at once; then the file is not needed."""
        base, node = self.restoring, self.node
        assert base is not None
        if self.machine.last_applied < base.index:
            self.machine.install(self._content, base.index, base.term)
        node.simulation.safety.installed(node.node_id, base)
        node.simulation.count("images installed")
        node.simulation.trace("install", node.node_id, base.index)
        node.state.applied(base.index, [])
        node._later(node.rng.random() * 0.02, lambda: node._when_free(self._remove))

    def _remove(self) -> None:
        self.node.disk.remove(IMAGE)
        self.restoring = self._content = None
        self._is_installing = False
        self.node.state.apply_work.notify()

    # Compaction

    def compact(self) -> None:
        """By the number of entries, with a tail kept for those who are a little behind."""
        node, profile = self.node, self.node.simulation.profile
        raft, state = node.raft, node.state
        if self.restoring is not None or state.log_writer_busy:
            return
        if raft.last_applied - raft.log.base.index < profile.compact_after + profile.kept_tail:
            return
        index = min(raft.compaction_floor(node.local_now()) - profile.kept_tail, self.durable_index())
        if index <= raft.log.base.index:
            return
        base = raft.base_at(index)
        node.simulation.trace("compact", node.node_id, index)
        node.simulation.safety.compacting(node.node_id, base.index, self.machine.durable_index)
        node.simulation.count("compactions")
        try:
            raft.compacted_to(base)
            state.log_store.compact_to(base)
        except DiskFull:
            node.simulation.count("compactions without room")

    def durable_index(self) -> int:
        """Up to where the database survives a power failure, once this returned."""
        return int(self.machine.make_durable())
