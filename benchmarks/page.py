"""The report as one self-contained page: plots, tables, goals; light and dark as the reader's system is."""

from __future__ import annotations

import html
from collections import defaultdict
from pathlib import Path

from benchmarks.cases import Case, Row
from benchmarks.plot import SERIES_COLOURS, Point, Series, line_plot
from benchmarks.report import COLUMNS, Report, cells, failures, machine_words, words

STYLE = Path(__file__).with_suffix(".css").read_text()
NUMBERS = ("min", "median", "max")


def page(report: Report) -> str:
    """The HTML of it."""
    measured = {name: case for name, case in report.cases.items() if any(row.case == name for row in report.rows)}
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8"><title>raftlog: benchmarks</title>',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<style>{STYLE}</style></head><body>",
        "<h1>raftlog: benchmarks</h1>",
        f'<p class="quiet">{html.escape(machine_words(report.machine))}; {report.seconds:,.0f} s in all</p>',
    ]
    if report.machine.was_busy:
        parts.append('<p class="warning">The machine was busy before the run began: compare ratios, not figures.</p>')
    parts += [f'<p class="warning">{html.escape(line)}</p>' for line in failures(report)]
    links = "".join(f'<a href="#{html.escape(name)}">{html.escape(name)}</a>' for name in measured)
    parts.append(f'<nav aria-label="Cases"><a href="#goals">goals</a>{links}</nav>')
    parts += _goals(report)
    for name, case in measured.items():
        rows = [row for row in report.rows if row.case == name]
        parts.append(f'<section><h2 id="{html.escape(name)}">{html.escape(name)}</h2><p>{html.escape(case.text)}</p>')
        plots = plots_of(case, rows)
        if plots:
            parts.append(f'<div class="plots">{"".join(plots)}</div>')
        parts += [_table(rows), "</section>"]
    return "\n".join([*parts, "</body></html>", ""])


def _goals(report: Report) -> list[str]:
    if not report.goals:
        return []
    lines = []
    for judged in report.goals:
        mark = {True: "yes", False: "no", None: "quiet"}[judged.is_reached]
        cell = [judged.text, judged.goal, judged.reached, judged.ratio]
        inner = "".join(f"<td>{html.escape(each)}</td>" for each in cell)
        lines.append(f'<tr>{inner}<td class="{mark}">{html.escape(judged.verdict)}</td></tr>')
    head = "".join(f"<th>{name}</th>" for name in ("what", "goal", "reached", "ratio", ""))
    return [f'<h2 id="goals">goals</h2><div class="scroll"><table><tr>{head}</tr>{"".join(lines)}</table></div>']


def _table(rows: list[Row]) -> str:
    shown = [cells(row, rows) for row in rows]
    kept = [n for n in range(len(COLUMNS)) if any(line[n] for line in shown)]
    css = {n: ' class="number"' if COLUMNS[n] in NUMBERS else "" for n in kept}
    head = "".join(f"<th{css[n]}>{COLUMNS[n]}</th>" for n in kept)
    body = "".join(
        "<tr>" + "".join(f"<td{css[n]}>{html.escape(line[n])}</td>" for n in kept) + "</tr>" for line in shown
    )
    return f'<div class="scroll"><table><tr>{head}</tr>{body}</table></div>'


def plots_of(case: Case, rows: list[Row]) -> list[str]:
    """A figure for each pair of the case, and for each SERIES_COLOURS lines of it."""
    found = []
    for x_name, unit in case.plots:
        lines = lines_of(rows, x_name, unit)
        for first in range(0, len(lines), SERIES_COLOURS):
            found.append(_figure(case, x_name, unit, lines[first : first + SERIES_COLOURS]))
    return found


def lines_of(rows: list[Row], x_name: str, unit: str) -> list[Series]:
    """Rows that differ in `x_name` alone are one line. Values that are no numbers have no place on an axis."""
    lines: dict[str, list[Point]] = defaultdict(list)
    for row in rows:
        x = row.params.get(x_name)
        if row.unit != unit or row.median is None or not isinstance(x, int | float):
            continue
        others = words({name: value for name, value in row.params.items() if name != x_name})
        label = ", ".join(filter(None, [row.name, row.system, others]))
        lines[label].append(Point(float(x), row.median, min(row.values), max(row.values)))
    return [Series(label, points) for label, points in lines.items()]


def _figure(case: Case, x_name: str, unit: str, lines: list[Series]) -> str:
    title = f"{case.name}: {unit} by {x_name}"
    legend = "".join(
        f'<li><i style="background:var(--s{number})"></i>{html.escape(line.label)}</li>'
        for number, line in enumerate(lines)
    )
    drawn = line_plot(title, x_name, unit, lines)
    return f'<figure><h3>{html.escape(title)}</h3>{drawn}<ul class="legend">{legend}</ul></figure>'
