"""Frames: what travels over an authenticated connection (design section 6; rule 8 for chunks).

A frame is one binary WebSocket message:

    sequence (8 bytes, big-endian) | tag (16 bytes) | kind (1 byte) | body

The tag is a BLAKE2b keyed with the session's key of this direction, over sequence, kind and body; the
sequence counts the frames of this direction from 0. So nothing can be injected, changed, replayed,
dropped or reordered without the receiver noticing, and then it ends the connection.

Kinds: MESSAGES, a msgpack list of messages (everything that waits goes into one frame); CHUNK, a part of one
message too large for a frame: total size and offset (8 bytes each, big-endian), then at most
CHUNK_BYTES of it. Frames with other messages may stand between two chunks, other chunks may not.
"""

from __future__ import annotations

import hmac
import struct
from collections.abc import Callable, Iterator, Sequence
from hashlib import blake2b
from typing import Any, Final, Generic, TypeVar

import msgspec

from raftlog.consensus.messages import AppendEntries
from raftlog.exceptions import FrameRefused, InvalidEntry
from raftlog.runtime.ports import PeerMessage
from raftlog.transport.close_codes import BAD_FRAME, BAD_TAG, FRAME_TOO_LARGE

KIB: Final = 1024
TAG_BYTES: Final = 16
TAG_AT: Final = 8
KIND_AT: Final = TAG_AT + TAG_BYTES
BODY_AT: Final = KIND_AT + 1

# The largest body that is accepted, and the frame around it.
MAX_BODY_BYTES: Final = 512 * KIB
MAX_FRAME_BYTES: Final = BODY_AT + MAX_BODY_BYTES
# The largest part of a message in one chunk (rule 8).
CHUNK_BYTES: Final = 256 * KIB
# The largest body sent: an AppendEntries with 256 KiB of payloads and its own fields goes whole.
WHOLE_BYTES: Final = CHUNK_BYTES + 64 * KIB
# The default limit of a message that arrives in chunks: a transaction (64 MiB) and its headers.
MAX_MESSAGE_BYTES: Final = 68 * KIB * KIB

MESSAGES: Final = 0
CHUNK: Final = 1

_CHUNK_HEADER: Final = struct.Struct(">QQ")

T = TypeVar("T")


class Codec(Generic[T]):
    """Encodes and decodes messages of one union. Stateless: any thread may use it."""

    def __init__(self, message_type: Any) -> None:
        self._encoder = msgspec.msgpack.Encoder()
        self._many: msgspec.msgpack.Decoder[list[T]] = msgspec.msgpack.Decoder(list[message_type])
        self._one: msgspec.msgpack.Decoder[T] = msgspec.msgpack.Decoder(message_type)

    def encode(self, message: T) -> bytes:
        return self._encoder.encode(message)

    def encode_into(self, messages: Sequence[T], buffer: bytearray, offset: int) -> None:
        self._encoder.encode_into(messages, buffer, offset)

    def decode(self, data: bytes | memoryview) -> T:
        """One message, checked. Raises FrameRefused."""
        try:
            message = self._one.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise FrameRefused(f"a message of {len(data)} bytes cannot be decoded: {error}", BAD_FRAME) from error
        check_message(message)
        return message

    def decode_many(self, data: bytes | memoryview) -> list[T]:
        """A list of messages, each checked. Raises FrameRefused."""
        try:
            messages = self._many.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise FrameRefused(f"a body of {len(data)} bytes cannot be decoded: {error}", BAD_FRAME) from error
        for message in messages:
            check_message(message)
        return messages


def check_message(message: Any) -> None:
    """The wire is a gateway: a batch of entries that comes in keeps its guarantees. Raises FrameRefused."""
    if type(message) is AppendEntries and (message.entries.payloads or message.entries.runs):
        try:
            message.entries.check()
        except InvalidEntry as error:
            raise FrameRefused(f"entries of an AppendEntries from {message.sender}: {error}", BAD_FRAME) from error


PEER_CODEC: Final[Codec[PeerMessage]] = Codec(PeerMessage)


def _nothing_urgent() -> tuple[()]:
    return ()


