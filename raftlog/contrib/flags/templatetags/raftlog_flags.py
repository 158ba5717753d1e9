"""`{% load raftlog_flags %}{% flag "new_checkout" user.pk as new_checkout %}{% if new_checkout %}…{% endif %}`."""

from __future__ import annotations

from typing import Any

from django import template

from raftlog.contrib.flags import declared, memory

register = template.Library()


@register.simple_tag
def flag(name: str, unit: Any = None) -> Any:
    """A flag's value; of a flag of type bool, whether it is on for `unit`. Raises UnknownFlag."""
    if declared.definition(name).kind == "bool":
        return memory.enabled(name, unit)
    return memory.get(name)
