"""Several PostgreSQL hosts write at once, each behind by as much as it likes: verdicts alike, databases equal."""

import random
import threading
from contextlib import contextmanager

import psycopg
import pytest
from django.db import DatabaseError, IntegrityError, OperationalError, models, transaction

from raftlog.backends.exceptions import TransactionConflict, TransactionOutcomeUnknown, UniqueConflict
from raftlog.backends.postgresql.applying import ApplyPort
from raftlog.backends.retry import retry_on_conflict
from raftlog.exceptions import ApplyStopped
from raftlog.replication.divergence import differing_tables
from raftlog.replication.tables import ensure_tables
from tests.backends import postgresql
from tests.backends.postgresql import SCHEMA, Cluster, Running, connect
from tests.backends.test_cluster import Thing, things


class Parcel(models.Model):
    class Meta:
        app_label = "tests_backends"
        db_table = "parcel"

    def __str__(self):
        return f"parcel {self.pk}"


@pytest.fixture
def cluster(django_db_blocker):
    with django_db_blocker.unblock():
        made = Cluster(3)
        try:
            with made.hosts[0].connection.schema_editor() as editor:
                editor.create_model(Thing)
            made.hosts[0].run(SCHEMA)
            made.assert_equal()
            yield made
        finally:
            made.close()


def test_automatic_keys_of_several_hosts_do_not_collide(cluster):
    for number in range(12):
        host = cluster.hosts[number % 3]
        thing = things(host).create(name=f"t{number}")
        assert things(host).get(pk=thing.pk).name == f"t{number}"
    made = things(cluster.hosts[1]).bulk_create([Thing(rank=number) for number in range(500)])
    assert len({thing.pk for thing in made}) == 500
    cluster.assert_equal()
    assert {verdict.kind for verdict in cluster.hosts[0].verdicts} == {0}
    # Whoever inserts without Django gets a key beyond those that were used here.
    (key,) = cluster.hosts[1].run("INSERT INTO thing (name, rank) VALUES ('raw', 1) RETURNING id")[0]
    assert key > max(thing.pk for thing in made)


def test_keys_of_a_transaction_that_is_rolled_back_are_used_again(cluster):
    host = cluster.hosts[0]
    keys = []
    for commits in (False, False, True):
        with transaction.atomic(host.name):
            keys.append(things(host).create().pk)
            transaction.set_rollback(not commits, using=host.name)
    assert keys[0] == keys[1] == keys[2]


def test_rows_of_a_table_that_their_own_transaction_makes(cluster):
    one, other = cluster.hosts[:2]
    with one.connection.schema_editor() as editor:
        editor.create_model(Parcel)
        keys = [Parcel.objects.using(one.name).create().pk for _ in range(3)]
    other.catch_up()
    keys += [Parcel.objects.using(host.name).create().pk for host in (other, one, other)]
    assert len(set(keys)) == 6
    cluster.assert_equal()


def test_blocks_of_an_older_epoch_are_void(cluster):
    host, other = cluster.hosts[:2]
    for _ in range(3):
        things(host).create()
    other.catch_up()
    other.run("TRUNCATE thing RESTART IDENTITY")
    assert things(other).create().pk == 1
    host.catch_up()
    assert things(host).create().pk not in range(1, 65)
    cluster.assert_equal()


CONFLICTS = [
    # first, second, how the second ends
    ("UPDATE worded SET n = 2 WHERE word = 'a'", "UPDATE worded SET n = 3 WHERE word = 'a'", TransactionConflict),
    ("UPDATE worded SET n = 2 WHERE word = 'a'", "UPDATE worded SET n = 3 WHERE word = 'b'", TransactionConflict),
    ("DELETE FROM worded WHERE word = 'a'", "UPDATE worded SET n = 3 WHERE word = 'a'", TransactionConflict),
    ("INSERT INTO worded VALUES ('c', 1)", "INSERT INTO worded VALUES ('c', 2)", UniqueConflict),
    ("INSERT INTO worded VALUES ('c', 1)", "INSERT INTO worded VALUES ('d', 2)", None),
    ("INSERT INTO parent VALUES (5, 'x')", "INSERT INTO parent VALUES (6, 'x')", UniqueConflict),
    ("DELETE FROM parent WHERE id = 1", "INSERT INTO child (id, parent_id) VALUES (1, 1)", TransactionConflict),
    ("INSERT INTO child (id, parent_id) VALUES (1, 1)", "DELETE FROM parent WHERE id = 1", TransactionConflict),
    ("INSERT INTO worded VALUES ('c', 1)", "INSERT INTO worded SELECT 's', count(*) FROM worded", TransactionConflict),
    ("INSERT INTO plain VALUES ('c', '1')", "INSERT INTO worded SELECT 's', count(*) FROM worded", None),
    ("ALTER TABLE worded ADD COLUMN m int", "UPDATE worded SET n = 3 WHERE word = 'a'", TransactionConflict),
    ("TRUNCATE worded", "UPDATE worded SET n = 3 WHERE word = 'a'", TransactionConflict),
    ("CREATE INDEX worded_n ON worded (n)", "CREATE INDEX worded_m ON worded (n)", TransactionConflict),
]


