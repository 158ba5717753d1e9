"""Reads by the value of an indexed column are certified by that value, found or not (rule 10, refined)."""

from contextlib import ExitStack

import pytest
from django.contrib.auth.models import Group, Permission, User
from django.contrib.contenttypes.models import ContentType
from django.db import transaction

from raftlog.backends.exceptions import TransactionConflict
from raftlog.backends.sqlite3.observed import _keys_of
from raftlog.backends.sqlite3.statements import describe
from raftlog.replication.certify import MAX_MARKED_IMAGES
from raftlog.replication.shapes import MANY_VALUES, Schema
from tests.backends.cluster import Cluster

TABLES = (
    'CREATE TABLE "user" (id integer PRIMARY KEY, "username" varchar(150) NOT NULL UNIQUE, "age" integer, '
    '"mail" varchar(9) COLLATE NOCASE UNIQUE, "team_id" bigint)',
    'CREATE INDEX "user_team" ON "user" ("team_id")',
    'CREATE TABLE "person" (id integer PRIMARY KEY, "name" varchar(150) NOT NULL UNIQUE, "team_id" bigint, '
    '"score" real UNIQUE, "age" integer)',
    'CREATE INDEX "person_team" ON "person" ("team_id", "age")',
    'CREATE INDEX "person_old" ON "person" ("age") WHERE "age" > 60',
)
INSERT = 'INSERT INTO "person" ("id", "name", "team_id", "age") VALUES (%s, %s, %s, %s)'
BY_NAME = 'SELECT "person"."id" FROM "person" WHERE "person"."name" = %s LIMIT 21'
BY_TEAM = 'SELECT "person"."id", "person"."age" FROM "person" WHERE "person"."team_id" = %s ORDER BY "person"."id" ASC'


@pytest.fixture
def hosts(tmp_path, django_db_blocker):
    with django_db_blocker.unblock():
        cluster = Cluster(tmp_path, 2)
        try:
            first = cluster.hosts[0]
            for statement in TABLES:
                first.run(statement)
            for number, name, team in ((1, "ann", 7), (2, "bob", 8)):
                first.run(INSERT, number, name, team, 30)
            for host in cluster.hosts:
                host.catch_up()
                host.connection.ensure_connection()
            yield cluster.hosts
            cluster.assert_equal()
        finally:
            cluster.close()


def commits_after(hosts, read, write, other):
    """T1 on one host reads, and writes something else; meanwhile T2 on the other host commits. Does T1 commit?"""
    one, two = hosts
    one.run("BEGIN")
    one.run(*read)
    two.run(*other)
    try:
        one.run(*write)
        one.connection.commit()
    except TransactionConflict:
        one.connection.rollback()
        return False
    return True


NEW = (INSERT, 50, "zoe", 50, 1)


@pytest.mark.parametrize(
    ("read", "other", "commits"),
    [
        # found or not: a writer of another value does not matter
        ((BY_NAME, "carl"), (INSERT, 3, "dora", 9, 1), True),
        ((BY_NAME, "ann"), (INSERT, 3, "dora", 9, 1), True),
        ((BY_TEAM, 7), (INSERT, 3, "dora", 9, 1), True),
        ((BY_TEAM, 7), ("DELETE FROM person WHERE id = %s", 2), True),
        # phantoms: a row that appears, moves in, moves out, goes, or changes
        ((BY_NAME, "carl"), (INSERT, 3, "carl", 9, 1), False),
        ((BY_NAME, "carl"), ("UPDATE person SET name = 'carl' WHERE id = %s", 2), False),
        ((BY_NAME, "ann"), ("UPDATE person SET name = 'carl' WHERE id = %s", 1), False),
        ((BY_NAME, "ann"), ("UPDATE person SET age = 31 WHERE id = %s", 1), False),
        ((BY_NAME, "ann"), ("DELETE FROM person WHERE id = %s", 1), False),
        ((BY_TEAM, 7), (INSERT, 3, "carl", 7, 1), False),
        ((BY_TEAM, 7), ("UPDATE person SET team_id = 7 WHERE id = %s", 2), False),
        ((BY_TEAM, 9), ("UPDATE person SET team_id = 9 WHERE id = %s", 2), False),
        ((BY_TEAM, 7), ("UPDATE person SET team_id = NULL WHERE id = %s", 1), False),
        # an index makes the other statement's table another
        ((BY_TEAM, 7), ("DROP INDEX person_team",), False),
    ],
)
def test_who_looked_for_a_value_conflicts_with_who_wrote_it(hosts, read, other, commits):
    assert commits_after(hosts, read, NEW, other) is commits


def test_an_entry_of_many_rows_marks_all_values(hosts):
    one, two = hosts
    one.run("BEGIN")
    one.run(BY_NAME, "nobody")
    rows = [(number, f"name {number}", number, 1) for number in range(100, 101 + MAX_MARKED_IMAGES)]
    with two.connection.cursor() as cursor:
        cursor.executemany(INSERT, rows)
    one.run(*NEW)
    with pytest.raises(TransactionConflict):
        one.connection.commit()
    one.connection.rollback()
    assert commits_after(hosts, (BY_NAME, "nobody"), NEW, (INSERT, 3, "dora", 9, 1))


