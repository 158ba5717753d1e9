"""A part of Django's own suite, through three real nodes; and that the comparison itself finds what differs."""

import json
import subprocess
import sys

import pytest

from tests import services
from tests.suites.runner import ROOT, compare

pytestmark = pytest.mark.processes


def suite(*arguments):
    command = [sys.executable, "-m", "tests.django_suite", "--json", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)
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
    assert_alike(*suite("--apps", "basic,transactions"))


def test_through_three_processes():
    assert_alike(*suite("--apps", "get_or_create", "--processes"))


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
