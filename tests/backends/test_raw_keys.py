"""INSERTs in raw SQL that name no key get SQLite's own, which another host may give too: a conflict, never a lost row.

SQLite takes the highest key or the counter, whichever is higher, plus one; reservations of blocks move the counter on
every host (rule 12).
"""

import pytest
from django.db import transaction

from raftlog.backends.exceptions import UniqueConflict
from tests.backends.test_cluster import cluster, things

__all__ = ["cluster"]  # the fixture

RAW = "INSERT INTO thing (name, rank) VALUES (%s, 0)"


def names(host):
    return set(things(host).values_list("name", flat=True))


def test_alone_it_is_run_again_with_the_next_key(cluster):
    one, two, three = cluster.hosts
    for number in range(5):  # each host is behind by what the others have just inserted
        for host in (one, two, three):
            host.run(RAW, f"{host.name}-{number}")
    cluster.assert_equal()
    assert len(names(one)) == things(one).count() == 15


def test_in_a_transaction_it_is_a_unique_conflict_that_can_be_run_again(cluster):
    one, two, _ = cluster.hosts

    def both():
        with transaction.atomic(two.name):
            two.run(RAW, "second")
            one.run(RAW, "first")

    with pytest.raises(UniqueConflict, match=r"thing\.id"):
        both()
    assert names(two) == {"first"}
    with transaction.atomic(two.name):
        two.run(RAW, "second")
    cluster.assert_equal()
    assert names(one) == {"first", "second"}


def test_who_owns_the_block_goes_past_a_key_that_it_took(cluster):
    one, two, _ = cluster.hosts
    with transaction.atomic(two.name):
        two.run(RAW, "raw")
        with transaction.atomic(one.name):
            reserved = things(one).create(name="never").pk  # the block is in the log before the raw INSERT is
            transaction.set_rollback(True, using=one.name)
    assert things(two).get(name="raw").pk == reserved
    made = [things(one).create(name=f"made {number}").pk for number in range(3)]
    cluster.assert_equal()
    assert len({reserved, *made}) == 4
