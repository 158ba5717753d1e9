"""The Hermitage table: which anomalies each isolation level allows (docs/reference/isolation.md is made from it).

T1 runs on one host, T2 on another, both from the same state; what the log says decides at commit.
"""

from contextlib import contextmanager

import pytest

from raftlog.backends.exceptions import TransactionConflict
from tests.backends import postgresql
from tests.backends.cluster import Cluster

SERIALIZABLE, SNAPSHOT = "serializable", "snapshot"
UPDATE = 'UPDATE "test" SET "value" = %s WHERE "test"."id" = %s'
SELECT = 'SELECT "test"."value" FROM "test" WHERE "test"."id" = %s'


class Session:
    """One transaction, step by step."""

    def __init__(self, host):
        self.host = host
        host.run("BEGIN")

    def read(self, number):
        return self.host.run(SELECT, number)[0][0]

    def read_to_write(self, number):
        """As select_for_update() does, which SQLite has no words for."""
        connection = self.host.connection
        if connection.features.has_select_for_update:
            return self.host.run(f"{SELECT} FOR UPDATE", number)[0][0]
        with connection.reading_to_write():
            return self.read(number)

    def write(self, number, value):
        assert self.host.run(UPDATE, value, number) == 1

    def select(self, where):
        return self.host.run(f"SELECT id FROM test WHERE {where}")

    def insert(self, number, value):
        self.host.run("INSERT INTO test VALUES (%s, %s)", number, value)

    def commits(self):
        """Whether the commit went through."""
        try:
            self.host.connection.commit()
        except TransactionConflict:
            self.host.connection.rollback()
            return False
        for host in self.host.cluster.hosts:
            if not host.holds_locks:  # else its apply thread waits
                host.catch_up()
        return True

    def abort(self):
        self.host.connection.rollback()


@pytest.fixture(params=[SERIALIZABLE, SNAPSHOT])
def level(request):
    return request.param


@pytest.fixture(params=["sqlite", "postgresql"])
def make_cluster(request, tmp_path, level):
    if request.param == "sqlite":
        return lambda: Cluster(tmp_path, 3, isolation=level)
    return lambda: postgresql.Cluster(3, isolation=level)


@pytest.fixture
def sessions(make_cluster, django_db_blocker):
    @contextmanager
    def cluster():
        made = make_cluster()
        try:
            made.hosts[0].run("CREATE TABLE test (id integer PRIMARY KEY, value integer)")
            made.hosts[0].run("INSERT INTO test VALUES (1, 10), (2, 20)")
            for host in made.hosts:
                host.catch_up()
                host.connection.ensure_connection()
            yield made
            made.assert_equal()
        finally:
            made.close()

    with django_db_blocker.unblock(), cluster() as made:
        yield [Session(host) for host in made.hosts]


def test_g0_write_cycles_never(sessions):
    one, two, three = sessions
    one.write(1, 11)
    two.write(1, 12)
    one.write(2, 21)
    assert one.commits()
    two.write(2, 22)
    assert not two.commits()
    assert (three.read(1), three.read(2)) == (11, 21)


def test_g1a_aborted_reads_never(sessions):
    one, two, _ = sessions
    one.write(1, 101)
    assert two.read(1) == 10
    one.abort()
    assert two.read(1) == 10
    assert two.commits()


def test_g1b_intermediate_reads_never(sessions):
    one, two, _ = sessions
    one.write(1, 101)
    assert two.read(1) == 10
    one.write(1, 11)
    assert one.commits()
    assert two.read(1) == 10  # its snapshot
    assert two.commits()


def test_g1c_circular_information_flow_never(sessions, level):
    one, two, _ = sessions
    one.write(1, 11)
    two.write(2, 22)
    assert one.read(2) == 20
    assert two.read(1) == 10
    assert one.commits()
    assert two.commits() is (level == SNAPSHOT)  # neither read what the other wrote


def test_otv_observed_transaction_vanishes_never(sessions):
    one, two, three = sessions
    one.write(1, 11)
    one.write(2, 19)
    two.write(1, 12)
    assert one.commits()
    assert three.read(1) == 11
    two.write(2, 18)
    assert three.read(2) == 19
    assert not two.commits()
    assert (three.read(1), three.read(2)) == (11, 19)


def test_pmp_predicate_many_preceders_never(sessions):
    one, two, _ = sessions
    assert one.select("value = 30") == []
    two.insert(3, 30)
    assert two.commits()
    assert one.select("value % 3 = 0") == []
    assert one.commits()


def test_p4_lost_update_never(sessions):
    one, two, _ = sessions
    assert one.read(1) == two.read(1) == 10
    one.write(1, 11)
    two.write(1, 11)
    assert one.commits()
    assert not two.commits()


def test_g_single_read_skew_never(sessions):
    one, two, _ = sessions
    assert one.read(1) == 10
    assert (two.read(1), two.read(2)) == (10, 20)
    two.write(1, 12)
    two.write(2, 18)
    assert two.commits()
    assert one.read(2) == 20
    assert one.commits()


def test_g2_item_write_skew_under_snapshot_only(sessions, level):
    one, two, _ = sessions
    for session in (one, two):
        assert (session.read(1), session.read(2)) == (10, 20)
    one.write(1, 11)
    two.write(2, 21)
    assert one.commits()
    assert two.commits() is (level == SNAPSHOT)


def test_g2_item_write_skew_is_prevented_by_select_for_update(sessions):
    one, two, _ = sessions
    for session in (one, two):
        assert (session.read_to_write(1), session.read_to_write(2)) == (10, 20)
    one.write(1, 11)
    two.write(2, 21)
    assert one.commits()
    assert not two.commits()


def test_g2_anti_dependency_cycles_under_snapshot_only(sessions, level):
    one, two, _ = sessions
    for session in (one, two):
        assert session.select("value % 3 = 0") == []
    one.insert(3, 30)
    two.insert(4, 42)
    assert one.commits()
    assert two.commits() is (level == SNAPSHOT)
