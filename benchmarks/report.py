"""Rows as tables of the terminal and as JSON; page.py makes a page of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from benchmarks.cases import Case, Row
from benchmarks.goals import Judged
from benchmarks.machine import Machine


@dataclasses.dataclass
class Report:
    """What one run of the benchmarks found.

    Args:
        failed: cases that raised whenever they were run, and what.
        again: cases that raised when they were first run, and what: their rows are of a second run.
        took: seconds of each case.
    """

    machine: Machine
    cases: dict[str, Case]
    rows: list[Row]
    failed: dict[str, str]
    again: dict[str, str]
    took: dict[str, float]
    goals: list[Judged]
    options: dict[str, Any]
    seconds: float


def beside(row: Row, rows: Iterable[Row]) -> Row | None:
    """The measured row that `row` is to be compared with."""
    if not row.beside:
        return None
    same = (other for other in rows if other.system == row.beside and other.key == row.key and other.values)
    return next(same, None)


def ratio(row: Row, rows: Iterable[Row]) -> float | None:
    """The median over that of the row beside it."""
    other = beside(row, rows)
    if other is None or row.median is None or not other.median:
        return None
    return row.median / other.median


def figure(value: float | None) -> str:
    """Three to four digits that mean something."""
    if value is None:
        return "–"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:,.3g}"


def words(params: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{name} {value:,}" if isinstance(value, int) else f"{name} {value}" for name, value in params.items()
    )


COLUMNS = ("what", "system", "", "unit", "min", "median", "max", "ratio", "note")


def cells(row: Row, rows: Iterable[Row]) -> list[str]:
    """One line of a table, for COLUMNS."""
    low, high = (min(row.values), max(row.values)) if row.values else (None, None)
    found = ratio(row, rows)
    against = f"{found:.3g} × {row.beside}" if found is not None else ""
    spread = [figure(low), figure(row.median), figure(high)]
    return [row.name, row.system, words(row.params), row.unit, *spread, against, row.note]


def show(report: Report, console: Console) -> None:
    """Tables, one for each case."""
    for name, case in report.cases.items():
        rows = [row for row in report.rows if row.case == name]
        if rows:
            console.print(f"[bold]{name}[/bold]: {case.text}", highlight=False)
            console.print(_table(rows), "")
    for line in failures(report):
        console.print(line, style="red", highlight=False, markup=False)
    if report.goals:
        console.print("[bold]goals[/bold]")
        console.print(_goals(report.goals), "")
    machine = report.machine
    console.print(machine_words(machine), highlight=False)
    if machine.was_busy:
        console.print("The machine was busy before the run began: compare ratios, not figures.", style="yellow")


def failures(report: Report) -> list[str]:
    """In words, which cases failed, and which did at first."""
    lines = [f"{name} failed: {why}" for name, why in report.failed.items()]
    return lines + [
        f"{name} failed once, its figures are of a second run: {why}"
        for name, why in report.again.items()
        if name not in report.failed
    ]


def machine_words(machine: Machine) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in machine.versions.items())
    return (
        f"{machine.cores} cores ({machine.model}), {machine.memory_gib:g} GiB, {machine.kernel}, "
        f"{machine.file_system}, an fdatasync {machine.sync_ms:g} ms; {versions}; "
        f"load {machine.load_before:g} before, {machine.load_after:g} after"
    )


def _table(rows: list[Row]) -> Table:
    table = Table(box=None, pad_edge=False)
    shown = [cells(row, rows) for row in rows]
    kept = [n for n in range(len(COLUMNS)) if any(line[n] for line in shown)]
    for n in kept:
        table.add_column(COLUMNS[n], justify="right" if COLUMNS[n] in ("min", "median", "max") else "left")
    for line in shown:
        table.add_row(*(escape(line[n]) for n in kept))
    return table


def _goals(goals: list[Judged]) -> Table:
    table = Table(box=None, pad_edge=False)
    for column in ("what", "goal", "reached", "ratio", ""):
        table.add_column(column)
    for judged in goals:
        style = {True: "green", False: "red", None: "dim"}[judged.is_reached]
        table.add_row(judged.text, judged.goal, judged.reached, judged.ratio, judged.verdict, style=style)
    return table


def as_dict(report: Report) -> dict[str, Any]:
    """For JSON."""
    return {
        "machine": dataclasses.asdict(report.machine),
        "options": report.options,
        "seconds": round(report.seconds, 1),
        "cases": {name: case.text for name, case in report.cases.items()},
        "rows": [
            dataclasses.asdict(row)
            | {"median": row.median, "ratio": ratio(row, [other for other in report.rows if other.case == row.case])}
            for row in report.rows
        ],
        "goals": [dataclasses.asdict(judged) for judged in report.goals],
        "failed": report.failed,
        "again": report.again,
        "took": report.took,
    }
