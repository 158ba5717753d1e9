"""Fixtures of the batteries' tests."""

from tests.contrib.locks import lock_node, one_lock_node

__all__ = ["lock_node", "one_lock_node"]
