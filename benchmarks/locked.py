"""Many threads of several processes on one host, reading and writing: who sees "database is locked", who waits?

    python -m benchmarks.locked --seconds 60

The same plain ORM code runs on the stock backend (WAL, synchronous=FULL, its default time limit) and on
raftlog.backends.sqlite3 with real nodes behind it: 64 threads in 4 processes, of which half of the work reads and half
reads and then writes, in atomic(). What fails as work may fail that met another's (TransactionConflict; on the stock
backend, "database is locked") is run again, and the longest wait is that of the whole work. Connections are closed
after every fifth piece of work, as Django does after every request.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any, Final

import msgspec
from rich.console import Console
from rich.table import Table

from raftlog.runtime import clock
from raftlog.testing.processes import ProcessCluster

SETTINGS: Final = "raftlog.testing.torture_site.settings"
ACCOUNTS: Final = 2_000
SEED: Final = f"""
from raftlog.testing.torture_site.models import Account
Account.objects.bulk_create([Account(id=n, balance=100) for n in range(1, {ACCOUNTS} + 1)])
"""
STOCK: Final = {"init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL;"}
START_TIMEOUT: Final = 120.0  # seconds
WORDS: Final = {
    "reads": "pieces of work that read",
    "writes": "pieces of work that write",
    "turns": "waits for the host's turn",
    "cluster_turns": "waits for the cluster's turn",
    "commits": "from proposal to answer",
}
MAX_ATTEMPTS: Final = 1_000


class Plan(msgspec.Struct):
    """What one process does. `seconds` from the moment at which it is told to go."""

    number: int
    threads: int
    seconds: float


class Figures(msgspec.Struct):
    """Of one thread, one process or all. Seconds; a wait is that of a whole piece of work, retries included."""

    reads: list[float] = []
    writes: list[float] = []
    locked: int = 0
    conflicts: int = 0
    other: dict[str, int] = {}  # how often each other error was raised
    turns: list[float] = []  # waits for the host's turn to write
    cluster_turns: list[float] = []  # waits for the cluster's, by what is run again
    commits: list[float] = []  # from the proposal to the answer

    def add(self, more: Figures) -> None:
        self.reads += more.reads
        self.writes += more.writes
        self.locked += more.locked
        self.conflicts += more.conflicts
        self.turns += more.turns
        self.cluster_turns += more.cluster_turns
        self.commits += more.commits
        for text, count in more.other.items():
            self.raised(text, count)

    def raised(self, text: str, count: int = 1) -> None:
        self.other[text] = self.other.get(text, 0) + count


# In a worker process


def read(rng: random.Random) -> None:
    from django.db import transaction

    from raftlog.testing.torture_site.models import Account

    with transaction.atomic():
        first = rng.randrange(1, ACCOUNTS - 20)
        list(Account.objects.filter(pk__range=(first, first + 20)))
        Account.objects.get(pk=rng.randrange(1, ACCOUNTS + 1))


def write(rng: random.Random) -> None:
    from django.db import transaction

    from raftlog.testing.torture_site.models import Account

    source, target = rng.sample(range(1, ACCOUNTS + 1), 2)
    with transaction.atomic():
        accounts = Account.objects.in_bulk([source, target])
        accounts[source].balance -= 1
        accounts[target].balance += 1
        accounts[source].save()
        accounts[target].save()


def piece_of_work(work: Any, rng: random.Random, figures: Figures) -> None:
    """Run it again while it meets others; count what it raises."""
    from django.db import OperationalError, connection

    from raftlog import TransactionConflict, retry_on_conflict

    def attempt() -> None:
        try:
            work(rng)
        except TransactionConflict:
            figures.conflicts += 1
            raise

    # What a request under raftlog's middleware is; the stock backend needs to be asked again by whoever uses it.
    run = retry_on_conflict(attempt) if hasattr(connection, "apply_port") else attempt
    for _ in range(MAX_ATTEMPTS):
        try:
            return run()
        except TransactionConflict:
            continue
        except OperationalError as error:
            if "locked" in str(error):
                figures.locked += 1
            else:
                figures.raised(f"{type(error).__name__}: {error}")
    figures.raised(f"given up after {MAX_ATTEMPTS} attempts")
    return None


def timed(owner: Any, name: str, waits: list[float]) -> None:
    """Put the time that each call of a method takes into `waits`."""
    function = getattr(owner, name)

    def wrapper(*arguments: Any, **keywords: Any) -> Any:
        began = clock.monotonic()
        try:
            return function(*arguments, **keywords)
        finally:
            waits.append(clock.monotonic() - began)

    setattr(owner, name, wrapper)


def thread_main(plan: Plan, number: int, until: float, figures: Figures) -> None:
    from django.db import connection

    rng = random.Random(f"{plan.number}/{number}")
    done = 0
    while (began := clock.monotonic()) < until:
        is_read = rng.random() < 0.5
        piece_of_work(read if is_read else write, rng, figures)
        (figures.reads if is_read else figures.writes).append(clock.monotonic() - began)
        done += 1
        if done % 5 == 0:
            connection.close()
    connection.close()


def worker_main() -> None:
    """A Plan on the first line of stdin; "ready" on stdout; an empty line says go; Figures on stdout."""
    import django

    django.setup()
    from raftlog.backends.cluster_turns import TransactionTurn
    from raftlog.backends.node_log import NodeLog
    from raftlog.backends.sqlite3.turn import Turn

    plan = msgspec.json.decode(sys.stdin.readline(), type=Plan)
    figures = [Figures() for _ in range(plan.threads)]
    timed(Turn, "take", figures[0].turns)
    timed(TransactionTurn, "take", figures[0].cluster_turns)
    timed(NodeLog, "commit", figures[0].commits)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdin.readline()
    until = clock.monotonic() + plan.seconds
    threads = [
        threading.Thread(target=thread_main, args=(plan, number, until, figures[number]))
        for number in range(plan.threads)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    total = Figures()
    for one in figures:
        total.add(one)
    sys.stdout.write(msgspec.json.encode(total).decode() + "\n")
    sys.stdout.flush()
    os._exit(0)


# The run


def run_workers(environment: dict[str, str], processes: int, threads: int, seconds: float) -> Figures:
    command = [sys.executable, "-m", "benchmarks.locked", "--worker"]
    started = [
        subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(processes)
    ]
    total = Figures()
    try:
        for number, process in enumerate(started):
            assert process.stdin is not None
            process.stdin.write(msgspec.json.encode(Plan(number, threads // processes, seconds)).decode() + "\n")
            process.stdin.flush()
        for process in started:
            assert process.stdout is not None
            if process.stdout.readline() != "ready\n":
                raise RuntimeError("a worker process did not start")
        for process in started:
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()
        for process in started:
            assert process.stdout is not None
            total.add(msgspec.json.decode(process.stdout.readline(), type=Figures))
    finally:
        for process in started:
            process.kill()
            process.communicate()
    return total


def run_stock(folder: Path, processes: int, threads: int, seconds: float) -> Figures:
    with_stock = dict(os.environ) | {
        "DJANGO_SETTINGS_MODULE": SETTINGS,
        "RAFTLOG_DATABASE": str(folder / "stock.sqlite3"),
        "RAFTLOG_DATABASE_OPTIONS": json.dumps(STOCK),
    }
    for arguments in (("migrate", "--run-syncdb", "-v", "0", "--skip-checks"), ("shell", "-v", "0", "-c", SEED)):
        subprocess.run([sys.executable, "-m", "django", *arguments], env=with_stock, check=True)
    return run_workers(with_stock, processes, threads, seconds)


def run_raftlog(folder: Path, nodes: int, processes: int, threads: int, seconds: float) -> Figures:
    with ProcessCluster(
        nodes,
        folder,
        settings_module=SETTINGS,
        environment={"RAFTLOG_ENGINE": "raftlog.backends.sqlite3"},
    ) as cluster:
        cluster.start()
        leader = cluster[cluster.wait_for_leader(timeout=START_TIMEOUT)]
        leader.manage("migrate", "--run-syncdb", "-v", "0", "--skip-checks", timeout=START_TIMEOUT)
        leader.manage("shell", "-v", "0", "-c", SEED, timeout=START_TIMEOUT)
        return run_workers(leader.environment, processes, threads, seconds)


def row_of(name: str, figures: Figures, seconds: float) -> dict[str, Any]:
    row: dict[str, Any] = {"backend": name, "locked": figures.locked, "conflicts": figures.conflicts}
    for kind in WORDS:
        waits = sorted(getattr(figures, kind))
        if waits:
            row[kind] = {
                "per_second": len(waits) / seconds,
                "p50": waits[len(waits) // 2],
                "p99": waits[int(0.99 * (len(waits) - 1))],
                "longest": waits[-1],
            }
    row["other"] = figures.other
    return row


def compare(nodes: int, processes: int, threads: int, seconds: float) -> list[dict[str, Any]]:
    """One row for the stock backend, one for raftlog's."""
    with tempfile.TemporaryDirectory(prefix="raftlog-locked-") as directory:
        folder = Path(directory)
        stock = run_stock(folder, processes, threads, seconds)
        ours = run_raftlog(folder, nodes, processes, threads, seconds)
    return [row_of("stock", stock, seconds), row_of(f"raftlog, {nodes} nodes", ours, seconds)]


