"""Databases with the warehouse's tables."""

from tests.replication.conftest import replicated_sqlite  # noqa: F401
