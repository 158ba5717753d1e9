import random

import pytest

from raftlog.consensus.configuration import encode_configuration
from raftlog.consensus.entries import EntryBatch, Run
from raftlog.consensus.log import MAX_WINDOW_PIECES, RaftLog
from raftlog.consensus.snapshot import LogBase
from raftlog.consensus.state import TermRun
from tests.consensus.cluster import command, members

BIG = 1 << 40


def log_of(*terms: int, **arguments: int) -> RaftLog:
    """An all-unstable log with one entry for each term."""
    log = RaftLog(**arguments)
    for index, term in enumerate(terms, 1):
        log.append_new(term, [command(f"{index}")], index)
    return log


def write(log: RaftLog, max_bytes: int = BIG) -> None:
    while (work := log.take_unstable(max_bytes)) is not None:
        if len(work.entries):
            assert log.stable_to(work.entries.last_index, work.entries.last_term)


def test_terms_are_known_for_the_whole_log_and_index_0_has_term_0():
    log = log_of(1, 1, 2, 4, 4)
    assert [log.term_at(index) for index in range(6)] == [0, 1, 1, 2, 4, 4]
    assert log.term_runs() == [TermRun(1, 1), TermRun(3, 2), TermRun(4, 4)]
    with pytest.raises(IndexError):
        log.term_at(6)


def test_a_log_from_disk_has_terms_but_no_payloads():
    log = RaftLog(last_index=9, term_runs=[TermRun(1, 1), TermRun(5, 3)], last_log_time=70)
    assert (log.last_term, log.term_at(4), log.stable_index, log.last_log_time) == (3, 1, 9, 70)
    assert log.slice(9, 9, BIG) is None
    log.append_new(3, [command()], 50)
    assert log.slice(10, 10, BIG) == EntryBatch(10, [Run(1, 3, 70)], [command()])
    assert log.slice(9, 10, BIG) is None


def test_log_time_never_goes_back():
    log = log_of(1)
    log.append_new(1, [command("a")], 100)
    log.append_new(1, [command("b"), command("c")], 40)
    assert log.last_log_time == 100
    batch = log.slice(1, 4, BIG)
    batch.check()
    assert batch.runs == [Run(1, 1, 1), Run(3, 1, 100)]


@pytest.mark.parametrize(
    ("last_index", "last_term", "expected"),
    [(3, 2, True), (4, 2, True), (2, 2, False), (1, 3, True), (9, 1, False)],
)
def test_a_log_is_up_to_date_by_last_term_then_by_length(last_index, last_term, expected):
    """§5.4.1."""
    assert log_of(1, 1, 2).is_up_to_date(last_index, last_term) is expected


@pytest.mark.parametrize(
    ("terms", "first_index", "runs", "expected"),
    [
        ((1, 1, 2), 1, [Run(2, 1, 0), Run(1, 2, 0)], 4),
        ((1, 1, 2), 3, [Run(1, 2, 0), Run(5, 3, 0)], 4),
        ((1, 1, 2, 2), 3, [Run(2, 3, 0)], 3),
        ((1, 1, 2, 2), 2, [Run(1, 1, 0), Run(1, 2, 0), Run(1, 3, 0)], 4),
        ((1, 1, 1, 1), 1, [Run(2, 1, 0), Run(2, 2, 0)], 3),
        ((1, 2, 2, 2), 1, [Run(3, 1, 0)], 2),
        ((), 1, [Run(3, 1, 0)], 1),
    ],
)
def test_the_first_conflict_is_found_by_runs(terms, first_index, runs, expected):
    count = sum(run.count for run in runs)
    assert log_of(*terms).conflict_with(EntryBatch(first_index, runs, [command()] * count)) == expected


def test_slices_stop_at_max_bytes_but_give_one_entry_at_least():
    log = RaftLog()
    payloads = [command("x" * size) for size in (10, 500, 10, 10)]
    log.append_new(1, payloads, 0)
    assert log.slice(1, 4, 10 + 500 + 66).payloads == payloads[:2]
    assert log.slice(1, 4, 1).payloads == payloads[:1]
    assert log.slice(2, 4, 10).payloads == payloads[1:2]
    assert log.slice(3, 3, BIG).payloads == payloads[2:3]
    with pytest.raises(IndexError):
        log.slice(5, 5, BIG)


