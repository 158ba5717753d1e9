"""`{% load raftlog_cluster %}`."""

from __future__ import annotations

from typing import Any

from django import template

register = template.Library()


@register.filter
def humanize_none(value: Any) -> str:
    """A number with its thousands set apart; a dash where there is none."""
    if value is None:
        return "–"
    return f"{value:,}" if isinstance(value, int) else str(value)