@pytest.fixture
def shape(hosts):
    return Schema(hosts[0].raw).table("person")


def test_lookups_begin_an_index_and_compare_by_value(hosts, shape):
    assert {(lookup.column, lookup.type) for lookup in shape.lookups} == {("name", str), ("team_id", int)}
    # real and partial are left out, as is a table with a collation
    assert {lookup.column for lookup in Schema(hosts[0].raw).table("user").lookups} == {"team_id"}


NAME, TEAM = '"person"."name"', '"person"."team_id"'


@pytest.mark.parametrize(
    ("where", "parameters", "keys"),
    [
        (f"{NAME} = ?", ["a"], [("name", "a")]),
        (f"({NAME} = ?)", ["a"], [("name", "a")]),
        (f'({NAME} = ? AND NOT ("person"."id" = ?))', ["a", 3], [("name", "a")]),
        (
            f'("person"."age" > ? AND {TEAM} IN (?, ?) AND {NAME} IS NOT NULL)',
            [1, 7, 8],
            [("team_id", 7), ("team_id", 8)],
        ),
        (f'("person"."id" = ? AND {NAME} = ?)', [4, "a"], [(4,)]),
        (f'("person"."id" = ? AND {NAME} = ?)', ["4", "a"], [("name", "a")]),
        # what SQLite would compare otherwise than by value, or does not ask for a value of the row
        (f"{NAME} = ?", [3], None),
        (f"{NAME} = ?", [None], None),
        (f"{TEAM} = ?", ["7"], None),
        (f"{TEAM} = ?", [True], None),
        (f"NOT ({NAME} = ?)", ["a"], None),
        (f"NOT ({NAME} = ? AND {TEAM} = ?)", ["a", 7], None),
        (f"({NAME} = ? OR {TEAM} = ?)", ["a", 7], None),
        (f"{NAME} LIKE ? ESCAPE '\\'", ["a"], None),
        (f"{NAME} = ? COLLATE NOCASE", ["a"], None),
        ('"person"."score" = ?', [1.0], None),
        ('"person"."age" = ?', [61], None),
        (f'{NAME} = "person"."mail"', [], None),
        (f"{NAME} = ? AND {TEAM} = (SELECT 1)", ["a"], None),
    ],
)
def test_which_conditions_name_values(shape, where, parameters, keys):
    found = describe(f'SELECT "person"."id" FROM "person" WHERE {where}').by_column
    got = _keys_of(shape, found[1], parameters) if found else None
    assert got == (keys if keys is None or len(keys[0]) == 1 else [MANY_VALUES, *keys])


def test_parameters_count_from_the_end(shape):
    sql = f'UPDATE "person" SET "age" = ?, "score" = ? WHERE ({TEAM} = ? AND "person"."age" > ?)'
    _, equalities = describe(sql).by_column
    assert _keys_of(shape, equalities, [1, 2.0, 7, 5]) == [MANY_VALUES, ("team_id", 7)]


@pytest.fixture
def auth(hosts):
    with hosts[0].connection.schema_editor() as editor:
        for model in (ContentType, Permission, Group, User):
            editor.create_model(model)
    for host in hosts:
        host.catch_up()
    return hosts


def test_what_django_asks_most_is_certified_by_value(auth):
    """Queries of get_or_create, of signing in, of related managers and of the unique checks of forms."""
    alias, connection = auth[0].name, auth[0].connection
    user = User.objects.using(alias).create(username="first")
    users, groups = User.objects.using(alias), User.groups.through.objects.using(alias)
    permissions = Permission.objects.using(alias)
    queries = {
        "auth_user": lambda: [
            users.filter(username="x").first(),
            users.filter(username="x").exists(),
            users.filter(username="x").exclude(pk=user.pk).exists(),
        ],
        "auth_user_groups": lambda: groups.filter(user_id=user.pk, group_id__in=[1, 2]).count(),
        "auth_permission": lambda: permissions.filter(content_type_id=3, codename="x").exists(),
    }
    for table, query in queries.items():
        with transaction.atomic(using=alias):
            query()
            observed = connection.connection.control.observed
            observed.settle()
            assert table not in observed.tables
            assert MANY_VALUES in {key for name, key in observed.rows if name == table}


def test_different_users_are_got_or_created_at_once_and_the_same_one_once(auth):
    users = [User.objects.using(host.name) for host in auth]

    def at_once(*names):
        """Each host's transaction begins before any ends; the first host's commits first."""
        with ExitStack() as last, ExitStack() as first:
            for stack, host, found, name in zip((first, last), auth, users, names, strict=True):
                stack.enter_context(transaction.atomic(using=host.name))
                assert found.get_or_create(username=name)[1]

    at_once("ann", "bob")
    with pytest.raises(TransactionConflict):
        at_once("carl", "carl")
    for found in users:
        assert not found.get_or_create(username="carl")[1]
        assert found.count() == 3
