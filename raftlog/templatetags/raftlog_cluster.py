"""`{% load raftlog_cluster %}`."""

from __future__ import annotations

from typing import Any

from django import template
from django.template.defaultfilters import filesizeformat

from raftlog.observing import view

register = template.Library()


@register.filter
def humanize_none(value: Any) -> str:
    """A number with its thousands set apart; a dash where there is none."""
    if value is None:
        return "–"
    return f"{value:,}" if isinstance(value, int) else str(value)


@register.filter
def size_or_dash(value: Any) -> str:
    """A number of bytes for people; a dash where it is not known (what a template finds nothing for is "")."""
    return "–" if value in (None, "") else filesizeformat(value)


@register.filter
def role_word(role: Any) -> str:
    return view.role_word(role)


@register.filter
def milliseconds(value: Any) -> str | None:
    return view.milliseconds(value or None)


@register.filter
def image_of(row: dict[str, Any]) -> dict[str, Any] | None:
    return view.image_of(row)
