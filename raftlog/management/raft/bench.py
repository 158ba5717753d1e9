"""`raft bench`: what this machine reaches, against its own floor."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from django.core.management.base import CommandError, CommandParser

from raftlog.management.output import Output, table
from raftlog.management.verbs import Verb


class BenchVerb(Verb):
    name = "bench"
    help = "Measure a cluster of real node processes on this machine, against the floor of the same run."
    epilog = """\
Starts its own nodes in a temporary folder, with fsync on; neither the project's database nor its node is touched. The
floor is one message through a Daphne consumer and back, plus one fdatasync of a small append.

examples:
  manage.py raft bench
  manage.py raft bench --seconds 10 --clients 1,4,16 --value-bytes 1000
  manage.py raft bench --transactions --quick
  manage.py raft bench --batteries
  manage.py raft bench --batteries --only locks,sequences --quick
  manage.py raft bench --json | jq '.figures[] | {name, per_second, p50_ms}'

exit codes:
  0  measured, whether the goals were reached or not
  1  a node or a proposal failed
"""

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--seconds", type=float, default=3.0, help="for each figure (default: 3)")
        parser.add_argument("--clients", default="1,16,64", help="numbers of blocking clients (default: 1,16,64)")
        parser.add_argument("--nodes", type=int, default=3, help="how many nodes (default: 3)")
        parser.add_argument("--value-bytes", type=int, default=100, help="size of a command's value (default: 100)")
        parser.add_argument(
            "--transactions",
            action="store_true",
            help="plain Django code on three nodes (raftlog.backends.sqlite3), beside Django's own SQLite backend with "
            "synchronous=FULL; takes --seconds and --dir",
        )
        parser.add_argument(
            "--batteries",
            action="store_true",
            help="each app of raftlog.contrib on three nodes, beside what people use for it today (Redis, Celery, "
            "huey, PostgreSQL), where that is installed; takes --seconds and --dir",
        )
        parser.add_argument("--only", default="", help="with --batteries: these alone, with commas between them")
        parser.add_argument(
            "--quick", action="store_true", help="1 s for each figure; with --transactions four cases only"
        )
        parser.add_argument("--dir", type=Path, help="folder on the disk to measure (default: the temporary folder)")

    def run(self, options: dict[str, Any], output: Output) -> int:
        # Imported here: the other verbs need no benchmark.
        from raftlog.exceptions import RaftlogError
        from raftlog.testing.bench import figures

        if options["transactions"]:
            return run_transactions(options, output)
        if options["batteries"]:
            return run_batteries(options, output)
        clients = parse_clients(options["clients"])
        with tempfile.TemporaryDirectory(prefix="raftlog-bench-", dir=options["dir"]) as directory:
            try:
                report = figures.measure(
                    Path(directory),
                    nodes=options["nodes"],
                    seconds=options["seconds"],
                    clients=clients,
                    value_bytes=options["value_bytes"],
                    tell=output.line,
                )
            except RaftlogError as error:
                raise CommandError(str(error)) from error
        show(report, output)
        output.result(figures.as_dict(report))
        return 0


def run_transactions(options: dict[str, Any], output: Output) -> int:
    from raftlog.exceptions import RaftlogError
    from raftlog.testing.bench import transactions

    quick = options["quick"]
    seconds = min(options["seconds"], 1.0) if quick else options["seconds"]
    with tempfile.TemporaryDirectory(prefix="raftlog-bench-", dir=options["dir"]) as directory:
        try:
            report = transactions.measure(Path(directory), seconds=seconds, quick=quick, tell=output.line)
        except RaftlogError as error:
            raise CommandError(str(error)) from error
    show_transactions(report, output)
    output.result(transactions.as_dict(report))
    return 0


def run_batteries(options: dict[str, Any], output: Output) -> int:
    from raftlog.exceptions import RaftlogError
    from raftlog.testing.bench import batteries

    only = [name.strip() for name in options["only"].split(",") if name.strip()]
    known = batteries.find_batteries()
    if unknown := [name for name in only if name not in known]:
        raise CommandError(f"--only {', '.join(unknown)}: there is no such battery; there are {', '.join(known)}.")
    seconds = min(options["seconds"], 1.0) if options["quick"] else options["seconds"]
    with tempfile.TemporaryDirectory(prefix="raftlog-bench-", dir=options["dir"]) as directory:
        try:
            report = batteries.measure(Path(directory), seconds=seconds, only=only, tell=output.line)
        except RaftlogError as error:
            raise CommandError(str(error)) from error
    rows = [[f.battery, f.name, f.unit, f.per_second, f.theirs, f.theirs_per_second, f.ratio] for f in report.figures]
    output.line()
    output.show(table(["battery", "what", "of", "per second", "beside", "per second", "ratio"], rows))
    output.line(f"{report.nodes} nodes, {report.seconds:g} s a figure, {report.took:g} s in all, load {report.load:g}")
    for name, why in report.not_measured.items():
        output.line(f"{name}: not measured: {why}", style="yellow")
    output.result(batteries.as_dict(report))
    return 1 if report.not_measured else 0


def show_transactions(report: Any, output: Output) -> None:
    columns = ["what", "writers", "nodes", "", "per second", "p50 ms", "p99 ms", "max ms", "CPU ms"]
    columns += ["× per second", "× longest", "goal", "reached"]
    rows: list[list[Any]] = []
    for figure in report.figures:
        raft, stock = figure.raft, figure.stock
        what = [figure.name, figure.writers, figure.nodes]
        verdict = [figure.throughput, figure.longest_wait, figure.goal or None, figure.reached]
        rows.append([*what, "raftlog", *_numbers(raft), *verdict])
        rows.append(["", "", "", "stock", *_numbers(stock), "", "", "", ""])
    output.line()
    output.show(table(columns, rows))
    output.line("per second: transactions (rows where bulk_create); CPU ms: of all processes, for each transaction")
    output.line()
    output.show(table(["one create() by one writer", "ms"], [[*item] for item in report.stages.items()]))
    output.line()
    output.show(table(["CPU of one create(), most writers", "ms"], [[*item] for item in report.cpu.items()]))
    output.line()
    cost = report.apply
    output.line(
        f"rows of write sets applied on a follower: {cost.rows_per_second:,.0f}/s, {cost.row_us:.2f} µs a row "
        f"({cost.row_cpu_us:.2f} µs of CPU); goal ≥ 100,000/s: {'reached' if cost.reached else 'not reached'}"
    )


def _numbers(side: Any) -> list[Any]:
    return [round(side.per_second), side.p50_ms, side.p99_ms, side.max_ms, side.cpu_ms]


def parse_clients(text: str) -> list[int]:
    """'1,16,64' -> [1, 16, 64]. Raises CommandError."""
    try:
        clients = [int(part) for part in text.split(",")]
    except ValueError:
        clients = []
    if not clients or min(clients) < 1:
        raise CommandError(f"--clients {text}: give numbers of at least 1, with commas between them.")
    return clients


def show(report: Any, output: Output) -> None:
    rows = [
        [
            figure.name,
            round(figure.per_second),
            figure.unit,
            figure.p50_ms,
            figure.p99_ms,
            figure.goal or None,
            figure.ratio,
            figure.reached,
        ]
        for figure in report.figures
    ]
    output.line()
    output.line(
        f"floor: consumer round trip {report.consumer_round_trip_ms:.3f} ms + fdatasync {report.fdatasync_ms:.3f} ms "
        f"= {report.floor_ms:.3f} ms; {report.nodes} nodes, {report.value_bytes} bytes a value"
    )
    output.show(table(["what", "per second", "of", "p50 ms", "p99 ms", "goal", "ratio", "reached"], rows))


VERB = BenchVerb
