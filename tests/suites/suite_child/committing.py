"""Every TestCase commits for real, and each test database that is made gets its log and its copies.

A TestCase's data is made before each test and flushed after it, as a TransactionTestCase's, instead of rolled back;
the flush goes through the log like any other write.
"""

from __future__ import annotations

import functools
from typing import Any

from django import test as django_test
from django.db.backends.base.creation import BaseDatabaseCreation
from django.test import testcases

from suite_child import environment
from suite_child.inline import InlineCopies

# The copies of each test database of our engine, by alias.
COPIES: dict[str, Any] = {}


def commit_for_real() -> None:
    """On any backend."""
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
        for copies in COPIES.values():
            copies.compare(self.id())
        flush(self)

    case.setUpClass = classmethod(set_up_class)
    case.tearDownClass = classmethod(tear_down_class)
    case._fixture_setup = classmethod(fixture_setup)
    case._fixture_teardown = base._fixture_teardown = fixture_teardown
    case._should_reload_connections = lambda self: False
    assert django_test.TestCase is case


def give_copies() -> None:
    """To each test database, from when it is made until it is destroyed."""
    create, destroy = BaseDatabaseCreation.create_test_db, BaseDatabaseCreation.destroy_test_db

    @functools.wraps(create)
    def create_test_db(self, *args, **kwargs):
        alias = self.connection.alias
        if alias not in COPIES:
            COPIES[alias] = kind_of_copies(alias)(alias)
        return create(self, *args, **kwargs)

    @functools.wraps(destroy)
    def destroy_test_db(self, *args, **kwargs):
        if self.connection.alias in COPIES:
            COPIES[self.connection.alias].close()
        destroy(self, *args, **kwargs)

    BaseDatabaseCreation.create_test_db = create_test_db
    BaseDatabaseCreation.destroy_test_db = destroy_test_db


def kind_of_copies(alias: str) -> type:
    """A cluster replicates one alias; a project's others are applied inline here."""
    if alias != "default" or environment.LOG == "inline":
        return InlineCopies
    from suite_child.nodes import NodeCopies, ProcessCopies  # imports models: not before the apps are loaded

    return NodeCopies if environment.LOG == "nodes" else ProcessCopies


def prepare() -> None:
    commit_for_real()
    if environment.ENGINE == "raftlog":
        give_copies()
