"""Measure, and show each figure beside its floor or peer.

    python -m benchmarks [--only NAME,…] [--quick] [--json] [--page FILE] [--list]

A case that fails is run once more, and named; one that fails twice has the figures that it had by then, and the command
ends with 1. Progress goes to stderr. With --json the last line of stdout is one JSON object; the tables go to stderr.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from benchmarks.cases import Case, Row, Run, last_line, load
from benchmarks.goals import judge
from benchmarks.machine import describe
from benchmarks.page import page
from benchmarks.report import Report, as_dict, show

# Node processes and their clients name their own; what this process asks of raftlog needs some.
SETTINGS = "raftlog.testing.bench_site.settings"
QUICK_SECONDS = 0.75  # of one measurement
WIDTH = 180  # columns of a table that nobody's terminal limits


def main() -> int:
    options = parsed(sys.argv[1:])
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", SETTINGS)
    cases = load()
    if options.list:
        for case in cases.values():
            extra = (
                "" if case.runs(quick=True) else "  (not with --quick)" if case.by_default else "  (with --only alone)"
            )
            print(f"{case.name:16} {case.seconds:5.0f} s, quick {case.quick_seconds:4.0f} s  {case.text}{extra}")
        return 0
    try:
        chosen = choose(cases, options.only, options.quick)
    except KeyError as error:
        print(f"--only {error.args[0]}: there is no such case; --list names them.", file=sys.stderr)
        return 2
    report = measure(chosen, options)
    console = Console(stderr=options.json)
    if not console.is_terminal:
        console.width = WIDTH
    show(report, console)
    if options.page:
        options.page.write_text(page(report))
    if options.json:
        print(json.dumps(as_dict(report)))
    return 1 if report.failed else 0


def parsed(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default="", help="these cases alone, with commas between them")
    parser.add_argument(
        "--quick", action="store_true", help="fewer circumstances, one repeat, under four minutes in all"
    )
    parser.add_argument("--json", action="store_true", help="end in one JSON object on the last line of stdout")
    parser.add_argument("--page", type=Path, metavar="FILE", help="write one self-contained page of HTML")
    parser.add_argument("--list", action="store_true", help="name the cases, and what they are thought to take")
    parser.add_argument(
        "--seconds", type=float, help=f"of one measurement (default: 3; {QUICK_SECONDS:g} with --quick)"
    )
    parser.add_argument("--repeats", type=int, help="of each figure (default: 3; 1 with --quick)")
    parser.add_argument("--minutes", type=float, default=30.0, help="of a case that lasts as long as it is told to")
    parser.add_argument("--objects", action="store_true", help="with soak: say what each process keeps more of")
    parser.add_argument("--dir", type=Path, help="folder on the disk to measure (default: the temporary folder)")
    options = parser.parse_args(arguments)
    options.seconds = options.seconds or (QUICK_SECONDS if options.quick else 3.0)
    options.repeats = options.repeats or (1 if options.quick else 3)
    return options


def choose(cases: dict[str, Case], only: str, quick: bool) -> dict[str, Case]:
    """Those of --only, else those that run by default, `quick` or not. Raises KeyError with what there is not."""
    names = [name.strip() for name in only.split(",") if name.strip()]
    if unknown := [name for name in names if name not in cases]:
        raise KeyError(", ".join(unknown))
    return {name: case for name, case in cases.items() if (name in names if names else case.runs(quick))}


def measure(cases: dict[str, Case], options: argparse.Namespace) -> Report:
    """Run the cases one after the other. One that raises is run once more; in both cases it is named."""
    started = time.monotonic()
    rows: list[Row] = []
    failed: dict[str, str] = {}
    again: dict[str, str] = {}
    took: dict[str, float] = {}

    def tell(text: str) -> None:
        print(f"[{time.monotonic() - started:6.1f} s] {text}", file=sys.stderr, flush=True)

    with tempfile.TemporaryDirectory(prefix="raftlog-bench-", dir=options.dir) as folder:
        machine = describe(Path(folder))
        expected = sum(case.quick_seconds if options.quick else case.seconds for case in cases.values())
        tell(f"{len(cases)} cases, thought to take {expected:.0f} s")
        for name, case in cases.items():
            tell(f"{name}: {case.text}")
            began = time.monotonic()
            found, why = attempt(case, options, Path(folder) / name, tell)
            if why and case.by_default:
                again[name] = why
                found, why = attempt(case, options, Path(folder) / f"{name}, again", tell)
            if why:
                failed[name] = why
            rows += found
            took[name] = round(time.monotonic() - began, 1)
            tell(f"{name} took {took[name]:.1f} s")
    machine.load_after = round(os.getloadavg()[0], 2)
    told = {name: value for name, value in vars(options).items() if name in ("quick", "seconds", "repeats", "only")}
    return Report(machine, cases, rows, failed, again, took, judge(rows), told, time.monotonic() - started)


def attempt(
    case: Case, options: argparse.Namespace, folder: Path, tell: Callable[[str], None]
) -> tuple[list[Row], str]:
    """(its rows, all of them or those that it had before it failed; in words how it failed, "" where it did not)."""
    folder.mkdir()
    rows: list[Row] = []
    told = {name: getattr(options, name) for name in ("quick", "repeats", "seconds", "minutes", "objects")}
    try:
        rows.extend(case.measure(Run(folder=folder, tell=tell, **told)))
    except Exception as error:  # noqa: BLE001 - a case that fails is reported; hours of others are not lost
        tell(f"{case.name} failed: {type(error).__name__}: {error}")
        return rows, f"{type(error).__name__}: {last_line(error)}"
    return rows, ""


if __name__ == "__main__":
    sys.exit(main())