def test_conflicts(cluster):
    one, two, _ = cluster.hosts
    for first, second, expected in CONFLICTS:
        one.run("DELETE FROM child")
        one.run("DELETE FROM parent")
        one.run("DELETE FROM worded")
        one.run("INSERT INTO worded (word, n) VALUES ('a', 1), ('b', 1)")
        one.run("INSERT INTO parent VALUES (1, 'p')")
        two.catch_up()
        outcome = None
        try:
            with transaction.atomic(two.name):
                two.run(second)
                one.run(first)
        except TransactionConflict as conflict:
            outcome = type(conflict)
        assert outcome is expected, (first, second)
        cluster.assert_equal()


UPDATE_BY_KEY = 'UPDATE "worded" SET "n" = %s WHERE "worded"."word" = %s'


def test_lookups_by_key_do_not_conflict_with_other_rows(cluster):
    one, two, _ = cluster.hosts
    one.run("INSERT INTO worded VALUES ('a', 1), ('b', 1)")
    two.catch_up()
    with transaction.atomic(two.name):
        two.run('SELECT "worded"."n" FROM "worded" WHERE "worded"."word" = %s', "b")
        two.run(UPDATE_BY_KEY, 3, "b")
        one.run(UPDATE_BY_KEY, 2, "a")
    with pytest.raises(TransactionConflict), transaction.atomic(two.name):  # noqa: PT012 (one block)
        two.run('SELECT "worded"."n" FROM "worded" WHERE "worded"."word" = %s', "a")
        two.run(UPDATE_BY_KEY, 4, "b")
        one.run(UPDATE_BY_KEY, 3, "a")
    cluster.assert_equal()


def test_what_a_rolled_back_savepoint_has_read_counts(cluster):
    one, two, _ = cluster.hosts
    with pytest.raises(TransactionConflict), transaction.atomic(two.name):  # noqa: PT012 (one block)
        with transaction.atomic(two.name):
            two.run("SELECT count(*) FROM worded")
            transaction.set_rollback(True, using=two.name)
        two.run("INSERT INTO plain VALUES ('1')")
        one.run("INSERT INTO worded VALUES ('new', 1)")
    cluster.assert_equal()


def test_apply_on_the_same_host_meets_the_snapshot_of_a_local_transaction(cluster):
    one, two, _ = cluster.hosts
    one.run("INSERT INTO worded VALUES ('a', 1)")
    two.catch_up()
    with pytest.raises(TransactionConflict), transaction.atomic(two.name):  # noqa: PT012 (one block)
        two.run("SELECT 1 FROM worded")
        one.run("UPDATE worded SET n = 2")
        two.catch_up()
        two.run("UPDATE worded SET n = n + 1")  # could not serialize access
    with pytest.raises(UniqueConflict), transaction.atomic(two.name):  # noqa: PT012 (one block)
        two.run("SELECT 1 FROM worded")
        one.run("INSERT INTO worded VALUES ('b', 1)")
        two.catch_up()
        with pytest.raises(IntegrityError), transaction.atomic(two.name):
            two.run("INSERT INTO worded VALUES ('b', 1)")
        two.run("SELECT 1")  # what it collided with, it could not see
    assert two.run("UPDATE worded SET n = n + 1") == 2
    cluster.assert_equal()


