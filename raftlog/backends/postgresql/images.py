"""Rows as text: PostgreSQL's own literal of a composite value, taken apart and put together.

record_out puts a field in double quotes where it must, doubles quotes and backslashes in it, and writes nothing for
NULL. Its input function takes what `record()` writes, whatever the types.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, NamedTuple

Image = tuple[str | None, ...]

_FIELD: Final = re.compile(r'"((?:[^"]|"")*)"|([^,]*)')
_SPECIAL: Final = re.compile(r'["\\(),\s]', re.ASCII)
_HEADER: Final = re.compile(r"(\D)(\d+) (\d+) (\d+) ")


def fields(record: str) -> Image:
    """The fields of a composite value, as text."""
    if '"' not in record:
        return tuple(value or None for value in record[1:-1].split(","))
    found: list[str | None] = []
    position, end = 1, len(record) - 1
    while True:
        match = _FIELD.match(record, position, end)
        assert match is not None  # the second alternative matches the empty text
        quoted, plain = match.groups()
        found.append(plain or None if quoted is None else quoted.replace('""', '"').replace("\\\\", "\\"))
        position = match.end() + 1
        if position > end:
            return tuple(found)


def record(values: Iterable[str | None]) -> str:
    """The literal of a composite value, as record_out writes it."""
    return f"({','.join(map(_field, values))})"


def _field(value: str | None) -> str:
    if value is None:
        return ""
    if value and not _SPECIAL.search(value):
        return value
    return '"' + value.replace("\\", "\\\\").replace('"', '""') + '"'


class Change(NamedTuple):
    """One thing that was captured. `kind`: I, U, D; T, a table that was truncated; S, a note of ours.

    `relation`: OID of the table; of a note, its number.
    """

    kind: str
    relation: int
    before: str
    after: str


def changes(rows: str) -> Iterator[Change]:
    """What raftlog.rows holds, in order."""
    position = 1
    while position < len(rows):
        match = _HEADER.match(rows, position)
        assert match is not None, "raftlog.rows was written by somebody else"
        middle = match.end() + int(match[3])
        position = middle + int(match[4])
        yield Change(match[1], int(match[2]), rows[match.end() : middle], rows[middle:position])


def chain(rows: str, last: str, chunks: dict[str, tuple[str, str]]) -> Sequence[str]:
    """What was captured and not undone, oldest first. `chunks`: number -> (number before it, rows)."""
    found = [rows]
    while last:
        last, held = chunks[last]
        found.append(held)
    found.reverse()
    return found
