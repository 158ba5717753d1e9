"""How each test ended, and how the databases compared: written as JSON at the end of the run."""

from __future__ import annotations

import json
import os
import unittest
from collections.abc import Iterable
from typing import Any

from django.test.runner import DiscoverRunner

OUTCOMES: dict[str, str] = {}
LONGEST = 2000  # characters


def failed(kind: str, error: BaseException | None) -> str:
    return f"{kind}: {type(error).__name__}: {error}"[:LONGEST]


class RecordingResult(unittest.TextTestResult):
    """Notes how each test (and subtest that fails) ended."""

    def addSuccess(self, test):
        super().addSuccess(test)
        OUTCOMES.setdefault(test.id(), "passed")

    def addFailure(self, test, error):
        super().addFailure(test, error)
        OUTCOMES[test.id()] = failed("failed", error[1])

    def addError(self, test, error):
        super().addError(test, error)
        OUTCOMES[test.id()] = failed("error", error[1])

    def addSkip(self, test, reason):
        super().addSkip(test, reason)
        OUTCOMES[test.id()] = "skipped"

    def addExpectedFailure(self, test, error):
        super().addExpectedFailure(test, error)
        OUTCOMES[test.id()] = "expected failure"

    def addUnexpectedSuccess(self, test):
        super().addUnexpectedSuccess(test)
        OUTCOMES[test.id()] = "unexpected success"

    def addSubTest(self, test, subtest, error):
        super().addSubTest(test, subtest, error)
        if error is not None:
            OUTCOMES[test.id()] = failed("failed", error[1])


class RecordingRunner(DiscoverRunner):
    def get_resultclass(self):
        return RecordingResult


def write_report(copies: Iterable[Any]) -> None:
    copies = list(copies)
    report: dict[str, Any] = {"outcomes": OUTCOMES, "unequal": [words for copy in copies for words in copy.unequal]}
    for count in ("entries", "rows", "comparisons"):
        report[count] = sum(getattr(copy, count) for copy in copies)
    with open(os.environ["SUITE_RESULT"], "w") as file:
        json.dump(report, file)