def test_each_piece_of_work_is_taken_once():
    log = log_of(1, 1, 1)
    work = log.take_unstable(len(command("1")) * 2)
    assert (work.truncate_from, work.entries.first_index, work.entries.last_index) == (0, 1, 2)
    assert log.take_unstable(BIG).entries.first_index == 3
    assert log.take_unstable(BIG) is None
    assert log.stable_index == 0
    log.stable_to(2, 1)
    assert log.stable_index == 2


def test_a_truncation_reaches_the_disk_only_where_the_disk_may_have_the_entries():
    log = log_of(1, 1)
    write(log)
    log.append_new(1, [command("not taken")], 9)
    log.truncate_from(3)
    assert log.take_unstable(BIG) is None
    generation = log.generation
    log.truncate_from(2)
    assert (log.last_index, log.stable_index) == (1, 1)
    work = log.take_unstable(BIG)
    assert (work.generation, work.truncate_from, len(work.entries)) == (generation + 1, 2, 0)


def test_a_write_that_a_truncation_overtook_makes_nothing_stable():
    log = log_of(1, 1, 1)
    taken = log.take_unstable(BIG)
    log.truncate_from(2)
    log.append(EntryBatch(2, [Run(1, 2, 9)], [command("new")]))
    assert not log.stable_to(taken.entries.last_index, 1)
    assert not log.stable_to(2, 1)
    log.stable_to(2, 2)
    assert log.stable_index < 2, "nobody has taken it yet"
    again = log.take_unstable(BIG)
    assert (again.truncate_from, again.entries.payloads) == (2, [command("new")])
    assert log.stable_to(2, 2)
    assert log.stable_index == 2


def test_a_truncation_brings_back_the_earlier_configuration():
    one, two = members("a", "b", "c"), members("a", "b")
    log = RaftLog(last_index=1, term_runs=[TermRun(1, 1)], configurations=[(1, one)])
    log.append(EntryBatch(2, [Run(2, 1, 0)], [command(), encode_configuration(two)]))
    assert log.configuration == (3, two)
    log.truncate_from(3)
    assert log.configuration == (1, one)


def test_the_window_drops_only_what_is_stable():
    log = RaftLog(max_window_bytes=1000)
    for index in range(100):
        log.append_new(1, [command(f"{index}")], index)
    assert log.window_first == 1
    write(log)
    assert 1 < log.window_first <= 100
    assert log.window_bytes <= 1000
    assert log.slice(log.window_first, 100, BIG).last_index == 100
    assert log.slice(log.window_first - 1, 100, BIG) is None


@pytest.mark.parametrize("together", [1, 100])
def test_the_window_is_bounded_in_pieces_however_small_its_entries_are(together):
    """One by one, as a leader appends them, and many in one append, each with a log time of its own, as a follower."""
    log = RaftLog()
    payloads = [command("")] * together
    for first in range(1, MAX_WINDOW_PIECES + 2, together):
        log.append(EntryBatch(first, [Run(1, 1, first + n) for n in range(together)], payloads))
    assert log.window_first == 1
    last = log.last_index
    write(log)
    assert last - MAX_WINDOW_PIECES < log.window_first < last - MAX_WINDOW_PIECES // 2
    held = log.slice(log.window_first, last, BIG)
    held.check()
    assert held.last_index == last
    assert held.log_time_at(log.window_first) == log.window_first
    assert log.slice(log.window_first - 1, last, BIG) is None


def test_a_term_that_goes_back_is_refused():
    with pytest.raises(ValueError, match="has term 1, the one before it has term 2"):
        log_of(2, 1)