def test_a_row_inserted_beside_a_lookup_by_key_does_not_make_it_a_read_of_the_table(cluster):
    one, two, _ = cluster.hosts
    with transaction.atomic(using=one.name):
        assert list(things(one).filter(pk=77)) == []
        things(one).create(pk=77, name="mine")
        two.catch_up()
        things(two).create(pk=78, name="other")
    assert {verdict.kind for verdict in one.verdicts} == {0}

    def looks_for_the_others_key():
        with transaction.atomic(using=one.name):
            assert list(things(one).filter(pk=79)) == []
            things(one).create(pk=80, name="more")
            two.catch_up()
            things(two).create(pk=79, name="theirs")

    def counts():
        with transaction.atomic(using=one.name):
            things(one).create(pk=81, rank=things(one).count())
            two.catch_up()
            things(two).create(pk=82, name="counted")

    for run in (looks_for_the_others_key, counts):
        with pytest.raises(TransactionConflict):
            run()
    cluster.assert_equal()


def test_get_or_create_on_two_hosts(cluster):
    one, two, three = cluster.hosts
    assert things(one).get_or_create(name="x")[1]
    thing, created = things(two).get_or_create(name="x")
    assert not created
    update = retry_on_conflict(lambda: things(three).update_or_create(name="x", defaults={"rank": 3}))
    assert update()[0].pk == thing.pk
    cluster.assert_equal()


@pytest.mark.parametrize("read", ["plain", "worded"])
def test_who_gets_the_turn_goes_on_from_where_the_log_is(cluster, monkeypatch, read):
    """Nobody runs it again, so the turn is asked for at the first write; meanwhile entries of others were applied."""
    one, two, _ = cluster.hosts
    one.run("INSERT INTO worded VALUES ('a', 1)")
    two.catch_up()

    @contextmanager
    def turn(timeout, *, is_fence=False):
        one.run("UPDATE worded SET n = n + 1")
        two.catch_up()
        yield True

    monkeypatch.setattr(two, "cluster_turn", turn)
    outcome = "applied"
    try:
        with transaction.atomic(two.name):
            two.run(f"SELECT * FROM {read}")
            with transaction.atomic(two.name):
                two.run("UPDATE worded SET n = n + 10")
    except TransactionConflict as conflict:
        outcome = str(conflict)
    if read == "plain":
        assert outcome == "applied"
        assert two.run("SELECT n FROM worded") == [(12,)]
    else:
        assert "and now it wants to write" in outcome
    cluster.assert_equal()


def test_an_unknown_outcome_is_said(cluster, monkeypatch):
    host = cluster.hosts[0]

    def lost(*_):
        raise TransactionOutcomeUnknown("the node gave no answer", "id")

    monkeypatch.setattr(host, "commit", lost)
    with pytest.raises(TransactionOutcomeUnknown):
        host.run("INSERT INTO worded VALUES ('a', 1)")
    monkeypatch.undo()
    assert host.run("SELECT * FROM worded") == []
    host.run("INSERT INTO worded VALUES ('a', 1)")
    cluster.assert_equal()


@pytest.mark.parametrize("isolation", ["serializable", "snapshot"])
@pytest.mark.parametrize("seed", range(2))
def test_random_transactions(django_db_blocker, seed, isolation):
    rng = random.Random(seed)
    committed = 0
    with django_db_blocker.unblock():
        cluster = Cluster(3, isolation=isolation)
        try:
            cluster.hosts[0].run(SCHEMA)
            for _ in range(40):
                host = rng.choice(cluster.hosts)
                if rng.random() < 0.3:
                    host.catch_up(rng.randint(len(host.verdicts), len(cluster.entries)))
                try:
                    with transaction.atomic(host.name):
                        for _ in range(rng.randint(1, 4)):
                            random_statement(rng, host)
                    committed += 1
                except DatabaseError:
                    pass
            cluster.assert_equal()
        finally:
            cluster.close()
    assert committed > 5


