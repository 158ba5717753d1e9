"""Frames: only what was sent, once, in order, whole."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raftlog.consensus.entries import EntryBatch, Run
from raftlog.consensus.messages import AppendEntries
from raftlog.exceptions import FrameRefused
from raftlog.runtime.ports import PeerMessage
from raftlog.transport.close_codes import BAD_FRAME, BAD_TAG, FRAME_TOO_LARGE
from raftlog.transport.frames import (
    BODY_AT,
    CHUNK,
    CHUNK_BYTES,
    MAX_BODY_BYTES,
    MAX_FRAME_BYTES,
    MESSAGES,
    PEER_CODEC,
    WHOLE_BYTES,
    FrameReader,
    FrameWriter,
)
from tests.transport.conftest import vote

KEY = b"k" * 32


def pair(max_message_bytes: int = 1 << 24) -> tuple[FrameWriter[PeerMessage], FrameReader[PeerMessage]]:
    return FrameWriter(KEY, PEER_CODEC), FrameReader(KEY, PEER_CODEC, max_message_bytes)


def append(*sizes: int, first_index: int = 1) -> AppendEntries:
    payloads = [b"\3" + b"x" * (size - 1) for size in sizes]
    return AppendEntries(
        1, "a", "b", first_index - 1, 0, EntryBatch(first_index, [Run(len(sizes), 1, 0)], payloads), 0, 0, ""
    )


def refused(reader: FrameReader[PeerMessage], frame: bytes, code: int) -> str:
    with pytest.raises(FrameRefused) as caught:
        reader.messages(frame)
    assert caught.value.code == code
    return str(caught.value)


sizes = st.lists(
    st.one_of(st.integers(1, 300), st.sampled_from([CHUNK_BYTES - 1, CHUNK_BYTES, WHOLE_BYTES, 700_000])), max_size=6
)


@given(sizes)
@settings(max_examples=40, deadline=None)
def test_messages_arrive_as_sent_whatever_their_sizes(message_sizes: list[int]) -> None:
    """A list of messages comes out of the frames that it went into, in order, and no frame exceeds the limit."""
    writer, reader = pair()
    messages = [append(size) for size in message_sizes]
    received = []
    for frame in writer.frames(messages):
        assert len(frame) <= MAX_FRAME_BYTES
        received += reader.messages(bytes(frame))
    assert received == messages


def test_what_waits_goes_into_one_frame() -> None:
    """Small messages are batched."""
    writer, _ = pair()
    assert len(list(writer.frames([vote(term) for term in range(1000)]))) == 1


def test_an_append_of_256_kib_goes_in_one_frame() -> None:
    """The largest AppendEntries of several entries needs no chunks, its own fields included."""
    writer, _ = pair()
    frames = list(writer.frames([append(*[32] * 8192)]))
    assert [frame[24] for frame in frames] == [MESSAGES]


def test_urgent_messages_go_between_chunks() -> None:
    """Between two chunks what is urgent goes first, and arrives before the large message does."""
    writer, reader = pair()
    asked = []

    def urgent() -> list[PeerMessage]:
        asked.append(True)
        return [vote(len(asked))]

    large = append(4 * CHUNK_BYTES)
    received: list[PeerMessage] = []
    for frame in writer.frames([large], urgent):
        received += reader.messages(bytes(frame))
    assert received == [*(vote(number) for number in range(1, 5)), large]


@given(st.binary(max_size=200))
def test_garbage_is_refused(data: bytes) -> None:
    """Bytes that nobody with the key has sent never come out as messages."""
    _, reader = pair()
    with pytest.raises(FrameRefused):
        reader.messages(data)


@given(st.integers(0), st.integers(1, 255))
def test_a_changed_byte_is_refused(position: int, change: int) -> None:
    """Each byte of a frame is under the tag."""
    writer, reader = pair()
    frame = next(writer.frames([vote(7)]))
    frame[position % len(frame)] ^= change
    refused(reader, bytes(frame), BAD_TAG)


@given(st.integers(0, 200))
def test_a_truncated_frame_is_refused(length: int) -> None:
    """A frame that was cut short is no frame."""
    writer, reader = pair()
    frame = bytes(next(writer.frames([vote(7)])))
    with pytest.raises(FrameRefused):
        reader.messages(frame[: min(length, len(frame) - 1)])


@given(st.permutations(range(4)))
def test_only_the_order_sent_is_taken(order: list[int]) -> None:
    """A frame that comes early, late or twice is refused."""
    writer, reader = pair()
    frames = [bytes(next(writer.frames([vote(number)]))) for number in range(4)]
    for expected, number in enumerate(order):
        if number == expected:
            assert reader.messages(frames[number]) == [vote(number)]
        else:
            assert f"sequence is {number} where {expected} follows" in refused(reader, frames[number], BAD_TAG)
            return
    refused(reader, frames[3], BAD_TAG)


def test_the_two_directions_have_keys_of_their_own() -> None:
    """A frame cannot be sent back to its sender."""
    writer = FrameWriter(b"1" * 32, PEER_CODEC)
    refused(FrameReader(b"2" * 32, PEER_CODEC), bytes(next(writer.frames([vote(1)]))), BAD_TAG)


def body(data: bytes, kind: int) -> bytes:
    """An authentic frame with any body."""
    writer, _ = pair()
    return bytes(writer.seal(bytearray(BODY_AT) + data, kind))


def chunk(total: int, offset: int, data: bytes) -> bytes:
    return body(total.to_bytes(8, "big") + offset.to_bytes(8, "big") + data, CHUNK)


@given(st.binary(max_size=100), st.integers(0, 255))
def test_an_authentic_frame_of_any_bytes_gives_messages_or_a_refusal(data: bytes, kind: int) -> None:
    """Not even a holder of the key can make the reader raise anything else."""
    _, reader = pair()
    with contextlib.suppress(FrameRefused):
        reader.messages(body(data, kind))


@pytest.mark.parametrize(
    ("frame", "code", "text"),
    [
        (b"x" * (MAX_FRAME_BYTES + 1), FRAME_TOO_LARGE, f"the limit is MAX_FRAME_BYTES {MAX_FRAME_BYTES}"),
        (body(b"", 9), BAD_FRAME, "kind is 9"),
        (body(b"\xc1", MESSAGES), BAD_FRAME, "cannot be decoded"),
        (body(b"\x91\x93\xa2zz\x01\x02", MESSAGES), BAD_FRAME, "cannot be decoded"),
        (body(b"\x91" * 5000, MESSAGES), BAD_FRAME, "cannot be decoded"),
        (body(b"short", CHUNK), BAD_FRAME, "chunk is 5 bytes"),
        (chunk(2000, 0, b"x"), FRAME_TOO_LARGE, "message is 2000 bytes, the limit is max_message_bytes 1000"),
        (chunk(1 << 63, 0, b"x"), FRAME_TOO_LARGE, "max_message_bytes"),
        (chunk(900, 100, b"x"), BAD_FRAME, "offset 100"),
        (chunk(10, 0, b"x" * 11), BAD_FRAME, "beyond its message's 10 bytes"),
        (chunk(900, 0, b"x" * (CHUNK_BYTES + 1)), FRAME_TOO_LARGE, "CHUNK_BYTES"),
        (chunk(3, 0, b"xyz"), BAD_FRAME, "cannot be decoded"),
    ],
)
def test_each_limit_names_itself(frame: bytes, code: int, text: str) -> None:
    """A refusal says which field, its value and the limit."""
    _, reader = pair(max_message_bytes=1000)
    assert text in refused(reader, frame, code)


def test_a_second_large_message_may_not_start_inside_the_first() -> None:
    """Chunks of one message follow each other."""
    writer, reader = pair()
    for total, offset, code in ((1000, 0, None), (1000, 500, BAD_FRAME)):
        data = total.to_bytes(8, "big") + offset.to_bytes(8, "big") + b"x" * 100
        frame = bytes(writer.seal(bytearray(BODY_AT) + data, CHUNK))
        if code is None:
            assert reader.messages(frame) == ()
        else:
            refused(reader, frame, code)


def test_the_largest_body_is_taken() -> None:
    """The limit itself is allowed."""
    _, reader = pair()
    assert "cannot be decoded" in refused(reader, body(b"\xc1" * MAX_BODY_BYTES, MESSAGES), BAD_FRAME)


def test_entries_that_break_a_guarantee_are_refused() -> None:
    """The wire is a gateway: batches are checked there (also in chunks)."""
    for size in (1, 400_000):
        writer, reader = pair()
        wrong = AppendEntries(1, "a", "b", 0, 0, EntryBatch(1, [Run(2, 1, 0)], [b"\3" * size]), 0, 0, "")
        *first, last = (bytes(frame) for frame in writer.frames([wrong]))
        assert not any(reader.messages(frame) for frame in first)
        assert "runs count 2 entries, payloads are 1" in refused(reader, last, BAD_FRAME)
