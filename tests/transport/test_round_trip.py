"""What a small message and its answer cost over the whole path (design section 10: 0.13 to 0.28 ms is the floor)."""

from __future__ import annotations

import threading
import time

import pytest

from tests.transport.conftest import WAIT, Answers, EchoNode, channel_to, vote

ROUNDS = 500


@pytest.mark.parametrize("scheme", ["ws", "unix"])
def test_round_trip(echo_node: EchoNode, scheme: str, capsys: pytest.CaptureFixture[str]) -> None:
    """PeerChannel → Daphne → PeerConsumer → reply → PeerChannel: printed; the bound only catches what is broken."""
    arrived = threading.Semaphore(0)
    answers = Answers()
    answers.on_message = lambda messages: arrived.release()  # type: ignore[method-assign]
    channel = channel_to(echo_node.address(scheme), answers)
    channel.connect()
    times = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        channel.send([vote(1)])
        assert arrived.acquire(timeout=WAIT)
        times.append(time.perf_counter() - began)
    channel.close()
    times.sort()
    with capsys.disabled():
        print(
            f"\nround trip over {scheme}: p50 {times[ROUNDS // 2] * 1e3:.3f} ms, p10 {times[ROUNDS // 10] * 1e3:.3f} ms"
        )
    assert times[ROUNDS // 10] < 0.005
