"""Feature flags and settings, read at memory speed, changed everywhere at once. See docs/howto/flags.md.

    flags.define("new_checkout", default=False, help="the checkout in one page")  # shop/flags.py, found at start-up
    if flags.enabled("new_checkout", request.user.pk): …

Public names are loaded at first use, since models cannot be imported before the apps are ready.
"""

from __future__ import annotations

import importlib
from typing import Any

_PUBLIC = {
    **dict.fromkeys(("define", "Definition", "UnknownFlag", "definitions"), "declared"),
    **dict.fromkeys(("get", "enabled", "override", "on_change", "watch", "read_in_command"), "memory"),
    **dict.fromkeys(("set", "unset", "history"), "writing"),
}

__all__ = sorted(_PUBLIC)  # noqa: PLE0605


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        value = globals()[name] = getattr(importlib.import_module(f"{__name__}.{_PUBLIC[name]}"), name)
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
