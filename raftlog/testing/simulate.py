"""python -m raftlog.testing.simulate: run seeds of the simulation, in as many processes as there are cores.

    python -m raftlog.testing.simulate --seeds 0-999
    python -m raftlog.testing.simulate --seeds 17 --nodes 3 --trace run.txt
    python -m raftlog.testing.simulate --seeds 0-199 --mutation vote-not-synced

A failing seed prints the invariant, the step, and the one command that replays it. Exit code 1 where any seed fails.
"""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing
import os
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, nullcontext
from typing import Any, TextIO

from raftlog.runtime import clock
from raftlog.testing.mutations import MUTATIONS, mutated
from raftlog.testing.shrink import shrink
from raftlog.testing.simulation import Options, Report, simulate
from raftlog.testing.workload import WORKLOADS


def main(arguments: list[str] | None = None, out: TextIO = sys.stdout) -> int:
    """Exit code: 0 no violation, 1 some, 2 wrong usage."""
    options = _parse(arguments)
    if options.list_mutations:
        for name in MUTATIONS:
            out.write(f"{name}\n")
        return 0
    began = clock.monotonic()
    total = _Totals()
    failures: list[Report] = []
    for report in _reports(options):
        total.add(report)
        if report.violation:
            failures.append(report)
        _show(report, total, len(options.seeds), options, out, clock.monotonic() - began)
        if failures and options.stop:
            break
    summary = total.summary(clock.monotonic() - began, options)
    smaller = _shrunk(failures[0], options) if failures and options.shrink else None
    if options.json:
        summary["violations"] = [_as_dict(report, options.mutation) for report in failures]
        if smaller is not None:
            summary["shrunk"] = _as_dict(smaller, options.mutation)
        out.write(json.dumps(summary) + "\n")
    else:
        out.write(_in_words(summary, len(failures)) + "\n")
        if smaller is not None:
            out.write(_shrunk_text(failures[0], smaller, options.mutation or "") + "\n")
    return 1 if failures else 0


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m raftlog.testing.simulate", description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=seed_range, default=range(100), help="7, 0-999 (both inclusive), or 1,5,9")
    parser.add_argument(
        "--workload", choices=WORKLOADS, help="what is replicated: a map (kv), or a SQLite database of Django (sql)"
    )
    parser.add_argument("--nodes", type=int, choices=(3, 5, 7), default=5)
    parser.add_argument("--events", type=int, default=2000, help="events with faults, before everything is healed")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument(
        "--without", type=_numbers, default=frozenset(), help="leave out these planned faults (numbers)"
    )
    parser.add_argument("--leases", action="store_true", help="reads go by leases, clocks as these assume")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--trace", metavar="FILE", help="write every event of a single seed")
    parser.add_argument("--html", metavar="FILE", help="write the timeline of a history that is not linearizable")
    parser.add_argument("--shrink", action="store_true", help="look for fewer faults and events that still fail")
    parser.add_argument("--stop", action="store_true", help="stop at the first violation")
    parser.add_argument("--list-mutations", action="store_true", help="names of the known bugs, one a line")
    parser.add_argument("--mutation", choices=tuple(MUTATIONS), metavar="NAME", help="switch one known bug on")
    options = parser.parse_args(arguments)
    options.leases |= bool(options.mutation and MUTATIONS[options.mutation].leases)
    if not options.workload:
        options.workload = MUTATIONS[options.mutation].workload if options.mutation else "kv"
    return options


def seed_range(text: str) -> Any:
    """`7`, `0-999` or `1,5,9`."""
    first, dash, last = text.partition("-")
    try:
        if dash:
            return range(int(first), int(last) + 1)
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no seed, range (0-999) or list (1,5,9)") from None


def _numbers(text: str) -> frozenset[int]:
    return frozenset(int(part) for part in text.split(",") if part)


def _reports(options: argparse.Namespace) -> Iterator[Report]:
    work = [
        Options(seed, options.nodes, options.events, options.without, options.workload, options.leases)
        for seed in options.seeds
    ]
    keep_trace = bool(options.trace)
    if options.jobs == 1 or len(work) == 1:
        with _mutation(options.mutation):
            for each in work:
                yield simulate(each, keep_trace=keep_trace)
        return
    context = multiprocessing.get_context("spawn")
    with context.Pool(options.jobs, _begin_worker, (options.mutation,)) as pool:
        yield from pool.imap_unordered(simulate, work, chunksize=4)


def _mutation(name: str | None) -> Any:
    return mutated(name) if name else nullcontext()


def be_quiet() -> None:
    """What a node of the simulation logs (its disk is full, say) is meant; violations are reported."""
    logging.getLogger("raftlog").setLevel(logging.CRITICAL)


