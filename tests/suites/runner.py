"""Runs suites on the stock backend and on ours, two processes at a time, and compares them test by test."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import django

ROOT = Path(__file__).parents[2]
WORKERS = 2


@dataclass(frozen=True)
class Suite:
    """One comparison: a command that is run twice, each time in a process of its own."""

    name: str
    arguments: Sequence[str]  # of the Python interpreter
    folder: Path = ROOT
    environment: Mapping[str, str] = field(default_factory=dict)
    path: Sequence[Path] = ()  # where to import from, before anything of ours


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--engine", default="sqlite3", choices=["sqlite3", "postgresql"])
    parser.add_argument(
        "--log",
        default="nodes",
        choices=["nodes", "processes", "inline"],
        help="three nodes in the test process (default), three in processes of their own, or two replicas without Raft",
    )
    parser.add_argument(
        "--processes", action="store_const", const="processes", dest="log", help="the same as --log processes"
    )
    parser.add_argument("--memory", action="store_true", help="test databases in memory; only with --log inline")
    parser.add_argument("--workers", type=int, default=WORKERS, help="runs at a time (default: %(default)s)")
    parser.add_argument("--timeout", type=float, default=7200, help="seconds for one run (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="only the JSON object")


def fetch(requirement: str, folder: Path) -> Path:
    """Unpack a source distribution, by pip."""
    name = requirement.partition("==")[0]
    target = folder / f"sdist-{name}"
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-binary", name, "-d", str(target)]
    done = subprocess.run([*command, requirement], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"pip could not fetch the source distribution of {requirement}:\n{done.stderr}")
    (archive,) = target.glob("*.tar.gz")
    with tarfile.open(archive) as file:
        file.extractall(target, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))
    return target / archive.name.removesuffix(".tar.gz")


def compare_all(
    suites: Sequence[Suite], options: argparse.Namespace, folder: Path, expected: Mapping[str, str]
) -> dict[str, Any]:
    """`expected`: name of a test -> why it may differ."""
    if options.log == "inline" and options.engine != "sqlite3":
        raise SystemExit("--log inline has replicas to compare with on sqlite3 only; use the nodes")
    report: dict[str, Any] = {"engine": options.engine, "log": options.log, "django": django.get_version()}
    report |= {"ran": 0, "passed": 0, "differences": [], "expected_differences": [], "entries": 0, "rows": 0}
    report |= {"comparisons": 0, "equal": True, "unequal": [], "seconds": {}}
    with ThreadPoolExecutor(options.workers) as pool:
        runs = {pool.submit(run_both, suite, options, folder): suite for suite in suites}
        for number, done in enumerate(as_completed(runs), 1):
            suite = runs[done]
            stock, ours = done.result()
            known = len(report["differences"])
            compare(suite.name, stock, ours, report, expected)
            report["seconds"][suite.name] = [stock["seconds"], ours["seconds"]]
            if not options.json:
                counts = f"{len(ours['outcomes'])} tests, {ours['entries']} entries, {ours['rows']} rows"
                times = f"{stock['seconds']} s stock, {ours['seconds']} s ours"
                print(f"[{number}/{len(suites)}] {suite.name}: {counts}; {times}", flush=True)
                for difference in report["differences"][known:]:
                    print(f"  {difference['test']}: {difference['stock']}; ours {difference['ours']}", flush=True)
                for words in ours["unequal"]:
                    print(f"  {words}", flush=True)
    return report


def run_both(suite: Suite, options: argparse.Namespace, folder: Path) -> tuple[dict, dict]:
    return run(suite, "stock", options, folder), run(suite, "raftlog", options, folder)


def run(suite: Suite, engine: str, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(dir=folder, prefix=f"{suite.name[:20]}-{engine}-") as databases:
        result = Path(databases, "result.json")
        environment = {
            **os.environ,
            **suite.environment,
            "SUITE_ENGINE": engine,
            "SUITE_VENDOR": options.engine,
            "SUITE_LOG": options.log,
            "SUITE_MEMORY": "1" if options.memory else "0",
            "SUITE_FOLDER": databases,
            "SUITE_RESULT": str(result),
            "TMPDIR": databases,
            "PYTHONPATH": os.pathsep.join(map(str, [*suite.path, ROOT / "tests" / "suites", ROOT])),
        }
        command = [sys.executable, *suite.arguments]
        started = time.monotonic()
        done = subprocess.run(
            command,
            env=environment,
            cwd=suite.folder,
            capture_output=True,
            text=True,
            timeout=options.timeout,
            check=False,
        )
        if not result.exists():
            output = f"{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
            raise SystemExit(f"{suite.name} on {engine} did not finish (exit code {done.returncode}):\n{output}")
        found: dict[str, Any] = json.loads(result.read_text())
        found["seconds"] = round(time.monotonic() - started, 1)
        return found


def compare(name: str, stock: dict, ours: dict, report: dict[str, Any], expected: Mapping[str, str]) -> None:
    report["ran"] += len(ours["outcomes"])
    report["passed"] += sum(outcome == "passed" for outcome in ours["outcomes"].values())
    for count in ("entries", "rows", "comparisons"):
        report[count] += ours[count]
    report["unequal"] += [f"{name}: {words}" for words in ours["unequal"]]
    report["equal"] = not report["unequal"]
    for test in sorted(stock["outcomes"].keys() | ours["outcomes"].keys()):
        before, after = stock["outcomes"].get(test, "not run"), ours["outcomes"].get(test, "not run")
        if before.partition(":")[0] == after.partition(":")[0]:
            continue
        difference = {"test": test, "stock": before, "ours": after}
        if test in expected:
            report["expected_differences"].append({**difference, "reason": expected[test]})
        else:
            report["differences"].append(difference)


def finish(report: dict[str, Any]) -> int:
    """Print the JSON object; the exit code."""
    print(json.dumps(report, indent=1))
    return int(bool(report["differences"]) or not report["equal"] or not report["ran"])
