"""What a record about one of Raft's events carries (log_fields.py)."""

from __future__ import annotations

import re
from dataclasses import fields
from typing import Any, Final

from raftlog.consensus.events import Event
from raftlog.log_fields import PREFIX, log_fields

# Attribute of an event -> field of the record. Of several that go to one field the first counts.
FIELD_OF: Final = {
    "term": "term",
    "leader_id": "peer",
    "candidate_id": "peer",
    "to": "peer",
    "peer": "peer",
    "node_id": "peer",
    "servers": "peer",
    "reason": "reason",
    "reasons": "reason",
    "why": "reason",
    "index": "index",
    "last_log_index": "index",
    "barrier": "index",
    "next_index": "index",
    "first_index": "index",
    "minimum_index": "index",
}


def name_of(event: type[Event]) -> str:
    """`BecameLeader` is "became_leader"."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", event.__name__).lower()


def event_fields(node_id: str, event: Event) -> dict[str, object]:
    """For `extra=`. What an event leaves empty, its record leaves out. Any thread."""
    found: dict[str, Any] = log_fields(name_of(type(event)), node=node_id)
    for attribute in fields(event):
        name, value = FIELD_OF.get(attribute.name), getattr(event, attribute.name)
        if name is not None and value:
            found.setdefault(f"{PREFIX}{name}", "; ".join(value) if isinstance(value, tuple) else value)
    return found