class FrameWriter(Generic[T]):
    """The sending half of a session. One thread at a time: frames must be sent in the order they are made."""

    def __init__(self, key: bytes, codec: Codec[T]) -> None:
        self._tag = blake2b(key=key, digest_size=TAG_BYTES)
        self._codec = codec
        self.sequence = 0

    def frames(self, messages: Sequence[T], urgent: Callable[[], Sequence[T]] = _nothing_urgent) -> Iterator[bytearray]:
        """Frames that carry `messages` in order; each must be sent before the next one is asked for.

        Between the chunks of a large message `urgent()` is asked for messages that go first.
        """
        frame = bytearray(BODY_AT)
        self._codec.encode_into(messages, frame, BODY_AT)
        if len(frame) <= BODY_AT + WHOLE_BYTES:
            yield self.seal(frame, MESSAGES)
            return
        group: list[T] = []
        group_bytes = 0
        for message in messages:
            encoded = self._codec.encode(message)
            if group and group_bytes + len(encoded) > WHOLE_BYTES - 8:
                yield self._sealed(group)
                group, group_bytes = [], 0
            if len(encoded) > WHOLE_BYTES - 8:
                yield from self._chunks(encoded, urgent)
            else:
                group.append(message)
                group_bytes += len(encoded)
        if group:
            yield self._sealed(group)

    def _sealed(self, messages: Sequence[T]) -> bytearray:
        frame = bytearray(BODY_AT)
        self._codec.encode_into(messages, frame, BODY_AT)
        return self.seal(frame, MESSAGES)

    def _chunks(self, encoded: bytes, urgent: Callable[[], Sequence[T]]) -> Iterator[bytearray]:
        view = memoryview(encoded)
        for offset in range(0, len(view), CHUNK_BYTES):
            if offset and (first := urgent()):
                yield self._sealed(first)
            frame = bytearray(BODY_AT)
            frame += _CHUNK_HEADER.pack(len(view), offset)
            frame += view[offset : offset + CHUNK_BYTES]
            yield self.seal(frame, CHUNK)

    def seal(self, frame: bytearray, kind: int) -> bytearray:
        """Fill in what stands before the body of `frame`."""
        frame[0:TAG_AT] = self.sequence.to_bytes(8, "big")
        frame[KIND_AT] = kind
        self.sequence += 1
        tag = self._tag.copy()
        tag.update(frame[0:TAG_AT])
        tag.update(memoryview(frame)[KIND_AT:])
        frame[TAG_AT:KIND_AT] = tag.digest()
        return frame


class FrameReader(Generic[T]):
    """The receiving half of a session. After a FrameRefused the connection must be ended."""

    def __init__(self, key: bytes, codec: Codec[T], max_message_bytes: int = MAX_MESSAGE_BYTES) -> None:
        self._tag = blake2b(key=key, digest_size=TAG_BYTES)
        self._codec = codec
        self._max_message_bytes = max_message_bytes
        self.sequence = 0
        # The chunks received so far of a message that travels in chunks.
        self._parts: list[bytes] = []
        self._received = 0
        self._total = 0

    def messages(self, frame: bytes) -> Sequence[T]:
        """What the frame completes: its messages, or the message whose last chunk it is. Raises FrameRefused."""
        body = self.open(frame)
        kind = frame[KIND_AT]
        if kind == MESSAGES:
            return self._codec.decode_many(body)
        if kind == CHUNK:
            return self._chunk(body)
        raise FrameRefused(f"kind is {kind}, known are {MESSAGES} and {CHUNK}", BAD_FRAME)

    def open(self, frame: bytes) -> memoryview:
        """The body of an authentic frame that is the next in sequence. Raises FrameRefused."""
        if len(frame) > MAX_FRAME_BYTES:
            raise FrameRefused(
                f"frame is {len(frame)} bytes, the limit is MAX_FRAME_BYTES {MAX_FRAME_BYTES}", FRAME_TOO_LARGE
            )
        if len(frame) < BODY_AT:
            raise FrameRefused(f"frame is {len(frame)} bytes, the least is {BODY_AT}", BAD_FRAME)
        view = memoryview(frame)
        tag = self._tag.copy()
        tag.update(view[:TAG_AT])
        tag.update(view[KIND_AT:])
        if not hmac.compare_digest(tag.digest(), view[TAG_AT:KIND_AT]):
            raise FrameRefused(f"tag of a frame of {len(frame)} bytes is wrong", BAD_TAG)
        sequence = int.from_bytes(view[:TAG_AT], "big")
        if sequence != self.sequence:
            raise FrameRefused(
                f"sequence is {sequence} where {self.sequence} follows: a frame was repeated, lost or moved", BAD_TAG
            )
        self.sequence += 1
        return view[BODY_AT:]

    def _chunk(self, body: memoryview) -> Sequence[T]:
        if len(body) <= _CHUNK_HEADER.size:
            raise FrameRefused(f"chunk is {len(body)} bytes, the least is {_CHUNK_HEADER.size + 1}", BAD_FRAME)
        total, offset = _CHUNK_HEADER.unpack_from(body)
        data = body[_CHUNK_HEADER.size :]
        if total > self._max_message_bytes:
            raise FrameRefused(
                f"message is {total} bytes, the limit is max_message_bytes {self._max_message_bytes}", FRAME_TOO_LARGE
            )
        if len(data) > CHUNK_BYTES:
            raise FrameRefused(f"chunk is {len(data)} bytes, the limit is CHUNK_BYTES {CHUNK_BYTES}", FRAME_TOO_LARGE)
        if offset != self._received or (offset and total != self._total):
            raise FrameRefused(
                f"chunk at offset {offset} of {total} bytes, where {self._received} of {self._total} follows", BAD_FRAME
            )
        if offset + len(data) > total:
            raise FrameRefused(f"chunk ends at {offset + len(data)}, beyond its message's {total} bytes", BAD_FRAME)
        self._parts.append(bytes(data))
        self._total = total
        self._received += len(data)
        if self._received < total:
            return ()
        encoded = b"".join(self._parts)
        self._parts, self._received, self._total = [], 0, 0
        return (self._codec.decode(encoded),)
