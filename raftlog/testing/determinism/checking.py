"""One command, checked inside a test, on what the test's database holds."""

from __future__ import annotations

import shutil
from typing import Any

from raftlog.replication.propose import limits
from raftlog.replication.registry import Command
from raftlog.testing.cluster_databases import make_folder
from raftlog.testing.determinism.cases import make_case
from raftlog.testing.determinism.checker import check
from raftlog.testing.determinism.report import text


class Determinism:
    """What the fixture raft_determinism is.

    Args:
        keys: whether automatic keys may differ from node to node; None: they may on PostgreSQL.
        alias: of the replicated database; RAFTLOG["DATABASE"] where it is not given.
    """

    def __init__(self, *, keys: bool | None = None, alias: str = "") -> None:
        self.keys = keys
        self.alias = alias or limits().alias

    def check(self, command: Command, /, **arguments: Any) -> None:
        """Run `command` in other processes under other conditions, on copies of the test's database; change nothing.

        The command must be in a module that those processes can import: not in a function of the test.

        Raises AssertionError, which says what it depends on, names the lines, and shows the values that differ;
        DeterminismError where it could not be run; InvalidArguments.
        """
        folder = make_folder()
        try:
            case = make_case(command, arguments, folder / "case.sqlite3", alias=self.alias)
            findings = check([case], keys=self.keys, alias=self.alias).findings
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        if findings:
            raise AssertionError(text(findings))
