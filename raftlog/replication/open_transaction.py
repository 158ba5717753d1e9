"""Does this thread have a transaction open that its own code began?"""

from __future__ import annotations

from django.db.backends.base.base import BaseDatabaseWrapper


def is_inside_transaction(connection: BaseDatabaseWrapper) -> bool:
    """Whether an atomic() is open that is not the one which Django's TestCase puts around each test."""
    if not connection.in_atomic_block:
        return False
    blocks = connection.atomic_blocks
    return not blocks or not all(block._from_testcase for block in blocks)  # type: ignore[attr-defined]
