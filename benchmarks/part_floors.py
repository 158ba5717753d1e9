"""What the machine takes for the parts that a put is made of: the floors of the stages of benchmarks.profile."""

from __future__ import annotations

import threading
from pathlib import Path
from queue import SimpleQueue

from raftlog.consensus.entries import COMMAND, EntryBatch, Run, client_payload
from raftlog.consensus.messages import AppendEntries
from raftlog.testing.bench.floor import consumer_round_trip, median_seconds, sync_of_a_small_append
from raftlog.transport.frames import PEER_CODEC, FrameReader, FrameWriter

KEY = b"k" * 32
VALUE_BYTES = 100


def part_floors(folder: Path, seconds: float) -> dict[str, float]:
    """Median milliseconds, by the keys of put_stages.Stage.floor. Takes some five times `seconds`."""
    found = {
        "half a round trip": consumer_round_trip(seconds) / 2,
        "hand-over": hand_over(seconds),
        "encode": encode(seconds),
        "decode": decode(seconds),
        "sync": sync_of_a_small_append(folder, seconds),
    }
    return {name: round(1000 * value, 4) for name, value in found.items()}


def hand_over(seconds: float) -> float:
    """Median seconds until another thread, which waits, has what is put into its queue."""
    there: SimpleQueue[bool] = SimpleQueue()
    back: SimpleQueue[bool] = SimpleQueue()

    def answer() -> None:
        while there.get():
            back.put(True)

    thread = threading.Thread(target=answer, name="floor")
    thread.start()

    def there_and_back() -> None:
        there.put(True)
        back.get()

    try:
        return median_seconds(there_and_back, seconds) / 2
    finally:
        there.put(False)
        thread.join()


def one_entry() -> AppendEntries:
    payload = client_payload(COMMAND, b"s" * 16, 1, 0, b"x" * VALUE_BYTES)
    batch = EntryBatch(1000, [Run(1, 1, 1)], [payload])
    return AppendEntries(1, "a", "b", 999, 1, batch, 999, 1, "")


def encode(seconds: float) -> float:
    """Median seconds for a signed frame with one entry."""
    writer, message = FrameWriter(KEY, PEER_CODEC), one_entry()
    return median_seconds(lambda: list(writer.frames([message])).clear(), seconds)


def decode(seconds: float) -> float:
    """Median seconds to verify such a frame and to decode its entry."""
    [frame] = FrameWriter(KEY, PEER_CODEC).frames([one_entry()])
    data = bytes(frame)
    reader = FrameReader(KEY, PEER_CODEC)

    def read() -> None:
        reader.sequence = 0
        reader.messages(data)

    return median_seconds(read, seconds)
