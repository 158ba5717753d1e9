"""Refused connections are counted, and logged without flooding the log."""

from __future__ import annotations

import pytest

from raftlog.runtime import clock
from raftlog.transport.close_codes import (
    BAD_FRAME,
    MAX_REASON_BYTES,
    OVERLOADED,
    WRONG_NODE,
    WRONG_SECRET,
    close_reason,
)
from raftlog.transport.refusals import LOG_INTERVAL, Refusals


def test_one_line_for_each_reason_and_interval(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A thousand refusals of one kind make one line, the next one after the interval says how many there were."""
    now = 100.0
    monkeypatch.setattr(clock, "monotonic", lambda: now)
    refusals = Refusals()
    for _ in range(1000):
        refusals.record(BAD_FRAME, "kind is 9", "10.0.0.1:5")
    refusals.record(WRONG_SECRET, "wrong secret", "10.0.0.1:6")
    assert caplog.messages == [
        "refused 10.0.0.1:5: bad frame: kind is 9 (close code 4400)",
        "refused 10.0.0.1:6: wrong secret: wrong secret (close code 4401)",
    ]
    now += LOG_INTERVAL
    refusals.record(BAD_FRAME, "kind is 8", "10.0.0.1:7")
    assert caplog.messages[2].endswith("(close code 4400) (and 999 more since the last such line)")
    assert refusals.counts == {"bad frame": 1001, "wrong secret": 1}
    refusals.record(WRONG_NODE, "not who it was", "10.0.0.1:7")
    refusals.record(OVERLOADED, "too many wait", "10.0.0.1:7", is_frame=True)
    assert refusals.as_data()["frames"] == {
        "bad frame": 1001,
        "bad tag": 0,
        "frame too large": 0,
        "wrong node": 0,
        "overloaded": 1,
    }


@pytest.mark.parametrize("detail", ["", "short", "ä" * 200])
def test_a_reason_fits_a_close_frame(detail: str) -> None:
    """It is never longer than a control frame allows, nor cut inside a character."""
    reason = close_reason(BAD_FRAME, detail)
    assert reason
    assert len(reason.encode()) <= MAX_REASON_BYTES
    assert (detail or "bad frame").startswith(reason)
