"""The rows of a torture run's transactions, as they are at first, and how the checker names their versions."""

from __future__ import annotations

from typing import Final

ACCOUNTS: Final = 12
BALANCE: Final = 100  # of each, at first
PAIRS: Final = 6
JOINT_BALANCE: Final = 50  # of each of the two of a pair, at first
PLACES: Final = 4  # that can be booked in a slot


def version_of(reference: str, balance: int, at_first: int) -> str | None:
    """The value of an account or joint account for the checker; None: as it was at first."""
    return None if not reference and balance == at_first else f"{reference}:{balance}"