def table_of(rows: list[dict[str, Any]]) -> Table:
    table = Table()
    table.add_column("")
    for row in rows:
        table.add_column(row["backend"], justify="right")
    table.add_row('"database is locked"', *(f"{row['locked']:,}" for row in rows))
    table.add_row("TransactionConflict", *(f"{row['conflicts']:,}" for row in rows))
    for kind, words in WORDS.items():
        table.add_section()
        table.add_row(f"{words}, a second", *(f"{row[kind]['per_second']:,.0f}" if kind in row else "" for row in rows))
        for measure in ("p50", "p99", "longest"):
            cells = [f"{row[kind][measure] * 1000:,.1f} ms" if kind in row else "" for row in rows]
            table.add_row(f"  {measure}", *cells)
    return table


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.locked", description=__doc__.split("\n", 1)[0])
    parser.add_argument("--seconds", type=float, default=60.0, help="for each backend (default 60)")
    parser.add_argument("--threads", type=int, default=64, help="in all processes together (default 64)")
    parser.add_argument("--processes", type=int, default=4, help="(default 4)")
    parser.add_argument("--nodes", type=int, default=3, help="of the cluster (default 3)")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", SETTINGS)
    if given.worker:
        worker_main()
    rows = compare(given.nodes, given.processes, given.threads, given.seconds)
    if given.json:
        sys.stdout.write(json.dumps({"seconds": given.seconds, "threads": given.threads, "backends": rows}) + "\n")
    else:
        console = Console()
        console.print(table_of(rows))
        for row in rows:
            for text, count in row["other"].items():
                console.print(f"{row['backend']}: {count} x {text}", markup=False)
    return 1 if rows[1]["locked"] or rows[1]["other"] else 0


if __name__ == "__main__":
    sys.exit(main())
