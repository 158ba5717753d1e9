"""Gapless numbers: an invoice has number n if and only if its transaction committed. See docs/howto/sequences.md.

    with transaction.atomic():
        Invoice.objects.create(number=sequences.next_number("invoice"), …)

Public names are loaded at first use, since models cannot be imported before the apps are ready.
"""

from __future__ import annotations

import importlib
from typing import Any

_PUBLIC = {
    **dict.fromkeys(("next_number", "next_label", "draw", "draw_label", "last_number", "reset"), "api"),
    **dict.fromkeys(("SequenceNumberField", "SequenceLabelField"), "fields"),
}

__all__ = sorted(_PUBLIC)  # noqa: PLE0605


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(importlib.import_module(f"{__name__}.{_PUBLIC[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
