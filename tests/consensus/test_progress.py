import pytest

from raftlog.consensus.progress import Progress, ProgressState

RETRY = 0.5


def replicating(match_index: int = 10) -> Progress:
    progress = Progress(match_index + 1, now=0.0)
    progress.on_success(match_index, 0.0, RETRY)
    assert progress.state is ProgressState.REPLICATE
    return progress


def test_a_probe_sends_one_message_at_a_time():
    progress = Progress(11, now=0.0)
    assert progress.has_room(8, 1000)
    progress.on_sent_entries(12, 50, 1, 0.0, RETRY)
    assert not progress.has_room(8, 1000)
    assert progress.next_index == 11


def test_a_pipeline_runs_ahead_within_its_window_of_messages_and_bytes():
    progress = replicating()
    for last_index in (12, 14, 16):
        assert progress.has_room(3, 1000)
        progress.on_sent_entries(last_index, 100, 1, 0.0, RETRY)
    assert progress.next_index == 17
    assert not progress.has_room(3, 1000)
    assert not progress.has_room(8, 300)
    progress.on_success(14, 0.0, RETRY)
    assert progress.has_room(3, 1000)
    assert (progress.inflight_bytes, progress.match_index, progress.next_index) == (100, 14, 17)


def test_a_refused_probe_moves_back_to_the_hint_and_at_least_by_one():
    progress = Progress(11, now=0.0)
    assert progress.on_refused(10, 4)
    assert progress.next_index == 4
    assert progress.on_refused(3, 9)
    assert progress.next_index == 3


def test_stale_refusals_are_ignored():
    progress = Progress(11, now=0.0)
    assert not progress.on_refused(7, 2), "another probe than the one that is out"
    assert progress.next_index == 11
    progress = replicating(10)
    assert not progress.on_refused(10, 2), "that much is known to agree"
    assert progress.state is ProgressState.REPLICATE


def test_a_refused_pipeline_goes_back_to_probing_but_never_below_what_agrees():
    progress = replicating(10)
    progress.on_sent_entries(12, 100, 1, 0.0, RETRY)
    assert progress.on_refused(12, 2)
    assert (progress.state, progress.next_index, progress.inflight_bytes) == (ProgressState.PROBE, 11, 0)


def test_match_index_never_goes_back():
    progress = replicating(10)
    assert not progress.on_success(4, 0.0, RETRY)
    assert progress.match_index == 10


def test_each_loss_without_progress_doubles_the_wait():
    progress = replicating(10)
    waits = []
    for _ in range(4):
        progress.on_sent_entries(12, 100, 1, 0.0, RETRY)
        waits.append(progress.retry_at)
        progress.on_retry_deadline()
    assert waits == [0.5, 1.0, 2.0, 4.0]
    progress.on_success(12, 0.0, RETRY)
    progress.on_sent_entries(13, 100, 1, 0.0, RETRY)
    assert progress.retry_at == 0.5


def test_a_later_heartbeat_shows_what_was_lost():
    progress = replicating(10)
    progress.on_sent_entries(12, 100, 5, 0.0, RETRY)
    assert not progress.lost_what_was_in_flight(5, 10, 1000, 0.1, RETRY), "the same round may overtake the entries"
    assert not progress.lost_what_was_in_flight(6, 12, 1000, 0.1, RETRY), "it has them, they are not durable yet"
    assert progress.lost_what_was_in_flight(6, 10, 1000, 0.1, RETRY)
    assert not progress.lost_what_was_in_flight(6, 10, 99, 0.1, RETRY), "heartbeats overtake what travels in chunks"


def test_a_log_that_reaches_so_far_may_hold_anothers_entries():
    progress = replicating(10)
    progress.on_sent_entries(12, 100, 5, 0.0, RETRY)
    assert progress.lost_what_was_in_flight(9, 12, 1000, 0.5, RETRY)
    probing = Progress(11, now=0.0)
    probing.on_sent_entries(12, 100, 5, 0.0, RETRY)
    assert not probing.lost_what_was_in_flight(6, 12, 1000, 0.1, RETRY)
    assert probing.lost_what_was_in_flight(7, 12, 1000, 0.1, RETRY)


def test_a_new_connection_keeps_what_a_probe_has_found():
    """Else a long log would be sent from its beginning after each reconnect."""
    probing = Progress(500, now=0.0)
    probing.on_sent_entries(510, 100, 1, 0.0, RETRY)
    probing.on_connection_reset()
    assert (probing.next_index, probing.has_room(8, 1000)) == (500, True)
    pipeline = replicating(10)
    pipeline.on_sent_entries(12, 100, 1, 0.0, RETRY)
    pipeline.on_connection_reset()
    assert (pipeline.state, pipeline.next_index) == (ProgressState.PROBE, 11)


def test_one_message_at_a_time_is_timed_and_the_newest_counts_an_eighth():
    progress = Progress(1, now=0.0)
    progress.on_sent(1, 10.0)
    progress.on_sent(1, 10.1)  # of the same round: its answer may be the other's
    progress.on_sent(2, 10.2)  # the way is longer than a round
    progress.time_answer(0, 10.3)  # to something from before
    assert progress.round_trip is None
    progress.time_answer(1, 10.4)
    assert progress.round_trip == pytest.approx(0.4)
    progress.time_answer(2, 10.6)  # it was not timed
    assert progress.round_trip == pytest.approx(0.4)
    progress.on_sent(3, 11.0)
    progress.time_answer(4, 11.8)  # answers may be merged: the newest round stands for all
    assert progress.round_trip == pytest.approx(0.4 + (0.8 - 0.4) / 8)


def test_what_was_lost_with_its_connection_is_not_timed():
    progress = Progress(1, now=0.0)
    progress.on_sent(1, 10.0)
    progress.on_connection_reset()
    progress.on_sent(2, 20.0)
    progress.time_answer(2, 20.5)
    assert progress.round_trip == pytest.approx(0.5)
