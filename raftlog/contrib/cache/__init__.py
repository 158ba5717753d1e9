"""A cache backend of Django's whose entries are replicated: docs/howto/cache.md.

    CACHES = {"default": {"BACKEND": "raftlog.contrib.cache.RaftlogCache"}}

Public names are loaded on first use, since models cannot be imported before Django's apps are ready.
"""

from __future__ import annotations

import importlib
from typing import Any

_PUBLIC = {
    "RaftlogCache": "raftlog.contrib.cache.backend",
    "delete_in_command": "raftlog.contrib.cache.backend",
}

__all__ = sorted(_PUBLIC)  # noqa: PLE0605


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from django.apps import apps
    from django.core.exceptions import ImproperlyConfigured

    if not apps.is_installed(__name__):
        raise ImproperlyConfigured(f"{__name__}.{name}: add {__name__!r} to INSTALLED_APPS and run `migrate`")
    return getattr(importlib.import_module(_PUBLIC[name]), name)