def random_statement(rng, host) -> None:
    key, other = rng.randint(1, 8), rng.randint(1, 8)
    statement = rng.choice(
        [
            ("INSERT INTO parent (id, name, rank) VALUES (%s, %s, 0) ON CONFLICT DO NOTHING", key, f"n{other}"),
            ("UPDATE parent SET rank = rank + 1 WHERE id <= %s", key),
            ("UPDATE parent SET id = %s WHERE id = %s", key + 100, key),
            ("INSERT INTO child (id, parent_id) VALUES (%s, %s) ON CONFLICT DO NOTHING", key, other),
            ("DELETE FROM child WHERE id = %s", key),
            ("DELETE FROM parent WHERE id = %s", key),
            ("INSERT INTO plain VALUES (%s, '1'), (%s, '1')", str(key), str(key)),
            ("DELETE FROM plain WHERE a = %s", str(key)),
            (UPDATE_BY_KEY, other, f"w{key}"),
            ("INSERT INTO worded VALUES (%s, 1) ON CONFLICT (word) DO UPDATE SET n = worded.n + 1", f"w{key}"),
            ("INSERT INTO pair SELECT %s, 'y' || count(*), 0.5 FROM worded ON CONFLICT DO NOTHING", key),
        ]
    )
    try:
        with transaction.atomic(host.name):
            host.run(*statement)
            if rng.random() < 0.2:
                transaction.set_rollback(True, using=host.name)
    except (IntegrityError, OperationalError) as error:
        if isinstance(error, TransactionConflict):
            raise


# The apply connection


@pytest.fixture
def host(django_db_blocker):
    """One host whose log never applies: the test does, as the node's state-machine thread would."""
    with django_db_blocker.unblock():
        cluster = Cluster(1)
        try:
            cluster.hosts[0].run(SCHEMA)
            cluster.hosts[0].run("INSERT INTO worded VALUES ('a', 1), ('b', 1)")
            yield cluster.hosts[0]
        finally:
            cluster.close()


def copy_of(host) -> Running:
    """Another connection to the same database, as another thread's."""
    return Running(f"{host.name}-copy", host.connection.settings_dict, host)


def applying_in_a_thread(host, work):
    done = threading.Event()

    def run():
        applier = copy_of(host)
        port = applier.connection.apply_port()
        with transaction.atomic(applier.alias):
            work(applier, port)
        applier.close()
        done.set()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return done, thread


@pytest.mark.parametrize("waits", ["for its client", "in a statement"])
def test_apply_wins_over_a_local_transaction_that_blocks_it(host, waits):
    def work(applier, port):
        applier.run("UPDATE worded SET n = n + 10")

    with pytest.raises(TransactionConflict, match="entries go first"), transaction.atomic(host.name):  # noqa: PT012 (one block)
        host.run("UPDATE worded SET n = 5 WHERE word = 'a'")
        done, thread = applying_in_a_thread(host, work)
        if waits == "in a statement":
            host.run("SELECT pg_sleep(60)")
        assert done.wait(60)
        host.run("SELECT 1")
    assert done.wait(60)
    thread.join(60)
    assert host.run("SELECT n FROM worded") == [(11,), (11,)]  # the connection is made again


def test_commands_are_captured_and_draw_from_the_replicated_counter(host):
    def work(applier, port):
        applier.run("INSERT INTO parent (name) VALUES ('by hand')")
        keys = applier.connection.automatic_keys("parent", 2)
        assert keys[1] == keys[0] + 1
        port.record(7)
        port.set_applied(7)

    done, thread = applying_in_a_thread(host, work)
    assert done.wait(60)
    thread.join(60)
    host.replica.assert_fingerprints()
    assert host.replica.applier.marks.tables()["parent"].changed == 7
    assert host.replica.applier.applied_index == 7


def test_an_edit_with_the_triggers_switched_off_is_noticed(host):
    port = ApplyPort(host.control)
    port.was_changed_elsewhere()
    host.run("UPDATE worded SET n = 7 WHERE word = 'a'")  # apply's own
    assert not port.was_changed_elsewhere()
    with connect(host.connection.settings_dict) as raw:
        raw.execute("SET session_replication_role = replica; UPDATE worded SET n = 8 WHERE word = 'a'")
    assert port.was_changed_elsewhere()
    assert not port.was_changed_elsewhere()
    port.leave()


def test_a_database_that_was_edited_refuses_what_does_not_fit_and_says_why(cluster):
    one, two, _ = cluster.hosts
    one.run("INSERT INTO worded VALUES ('a', 1)")
    two.catch_up()
    with connect(two.connection.settings_dict) as raw:
        raw.execute("SET session_replication_role = replica; UPDATE worded SET n = 8")
    one.run("UPDATE worded SET n = 2")
    two.catch_up()
    assert one.verdicts[-1].kind == 0
    assert two.verdicts[-1].kind == 1
    unexplained = two.replica.applier.unexplained
    assert (unexplained.table, unexplained.key) == ("worded", ("a",))


