"""Several hosts write at once, each behind by as much as it likes: verdicts alike, databases equal, nothing lost."""

import random

import pytest
from django.db import DatabaseError, models, transaction

from raftlog.backends.exceptions import TransactionConflict
from raftlog.replication.key_blocks import FIRST_BLOCK
from tests.backends.cluster import Cluster
from tests.backends.conftest import SCHEMA


class Thing(models.Model):
    id = models.BigAutoField(primary_key=True)
    name = models.CharField(max_length=50, unique=True, null=True)  # noqa: DJ001 (several NULLs in a unique column)
    rank = models.IntegerField(default=0)

    class Meta:
        app_label = "tests_backends"
        db_table = "thing"

    def __str__(self):
        return f"thing {self.pk}"


@pytest.fixture
def cluster(tmp_path, django_db_blocker):
    with django_db_blocker.unblock():
        made = Cluster(tmp_path, 3)
        with made.hosts[0].connection.schema_editor() as editor:
            editor.create_model(Thing)
        with made.hosts[0].connection.cursor() as cursor:
            cursor.executescript(SCHEMA)
        made.assert_equal()
        yield made
        made.close()


def things(host):
    return Thing.objects.using(host.name)


def test_automatic_keys_of_several_hosts_do_not_collide(cluster):
    for number in range(40):
        host = cluster.hosts[number % 3]
        thing = things(host).create(name=f"t{number}")
        assert things(host).get(pk=thing.pk).name == f"t{number}"
    cluster.assert_equal()
    kinds = [verdict.kind for verdict in cluster.hosts[0].verdicts]
    assert set(kinds) == {0}
    assert things(cluster.hosts[1]).count() == 40


def test_keys_of_a_transaction_that_is_rolled_back_are_used_again(cluster):
    host = cluster.hosts[0]
    keys = []
    for commits in (False, False, True):
        with transaction.atomic(host.name):
            keys.append(things(host).create().pk)
            transaction.set_rollback(not commits, using=host.name)
    assert keys[0] == keys[1] == keys[2]


def test_a_bulk_create_reserves_for_all_its_batches(cluster):
    host = cluster.hosts[0]
    made = things(host).bulk_create([Thing(rank=number) for number in range(2_500)])
    assert len({thing.pk for thing in made}) == 2_500
    cluster.assert_equal()


def test_keys_are_reserved_in_the_middle_of_a_transaction(cluster):
    host, other = cluster.hosts[:2]
    for disturbed in (False, True):
        host.key_blocks.drop_all()
        host.run("INSERT INTO worded VALUES (%s, 1)", f"before {disturbed}")
        other.catch_up()
        before = things(host).count()

        def work():
            host.run("UPDATE worded SET n = n + 1")
            with transaction.atomic(host.name):
                host.run("INSERT INTO plain VALUES (1, 1)")
                if disturbed:  # noqa: B023
                    other.run("UPDATE worded SET n = 70")
                thing = things(host).create(rank=5)  # the first key, while the turn is held
                assert host.run("SELECT count(*) FROM plain") == [(before + 1,)]  # noqa: B023
                with transaction.atomic(host.name):
                    things(host).create(rank=6)
                    transaction.set_rollback(True, using=host.name)
            things(host).filter(pk=thing.pk).update(rank=7)

        if disturbed:
            with pytest.raises(TransactionConflict, match="while the turn"), transaction.atomic(host.name):
                work()
        else:
            with transaction.atomic(host.name):
                work()
    cluster.assert_equal()
    assert [thing.rank for thing in things(host).all()] == [7]
    assert host.run("SELECT word, n FROM worded ORDER BY word") == [("before False", 70), ("before True", 70)]


def test_a_table_without_a_counter_gets_its_keys_from_sqlite(cluster):
    class Loose(models.Model):
        id = models.AutoField(primary_key=True)

        class Meta:
            app_label = "tests_backends"
            db_table = "loose"
            managed = False

        def __str__(self):
            return f"loose {self.pk}"

    host = cluster.hosts[0]
    host.run("CREATE TABLE loose (id integer PRIMARY KEY)")
    assert [Loose.objects.using(host.name).create().pk for _ in range(2)] == [1, 2]
    cluster.assert_equal()


def test_a_key_named_by_hand_inside_a_block_is_gone_past(cluster):
    host, other = cluster.hosts[:2]
    first = things(host).create().pk
    other.catch_up()
    things(other).create(pk=first + 1)
    host.catch_up()
    assert things(host).create().pk not in (first, first + 1)
    cluster.assert_equal()


def test_blocks_of_an_older_epoch_are_void(cluster):
    host, other = cluster.hosts[:2]
    for _ in range(3):
        things(host).create()
    other.catch_up()
    other.run("DELETE FROM thing")
    other.run("DELETE FROM sqlite_sequence WHERE name = 'thing'")
    assert things(other).create().pk == 1
    host.catch_up()
    assert things(host).create().pk > FIRST_BLOCK  # not one of the keys that the other host has reserved since
    cluster.assert_equal()


