"""Gapless numbers beside a row that PostgreSQL locks (`UPDATE … RETURNING` in a transaction)."""

from __future__ import annotations

import os
from collections.abc import Callable

from raftlog.testing.bench.batteries import Row, rate
from raftlog.testing.processes import ProcessCluster

HERE = "raftlog.testing.bench.battery_sequences"
POSTGRESQL = os.environ.get("RAFTLOG_BENCH_POSTGRESQL", "host=127.0.0.1 dbname=test user=postgres")
TABLE = "raftlog_bench_sequence"


def measure(cluster: ProcessCluster, seconds: float) -> list[Row]:
    with _PostgreSQL() as postgresql:
        rows: list[Row] = []
        for threads in (1, 4):
            theirs = rate(cluster, f"{HERE}:locked_row", seconds, threads=threads) if not postgresql.problem else None
            beside = "PostgreSQL, UPDATE … RETURNING" + postgresql.problem
            writers = f"{threads} writer{'s' if threads > 1 else ''}"
            in_transaction = rate(cluster, f"{HERE}:in_transaction", seconds, threads=threads)
            rows.append((f"next_number() in a transaction, {writers}", "numbers", in_transaction, beside, theirs))
            in_command = rate(cluster, f"{HERE}:in_command", seconds, threads=threads)
            rows.append((f"draw() in a command, {writers}", "numbers", in_command, beside, theirs))
        three = rate(cluster, f"{HERE}:in_command", seconds, threads=4, hosts=3)
        rows.append(("draw() in a command, 4 writers on each of 3 hosts", "numbers", three, "", None))
        return rows


class _PostgreSQL:
    """One table with one row, for as long as it is entered. `problem`: why not; "" where it stands."""

    problem = ""

    def __enter__(self) -> _PostgreSQL:
        try:
            import psycopg
        except ImportError:
            self.problem = " (not measured: psycopg is not installed)"
            return self
        try:
            with psycopg.connect(POSTGRESQL, connect_timeout=2) as connection:
                connection.execute(f"DROP TABLE IF EXISTS {TABLE}")
                connection.execute(f"CREATE TABLE {TABLE} (name text PRIMARY KEY, last bigint NOT NULL)")
                connection.execute(f"INSERT INTO {TABLE} VALUES ('invoice', 0)")
        except psycopg.Error as error:
            self.problem = f" (not measured: {str(error).strip()})"
        return self

    def __exit__(self, *_: object) -> None:
        if not self.problem:
            import psycopg

            with psycopg.connect(POSTGRESQL) as connection:
                connection.execute(f"DROP TABLE IF EXISTS {TABLE}")


# Actions of an application process


def in_transaction() -> Callable[[], int]:
    from django.db import transaction

    from raftlog import retry_on_conflict
    from raftlog.contrib import sequences

    def draw() -> int:
        with transaction.atomic():
            sequences.next_number("bench")
        return 1

    repeated: Callable[[], int] = retry_on_conflict(draw)
    return repeated


def in_command() -> Callable[[], int]:
    from raftlog.testing.bench_site.batteries.commands import draw_number

    def draw() -> int:
        draw_number.propose(sequence="bench-command")
        return 1

    return draw


def locked_row() -> Callable[[], int]:
    import psycopg

    connection = psycopg.connect(POSTGRESQL)

    def draw() -> int:
        with connection.transaction():
            connection.execute(f"UPDATE {TABLE} SET last = last + 1 WHERE name = 'invoice' RETURNING last").fetchone()
        return 1

    return draw
