"""Suites that pytest runs: python -m pytest -p suite_child.pytest_plugin …"""

from __future__ import annotations

import functools

import pytest
from django.conf import LazySettings

from suite_child import committing, environment, outcomes

committing.prepare()
_configure = LazySettings.configure


@functools.wraps(_configure)
def configure(self, *args, **options):
    """A suite whose conftest makes its settings gets our databases in them."""
    aliases = options.get("DATABASES", {"default": {}})
    _configure(self, *args, **{**options, "DATABASES": environment.databases(*aliases), "RAFTLOG": environment.RAFTLOG})


LazySettings.configure = configure


@pytest.fixture(scope="session", autouse=True)
def threads_may_use_the_database(django_db_blocker):
    """The nodes' threads apply while no test runs, too; pytest-django would refuse them their connections."""
    with django_db_blocker.unblock():
        yield


def pytest_runtest_logreport(report):
    if report.failed:
        outcomes.OUTCOMES[report.nodeid] = f"failed: {report.longreprtext[-outcomes.LONGEST :]}"
    elif report.skipped:
        outcomes.OUTCOMES.setdefault(report.nodeid, "skipped")
    elif report.when == "call":
        outcomes.OUTCOMES.setdefault(report.nodeid, "passed")


def pytest_sessionfinish():
    outcomes.write_report(committing.COPIES.values())
