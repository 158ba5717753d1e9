"""Rate limits that hold for the whole cluster: docs/howto/ratelimit.md.

    @ratelimit("10/m", key="ip")
    def sign_in(request): ...

Public names are loaded on first use, since models cannot be imported before Django's apps are ready.
"""

from __future__ import annotations

import importlib
from typing import Any

_PUBLIC = {
    **dict.fromkeys(("Limit", "acheck", "check"), "api"),
    "ratelimit": "decorator",
}

__all__ = sorted(_PUBLIC)  # noqa: PLE0605


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(importlib.import_module(f"{__name__}.{_PUBLIC[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