def test_rows_that_are_there_already_count(django_db_blocker):
    with django_db_blocker.unblock():
        database = postgresql.settings(0)
        with connect(database) as raw:
            raw.execute("CREATE TABLE old (id int PRIMARY KEY, t text); INSERT INTO old VALUES (1, 'x'), (2, NULL)")
            raw.execute("CREATE TABLE keyless (t text); INSERT INTO keyless VALUES ('x'), ('x'), (NULL)")
        replica = postgresql.Replica(database, makes_tables=False)
        replica.applier.make_tables()
        replica.assert_fingerprints()
        with connect(database) as raw, pytest.raises(psycopg.Error, match="replicated by raftlog"):
            raw.execute("DELETE FROM old")
        replica.close()


def test_a_reader_sees_one_snapshot_and_what_differs_from_the_sums(host):
    with host.connection.applying():
        ensure_tables(host.name)
    host.run("INSERT INTO pair VALUES (1, 'a', 1), (1, 'b', 2), (2, 'a', 3)")
    host.run("INSERT INTO plain VALUES ('x'), ('x'), ('y')")
    reader = host.connection.table_reader()
    try:
        assert list(differing_tables(reader, lambda: None)) == []
        with reader.snapshot() as snapshot:
            assert snapshot.columns("pair") == ["x", "y", "v"]
            rows = snapshot.rows("pair", ["1", "a"], ["2", "a"], 5)
            assert [row.key for row in rows] == [["1", "b"], ["2", "a"]]
            assert [row.key for row in snapshot.rows("pair", None, None, 1)] == [["1", "a"]]
            assert snapshot.image("pair", ["1", "b"]) == ["1", "b", "2"]
            assert snapshot.image("pair", ["7", "b"]) is None
            assert len(snapshot.rows("plain", None, None, 1)) == 3
            assert snapshot.last_written("pair", ["1", "b"]) == host.replica.applier.applied_index - 1
        with connect(host.connection.settings_dict) as raw:
            raw.execute("SET session_replication_role = replica; UPDATE pair SET v = 9 WHERE x = 2")
        assert [table for table, _ in differing_tables(reader, lambda: None)] == ["pair"]
    finally:
        reader.close()


def test_a_role_that_may_not_switch_triggers_off_cannot_apply(host):
    name = host.connection.settings_dict["NAME"]
    with connect(host.connection.settings_dict) as raw:
        raw.execute(f"CREATE ROLE {name} LOGIN")
        (owner,) = raw.execute("SELECT current_user").fetchone()
        raw.execute(f"REASSIGN OWNED BY {owner} TO {name}" if owner == name else f"GRANT {owner} TO {name}")
    limited = Running("limited", {**host.connection.settings_dict, "USER": name}, host)
    try:
        limited.run(f"SET ROLE {name}")
        with connect(host.connection.settings_dict) as raw:
            raw.execute(f"GRANT ALL ON DATABASE {name} TO {name}")
        with pytest.raises(ApplyStopped, match="GRANT SET ON PARAMETER"):
            ApplyPort(limited.control)
    finally:
        limited.close()
        with connect(host.connection.settings_dict) as raw:
            raw.execute(f"DROP OWNED BY {name}; DROP ROLE {name}")


def test_many_threads_increment_one_row(django_db_blocker):
    """Inline, as in a test database: whoever applies is alone."""
    with django_db_blocker.unblock():
        database = postgresql.Database()
        try:
            database.run("INSERT INTO worded VALUES ('total', 0)")
            errors = []

            def work():
                connection = database.connection.copy()
                try:
                    for _ in range(5):
                        with connection.cursor() as cursor:
                            cursor.execute("UPDATE worded SET n = n + 1 WHERE word = 'total'")
                except Exception as error:  # noqa: BLE001 (it fails the test, in its own thread)
                    errors.append(error)
                finally:
                    connection.close()

            threads = [threading.Thread(target=work, daemon=True) for _ in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(60)
            assert errors == []
            assert database.run("SELECT n FROM worded") == [(20,)]
            database.assert_equal()
        finally:
            database.close()