@pytest.mark.parametrize("seed", range(5))
def test_the_log_behaves_like_a_plain_list(seed):
    """Random appends, truncations, writes and slices, against one list of (term, log time, payload)."""
    chance = random.Random(seed)
    log, model, stable = RaftLog(max_window_bytes=600), [], 0
    term = log_time = 1
    for step in range(600):
        dice = chance.random()
        if dice < 0.5:
            term += chance.random() < 0.2
            log_time += chance.randint(0, 1)
            payloads = [command(f"{step}-{i}") for i in range(chance.randint(1, 4))]
            log_time = max(log_time, log.last_log_time)
            if chance.random() < 0.5:
                log.append_new(term, payloads, log_time)
            else:
                log.append(EntryBatch(log.last_index + 1, [Run(len(payloads), term, log_time)], payloads))
            model += [(term, log_time, payload) for payload in payloads]
        elif dice < 0.6 and model:
            index = chance.randint(max(1, len(model) - 8), len(model))
            log.truncate_from(index)
            del model[index - 1 :]
            stable = min(stable, index - 1)
            term += 1
        elif dice < 0.8:
            work = log.take_unstable(200)
            if work is not None and len(work.entries):
                log.stable_to(work.entries.last_index, work.entries.last_term)
                stable = work.entries.last_index
        elif model:
            first = chance.randint(1, len(model))
            batch = log.slice(first, first + chance.randint(0, 9), chance.choice([1, 150, BIG]))
            if batch is None:
                assert first < log.window_first <= stable + 1
            else:
                batch.check()
                expected = model[first - 1 : batch.last_index]
                found = [
                    (batch.term_at(i), batch.log_time_at(i), batch.payloads[i - first])
                    for i in range(first, batch.last_index + 1)
                ]
                assert found == expected
        assert (log.last_index, log.stable_index) == (len(model), stable)
        assert [log.term_at(i + 1) for i in range(len(model))] == [entry[0] for entry in model]
        assert log.window_bytes == sum(len(entry[2]) for entry in model[log.window_first - 1 :])


# The base: what stands before the first entry (§7)


def compacted(*terms: int, base_index: int) -> RaftLog:
    """A log of one entry for each term, all stable, compacted to base_index."""
    log = log_of(*terms)
    write(log)
    log.compact_to(log.base_at(base_index))
    return log


def test_a_compacted_log_knows_the_term_of_its_base_and_of_nothing_before():
    log = compacted(1, 1, 2, 2, 4, base_index=3)
    assert (log.first_index, log.last_index, log.base.index, log.base.term) == (4, 5, 3, 2)
    assert [log.term_at(index) for index in (3, 4, 5)] == [2, 2, 4]
    assert log.term_runs() == [TermRun(4, 2), TermRun(5, 4)]
    with pytest.raises(IndexError, match="holds 4-5"):
        log.term_at(2)
    assert log.slice(4, 5, BIG).payloads == [command("4"), command("5")]


def test_what_is_below_the_base_matches_whatever_a_leader_has_there():
    """It is committed, so every leader has the same (§5.4)."""
    log = compacted(1, 1, 2, 2, 4, base_index=3)
    assert log.matches(2, 99)
    assert log.matches(3, 2)
    assert not log.matches(3, 1)
    assert not log.matches(6, 4)


def test_terms_that_reach_below_the_base_begin_and_end_at_it():
    log = compacted(1, 1, 2, 2, 4, base_index=3)
    assert (log.first_index_of_term_at(4), log.first_index_of_term_at(3), log.first_index_of_term_at(5)) == (3, 3, 5)
    assert (log.last_index_of_term(2), log.last_index_of_term(1)) == (4, 0)
    log = compacted(1, 2, 4, base_index=2)
    assert (log.last_index_of_term(2), log.first_index_of_term_at(3)) == (2, 3)


def test_a_batch_that_begins_below_the_base_conflicts_only_above_it():
    log = compacted(1, 1, 2, 2, 4, base_index=3)
    entries = [command(str(index)) for index in range(2, 6)]
    assert log.conflict_with(EntryBatch(2, [Run(4, 9, 1)], entries)) == 4
    assert log.conflict_with(EntryBatch(2, [Run(1, 1, 1), Run(2, 2, 1), Run(1, 4, 1)], entries)) == 6
    assert log.conflict_with(EntryBatch(1, [Run(2, 9, 1)], entries[:2])) == 6


def test_a_log_that_is_compacted_to_its_end_goes_on_from_there():
    log = compacted(1, 3, base_index=2)
    assert (log.first_index, log.last_index, log.last_term, log.last_log_time) == (3, 2, 3, 2)
    assert not log.is_empty
    assert log.term_runs() == []
    log.append_new(3, [command("3")], 1)
    assert log.term_runs() == [TermRun(3, 3)]
    assert log.slice(3, 3, BIG) == EntryBatch(3, [Run(1, 3, 2)], [command("3")])
    with pytest.raises(ValueError, match="holds 3-3"):
        log.truncate_from(2)


