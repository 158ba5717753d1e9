"""A command that writes one row through the ORM, and one that writes many."""

from __future__ import annotations

from typing import Any

from raftlog.replication.registry import command  # the package gives it lazily, and so without its type
from raftlog.testing.bench_site.models import Row

MAX_ROWS = 1000


@command
def write_row(ctx: Any, *, value: str) -> int:
    """One row; returns its id."""
    return int(Row.objects.create(id=ctx.index * MAX_ROWS, value=value).pk)


@command
def write_rows(ctx: Any, *, value: str, count: int) -> int:
    """`count` rows in one bulk_create; returns how many."""
    if not 1 <= count <= MAX_ROWS:
        raise ValueError(f"count is {count}; from 1 to {MAX_ROWS} can be written at once")
    first = ctx.index * MAX_ROWS
    Row.objects.bulk_create([Row(id=first + n, value=value) for n in range(count)])
    return count
