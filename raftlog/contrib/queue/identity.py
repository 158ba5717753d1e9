"""Ids of tasks: version 7 UUIDs, which begin with the time, so that their order is that of enqueueing."""

from __future__ import annotations

import secrets
import uuid
from datetime import datetime
from typing import Any

from django.utils import timezone


def new_id() -> tuple[uuid.UUID, datetime]:
    """Of a task that is enqueued outside a command, and when that was."""
    now = timezone.now()
    return uuid7(int(now.timestamp() * 1000), secrets.randbits(74)), now


def id_in_command(ctx: Any) -> tuple[uuid.UUID, datetime]:
    """Of a task that a command enqueues: the same on every node."""
    return uuid7(ctx.log_time // 1000, ctx.random.getrandbits(74)), ctx.now


def uuid7(milliseconds: int, chance: int) -> uuid.UUID:
    """RFC 9562, section 5.7: 48 bits of time, then 74 of chance."""
    high, low = chance >> 62, chance & (1 << 62) - 1
    return uuid.UUID(int=(milliseconds & (1 << 48) - 1) << 80 | 7 << 76 | high << 64 | 2 << 62 | low)
