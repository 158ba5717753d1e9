"""Counters that never conflict: `counters.add("views")`, gathered in each process. See docs/howto/counters.md.

Public names are loaded at first use, since models cannot be imported before the apps are ready.
"""

from __future__ import annotations

import importlib
from typing import Any

_PUBLIC = {
    **dict.fromkeys(("add", "value", "values", "top", "reset", "flush"), "api"),
    "add_in_command": "commands",
}

__all__ = sorted(_PUBLIC)  # noqa: PLE0605


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(importlib.import_module(f"{__name__}.{_PUBLIC[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
