"""Commands of the simulation: they break deferred references, unique values and their own promises now and then."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from raftlog.replication.context import CommandContext
from raftlog.replication.registry import Command, Registry


class Database:
    """Where the command that runs now finds its rows. Set by whoever runs it."""

    execute: Callable[..., list[Any]]


database: Final = Database()


class Refusal(Exception):
    """Declared by the command that raises it."""


def bump(ctx: CommandContext, *, row: int, token: str) -> int:
    rows = database.execute("UPDATE counter SET n = n + 1, chain = chain || %s WHERE id = %s RETURNING n", token, row)
    return int(rows[0][0]) if rows else -1


def open_account(ctx: CommandContext, *, name: str) -> int:
    """The key is the counter's next."""
    rows = database.execute("INSERT INTO account (name, n) VALUES (%s, %s) RETURNING id", name, ctx.random.randrange(9))
    return int(rows[0][0])


def add_account(ctx: CommandContext, *, key: int, name: str | None) -> None:
    database.execute("INSERT INTO account (id, name, n) VALUES (%s, %s, 0)", key, name)


def close_account(ctx: CommandContext, *, key: int) -> None:
    """Items may refer to it: the deferred reference dangles."""
    database.execute("DELETE FROM account WHERE id = %s", key)


def add_item(ctx: CommandContext, *, key: int, account: int) -> None:
    """The account may be missing: the deferred reference dangles."""
    database.execute("INSERT INTO item (id, account_id, v) VALUES (%s, %s, %s)", key, account, str(ctx.index))


def move_item(ctx: CommandContext, *, key: int, account: int | None) -> None:
    database.execute("UPDATE item SET account_id = %s WHERE id = %s", account, key)


def rename(ctx: CommandContext, *, before: str, after: str) -> None:
    database.execute("UPDATE account SET name = %s WHERE name = %s", after, before)


def refuse(ctx: CommandContext, *, row: int) -> None:
    database.execute("UPDATE counter SET n = n - 100 WHERE id = %s", row)
    raise Refusal("as always")


def make_registry() -> Registry:
    registry = Registry()
    for function in (bump, open_account, add_account, close_account, add_item, move_item, rename, refuse):
        registry.add(Command(function, name=function.__name__, raises=[Refusal]))
    return registry


REGISTRY: Final = make_registry()