def test_a_remade_table_keeps_its_counter(cluster):
    host = cluster.hosts[0]
    last = max(things(host).create().pk for _ in range(3))
    things(host).all().delete()
    field = models.IntegerField(default=7)
    field.set_attributes_from_name("size")
    with host.connection.schema_editor() as editor:
        editor.add_field(Thing, field)
    things(cluster.hosts[1])
    cluster.hosts[1].catch_up()
    assert cluster.hosts[1].run("SELECT seq FROM sqlite_sequence WHERE name = 'thing'")[0][0] >= last
    cluster.assert_equal()


def test_increments_from_all_hosts_add_up(cluster):
    pk = things(cluster.hosts[0]).create(rank=0).pk
    rng = random.Random(7)
    done = 0
    for _ in range(60):
        host = rng.choice(cluster.hosts)
        if rng.random() < 0.5:
            host.catch_up()
        if not things(host).filter(pk=pk).exists():
            continue
        assert things(host).filter(pk=pk).update(rank=models.F("rank") + 1) == 1
        done += 1
    cluster.assert_equal()
    assert things(cluster.hosts[0]).get(pk=pk).rank == done


@pytest.mark.parametrize("seed", range(6))
def test_random_transactions(cluster, seed):
    """Against a serial run: each applied entry, on a database of its own in log order, gives the same rows."""
    rng = random.Random(seed)
    conflicts = committed = 0
    for _ in range(60):
        host = rng.choice(cluster.hosts)
        if rng.random() < 0.3:
            host.catch_up(rng.randint(len(host.verdicts), len(cluster.entries)))
        try:
            with transaction.atomic(host.name):
                for _ in range(rng.randint(1, 4)):
                    random_statement(rng, host)
            committed += 1
        except TransactionConflict:
            conflicts += 1
        except DatabaseError:
            pass
    cluster.assert_equal()
    assert committed > 10
    assert sum(verdict.kind != 0 for verdict in cluster.hosts[0].verdicts) <= conflicts + 60


def rolled_back_half_of_the_time(host, name, number):
    with transaction.atomic(host.name):
        host.run("INSERT INTO plain VALUES (%s, %s)", number, name)
        if number % 2:
            transaction.set_rollback(True, using=host.name)


STATEMENTS = [
    lambda host, name, number: things(host).create(name=name, rank=number),
    lambda host, name, number: things(host).filter(rank__lt=number).update(rank=models.F("rank") + 1),
    lambda host, name, number: things(host).filter(pk=number).delete(),
    lambda host, name, number: things(host).get_or_create(name=name, defaults={"rank": number}),
    lambda host, name, number: things(host).filter(name=name).update(name=None),
    lambda host, name, number: host.run("INSERT INTO parent (name, rank) VALUES (%s, %s)", name, number),
    lambda host, name, number: host.run("INSERT INTO child (parent_id) SELECT id FROM parent WHERE rank < %s", number),
    lambda host, name, number: host.run(
        "DELETE FROM child WHERE parent_id IN (SELECT id FROM parent WHERE rank > %s)", number
    ),
    lambda host, name, number: host.run(
        "DELETE FROM parent WHERE name = %s AND id NOT IN (SELECT parent_id FROM child)", name
    ),
    lambda host, name, number: host.run("REPLACE INTO pair VALUES (%s, %s, %s)", number % 5, name, number / 7),
    lambda host, name, number: host.run(
        "INSERT OR REPLACE INTO worded VALUES (%s, (SELECT count(*) FROM plain))", name
    ),
    rolled_back_half_of_the_time,
]


def random_statement(rng, host):
    rng.choice(STATEMENTS)(host, f"n{rng.randint(0, 9)}", rng.randint(0, 30))


def test_triggers_of_a_table_that_another_host_took_away_do_not_come_back(cluster):
    """DROP TRIGGER does not find them, ALTER TABLE fails on them, and a new table of that name revives them."""
    one, other = cluster.hosts[:2]
    one.run("CREATE TABLE wagon (id integer PRIMARY KEY, a integer)")
    other.catch_up()
    other.run("INSERT INTO wagon VALUES (1, 2)")
    one.catch_up()
    one.run("ALTER TABLE wagon RENAME TO coach")
    other.catch_up()
    assert other.run("SELECT count(*) FROM coach") == [(1,)]  # it has read the new schema
    other.run("INSERT INTO coach VALUES (2, 3)")
    one.catch_up()
    one.run("CREATE TABLE wagon (b text)")
    other.catch_up()
    other.run("INSERT INTO wagon VALUES ('once')")
    other.run("ALTER TABLE wagon RENAME COLUMN b TO c")
    other.run("DROP TABLE coach")
    other.run("ALTER TABLE wagon RENAME TO coach")
    other.run("UPDATE coach SET c = 'twice'")
    cluster.assert_equal()
    assert [verdict.kind for verdict in one.verdicts if verdict.kind] == []
    assert one.run("SELECT c FROM coach") == [("twice",)]
