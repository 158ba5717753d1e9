"""The log as the rules see it (paper §5.3): terms of all entries, payloads of a window of recent ones.

Rules about this file:
- No object for each entry. Payloads are one list, terms and log times are runs; both are sliced at
  the speed of C, which is what keeps the commit path fast (benchmarks/, pipelined).
- The window ends at last_index and always holds everything that is not stable. Older entries are
  read from disk by whoever needs them.
- Indices are 1-based; ranges are inclusive.
- Before the first entry stands the *base* (snapshot.py): the entries up to it are committed, and gone.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from itertools import accumulate
from operator import itemgetter
from typing import Final, NamedTuple

from raftlog.consensus.configuration import Configuration, decode_configuration
from raftlog.consensus.entries import CONFIGURATION, EntryBatch, EntryId, Run
from raftlog.consensus.snapshot import NO_BASE, LogBase
from raftlog.consensus.state import TermRun

kind_of: Final = itemgetter(0)  # of a payload, at the speed of C
_first_of: Final = itemgetter(0)
_PIECE: Final = 2048  # entries whose sizes are added up at once
# Appends, and runs, of which the window has no more: what stands beside the payloads takes some 250 bytes for each, so
# that a window of small entries that came one by one would take several times what its payloads do.
MAX_WINDOW_PIECES: Final = 65_536
_KEPT_OF_WINDOW: Final = 0.75  # evicting goes down to this part of the window, so that it happens seldom


class UnstableEntries(NamedTuple):
    """Work for the log's writer: first reset_to or truncate_from, then append `entries`, then sync.

    reset_to: replace the whole log by this base (LogStore.reset_to), durably; None: keep it. Where it is set, tell
    the core `stable_to(reset_to.index, reset_to.term)`, or that of the last of `entries`, once all is done.
    truncate_from: remove the entries from there on; 0: nothing to remove.
    """

    generation: int
    truncate_from: int
    entries: EntryBatch
    reset_to: LogBase | None = None

    @property
    def last_id(self) -> EntryId | None:
        """The last entry that is durable once this was carried out: what to tell stable_to(); None: nothing new."""
        if len(self.entries):
            return EntryId(self.entries.last_index, self.entries.last_term)
        return EntryId(self.reset_to.index, self.reset_to.term) if self.reset_to is not None else None


class FetchEntries(NamedTuple):
    """Entries that `peer` needs and memory has not: read them from disk, then call fetched()."""

    peer: str
    term: int
    first_index: int
    last_index: int
    max_bytes: int


class RaftLog:
    """One server's log. Not thread-safe.

    Args:
        base: of the log on disk (all zero where nothing was ever compacted).
        last_index: of the entries on disk, all of them stable; base.index where there are none (default).
        term_runs: of the entries held, ascending.
        configurations: (index, configuration) of every CONFIGURATION entry held, ascending; the base's is added.
        last_log_time: log time of the last entry, microseconds; the base's where there are none.
        max_window_bytes: payload bytes kept in memory; unstable entries stay beyond it.
    """

    def __init__(
        self,
        *,
        base: LogBase = NO_BASE,
        last_index: int = 0,
        term_runs: Iterable[TermRun] = (),
        configurations: Iterable[tuple[int, Configuration]] = (),
        last_log_time: int = 0,
        max_window_bytes: int = 32 * 1024 * 1024,
    ) -> None:
        last_index = max(last_index, base.index)
        # The last entry that is not held any more. Changes: compact_to(), reset_to().
        # Invariant: its index never decreases, and the entry is committed.
        self.base = base
        # Invariant: base.index <= last_index.
        self.last_index = last_index
        # Last index that is durable on this server's own disk; 0 from a reset until that is (then base.index).
        # Invariant: stable_index <= taken_index <= last_index.
        self.stable_index = last_index
        # Last index that take_unstable() has handed out.
        self.taken_index = last_index
        # Raised by every truncation, so that work taken before it can be told apart (rule 6 of the design).
        self.generation = 0
        # The disk may still hold entries from here on that were truncated in memory; 0: it does not.
        self.truncate_pending = 0
        # The disk is to begin again at this base; None: it need not.
        self.reset_pending: LogBase | None = None
        # The base's, where it has one, and those of the entries held.
        # Invariant: ascending by index; the last one is in force (§6); at most the first has an index up to the base's.
        self.configurations: list[tuple[int, Configuration]] = [*_configuration_of(base), *configurations]
        self.max_window_bytes = max_window_bytes
        self.window_bytes = 0
        self.window_first = last_index + 1
        self._run_first: list[int] = []
        self._run_term: list[int] = []
        for first, term in ((run.first_index, run.term) for run in term_runs):
            self._begin_term(first, term)
        if last_index > base.index and not self._run_first:
            raise ValueError(f"the log ends at index {last_index} but term_runs is empty")
        self._payloads: list[bytes] = []
        # Runs of the window, and the first index of each.
        self._runs: list[Run] = []
        self._runs_first: list[int] = []
        # (last index, bytes) of each append: what evicting takes away as one.
        self._chunks: list[tuple[int, int]] = []
        self._log_time_before_window = max(last_log_time, base.log_time)

    # What is in it

    @property
    def first_index(self) -> int:
        """Of the entries held; last_index + 1 where there are none."""
        return self.base.index + 1

    @property
    def is_empty(self) -> bool:
        """Whether it never had an entry: a log with a base is not empty."""
        return self.last_index == 0

    @property
    def last_term(self) -> int:
        """Term of the last entry, or of the base; 0 in an empty log."""
        return self._run_term[-1] if self._run_term else self.base.term

    @property
    def last_log_time(self) -> int:
        """Log time of the last entry or, after a truncation into entries not in memory, a later one."""
        return self._runs[-1].log_time if self._runs else self._log_time_before_window

    @property
    def configuration(self) -> tuple[int, Configuration]:
        """The newest configuration and its index; (0, Configuration()) where there is none."""
        return self.configurations[-1] if self.configurations else (0, Configuration())

    @property
    def window_ends_at(self) -> int:
        """Last index in memory; window_first - 1 where there is none."""
        return self.window_first + len(self._payloads) - 1

    def term_runs(self) -> list[TermRun]:
        return [TermRun(first, term) for first, term in zip(self._run_first, self._run_term, strict=True)]

    def term_at(self, index: int) -> int:
        """Term of the entry at `index`, the base included. Raises IndexError beyond the log, and below its base."""
        if not self.base.index <= index <= self.last_index:
            raise IndexError(f"index {index} is not in the log, which holds {self.first_index}-{self.last_index}")
        return self.base.term if index == self.base.index else self._run_term[self._run_at(index)]

    def matches(self, index: int, term: int) -> bool:
        """Whether the log has an entry of `term` at `index`, by the word of a leader or of an image.

        Below the base always: the entries there are committed, so no leader has others (Leader Completeness, §5.4).
        """
        return index < self.base.index or (index <= self.last_index and self.term_at(index) == term)

    def base_at(self, index: int) -> LogBase:
        """What LogBase a log, or an image, that begins after `index` has: base.index <= index <= last_index.

        Its log time is that of a later entry where the one at `index` is not in memory any more: log time must not go
        back, and may go on from there. Raises IndexError.
        """
        if index == self.base.index:
            return self.base
        term = self.term_at(index)
        if index >= self.window_first:
            log_time = self._runs[bisect_right(self._runs_first, index) - 1].log_time
        else:
            log_time = self._log_time_before_window
        at, configuration = self._configuration_at(index)
        return LogBase(index, term, log_time, at, configuration)

    def _configuration_at(self, index: int) -> tuple[int, Configuration]:
        position = bisect_right(self.configurations, index, key=_first_of) - 1
        return self.configurations[position] if position >= 0 else (0, Configuration())

    def is_up_to_date(self, last_log_index: int, last_log_term: int) -> bool:
        """§5.4.1: whether a log that ends so is at least as up-to-date as this one."""
        return (last_log_term, last_log_index) >= (self.last_term, self.last_index)

    def has_same_terms(self, other: RaftLog) -> bool:
        """Whether both logs end at one index and hold the same terms up to there."""
        return (
            self.last_index == other.last_index
            and self._run_term == other._run_term
            and self._run_first == other._run_first
        )

    def first_index_of_term_at(self, index: int) -> int:
        """First index, of those held and the base, that shares the term of the entry at `index`."""
        if index == self.base.index:
            return index
        first_index = self._run_first[self._run_at(index)]
        is_after_base = first_index == self.first_index and self.term_at(index) == self.base.term
        return self.base.index if is_after_base else first_index

    def last_index_of_term(self, term: int) -> int:
        """Last index of the entries of `term`, the base included; 0 where there are none."""
        position = bisect_right(self._run_term, term) - 1
        if position < 0 or self._run_term[position] != term:
            return self.base.index if term == self.base.term else 0
        return self._run_end(position)

    def conflict_with(self, batch: EntryBatch) -> int:
        """First index at which this log has another term than `batch`; last_index + 1 where they agree.

        The batch begins at most at last_index + 1. What it holds up to the base is committed, so it agrees.
        """
        index = batch.first_index
        for run in batch.runs:
            run_last = index + run.count - 1
            index = max(index, min(self.base.index, run_last) + 1)
            while index <= run_last and index <= self.last_index:
                position = self._run_at(index)
                if self._run_term[position] != run.term:
                    return index
                index = min(run_last, self._run_end(position)) + 1
        return self.last_index + 1

    def _run_at(self, index: int) -> int:
        """Position of the term run of the entry at `index`, which is held."""
        return bisect_right(self._run_first, index) - 1

    def slice(self, first_index: int, last_index: int, max_bytes: int) -> EntryBatch | None:
        """Entries from `first_index`, at most to `last_index`, at least one and else at most `max_bytes`.

        Returns None where the first is not in memory (read it from disk). Raises IndexError beyond the log.
        """
        if first_index > self.last_index:
            raise IndexError(f"index {first_index} is not in the log, which ends at {self.last_index}")
        start = first_index - self.window_first
        if start < 0:
            return None
        stop = self._fitting(start, min(last_index, self.last_index) - self.window_first + 1, max_bytes)
        return EntryBatch(
            first_index, self._runs_of(first_index, self.window_first + stop - 1), self._payloads[start:stop]
        )

    def _fitting(self, start: int, stop: int, max_bytes: int) -> int:
        """End (exclusive) of the payloads from `start` that fit into max_bytes, one at least."""
        left = max_bytes
        position = start
        while position < stop:
            sizes = [len(payload) for payload in self._payloads[position : min(position + _PIECE, stop)]]
            total = sum(sizes)
            if total > left:
                position += bisect_right(list(accumulate(sizes)), left)
                return max(position, start + 1)
            left -= total
            position += len(sizes)
        return stop

    def _runs_of(self, first_index: int, last_index: int) -> list[Run]:
        start = bisect_right(self._runs_first, first_index) - 1
        stop = bisect_right(self._runs_first, last_index)
        runs = self._runs[start:stop]
        before = first_index - self._runs_first[start]
        if before:
            runs[0] = Run(runs[0].count - before, runs[0].term, runs[0].log_time)
        after = self._runs_first[stop - 1] + self._runs[stop - 1].count - 1 - last_index
        if after:
            runs[-1] = Run(runs[-1].count - after, runs[-1].term, runs[-1].log_time)
        return runs

    def _run_end(self, position: int) -> int:
        return self._run_first[position + 1] - 1 if position + 1 < len(self._run_first) else self.last_index

    # What changes it

    def append_new(self, term: int, payloads: Sequence[bytes], log_time: int) -> int:
        """A leader appends (§5.3); `log_time` is raised to that of the last entry. Returns the payloads' bytes."""
        run = Run(len(payloads), term, max(log_time, self.last_log_time))
        return self._extend(payloads, [run])

    def append(self, batch: EntryBatch) -> None:
        """A follower appends entries that begin at last_index + 1."""
        if batch.first_index != self.last_index + 1:
            raise ValueError(f"entries from {batch.first_index} cannot follow a log that ends at {self.last_index}")
        if len(batch):
            self._extend(batch.payloads, batch.runs)

    def _extend(self, payloads: Sequence[bytes], runs: list[Run]) -> int:
        first_index = self.last_index + 1
        if CONFIGURATION in map(kind_of, payloads):
            for position, payload in enumerate(payloads):
                if payload[0] == CONFIGURATION:
                    self.configurations.append((first_index + position, decode_configuration(payload)))
        index = first_index
        for run in runs:
            self._begin_term(index, run.term)
            last = self._runs[-1] if self._runs else None
            if last is not None and last.term == run.term and last.log_time == run.log_time:
                self._runs[-1] = Run(last.count + run.count, run.term, run.log_time)
            else:
                self._runs.append(run)
                self._runs_first.append(index)
            index += run.count
        self._payloads.extend(payloads)
        self.last_index = index - 1
        size = sum(map(len, payloads))
        self._chunks.append((self.last_index, size))
        self.window_bytes += size
        if self._is_window_full():
            self._evict()
        return size

    def _begin_term(self, index: int, term: int) -> None:
        if not self._run_term or self._run_term[-1] != term:
            if term < self.last_term:
                raise ValueError(f"entry {index} has term {term}, the one before it has term {self.last_term}")
            self._run_first.append(index)
            self._run_term.append(term)

    def truncate_from(self, index: int) -> None:
        """Remove the entries from `index` on (§5.3). An earlier configuration is in force again."""
        if not self.first_index <= index <= self.last_index:
            raise ValueError(f"cannot truncate from {index}: the log holds {self.first_index}-{self.last_index}")
        self.generation += 1
        if index <= self.taken_index:
            self.truncate_pending = min(self.truncate_pending or index, index)
            self.taken_index = index - 1
            self.stable_index = min(self.stable_index, index - 1)
        while self.configurations and self.configurations[-1][0] >= index:
            self.configurations.pop()  # never the base's, whose index is below first_index
        while self._run_first and self._run_first[-1] >= index:
            self._run_first.pop()
            self._run_term.pop()
        self.last_index = index - 1
        self._truncate_window(index)

    def _truncate_window(self, index: int) -> None:
        if index <= self.window_first:
            self._clear_window(index)
            return
        del self._payloads[index - self.window_first :]
        stop = bisect_right(self._runs_first, index - 1)
        last = self._runs[stop - 1]
        self._runs[stop - 1 :] = [Run(index - self._runs_first[stop - 1], last.term, last.log_time)]
        del self._runs_first[stop:]
        removed = 0
        while self._chunks and self._chunks[-1][0] >= index:
            removed += self._chunks.pop()[1]
        begin = self._chunks[-1][0] + 1 if self._chunks else self.window_first
        if begin < index:  # what the last chunk keeps
            kept_bytes = sum(map(len, self._payloads[begin - self.window_first :]))
            self._chunks.append((index - 1, kept_bytes))
            removed -= kept_bytes
        self.window_bytes -= removed

    def _clear_window(self, first_index: int) -> None:
        self.window_first = first_index
        self.window_bytes = 0
        for kept in (self._payloads, self._runs, self._runs_first, self._chunks):
            kept.clear()

    def compact_to(self, base: LogBase) -> None:
        """Forget the entries up to base.index, which the disk gives up too; no news where they are gone already.

        base: as base_at() gave it. Raises ValueError beyond what is durable here.
        """
        if base.index <= self.base.index:
            return
        if base.index > self.stable_index or self.term_at(base.index) != base.term:
            raise ValueError(f"cannot compact to {base.term}:{base.index}: the log is durable to {self.stable_index}")
        kept = bisect_right(self.configurations, base.index, key=_first_of)
        del self.configurations[: max(0, kept - 1)]
        self._forget_window(base.index)
        self.base = base
        if base.index == self.last_index:
            self._run_first, self._run_term = [], []
            return
        position = self._run_at(base.index + 1)
        del self._run_first[:position], self._run_term[:position]
        self._run_first[0] = base.index + 1

    def _forget_window(self, index: int) -> None:
        """Drop the entries up to `index` from the window, as whole appends; what stays of one is not counted less."""
        if index >= self.window_ends_at:
            self._log_time_before_window = self.last_log_time
            self._clear_window(max(index + 1, self.window_first))
            return
        chunks = bisect_right(self._chunks, index, key=_first_of)
        if chunks:
            self._drop_chunks(chunks)

    def reset_to(self, base: LogBase) -> None:
        """Begin again after `base`, with no entry (§7: "discard the entire log"). The disk follows: take_unstable()."""
        self.generation += 1
        self.base = base
        self.last_index = self.taken_index = base.index
        self.stable_index = 0
        self.truncate_pending = 0
        self.reset_pending = base
        self.configurations = _configuration_of(base)
        self._run_first, self._run_term = [], []
        self._log_time_before_window = base.log_time
        self._clear_window(base.index + 1)

    def _is_window_full(self) -> bool:
        pieces = max(len(self._chunks), len(self._runs))
        return self.window_bytes > self.max_window_bytes or pieces > MAX_WINDOW_PIECES

    def _evict(self) -> None:
        """Drop whole appends from the front of the window, but nothing that is not stable."""
        goal = self.window_bytes - int(self.max_window_bytes * _KEPT_OF_WINDOW)
        pieces = int(MAX_WINDOW_PIECES * _KEPT_OF_WINDOW)
        surplus = len(self._chunks) - pieces
        below = self._runs_first[-pieces] if len(self._runs) > pieces else 0
        chunks = 0
        while chunks < len(self._chunks) and self._chunks[chunks][0] <= self.stable_index:
            last_index, size = self._chunks[chunks]
            if goal <= 0 and chunks >= surplus and last_index >= below:
                break
            goal -= size
            chunks += 1
        if chunks:
            self._drop_chunks(chunks)

    def _drop_chunks(self, chunks: int) -> None:
        """Drop the oldest so many appends from the window."""
        last_evicted = self._chunks[chunks - 1][0]
        self.window_bytes -= sum(size for _, size in self._chunks[:chunks])
        del self._chunks[:chunks]
        del self._payloads[: last_evicted - self.window_first + 1]
        position = bisect_right(self._runs_first, last_evicted) - 1
        run, first = self._runs[position], self._runs_first[position]
        self._log_time_before_window = run.log_time
        left = first + run.count - 1 - last_evicted
        if left:
            self._runs[: position + 1] = [Run(left, run.term, run.log_time)]
            self._runs_first[: position + 1] = [last_evicted + 1]
        else:
            del self._runs[: position + 1]
            del self._runs_first[: position + 1]
        self.window_first = last_evicted + 1

    # What is durable

    def take_unstable(self, max_bytes: int) -> UnstableEntries | None:
        """The next work for the log's writer, each piece once. None: there is none."""
        if self.taken_index == self.last_index and not self.truncate_pending and self.reset_pending is None:
            return None
        truncate_from, self.truncate_pending = self.truncate_pending, 0
        reset_to, self.reset_pending = self.reset_pending, None
        entries = EntryBatch(self.taken_index + 1, [], [])
        if self.taken_index < self.last_index:
            unstable = self.slice(self.taken_index + 1, self.last_index, max_bytes)
            assert unstable is not None, "entries that are not stable stay in memory"
            entries = unstable
            self.taken_index = entries.last_index
        return UnstableEntries(self.generation, truncate_from, entries, reset_to)

    def stable_to(self, index: int, term: int) -> bool:
        """The disk has the log up to `index`, where the entry has `term`. Returns whether stable_index rose.

        Ignored where the entry there has another term by now, or was truncated since it was taken.
        """
        index_now = min(index, self.taken_index)
        if self.reset_pending is not None:
            return False  # of the log before
        if index_now <= self.stable_index or not self.base.index <= index <= self.last_index:
            return False
        if self.term_at(index) != term:
            return False
        self.stable_index = index_now
        if self._is_window_full():
            self._evict()
        return True


def _configuration_of(base: LogBase) -> list[tuple[int, Configuration]]:
    return [(base.configuration_index, base.configuration)] if base.configuration_index else []
