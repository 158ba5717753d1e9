"""Simulated hosts have databases of their own, beside the one that pytest-django guards."""

import pytest


@pytest.fixture(autouse=True)
def _simulated_databases(django_db_blocker):
    with django_db_blocker.unblock():
        yield
