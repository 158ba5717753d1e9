"""Runs the chosen apps on both engines and compares."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import django

ROOT = Path(__file__).parents[2]
APPS = [
    "basic",
    "queries",
    "expressions",
    "aggregation",
    "annotations",
    "lookup",
    "ordering",
    "prefetch_related",
    "model_fields",
    "model_forms",
    "model_inheritance",
    "many_to_many",
    "m2m_through",
    "many_to_one",
    "one_to_one",
    "generic_relations",
    "get_or_create",
    "bulk_create",
    "update",
    "delete",
    "transactions",
    "constraints",
    "custom_pk",
    "composite_pk",
    "fixtures",
    "serializers",
    "sessions_tests",
    "auth_tests",
    "contenttypes_tests",
    "admin_views",
    "schema",
    "migrations",
]
# Test -> why it differs. Short, and each for a documented reason.
DIFFERS: dict[str, str] = {
    "serializers.test_deserialization.TestDeserializer.test_crafted_xml_performance": "it measures time: a loaded "
    "machine decides, not the backend",
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.django_suite", description=__doc__)
    parser.add_argument("--engine", default="sqlite3", choices=["sqlite3"])
    parser.add_argument("--apps", default=",".join(APPS), help="test apps (or labels) of Django, comma-separated")
    parser.add_argument("--memory", action="store_true", help="test databases in memory instead of in files")
    parser.add_argument("--source", type=Path, help="unpacked source distribution (default: fetched with pip)")
    parser.add_argument("--timeout", type=float, default=3600, help="seconds for one app on one engine")
    parser.add_argument("--json", action="store_true", help="only the JSON object")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="django_suite") as folder:
        source = options.source or fetch(Path(folder))
        report = run_all(options, source, Path(folder))
    print(json.dumps(report, indent=1))
    return bool(report["differences"]) or not report["equal"]


def fetch(folder: Path) -> Path:
    """Unpack the source distribution of the installed version."""
    wanted = f"django=={django.get_version()}"
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-binary", "django", "-d", str(folder)]
    subprocess.run([*command, wanted], check=True)
    (archive,) = folder.glob("*.tar.gz")
    with tarfile.open(archive) as file:
        file.extractall(folder, filter="data")
    return folder / archive.name.removesuffix(".tar.gz")


def run_all(options: argparse.Namespace, source: Path, folder: Path) -> dict:
    report: dict = {"engine": options.engine, "django": django.get_version(), "ran": 0, "passed": 0, "differences": []}
    report |= {"expected_differences": [], "entries": 0, "rows": 0, "comparisons": 0, "equal": True, "unequal": []}
    for app in options.apps.split(","):
        stock = run(app, "stock", source, folder, options)
        ours = run(app, options.engine, source, folder, options)
        compare(app, stock, ours, report)
        if not options.json:
            print(f"{app}: {len(ours['outcomes'])} tests, {ours['entries']} entries, {ours['rows']} rows", flush=True)
    return report


def run(app: str, engine: str, source: Path, folder: Path, options: argparse.Namespace) -> dict:
    result = folder / f"{app}-{engine}.json"
    databases = Path(tempfile.mkdtemp(dir=folder))
    environment = {
        **os.environ,
        "DJANGO_SETTINGS_MODULE": f"tests.django_suite.settings_{engine}",
        "DJANGO_SUITE_FOLDER": str(databases),
        "TMPDIR": str(databases),
        "DJANGO_SUITE_MEMORY": "1" if options.memory else "0",
        "DJANGO_SUITE_REPLICAS": "0" if engine == "stock" else "1",
        "PYTHONPATH": str(ROOT),
    }
    command = [sys.executable, "-m", "tests.django_suite.child", str(source), str(result), app]
    done = subprocess.run(
        command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=options.timeout, check=False
    )
    if not result.exists():
        raise SystemExit(f"{app} on {engine} did not finish:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    found: dict = json.loads(result.read_text())
    return found


def compare(app: str, stock: dict, ours: dict, report: dict) -> None:
    report["ran"] += len(ours["outcomes"])
    report["passed"] += sum(outcome == "passed" for outcome in ours["outcomes"].values())
    report["entries"] += ours["entries"]
    report["rows"] += ours["rows"]
    report["comparisons"] += ours["comparisons"]
    report["unequal"] += [f"{app}: {words}" for words in ours["unequal"]]
    report["equal"] = not report["unequal"]
    for test in sorted(stock["outcomes"].keys() | ours["outcomes"].keys()):
        before, after = stock["outcomes"].get(test, "not run"), ours["outcomes"].get(test, "not run")
        if before.partition(":")[0] == after.partition(":")[0]:
            continue
        difference = {"test": test, "stock": before, "ours": after}
        if test in DIFFERS:
            report["expected_differences"].append({**difference, "reason": DIFFERS[test]})
        else:
            report["differences"].append(difference)


if __name__ == "__main__":
    sys.exit(main())
