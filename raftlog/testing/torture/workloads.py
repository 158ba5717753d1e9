"""What the client processes of a run do, and how it is judged: commands, or plain ORM code."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

from raftlog.runtime import clock
from raftlog.testing.processes import ProcessCluster
from raftlog.testing.torture import orm_verify, verify
from raftlog.testing.torture.records import Records
from raftlog.testing.torture.report import Report

SETUP_TIMEOUT = 120.0  # seconds


class Workload(Protocol):
    # Whether the clients are applications beside a node each (orm_client).
    orm: bool
    environment: dict[str, str]
    # Further keys of RAFTLOG.
    options: dict[str, Any]

    def before_start(self, cluster: ProcessCluster) -> None: ...

    def after_start(self, cluster: ProcessCluster) -> None:
        """A leader has been elected."""
        ...

    def judge(self, report: Report, records: Records, databases: dict[str, Path], directory: Path) -> list[str]:
        """Fill in the report; returns violations."""
        ...


class Commands:
    """`@command`s on the stock backend, from clients that speak to any node."""

    orm = False

    def __init__(self) -> None:
        self.environment: dict[str, str] = {}
        self.options: dict[str, Any] = {}

    def before_start(self, cluster: ProcessCluster) -> None:
        cluster.make_databases()

    def after_start(self, cluster: ProcessCluster) -> None:
        return

    def judge(self, report: Report, records: Records, databases: dict[str, Path], directory: Path) -> list[str]:
        first = next(iter(databases.values()))
        ledger = verify.check_ledger(records.calls, first)
        histories = verify.check_histories(records.calls, first, clock.monotonic())
        if histories.counterexample is not None:
            page = directory / "counterexample.html"
            page.write_text(histories.counterexample.html())
            report.counterexample_html = str(page)
        take_ledger(report, ledger)
        report.linearizable = not histories.problems()
        report.history_operations, report.history_keys = histories.operations, histories.keys
        report.configurations = histories.configurations
        return [*ledger.problems(), *histories.problems()]


class Orm:
    """Transactions of plain ORM code on raftlog.backends.sqlite3, from application processes beside the nodes."""

    orm = True

    def __init__(self, mutation: str = "") -> None:
        self.environment = {"RAFTLOG_ENGINE": "raftlog.backends.sqlite3"}
        if mutation:
            self.environment["RAFTLOG_TORTURE_MUTATION"] = mutation
        self.options: dict[str, Any] = {"PROPOSAL_TIMEOUT": 3.0}

    def before_start(self, cluster: ProcessCluster) -> None:
        return

    def after_start(self, cluster: ProcessCluster) -> None:
        first = next(iter(cluster))
        first.manage("migrate", "--run-syncdb", "--verbosity=0", "--skip-checks", timeout=SETUP_TIMEOUT)
        filling = "from raftlog.testing.torture.orm_actions import fill; fill()"
        first.manage("shell", "--verbosity=0", "--command", filling, timeout=SETUP_TIMEOUT)
        cluster.wait_all_applied(SETUP_TIMEOUT)

    def judge(self, report: Report, records: Records, databases: dict[str, Path], directory: Path) -> list[str]:
        judgement = orm_verify.judge(records.calls, next(iter(databases.values())), clock.monotonic())
        differences = orm_verify.compare_fingerprints(databases)
        take_ledger(report, judgement.ledger)
        report.databases_equal = report.databases_equal and not differences
        report.serializable = not judgement.serializable.anomalies
        report.history_operations, report.history_keys = judgement.serializable.transactions, 0
        report.dependencies = judgement.serializable.edges
        report.conflicts, report.longest_call = judgement.conflicts, round(judgement.longest, 3)
        report.without_effect -= judgement.conflicts
        return [*judgement.problems, *differences]


def take_ledger(report: Report, ledger: verify.Ledger) -> None:
    report.applied = ledger.acknowledged
    report.unknown_applied = ledger.unknown_applied
    report.lost, report.doubled = len(ledger.lost), len(ledger.doubled)
