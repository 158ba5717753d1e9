"""What the round trips allow."""

from __future__ import annotations

import pytest

from benchmarks.wan import BETWEEN_REGIONS, BETWEEN_ZONES, IRELAND, VIRGINIA, floor_ms, timing


def test_a_commit_takes_the_round_trip_that_completes_the_majority() -> None:
    assert floor_ms(BETWEEN_REGIONS, VIRGINIA, VIRGINIA) == 87.0  # of 80.5, 87.0, 88.6 and 145.3 the second
    assert floor_ms(BETWEEN_ZONES, "a", "a") == 1.0


def test_beside_a_follower_the_way_to_the_leader_comes_before() -> None:
    assert floor_ms(BETWEEN_REGIONS, VIRGINIA, IRELAND) == 87.0 + 80.5


def test_a_leader_is_not_given_up_before_some_round_trips() -> None:
    assert timing(BETWEEN_REGIONS) == pytest.approx({"ELECTION_TIMEOUT": 5 * 0.2365, "HEARTBEAT_INTERVAL": 0.2365})
    assert timing(BETWEEN_ZONES) == {"ELECTION_TIMEOUT": 0.5, "HEARTBEAT_INTERVAL": 0.1}
