"""The locks as this host's database has them: for lists, for waiters that look, and for protected resources."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

from django.apps import apps
from django.core.exceptions import ImproperlyConfigured
from django.db import connections, router, transaction

import raftlog
from raftlog.contrib.locks.exceptions import LockError, StaleToken


class Row(NamedTuple):
    """A holder or a waiter. `expires_at`: by the lock clock; `ttl` is microseconds, `renewed` an index of the log;
    `number`: the token of a holder, the ticket of a waiter."""

    owner: str
    label: str
    expires_at: int
    ttl: int
    renewed: int
    number: int


def require_app() -> None:
    """Raises ImproperlyConfigured."""
    if not apps.is_installed("raftlog.contrib.locks"):
        raise ImproperlyConfigured(
            "locks are an app of their own: add 'raftlog.contrib.locks' to INSTALLED_APPS, and run `manage.py migrate`"
        )


def require_tables() -> None:
    """Raises ImproperlyConfigured, LockError. A command without its tables would make every node stand still."""
    require_app()
    if not _has_tables(_alias()):
        raise LockError(
            "the tables of locks are missing in this host's database: run `manage.py migrate raftlog_locks`"
        )


def _alias() -> str:
    from raftlog.contrib.locks.models import Done

    return str(router.db_for_write(Done))


class _Missing(Exception):
    """Not to be remembered."""


def _has_tables(alias: str) -> bool:
    try:
        return _remembered(alias, str(connections[alias].settings_dict["NAME"]))
    except _Missing:
        return False


@functools.lru_cache(maxsize=16)
def _remembered(alias: str, name: str) -> bool:
    from raftlog.contrib.locks.models import Done

    if Done._meta.db_table not in connections[alias].introspection.table_names():
        raise _Missing
    return True


def read(name: str) -> tuple[list[Row], list[Row]]:
    """Holders and waiters of a lock, the latter in their order. Two short local reads."""
    from raftlog.contrib.locks.models import Holder, Waiter

    fields = Row._fields[:-1]
    holders = Holder.objects.filter(name=name).order_by("token").values_list(*fields, "token")
    waiters = Waiter.objects.filter(name=name).order_by("ticket").values_list(*fields, "ticket")
    return [Row(*row) for row in holders], [Row(*row) for row in waiters]


def listing() -> list[dict[str, Any]]:
    """Every holder and waiter that this host knows of: holders first, then waiters, each in their order.

    `expires_in` is in seconds, counted from the last command of a lock: the lock clock stands still between them.
    """
    from raftlog.contrib.locks.models import Holder, LockClock, Waiter

    require_tables()
    clock = LockClock.objects.filter(pk=1).first()
    now = clock.elapsed if clock else 0
    found = []
    for model, number in ((Holder, "token"), (Waiter, "ticket")):
        for row in model.objects.order_by("name", number):
            found.append(
                {
                    "name": row.name,
                    "state": "holds" if model is Holder else "waits",
                    number: row.pk,
                    "who": row.label,
                    "since": row.since.isoformat(),
                    "expires_in": (row.expires_at - now) / 1e6,
                }
            )
    return sorted(found, key=lambda each: each["name"])


def force_release(name: str, token: int = 0) -> int:
    """Take a lock away from whoever holds it. Returns how many did.

    The holder learns it at its next renewal only (within a third of its ttl): until then two may hold. For
    operators who know that the holder is gone, or have stopped it.
    """
    from raftlog.contrib.locks.commands import force_release as command

    require_tables()
    return int(command.propose(name=name, token=token))


def guard(resource: str, token: int) -> None:
    """Note that `token` is at `resource`; refuse it where a newer one has been there.

    Call it in the transaction, or the command, that changes the resource: then the check and the change
    stand or fall together, on every node. It is a row of the transaction like any other, so two who pass it at the
    same time conflict.

    Raises:
        StaleToken: a newer token has been here. Let it roll the transaction back.
        LockError: called where nothing is rolled back: outside atomic(), and in no command.
    """
    from raftlog.contrib.locks.models import NAME_LENGTH, NewestToken

    if len(resource) > NAME_LENGTH:
        raise ValueError(f"resource has {len(resource)} characters; the limit is {NAME_LENGTH}")
    alias = _alias()
    if not raftlog.is_applying() and not transaction.get_connection(alias).in_atomic_block:
        raise LockError(
            f"guard({resource!r}, …) is called outside a transaction: put it into the atomic() block on DATABASES"
            f"[{alias!r}] that changes the resource, or a change could come after a newer holder's"
        )
    newest = NewestToken.objects.select_for_update().filter(resource=resource).first()
    if newest is None:
        NewestToken.objects.create(resource=resource, token=token)
    elif newest.token > token:
        raise StaleToken(f"{resource}: token {token} comes after token {newest.token}, of a later holder of the lock")
    elif newest.token < token:
        NewestToken.objects.filter(resource=resource).update(token=token)
