"""The statements of the simulation's applications, on few rows, so that they meet."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any, Final

from raftlog.testing.sql.program import Program

Step = Callable[[Program], None]

SCHEMA: Final = (
    "CREATE TABLE account (id integer PRIMARY KEY AUTOINCREMENT, name varchar(20) UNIQUE, n integer NOT NULL)",
    "CREATE TABLE item (id integer PRIMARY KEY AUTOINCREMENT,"
    " account_id integer REFERENCES account (id) DEFERRABLE INITIALLY DEFERRED, v text)",
    "CREATE INDEX item_account ON item (account_id)",
    "CREATE TABLE folder (id integer PRIMARY KEY, name text)",
    "CREATE TABLE leaf (id integer PRIMARY KEY, folder_id integer REFERENCES folder (id) ON DELETE CASCADE, v)",
    "CREATE TABLE pair (x integer, y text, v, PRIMARY KEY (x, y)) WITHOUT ROWID",
    "CREATE TABLE counter (id integer PRIMARY KEY, n integer NOT NULL, chain text NOT NULL)",
    "CREATE TABLE plain (a, b)",
    "INSERT INTO counter VALUES (1, 0, ''), (2, 0, ''), (3, 0, '')",
)
# As the migration of raftlog.models.IdempotencyKey makes it.
KEYS_TABLE: Final = (
    "CREATE TABLE raftlog_idempotencykey (id varchar(32) NOT NULL PRIMARY KEY, scope varchar(200) NOT NULL,"
    " key varchar(200) NOT NULL, digest BLOB NOT NULL, entry_index bigint NOT NULL, log_time bigint NOT NULL,"
    " result BLOB NOT NULL)"
)
NAMES: Final = ("ada", "bob", "cyd", "dan", "eve")
# Keys that people name by hand: far above those of the counter.
NAMED_KEYS: Final = (1_000_001, 1_000_002, 1_000_003)
VALUES: Final = (
    None,
    0,
    -1,
    2**63 - 1,
    -(2**63),
    1.5,
    float("nan"),
    float("inf"),
    -0.0,
    "",
    "text",
    b"",
    b"\x00" * 300,
)


def row(t: Program) -> int:
    return t.rng.randrange(1, 4)


def name(t: Program) -> str:
    return t.rng.choice(NAMES)


def named_key(t: Program) -> int:
    return t.rng.choice(NAMED_KEYS)


def value(t: Program) -> Any:
    return t.rng.choice(VALUES)


# Counters: every applied change is seen in the chain


def increment(t: Program) -> None:
    t.execute("UPDATE counter SET n = n + 1, chain = chain || %s WHERE id = %s", t.token(), row(t))


def read_then_write(t: Program) -> None:
    key = row(t)
    found = t.execute("SELECT n, chain FROM counter WHERE id = %s", key)
    t.pause(0.5)
    for n, chain in found:
        t.execute("UPDATE counter SET n = %s, chain = %s WHERE id = %s", n + 1, chain + t.token(), key)


def sum_then_write(t: Program) -> None:
    """A predicate read: rows that others add count too."""
    (found,) = t.execute("SELECT count(*), coalesce(sum(n), 0) FROM account WHERE n >= %s", t.rng.randrange(3))
    t.pause(0.5)
    t.execute("UPDATE counter SET chain = chain || %s WHERE id = %s", f"{found[0]}/{found[1]} ", row(t))


# Accounts: unique names, automatic keys


def add_account(t: Program) -> None:
    key = t.automatic_key("account")
    t.execute("INSERT INTO account (id, name, n) VALUES (%s, %s, %s)", key, name(t), t.rng.randrange(9))


def upsert_account(t: Program) -> None:
    key = t.automatic_key("account")
    sql = "INSERT INTO account (id, name, n) VALUES (%s, %s, 1) ON CONFLICT (name) DO "
    sql += t.rng.choice(("UPDATE SET n = n + 1", "NOTHING"))
    t.execute(sql, key, name(t))


def name_account_by_hand(t: Program) -> None:
    t.execute("INSERT INTO account (id, name, n) VALUES (%s, NULL, 0)", named_key(t))


def transfer(t: Program) -> None:
    source, target = t.rng.sample(NAMES, 2)
    found = t.execute("SELECT n FROM account WHERE name = %s", source)
    t.pause(0.3)
    if found and found[0][0] > 0:
        t.execute("UPDATE account SET n = n - 1 WHERE name = %s", source)
        t.execute("UPDATE account SET n = n + 1 WHERE name = %s", target)


def swap_names(t: Program) -> None:
    """Two unique values change places, by way of NULL."""
    one, other = t.rng.sample(NAMES, 2)
    found = t.execute("SELECT id FROM account WHERE name = %s", one)
    if found:
        t.execute("UPDATE account SET name = NULL WHERE id = %s", found[0][0])
        t.execute("UPDATE account SET name = %s WHERE name = %s", one, other)
        t.execute("UPDATE account SET name = %s WHERE id = %s", other, found[0][0])


def delete_account(t: Program) -> None:
    """Its items may be left without it: the reference is deferred."""
    t.execute("DELETE FROM account WHERE name = %s", name(t))


def bump_all(t: Program) -> None:
    t.execute("UPDATE account SET n = n + 1 WHERE n < %s RETURNING id, n", t.rng.randrange(9))


# Items: deferred references


def add_item(t: Program) -> None:
    found = t.execute("SELECT id FROM account ORDER BY id")
    if found:
        key = t.automatic_key("item")
        account = t.rng.choice(found)[0]
        t.execute("INSERT INTO item (id, account_id, v) VALUES (%s, %s, %s)", key, account, t.token())


def add_item_before_its_account(t: Program) -> None:
    """Now and then nobody adds the account."""
    account = named_key(t)
    t.execute("INSERT INTO item (id, account_id, v) VALUES (%s, %s, 'early')", t.automatic_key("item"), account)
    if t.rng.random() < 0.7:
        t.execute("INSERT INTO account (id, name, n) VALUES (%s, NULL, 1) ON CONFLICT DO NOTHING", account)


def move_items(t: Program) -> None:
    t.execute("UPDATE item SET account_id = (SELECT max(id) FROM account) WHERE id %% 3 = %s", t.rng.randrange(3))


def delete_items(t: Program) -> None:
    t.execute("DELETE FROM item WHERE account_id IN (SELECT id FROM account WHERE name = %s)", name(t))


# Folders: immediate references, with actions


def add_folder(t: Program) -> None:
    key = t.rng.randrange(1, 7)
    t.execute("INSERT OR IGNORE INTO folder (id, name) VALUES (%s, %s)", key, f"f{key}")


def add_leaf(t: Program) -> None:
    key, folder = t.rng.randrange(1, 40), t.rng.randrange(1, 7)
    t.execute("INSERT INTO leaf (id, folder_id, v) VALUES (%s, %s, %s)", key, folder, value(t))


def delete_folder(t: Program) -> None:
    t.execute("DELETE FROM folder WHERE id = %s", t.rng.randrange(1, 7))


def delete_all_leaves(t: Program) -> None:
    t.execute("DELETE FROM leaf")


# Pairs: a composite key, no rowid


def replace_pair(t: Program) -> None:
    t.execute("REPLACE INTO pair (x, y, v) VALUES (%s, %s, %s)", row(t), t.rng.choice("abc"), value(t))


def move_pairs(t: Program) -> None:
    t.execute("UPDATE pair SET x = x + 1 WHERE y = %s AND x < 5", t.rng.choice("abc"))


def delete_pair(t: Program) -> None:
    t.execute("DELETE FROM pair WHERE x = %s AND y = %s RETURNING v", row(t), t.rng.choice("abc"))


# A table without a key, of whatever values, which is renamed now and then


def add_plain(t: Program) -> None:
    t.execute(f"INSERT INTO {t.client.plain} (a, b) VALUES (%s, %s), (%s, 1)", value(t), value(t), t.token())


def copy_pairs(t: Program) -> None:
    t.execute(f"INSERT INTO {t.client.plain} (a, b) SELECT y, v FROM pair ORDER BY x, y LIMIT 3")


def update_plain(t: Program) -> None:
    t.execute(f"UPDATE {t.client.plain} SET b = %s WHERE a IS %s", value(t), value(t))


def delete_plain(t: Program) -> None:
    t.execute(f"DELETE FROM {t.client.plain} WHERE a IS %s", value(t))


# Reads


def read_all(t: Program) -> None:
    table = t.rng.choice(("account", "item", "leaf", "pair", "counter"))
    t.execute(f"SELECT * FROM {table} ORDER BY 1, 2")


def read_joined(t: Program) -> None:
    t.execute(
        "SELECT name, count(item.id) FROM account LEFT JOIN item ON account_id = account.id GROUP BY 1 ORDER BY 1"
    )


def in_savepoint(t: Program) -> None:
    t.savepoint(some_steps(t.rng, 2))


STEPS: Final[tuple[tuple[Step, int], ...]] = (
    (increment, 6),
    (read_then_write, 6),
    (sum_then_write, 3),
    (add_account, 5),
    (upsert_account, 4),
    (name_account_by_hand, 2),
    (transfer, 4),
    (swap_names, 3),
    (delete_account, 2),
    (bump_all, 1),
    (add_item, 4),
    (add_item_before_its_account, 3),
    (move_items, 1),
    (delete_items, 2),
    (add_folder, 3),
    (add_leaf, 4),
    (delete_folder, 2),
    (delete_all_leaves, 1),
    (replace_pair, 4),
    (move_pairs, 2),
    (delete_pair, 2),
    (add_plain, 3),
    (copy_pairs, 1),
    (update_plain, 2),
    (delete_plain, 1),
    (read_all, 3),
    (read_joined, 2),
    (in_savepoint, 7),
)
# Single statements, run again by themselves while they conflict.
ALONE: Final = (increment, bump_all, replace_pair, move_pairs, delete_folder, add_folder, delete_items, move_items)
_FUNCTIONS: Final = [step for step, _ in STEPS]
_WEIGHTS: Final = [weight for _, weight in STEPS]


def some_steps(rng: random.Random, most: int) -> list[Step]:
    return rng.choices(_FUNCTIONS, _WEIGHTS, k=rng.randrange(1, most + 1))


# Schema


def add_column(t: Program) -> None:
    table, number = t.rng.choice(("account", "pair", "folder")), t.rng.randrange(4)
    t.execute(f"ALTER TABLE {table} ADD COLUMN extra{number} integer DEFAULT {t.rng.randrange(9)}")


def migrate_data(t: Program) -> None:
    """As a data migration: a column, and a value in each row of it."""
    number = t.rng.randrange(4)
    t.execute(f"ALTER TABLE account ADD COLUMN extra{number} integer")
    t.execute(f"UPDATE account SET extra{number} = n * 2")
    t.execute("UPDATE counter SET chain = chain || %s WHERE id = %s", t.token(), row(t))


def rename_column(t: Program) -> None:
    one, other = t.rng.sample(range(4), 2)
    t.execute(f"ALTER TABLE pair RENAME COLUMN extra{one} TO extra{other}")


def make_index(t: Program) -> None:
    unique = t.rng.choice(("", "", "UNIQUE "))
    column = t.rng.choice(("name", "name, id", "id"))
    t.execute(f"CREATE {unique}INDEX folder_index{t.rng.randrange(2)} ON folder ({column})")


def drop_index(t: Program) -> None:
    t.execute(f"DROP INDEX folder_index{t.rng.randrange(2)}")


def rename_table(t: Program) -> None:
    other = "plain" if t.client.plain == "simple" else "simple"
    t.execute(f"ALTER TABLE {t.client.plain} RENAME TO {other}")


def drop_and_make(t: Program) -> None:
    t.execute("DROP TABLE leaf")
    t.execute(SCHEMA[4].replace("CASCADE", t.rng.choice(("CASCADE", "SET NULL"))))


def remake_folder(t: Program) -> None:
    """As Django's schema editor does what SQLite cannot alter: a new table, a copy, and the old one's name."""
    t.replay('CREATE TABLE "new__folder" ("id" integer PRIMARY KEY, "name" text, "size" integer)')
    t.replay('INSERT INTO "new__folder" ("id", "name", "size") SELECT "id", "name", length("name") FROM "folder"')
    t.replay('DROP TABLE "folder"')
    t.replay('ALTER TABLE "new__folder" RENAME TO "folder"')


SCHEMA_STEPS: Final = (add_column, migrate_data, rename_column, make_index, drop_index, rename_table, drop_and_make)


def make_schema(t: Program) -> None:
    for statement in SCHEMA:
        t.execute(statement)
    if t.client.workload.keys.share:
        t.execute(KEYS_TABLE)
