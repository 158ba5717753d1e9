"""Parts of the suites, through three real nodes; and that the comparison itself finds what differs."""

import json
import sqlite3
import subprocess
import sys

import pytest

from tests import services
from tests.suites.runner import ROOT, compare
from tests.suites.suite_child.contents import SqliteFile, different

pytestmark = pytest.mark.processes


def suite(module, *arguments):
    command = [sys.executable, "-m", f"tests.{module}", "--json", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900, check=False)
    if "could not fetch" in done.stderr:
        services.missing(done.stderr)
    assert done.stdout, done.stderr
    return json.loads(done.stdout), done.returncode


def assert_alike(report, code):
    assert report["differences"] == []
    assert report["unequal"] == []
    assert report["equal"]
    assert report["passed"]
    assert report["comparisons"]
    assert report["entries"]
    assert code == 0


def test_through_three_nodes_in_one_process():
    assert_alike(*suite("django_suite", "--apps", "basic,transactions"))


def test_through_three_processes():
    assert_alike(*suite("django_suite", "--apps", "get_or_create", "--processes"))


def test_on_postgresql(monkeypatch):
    monkeypatch.setenv("PGUSER", services.postgresql("public")["USER"])
    assert_alike(*suite("django_suite", "--apps", "custom_pk", "--engine", "postgresql"))


def test_of_a_third_party_app():
    assert_alike(*suite("third_party_suites", "reversion", "--tests", "test_middleware.py"))


def test_a_test_that_ends_otherwise_is_a_difference_and_so_is_one_that_did_not_run():
    report = {"ran": 0, "passed": 0, "differences": [], "expected_differences": [], "unequal": [], "equal": True}
    report |= {"entries": 0, "rows": 0, "comparisons": 0}
    counts = {"entries": 2, "rows": 3, "comparisons": 1, "unequal": ["node b differs"]}
    stock = {"outcomes": {"same": "failed: A: 1", "lost": "passed", "broken": "passed", "known": "passed"}}
    ours = {"outcomes": {"same": "failed: B: 2", "broken": "error: E: 3", "known": "skipped"}, **counts}
    compare("app", stock, ours, report, {"known": "documented"})
    assert [difference["test"] for difference in report["differences"]] == ["broken", "lost"]
    assert report["expected_differences"] == [
        {"test": "known", "stock": "passed", "ours": "skipped", "reason": "documented"}
    ]
    assert not report["equal"]
    assert (report["ran"], report["passed"], report["entries"], report["rows"]) == (3, 0, 2, 3)


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ("SELECT 1", []),
        ("UPDATE t SET b = '1'", ["t"]),  # a text instead of a number
        ("DELETE FROM t", ["t"]),
        ("CREATE INDEX i ON t (b)", [""]),
        ("UPDATE sqlite_sequence SET seq = 7", ["sqlite_sequence"]),
    ],
)
def test_what_differs_between_databases_is_found(tmp_path, change, where):
    files = []
    for name in ("one", "other"):
        raw = sqlite3.connect(tmp_path / name)
        raw.executescript("CREATE TABLE t (a integer PRIMARY KEY AUTOINCREMENT, b); INSERT INTO t (b) VALUES (1);")
        files.append(SqliteFile(tmp_path / name))
        assert files[-1].contents()
        if name == "other":
            raw.executescript(change)
        raw.close()
    assert different(files[0].contents(), files[1].contents()) == where
    for file in files:
        file.close()
