import random

import pytest

from benchmarks.loops import KEYS, Histogram, LoadFailed, closed_loop, open_loop, pipelined
from tests.benchmarks.memory_target import MemoryTarget


def test_quantiles_of_a_histogram_are_within_one_percent():
    source = random.Random(7)
    values = sorted(source.lognormvariate(-6, 1.5) for _ in range(20_000))
    histogram = Histogram()
    for value in values:
        histogram.add(value)
    for share in (0.5, 0.9, 0.99, 0.999):
        exact = values[int(share * len(values)) - 1]
        assert exact <= histogram.quantile(share) <= exact * 1.0101
    assert histogram.quantile(1) == histogram.longest == values[-1]


def test_histograms_add_up():
    one, other = Histogram(), Histogram()
    one.add(0.001)
    other.add(0.1)
    other.add(0.2)
    one.merge(other)
    assert (one.count, one.longest) == (3, 0.2)
    assert one.quantile(0.5) == pytest.approx(0.1, rel=0.011)


def test_nothing_has_no_quantile():
    with pytest.raises(ValueError, match="no durations"):
        Histogram().quantile(0.5)


def test_a_closed_loop_counts_what_all_clients_of_all_workers_did():
    measured = closed_loop(MemoryTarget(taken=0.02), clients=17, seconds=0.3)
    assert len(measured.cpu) == 2, "17 clients are dealt out over two workers"
    assert 0 < measured.count <= 17 * 15
    assert measured.count <= measured.latencies.count <= measured.count + 17
    assert measured.ms(0.5) >= 20
    assert measured.trouble == ""
    assert measured.per_second == pytest.approx(measured.count / 0.3)


def test_a_closed_loop_of_gets_asks_for_what_was_put():
    assert closed_loop(MemoryTarget(), clients=2, seconds=0.1, operation="get").count > 0


def test_each_put_changes_what_is_there():
    """Else a system that notices would be measured doing nothing."""
    measured = closed_loop(MemoryTarget(), clients=1, seconds=0.3)
    assert measured.count > 2 * KEYS
    assert measured.trouble == ""


def test_what_failed_is_counted_by_its_words_and_not_as_done():
    measured = closed_loop(MemoryTarget(taken=0.005, fails_each=4), clients=1, seconds=0.3)
    assert measured.errors["TimeoutError: the disk is slow"] > 0
    assert measured.latencies.count >= measured.count > 0
    assert "TimeoutError" in measured.trouble


def test_an_open_loop_counts_the_wait_for_a_free_client():
    """Of 200 a second that are due, a client that needs 50 ms does 20: the others wait, up to the end."""
    measured = open_loop(MemoryTarget(taken=0.05), rate=200, clients=1, seconds=0.5)
    assert measured.offered == 200
    assert measured.per_second <= 20
    assert measured.latencies.count == 100, "each that was due counts, though it never got its turn"
    assert measured.ms(0.5) > 100


def test_an_open_loop_reaches_a_rate_that_the_system_keeps_up_with():
    measured = open_loop(MemoryTarget(), rate=50, clients=18, seconds=0.5)
    assert measured.latencies.count == 25


def test_a_pipeline_is_the_target_s_own():
    assert pipelined(MemoryTarget(), seconds=0.1).count > 0
    with pytest.raises(LoadFailed, match="object cannot have many operations outstanding"):
        pipelined(object(), seconds=0.1)  # type: ignore[arg-type]


def test_a_client_that_cannot_connect_leaves_no_figure():
    with pytest.raises(LoadFailed, match="nobody listens"):
        closed_loop(MemoryTarget(connects=False), clients=2, seconds=0.1)
