"""`raft determinism`: would the project's commands do the same on every node?"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from django.core.management.base import CommandParser

from raftlog.management.output import Output
from raftlog.management.verbs import Verb

SAME, DIFFERENT, NOT_CHECKED = 0, 1, 2


class DeterminismVerb(Verb):
    name = "determinism"
    help = "Run the project's commands under other conditions, and name by line what makes them differ."
    epilog = """\
Each case (a command, its arguments, a database) is run in two processes on copies of one database: with another
clock, other chance, host name, hash seed, time zone and locale, unordered rows in another order, and after other
commands. Where rows or results differ, one condition at a time tells which it is, and which line asked for it.

Cases come from @example above a command (raftlog.testing.determinism), on an empty migrated database with the fixtures
given, and from a folder that `pytest --raft-record FOLDER` has filled. Your own database is not touched, and no node
is needed. Commands without a case are only read: what their code shows is printed, and is no finding.

examples:
  manage.py raft determinism
  manage.py raft determinism shop shop.buy --fixture items
  pytest --raft-record /tmp/cases && manage.py raft determinism --cases /tmp/cases

exit codes:
  0  all cases are the same under all conditions
  1  some are not
  2  there is no case, or no such label, or the commands could not be run
"""

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("labels", nargs="*", metavar="LABEL", help="apps or commands (default: all of the project)")
        parser.add_argument("--fixture", action="append", default=[], help="load it before the examples; repeatable")
        parser.add_argument("--cases", type=Path, metavar="FOLDER", help="cases that `pytest --raft-record` has kept")
        parser.add_argument(
            "--keys",
            action="store_const",
            const=True,
            help="let automatic keys differ, too (default: on PostgreSQL, whose sequences skip after a rollback)",
        )

    def run(self, options: dict[str, Any], output: Output) -> int:
        from raftlog.testing.cluster_databases import make_folder
        from raftlog.testing.determinism.checker import DeterminismError
        from raftlog.testing.determinism.gather import NoSuchLabel

        folder = make_folder()
        try:
            return check_project(options, output, folder)
        except (DeterminismError, NoSuchLabel, LookupError, OSError) as error:
            output.line(str(error))
            output.result({"error": str(error)})
            return NOT_CHECKED
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def check_project(options: dict[str, Any], output: Output, folder: Path) -> int:
    from raftlog.testing.determinism import gather, report
    from raftlog.testing.determinism.checker import check
    from raftlog.testing.determinism.static import suspicions

    commands = gather.commands(options["labels"])
    cases = gather.cases_of(commands, options["fixture"], options["cases"], folder)
    findings, raised = check(cases, keys=options["keys"])
    tried = {case.command for case in cases}
    untried = [command for command in commands if command not in tried]
    hints = [one for command in untried for one in suspicions(command)]
    output.result(
        {
            "cases": len(cases),
            "findings": [report.data(finding) for finding in findings],
            "raised": [{"case": case.words(), "words": words} for case, words in raised],
            "untried": [command.name for command in untried],
            "hints": [{"command": one.command, "line": report.shown(one.line), "words": one.words} for one in hints],
        }
    )
    if findings:
        output.line(report.text(findings))
    for case, words in raised:
        output.line(f"{case.words()} raised {words}; was it given the rows that it needs?")
    if untried:
        output.line(f"without a case: {', '.join(command.name for command in untried)}")
    if hints:
        output.line(report.text([], hints))
    differing = len({id(finding.case) for finding in findings})
    output.line(f"{len(cases)} cases of {len(tried)} commands: {differing or 'none'} of them differ")
    return DIFFERENT if findings else SAME if cases else NOT_CHECKED


VERB = DeterminismVerb
