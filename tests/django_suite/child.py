"""One run of chosen test apps on one engine, in a process of its own; writes its outcomes as JSON.

Every TestCase commits for real: its data is made before each test and flushed after it, as a
TransactionTestCase's, instead of rolled back.
"""

from __future__ import annotations

import json
import os
import sys
import unittest

from django import test as django_test
from django.test import testcases
from django.test.runner import DiscoverRunner

OUTCOMES: dict[str, str] = {}
REPLICAS = []


def commit_for_real() -> None:
    """Make TestCase commit, on any backend."""
    case = testcases.TestCase
    base = testcases.TransactionTestCase

    def set_up_class(cls):
        super(case, cls).setUpClass()

    def tear_down_class(cls):
        super(case, cls).tearDownClass()

    def fixture_setup(cls):
        base._fixture_setup.__func__(cls)
        cls.setUpTestData()

    flush = base._fixture_teardown

    def fixture_teardown(self):
        for replicas in REPLICAS:
            replicas.compare(self.id())
        flush(self)

    case.setUpClass = classmethod(set_up_class)
    case.tearDownClass = classmethod(tear_down_class)
    case._fixture_setup = classmethod(fixture_setup)
    case._fixture_teardown = base._fixture_teardown = fixture_teardown
    case._should_reload_connections = lambda self: False
    assert django_test.TestCase is case


class RecordingResult(unittest.TextTestResult):
    """Notes how each test (and subtest that fails) ended."""

    def note(self, test, outcome):
        OUTCOMES[test.id()] = outcome

    def addSuccess(self, test):
        super().addSuccess(test)
        OUTCOMES.setdefault(test.id(), "passed")

    def addFailure(self, test, error):
        super().addFailure(test, error)
        self.note(test, f"failed: {error[0].__name__}: {error[1]}"[:2000])

    def addError(self, test, error):
        super().addError(test, error)
        self.note(test, f"error: {error[0].__name__}: {error[1]}"[:2000])

    def addSkip(self, test, reason):
        super().addSkip(test, reason)
        self.note(test, "skipped")

    def addExpectedFailure(self, test, error):
        super().addExpectedFailure(test, error)
        self.note(test, "expected failure")

    def addUnexpectedSuccess(self, test):
        super().addUnexpectedSuccess(test)
        self.note(test, "unexpected success")

    def addSubTest(self, test, subtest, error):
        super().addSubTest(test, subtest, error)
        if error is not None:
            self.note(test, f"failed: {error[0].__name__}: {error[1]}"[:2000])


class RecordingRunner(DiscoverRunner):
    def get_resultclass(self):
        return RecordingResult

    def setup_databases(self, **kwargs):
        if "raftlog" in os.environ["DJANGO_SETTINGS_MODULE"] or os.environ.get("DJANGO_SUITE_REPLICAS") == "1":
            from tests.django_suite.replicas import Replicas

            REPLICAS.extend(Replicas(alias) for alias in ("default", "other"))
        return super().setup_databases(**kwargs)


def main() -> int:
    source, result, *labels = sys.argv[1:]
    os.chdir(os.path.join(source, "tests"))
    sys.path.insert(0, os.getcwd())
    import runtests

    commit_for_real()
    # As `runtests.py` does before it runs anything.
    os.environ["RUNNING_DJANGOS_TEST_SUITE"] = "true"
    runtests.django_tests(
        *(int(os.environ.get("DJANGO_SUITE_VERBOSITY", "0")), False, False, False, False, labels, False, 1),
        *([], [], None, "", "", False, False, False, False),
    )
    report = {
        "outcomes": OUTCOMES,
        "entries": sum(replicas.entries for replicas in REPLICAS),
        "rows": sum(replicas.rows for replicas in REPLICAS),
        "comparisons": sum(replicas.comparisons for replicas in REPLICAS),
        "unequal": [words for replicas in REPLICAS for words in replicas.unequal],
    }
    with open(result, "w") as file:
        json.dump(report, file)
    return 0


if __name__ == "__main__":
    # Under its own name, so that the runner that the settings name sees the same OUTCOMES.
    from tests.django_suite import child

    sys.exit(child.main())
