"""Cases are run twice, with everything different that may be; where that shows, one thing at a time, to say which.

A process is started for each set of environments; two run at once. Where a condition can hold for one line of the
project at a time, the guilty lines are told from those that asked without effect.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, NamedTuple

from django.conf import settings as django_settings
from django.db import IntegrityError, connections

from raftlog.exceptions import RaftlogError
from raftlog.replication.propose import limits
from raftlog.testing.cluster_databases import make_folder
from raftlog.testing.contents import Difference, differences, read_contents
from raftlog.testing.determinism.cases import Case
from raftlog.testing.determinism.conditions import BY_NAME, NOISE, Condition, environment, names, run_of
from raftlog.testing.determinism.static import suspicions

WORKERS: Final = 2
TIMEOUT: Final = 600.0  # seconds for one process
MAX_SITES: Final = 12  # lines that are tried one by one


class DeterminismError(RaftlogError):
    """Commands could not be checked; the text holds what the process that should run them said."""


class Finding(NamedTuple):
    """One case that depends on one condition."""

    case: Case
    condition: Condition
    # file:line, most likely first.
    lines: list[str]
    rows: list[Difference]
    # How it ended in the first run, and under the condition; the same where only rows differ.
    ended: tuple[str, str]


class Answer(NamedTuple):
    """What one run did."""

    # "returned" or "raised", in words, the encoded result, the line.
    how: tuple[str, str, str, str]
    sites: dict[str, list[str]]
    # SQL, its parameters, the lines of the project from the innermost out.
    statements: list[list[Any]]
    database: Path

    @property
    def ended(self) -> tuple[str, str, str]:
        kind, words, encoded, _ = self.how
        return kind, words if kind == "raised" else "", encoded

    @property
    def words(self) -> str:
        return f"{self.how[0]} {self.how[1]}"

    @property
    def line(self) -> str:
        return self.how[3]


class Checked(NamedTuple):
    """What came out, in order of cases."""

    # None where all are the same under all conditions.
    findings: list[Finding]
    # Cases that raised at first what their command does not declare, and that: little of the command was run.
    raised: list[tuple[Case, str]]


def check(cases: Sequence[Case], *, keys: bool | None = None, alias: str = "") -> Checked:
    """Run all cases under all conditions.

    Args:
        keys: whether automatic keys may differ; None: they may on PostgreSQL, whose sequences skip after a rollback.

    Raises DeterminismError where a process could not run them.
    """
    if not cases:
        return Checked([], [])
    alias = alias or limits().alias
    if keys is None:
        keys = connections[alias].vendor == "postgresql"
    folder = make_folder()
    try:
        checker = _Checker(cases, alias, names(keys=keys), folder)
        return Checked(checker.findings(), checker.raised())
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class _Checker:
    def __init__(self, cases: Sequence[Case], alias: str, conditions: list[str], folder: Path) -> None:
        self._cases = cases
        self._alias = alias
        self._conditions = conditions
        self._folder = folder
        self._first: dict[int, Answer] = {}

    def findings(self) -> list[Finding]:
        everything = range(len(self._cases))
        with ThreadPoolExecutor(WORKERS) as pool:
            first = pool.submit(self._run, "first", [], [run_of(case, []) for case in everything])
            others = [name for name in self._conditions if name != "again"]
            other = pool.submit(self._run, "all", others, [run_of(case, others) for case in everything])
            self._first = dict(enumerate(first.result()))
            suspects = [case for case, answer in enumerate(other.result()) if self._differs(case, answer)]
            found = self._one_by_one(suspects, pool) if suspects else {}
        lines = self._guilty_sites(found)
        order = {name: number for number, name in enumerate(self._conditions)}
        places = sorted(found, key=lambda place: (place[0], order[place[1]]))
        return [self._finding(case, name, found[case, name], lines) for case, name in places]

    def raised(self) -> list[tuple[Case, str]]:
        """After findings()."""
        undeclared = []
        for number, answer in self._first.items():
            case, (kind, words) = self._cases[number], answer.how[:2]
            declared = {one.__name__ for one in (*case.command.raises, IntegrityError)}
            if kind == "raised" and words.partition(":")[0] not in declared:
                undeclared.append((case, words))
        return undeclared

    def _one_by_one(self, suspects: list[int], pool: ThreadPoolExecutor) -> dict[tuple[int, str], Answer]:
        """(case, condition) -> what it did there, where that differs and is not so already without any condition."""
        inside = [name for name in self._conditions if not BY_NAME[name].environment]
        tasks = [(name, [name], [(case, name) for case in suspects]) for name in self._conditions if name not in inside]
        tasks.append(("one", [], [(case, name) for name in inside for case in suspects]))
        running = [
            (of, pool.submit(self._run, name, around, [run_of(case, [under]) for case, under in of]))
            for name, around, of in tasks
        ]
        answers = {place: answer for of, task in running for place, answer in zip(of, task.result(), strict=True)}
        found = {place: answer for place, answer in answers.items() if self._differs(place[0], answer)}
        for noise in NOISE:
            for case in [case for case in suspects if (case, noise) in found]:
                self._drop_noise(found, case, noise)
        return found

    def _drop_noise(self, found: dict[tuple[int, str], Answer], case: int, noise: str) -> None:
        """What differs without a condition is no sign of it."""
        where = self._where(case, found[case, noise])
        for name in self._conditions:
            if name != noise and (case, name) in found and self._where(case, found[case, name]) <= where:
                del found[case, name]

    def _differs(self, case: int, answer: Answer) -> bool:
        return self._first[case].ended != answer.ended or bool(self._rows(case, answer))

    def _rows(self, case: int, answer: Answer) -> list[Difference]:
        return differences(read_contents(self._first[case].database), read_contents(answer.database))

    def _where(self, case: int, answer: Answer) -> set[tuple[str, str]]:
        result = {("", "")} if self._first[case].ended != answer.ended else set()
        return result | {(row.table, row.column) for row in self._rows(case, answer)}

    # Which line

    def _guilty_sites(self, found: dict[tuple[int, str], Answer]) -> dict[tuple[int, str], list[str]]:
        """Of the lines that asked, those for which alone the condition makes a difference."""
        tried = [
            (case, name, site)
            for (case, name), answer in found.items()
            if BY_NAME[name].has_sites
            for site in answer.sites.get(name, [])[:MAX_SITES]
        ]
        lines: dict[tuple[int, str], list[str]] = {}
        if tried:
            answers = self._run("sites", [], [run_of(case, [name], site) for case, name, site in tried])
            for (case, name, site), answer in zip(tried, answers, strict=True):
                if self._differs(case, answer):
                    lines.setdefault((case, name), []).append(site)
        return lines

    def _finding(self, case: int, name: str, answer: Answer, sites: dict[tuple[int, str], list[str]]) -> Finding:
        first, rows = self._first[case], self._rows(case, answer)
        ended = (first.words, answer.words)
        lines = sites.get((case, name)) or _lines_of_writing(first, answer, rows)
        if name == "hash":
            seen = [one.line for one in suspicions(self._cases[case].command) if one.is_of_hash]
            lines = _known([*seen, *lines])
        return Finding(self._cases[case], BY_NAME[name], lines, rows, ended)

    # Processes

    def _run(self, name: str, around: list[str], runs: list[dict[str, Any]]) -> list[Answer]:
        """`around`: the conditions for the environment of the process. Raises DeterminismError."""
        surroundings = environment(around)
        sys_path = [entry or os.getcwd() for entry in sys.path]
        task = {
            "name": name,
            "folder": str(self._folder),
            "alias": self._alias,
            "sys_path": sys_path,
            "zone": surroundings["TZ"],
            "modules": sorted({case.command.__module__ for case in self._cases}),
            "cases": [
                {
                    "database": str(case.database),
                    "body": case.command.encode(case.arguments, 1 << 30).hex(),
                    "index": case.entry_index,
                    "term": case.term,
                    "log_time": case.log_time,
                }
                for case in self._cases
            ],
            "runs": runs,
        }
        task_path, answer_path = self._folder / f"{name}.task.json", self._folder / f"{name}.answer.json"
        task_path.write_text(json.dumps(task))
        module = os.environ.get("DJANGO_SETTINGS_MODULE") or getattr(django_settings, "SETTINGS_MODULE", "")
        if not module:
            raise DeterminismError("set DJANGO_SETTINGS_MODULE: commands are run in processes of their own")
        arguments = [sys.executable, "-m", "raftlog.testing.determinism.worker", str(task_path), str(answer_path)]
        surroundings |= {"DJANGO_SETTINGS_MODULE": module, "PYTHONPATH": os.pathsep.join(sys_path)}
        try:
            ran = subprocess.run(
                arguments,
                env={**os.environ, **surroundings},
                capture_output=True,
                text=True,
                timeout=TIMEOUT,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise DeterminismError(f"{len(runs)} runs of commands did not end within {TIMEOUT:g} s") from error
        if ran.returncode:
            raise DeterminismError(f"the process that runs the commands failed:\n{ran.stderr.strip()}")
        return [
            Answer(tuple(run["ended"]), run["sites"], run["statements"], Path(run["database"]))
            for run in json.loads(answer_path.read_text())
        ]


def _lines_of_writing(first: Answer, answer: Answer, rows: list[Difference]) -> list[str]:
    """Where nobody asked by name: the first statement that differs, or those that wrote the tables that differ."""
    for one, other in zip(first.statements, answer.statements, strict=False):
        if one != other:
            return _known([*one[2], *other[2]])
    more = first.statements[len(answer.statements) :] or answer.statements[len(first.statements) :]
    if more:
        return _known(more[0][2])
    if not rows:
        return _known([first.line, answer.line])
    tables = {row.table for row in rows}
    words = [f'"{table}"' for table in tables] + [f" {table} " for table in tables]
    writes = [one for one in answer.statements if not one[0].lstrip().upper().startswith("SELECT")]
    written = [lines for sql, _, lines in writes if any(word in f"{sql} " for word in words)]
    return _known(line for lines in written for line in lines)


def _known(lines: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(filter(None, lines)))