def test_only_what_is_durable_is_compacted():
    log = log_of(1, 1)
    base = log.base_at(2)
    with pytest.raises(ValueError, match="durable to 0"):
        log.compact_to(base)
    write(log)
    log.compact_to(base)
    log.compact_to(LogBase(1, 1))
    assert log.base == base, "never back"


def test_the_configuration_at_the_base_stays_known():
    log = RaftLog()
    for index, node_ids in enumerate(("a", "ab", "abc"), 1):
        log.append_new(1, [encode_configuration(members(*node_ids, incarnations=True))], index)
    log.append_new(1, [command()], 9)
    write(log)
    base = log.base_at(2)
    assert (base.configuration_index, base.configuration) == log.configurations[1]
    log.compact_to(base)
    assert [index for index, _ in log.configurations] == [2, 3]
    log.truncate_from(3)
    assert log.configuration == (2, base.configuration)
    assert RaftLog(base=base).configuration == (2, base.configuration)


def test_a_base_never_has_an_earlier_log_time_than_its_entry():
    """Where the entry is not in memory any more it may have a later one: log time must only not go back."""
    log = log_of(1, 1, 1, max_window_bytes=1)
    log.append_new(1, [command()], 50)
    write(log)
    log.append_new(1, [command()], 70)
    assert log.window_first == 5
    assert log.base_at(2).log_time >= 2
    assert log.base_at(5).log_time == 70


def test_a_reset_replaces_the_log_on_disk_before_anything_is_stable():
    """§7: "discard the entire log" where the snapshot's last entry is not in it."""
    log = log_of(1, 1, 1)
    write(log)
    log.truncate_from(3)
    base = LogBase(9, 4, 77, 6, members("a", "b"))
    generation = log.generation
    log.reset_to(base)
    log.append_new(5, [command("ten")], 1)
    assert (log.first_index, log.last_index, log.stable_index, log.last_term) == (10, 10, 0, 5)
    assert log.generation > generation
    assert log.configuration == (6, members("a", "b"))
    assert not log.stable_to(9, 4), "word of the log before the reset"
    work = log.take_unstable(BIG)
    assert (work.reset_to, work.truncate_from, work.entries.first_index) == (base, 0, 10)
    assert work.entries.runs == [Run(1, 5, 77)], "log time does not go back either"
    assert log.stable_to(*work.last_id)
    assert log.stable_index == 10
    assert log.take_unstable(BIG) is None


def test_a_reset_by_itself_is_work_for_the_logs_writer():
    log = log_of(1)
    write(log)
    log.reset_to(LogBase(5, 2))
    work = log.take_unstable(BIG)
    assert work.last_id == (5, 2)
    assert log.stable_index == 0
    assert log.stable_to(*work.last_id)
    assert log.stable_index == 5


@pytest.mark.parametrize("seed", range(30))
def test_a_log_that_is_compacted_answers_like_one_that_is_not(seed):
    rng = random.Random(seed)
    whole, log = RaftLog(), RaftLog(max_window_bytes=200)
    term = 1
    for step in range(120):
        term += rng.random() < 0.2
        payloads = [command("x" * rng.randrange(30)) for _ in range(rng.randint(1, 4))]
        for each in (whole, log):
            each.append_new(term, payloads, step)
        if rng.random() < 0.3 and log.last_index > log.stable_index:
            index = rng.randint(max(log.stable_index, log.base.index) + 1, log.last_index)
            for each in (whole, log):
                each.truncate_from(index)
        if rng.random() < 0.5:
            write(log)
        if rng.random() < 0.2 and log.stable_index > log.base.index:
            log.compact_to(log.base_at(rng.randint(log.base.index, log.stable_index)))
        first = log.base.index
        assert [log.term_at(i) for i in range(first, log.last_index + 1)] == [
            whole.term_at(i) for i in range(first, whole.last_index + 1)
        ]
        held = max(log.window_first, log.first_index)
        if held <= log.last_index:
            assert log.slice(held, log.last_index, BIG).payloads == whole.slice(held, log.last_index, BIG).payloads
        assert (log.last_log_time, log.last_term) == (whole.last_log_time, whole.last_term)
