"""The commands of a torture run: each writes its unique reference into the ledger, whatever else it does."""

from __future__ import annotations

import json
from typing import Any

from raftlog import command
from raftlog.testing.models import map_step
from raftlog.testing.torture.records import frozen
from raftlog.testing.torture_site.models import Claim, Entry, Note, Pair


class Withdrawn(Exception):
    """What `withdraw` always ends with."""


@command
def change(ctx: Any, *, reference: str, action: str, key: str, argument: str = "null", padding: bytes = b"") -> Any:
    """One action of raftlog.testing.models.KeyValueMap on one key. `argument` is JSON; `padding` only takes room."""
    pair = Pair.objects.filter(pk=key).first()
    before = frozen(json.loads(pair.value)) if pair is not None else None
    answer, after = map_step(before, action, frozen(json.loads(argument)))
    if after is not before:
        Pair.objects.update_or_create(pk=key, defaults={"value": json.dumps(after)})
    Entry.objects.create(reference=reference, index=ctx.index)
    return answer


@command
def claim(ctx: Any, *, reference: str, key: str) -> bool:
    """True for the first; IntegrityError for all others."""
    Claim.objects.create(pk=key, reference=reference)
    Entry.objects.create(reference=reference, index=ctx.index)
    return True


@command
def note(ctx: Any, *, reference: str, key: str) -> bool:
    """True where the pair exists, and IntegrityError where not: by the foreign key alone, nothing here looks."""
    Note.objects.create(index=ctx.index, pair_id=key)
    Entry.objects.create(reference=reference, index=ctx.index)
    return True


@command(raises=[Withdrawn])
def withdraw(ctx: Any, *, reference: str, key: str) -> None:
    """Changes a pair and the ledger, then raises: nothing of it may stay, on any node."""
    Pair.objects.update_or_create(pk=key, defaults={"value": json.dumps(reference)})
    Entry.objects.create(reference=reference, index=ctx.index)
    raise Withdrawn(reference)
