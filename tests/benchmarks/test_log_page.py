"""The benchmark of the admin's log page runs by itself; the page is in time also where it looks through all it may."""

import pytest

from benchmarks import log_page

pytestmark = pytest.mark.processes

LOOKED_THROUGH = 5_000  # entries at most for one page, however many there are
LIMIT = 300  # ms


def test_each_kind_of_page_is_answered_in_time():
    found = log_page.measure(LOOKED_THROUGH + 1_000)
    assert found.pop("entries") > LOOKED_THROUGH
    assert {name: times for name, times in found.items() if times["median_ms"] >= LIMIT} == {}
    assert set(found) == {"newest", "middle", "no match"}