# Keeps a worker's mutation switched on: the context manager undoes it when nothing refers to it any more.
_for_life = ExitStack()


def _begin_worker(mutation: str | None) -> None:
    be_quiet()
    _for_life.enter_context(_mutation(mutation))


class _Totals:
    def __init__(self) -> None:
        self.runs = self.steps = self.operations = self.unknown = self.entries = self.undecided = 0
        self.virtual_seconds = 0.0
        self.counters: Counter[str] = Counter()

    def add(self, report: Report) -> None:
        self.runs += 1
        self.steps += report.steps
        self.operations += report.operations
        self.unknown += report.unknown
        self.entries += report.entries
        self.undecided += report.undecided
        self.virtual_seconds += report.virtual_seconds
        self.counters.update(report.counters)

    def summary(self, seconds: float, options: argparse.Namespace) -> dict[str, Any]:
        jobs = min(options.jobs, len(options.seeds))
        return {
            "seeds": self.runs,
            "nodes": options.nodes,
            "events": options.events,
            "steps": self.steps,
            "virtual_seconds": round(self.virtual_seconds, 1),
            "operations": self.operations,
            "unknown_outcomes": self.unknown,
            "undecided_histories": self.undecided,
            "committed_entries": self.entries,
            "seconds": round(seconds, 2),
            "cpu_seconds": round(sum(os.times()[:4]), 2),
            "jobs": jobs,
            "seeds_per_minute_per_core": round(self.runs / seconds * 60 / max(jobs, 1), 1),
            "counters": dict(sorted(self.counters.items())),
        }


def _show(report: Report, total: _Totals, seeds: int, options: argparse.Namespace, out: TextIO, seconds: float) -> None:
    if options.trace:
        with open(options.trace, "w", encoding="utf-8") as file:
            file.write("\n".join([report.profile, *report.trace]) + "\n")
    if options.html and report.counterexample_html:
        with open(options.html, "w", encoding="utf-8") as file:
            file.write(report.counterexample_html)
    if options.json:
        return
    if report.violation:
        out.write("\n" + failure_text(report, options.mutation or "") + "\n")
    rate = total.runs / seconds * 60
    if sys.stderr.isatty():
        sys.stderr.write(f"\r{total.runs} of {seeds} seeds, {rate:.0f} a minute")
        sys.stderr.flush()
    elif total.runs % 500 == 0:
        sys.stderr.write(f"{total.runs} of {seeds} seeds, {rate:.0f} a minute\n")


def failure_text(report: Report, mutation: str = "") -> str:
    """What fell, when, and how to see it again."""
    options = report.options
    lines = [
        f"seed {options.seed}: {report.invariant} fell at step {report.steps}, {report.virtual_seconds} s",
        f"  {report.violation}".replace("\n", "\n  "),
        f"  world: {report.profile}",
        f"  replay: {options.command(mutation)}",
        "  last events:",
        *(f"    {line}" for line in report.trace[-12:]),
    ]
    return "\n".join(lines)


def _as_dict(report: Report, mutation: str | None) -> dict[str, Any]:
    return {
        "seed": report.options.seed,
        "invariant": report.invariant,
        "step": report.steps,
        "text": report.violation,
        "replay": report.options.command(mutation or ""),
    }


def _in_words(summary: dict[str, Any], failures: int) -> str:
    counters = ", ".join(f"{name} {count}" for name, count in summary["counters"].items())
    return (
        f"{summary['seeds']} seeds, {summary['nodes']} nodes, {summary['steps']} steps, "
        f"{summary['virtual_seconds']} virtual seconds, {summary['operations']} operations "
        f"({summary['unknown_outcomes']} of unknown outcome), {summary['committed_entries']} entries\n"
        f"{counters}\n"
        f"{summary['undecided_histories']} histories undecided; {failures or 'no'} violation{'s' * (failures != 1)}; "
        f"{summary['seconds']} s ({summary['cpu_seconds']} s of CPU), "
        f"{summary['seeds_per_minute_per_core']} seeds a minute and core"
    )


def _shrunk(report: Report, options: argparse.Namespace) -> Report:
    with _mutation(options.mutation):
        return shrink(report)


def _shrunk_text(report: Report, smaller: Report, mutation: str) -> str:
    faults = [f"  fault {fault.number} after {fault.at} events: {fault.name}" for fault in smaller.faults]
    first = (
        f"shrunk from {len(report.faults)} faults and {report.options.events} events to {len(smaller.faults)} and "
        f"{smaller.options.events}"
    )
    return "\n".join([first, failure_text(smaller, mutation), *faults])


if __name__ == "__main__":
    be_quiet()
    sys.exit(main())
