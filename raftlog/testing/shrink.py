"""A shorter failing schedule: fewer events, then fewer faults (delta debugging, Zeller and Hildebrandt, 2002).

Leaving a fault out changes everything that happens after it; what is looked for is any run with fewer faults
that breaks the same invariant. Every attempt is a deterministic run of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Final

from raftlog.testing.simulation import Options, Report, simulate

MAX_RUNS: Final = 150


def shrink(report: Report, run: Callable[[Options], Report] = simulate, max_runs: int = MAX_RUNS) -> Report:
    """Returns the smallest failing run found, at most after `max_runs` runs; `report` itself where none is smaller."""
    return _Shrinker(report, run, max_runs).run()


class _Shrinker:
    def __init__(self, report: Report, run: Callable[[Options], Report], max_runs: int) -> None:
        self.best = report
        self.invariant = report.invariant
        self.simulate = run
        self.runs_left = max_runs

    def run(self) -> Report:
        self._fewer_events()
        self._fewer_faults()
        self._fewer_events()
        return self.best

    def _try(self, options: Options) -> bool:
        if self.runs_left <= 0:
            return False
        self.runs_left -= 1
        report = self.simulate(options)
        if report.invariant != self.invariant:
            return False
        self.best = report
        return True

    def _fewer_events(self) -> None:
        events = min(self.best.steps, self.best.options.events)
        for share in (1.0, 0.75, 0.5, 0.25):
            smaller = replace(self.best.options, events=max(1, int(events * share)))
            if smaller.events < self.best.options.events and not self._try(smaller):
                break

    def _fewer_faults(self) -> None:
        """Leave out halves, then quarters, and so on, as long as the run still fails."""
        size = max(1, len(self.best.faults) // 2)
        while self.runs_left > 0:
            removed_any = self._leave_out(size)
            if size == 1 and not removed_any:
                return
            size = max(1, size // 2)

    def _leave_out(self, size: int) -> bool:
        removed_any = False
        start = 0
        while start < len(self.best.faults) and self.runs_left > 0:
            chunk = {fault.number for fault in self.best.faults[start : start + size]}
            options = self.best.options
            if self._try(replace(options, without=options.without | chunk)):
                removed_any = True
            else:
                start += size
        return removed_any
