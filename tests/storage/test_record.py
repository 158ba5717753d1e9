"""Records: what is encoded is decoded, torn is told from damaged."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raftlog.consensus.entries import EntryBatch, Run
from raftlog.storage.record import (
    BATCH,
    BadRecord,
    decode_batch,
    encode_batch,
    frame,
    is_whole,
    parse_header,
    sectors_for,
)

PLACE = {"sequence": 7, "position": 3}


def encoded(batch: EntryBatch) -> bytes:
    body = encode_batch(batch)
    return frame(
        BATCH,
        body.parts,
        body.size,
        **PLACE,
        synced=2,
        first_index=batch.first_index,
        entries=len(batch),
        runs=len(batch.runs),
        configurations=len(body.configurations),
    )


def decoded(image: bytes) -> EntryBatch:
    header = parse_header(image[:512], **PLACE)
    assert len(image) == header.sectors * 512
    assert is_whole(image)
    return decode_batch(header, image)


_payloads = st.lists(
    st.builds(bytes.__add__, st.sampled_from([b"\0", b"\1", b"\3"]), st.binary(max_size=900)), min_size=1
)


@settings(max_examples=100, deadline=None)
@given(payloads=_payloads, first_index=st.integers(1, 1 << 62), split=st.integers(0, 100))
def test_round_trip(payloads, first_index, split):
    split = min(split, len(payloads) - 1)
    runs = [Run(split, 3, 10)] if split else []
    batch = EntryBatch(first_index, [*runs, Run(len(payloads) - split, 1 << 40, 1 << 60)], payloads)
    image = encoded(batch)
    assert len(image) == sectors_for(encode_batch(batch).size) * 512
    assert decoded(image) == batch
    wanted = [first_index + at for at, payload in enumerate(payloads) if payload[0] == 1]
    assert encode_batch(batch).configurations == wanted


@pytest.mark.parametrize("size", [1, 300, 435, 436, 437, 511, 512, 513, 2000])
def test_sizes_around_the_edges_of_sectors(size):
    batch = EntryBatch(1, [Run(1, 1, 1)], [b"\3" + b"\xff" * (size - 1)])
    assert decoded(encoded(batch)) == batch


def test_every_flipped_bit_is_found():
    image = bytearray(encoded(EntryBatch(5, [Run(2, 1, 1)], [b"\3" + bytes(600), b"\3abc"])))
    for at in range(len(image)):
        image[at] ^= 1 << at % 8
        with pytest.raises(BadRecord):
            decoded(bytes(image))
        image[at] ^= 1 << at % 8


def test_record_with_sectors_never_written_is_not_whole_but_not_damaged():
    image = encoded(EntryBatch(5, [Run(1, 1, 1)], [b"\3" + b"x" * 2000]))
    for sector in range(1, len(image) // 512):
        torn = image[: sector * 512] + bytes(512) + image[sector * 512 + 512 :]
        assert not is_whole(torn)


def test_sector_that_is_neither_zero_nor_marked_is_damage():
    image = bytearray(encoded(EntryBatch(5, [Run(1, 1, 1)], [b"\3" + b"x" * 2000])))
    image[1023] = 0
    with pytest.raises(BadRecord, match="marker 0x00"):
        is_whole(bytes(image))


@pytest.mark.parametrize("place", [{"sequence": 8, "position": 3}, {"sequence": 7, "position": 4}])
def test_record_of_another_place_is_refused(place):
    image = encoded(EntryBatch(5, [Run(1, 1, 1)], [b"\3"]))
    with pytest.raises(BadRecord, match="belongs to sector 3 of segment 7"):
        parse_header(image, **place)
