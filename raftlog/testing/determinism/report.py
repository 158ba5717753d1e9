"""Findings in words, and as plain data."""

from __future__ import annotations

import linecache
import os
from collections.abc import Iterable
from typing import Any, Final

from raftlog.testing.determinism.checker import Finding
from raftlog.testing.determinism.static import Suspicion

MAX_ROWS: Final = 5  # differences shown for each finding


def text(findings: Iterable[Finding], suspicions: Iterable[Suspicion] = ()) -> str:
    """One paragraph for each finding, one line for each suspicion."""
    blocks = [_paragraph(finding) for finding in findings]
    lines = [f"{shown(one.line)}: {one.words}" for one in suspicions]
    return "\n".join([*blocks, *lines])


def _paragraph(finding: Finding) -> str:
    condition = finding.condition
    lines = [f"{finding.case.words()} depends on {condition.words}: {condition.advice}"]
    for line in finding.lines:
        lines.append(f"    {shown(line)}: {source(line)}")
    if finding.ended[0] != finding.ended[1]:
        lines.append(f"  it {finding.ended[0]} at first, and {finding.ended[1]} {condition.there}")
    for row in finding.rows[:MAX_ROWS]:
        lines.append(f"  {row.words('at first', condition.there)}")
    if len(finding.rows) > MAX_ROWS:
        lines.append(f"  and {len(finding.rows) - MAX_ROWS} more values")
    return "\n".join(lines)


def data(finding: Finding) -> dict[str, Any]:
    return {
        "command": finding.case.command.name,
        "version": finding.case.command.version,
        "arguments": {name: repr(value) for name, value in finding.case.arguments.items()},
        "condition": finding.condition.name,
        "advice": finding.condition.advice,
        "lines": [{"line": shown(line), "source": source(line)} for line in finding.lines],
        "ended": list(finding.ended) if finding.ended[0] != finding.ended[1] else [],
        "rows": [
            {
                "table": row.table,
                "key": [repr(value) for value in row.key],
                "column": row.column,
                "values": [repr(row.left), repr(row.right)],
            }
            for row in finding.rows
        ],
    }


def shown(line: str) -> str:
    """file:line, from the folder of work where it is below."""
    path, _, number = line.rpartition(":")
    relative = os.path.relpath(path)
    return f"{path if relative.startswith('..') else relative}:{number}"


def source(line: str) -> str:
    path, _, number = line.rpartition(":")
    return linecache.getline(path, int(number)).strip() if number.isdecimal() else ""
