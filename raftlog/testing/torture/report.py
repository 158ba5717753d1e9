"""What a torture run found, for people and for scripts."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from raftlog.testing.torture.nemesis import Strike
from raftlog.testing.torture.schedule import KINDS

WINDOW: Final = 1.0  # seconds without an acknowledged command that count as unavailability
LISTED: Final = 12  # windows in the text


class Window(msgspec.Struct):
    """No client got an answer to a command from `started` (seconds after the start of the load) for `seconds`."""

    started: float
    seconds: float
    faults: list[str]


class Report(msgspec.Struct):
    """`violations` empty: the run passed."""

    command: str
    seed: int
    nodes: int
    network: str
    minutes: float
    workload: str = "commands"
    rounds: int = 0
    client_processes: int = 0
    calls: int = 0
    applied: int = 0
    refused: int = 0
    without_effect: int = 0
    unknown: int = 0
    unknown_applied: int = 0
    reads: int = 0
    retried: int = 0
    faults: dict[str, int] = {}
    node_restarts: int = 0
    last_term: int = 0
    applied_index: int = 0
    log_entries: int = 0  # compared, on each node
    lost: int = 0
    doubled: int = 0
    databases_equal: bool = False
    linearizable: bool = False
    history_operations: int = 0
    history_keys: int = 0
    configurations: int = 0
    # Of the workload "orm".
    serializable: bool = False
    conflicts: int = 0
    dependencies: int = 0
    longest_call: float = 0.0  # seconds
    windows: list[Window] = []
    recoveries: list[float] = []  # seconds from the end of a round's faults to the next acknowledged command
    violations: list[str] = []
    counterexample_html: str = ""
    directory: str = ""

    @property
    def verdict(self) -> str:
        return "passed" if not self.violations else "VIOLATED"

    def as_json(self) -> dict[str, Any]:
        return {"verdict": "passed" if not self.violations else "violated", **msgspec.to_builtins(self)}

    def text(self) -> str:
        return "\n".join([*self._load(), *self._faults(), *self._unavailability(), *self._verdict()]) + "\n"

    def _load(self) -> list[str]:
        rate = self.applied / (self.minutes * 60) if self.minutes else 0
        head = [
            f"torture: {self.nodes} nodes, {self.minutes:.1f} minutes, network {self.network}, seed {self.seed}",
            f"  {self.command}",
            "",
        ]
        if self.workload == "orm":
            return [
                *head,
                f"{self.calls:,} calls by {self.client_processes} application processes ({rate:,.0f} transactions/s):",
                f"  {self.applied:>9,} transactions committed and acknowledged",
                f"  {self.conflicts:>9,} that conflicted, and changed nothing",
                f"  {self.reads:>9,} that only read",
                f"  {self.without_effect:>9,} that were not proposed",
                f"  {self.unknown:>9,} without an answer, of which {self.unknown_applied:,} turned out to be committed",
                f"  longest call {self.longest_call:.1f} s",
                "",
            ]
        return [
            *head,
            f"{self.calls:,} calls by {self.client_processes} client processes ({rate:,.0f} commands/s applied):",
            f"  {self.applied:>9,} commands applied and acknowledged, {self.retried:,} of them after several attempts",
            f"  {self.refused:>9,} commands that raised, as they should (rolled back on every node)",
            f"  {self.reads:>9,} linearizable reads of the nodes' databases",
            f"  {self.without_effect:>9,} calls certainly without effect (no node took them)",
            f"  {self.unknown:>9,} without an answer, of which {self.unknown_applied:,} turned out to be applied",
            "",
        ]

    def _faults(self) -> list[str]:
        lines = [f"{sum(self.faults.values()):,} faults in {self.rounds} rounds, {self.node_restarts} node restarts:"]
        for kind in KINDS:
            if self.faults.get(kind.name):
                lines.append(f"  {self.faults[kind.name]:>5}  {kind.name:<20} {kind.title}")
        return [*lines, ""]

    def _unavailability(self) -> list[str]:
        total = sum(window.seconds for window in self.windows)
        lines = [f"{len(self.windows)} windows of {WINDOW:g} s or more without an acknowledged command, {total:.1f} s"]
        longest = sorted(self.windows, key=lambda window: -window.seconds)[:LISTED]
        for window in sorted(longest, key=lambda window: window.started):
            during = ", ".join(window.faults) or "no fault at the time"
            lines.append(f"  at {window.started:>7.1f} s for {window.seconds:>5.1f} s: {during}")
        if len(self.windows) > LISTED:
            lines.append(f"  (the {LISTED} longest)")
        if self.recoveries:
            ordered = sorted(self.recoveries)
            middle = ordered[len(ordered) // 2]
            lines.append(
                f"recovery after a round of faults (nodes still starting included): "
                f"median {middle:.2f} s, longest {ordered[-1]:.2f} s"
            )
        return [*lines, ""]

    def _verdict(self) -> list[str]:
        if self.workload == "orm":
            order = (
                f"serializable: {'yes' if self.serializable else 'NO'} "
                f"({self.history_operations:,} transactions, {self.dependencies:,} dependencies)"
            )
        else:
            order = (
                f"linearizable: {'yes' if self.linearizable else 'NO'} "
                f"({self.history_operations:,} operations on {self.history_keys:,} keys)"
            )
        what = "transactions" if self.workload == "orm" else "commands"
        lines = [
            f"acknowledged {what} lost: {self.lost}",
            f"{what} applied twice: {self.doubled}",
            f"databases equal: {'yes' if self.databases_equal else 'NO'} "
            f"(all tables, at entry {self.applied_index:,} of term {self.last_term:,})",
            f"logs equal: {self.log_entries:,} entries compared on each node",
            order,
            f"verdict: {self.verdict}",
        ]
        for number, violation in enumerate(self.violations, 1):
            lines += ["", f"violation {number}: {violation}"]
        if self.counterexample_html:
            lines += ["", f"counterexample, as a timeline: {self.counterexample_html}"]
        if self.directory:
            lines += ["", f"databases, logs and records of the run: {self.directory}"]
        return lines


def unavailability(acknowledged: Sequence[float], start: float, end: float, strikes: list[Strike]) -> list[Window]:
    """Gaps of WINDOW or more between acknowledged commands from `start` to `end`, with what went on then."""
    moments = [start, *sorted(moment for moment in acknowledged if start <= moment <= end), end]
    windows = []
    for before, after in itertools.pairwise(moments):
        if after - before >= WINDOW:
            during = Counter(
                str(strike)
                for strike in strikes
                if strike.started_at < after and (strike.ended_at or end) > before - WINDOW
            )
            windows.append(Window(round(before - start, 3), round(after - before, 3), sorted(during)))
    return windows
