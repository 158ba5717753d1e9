"""A database that is not what the log made it is found within seconds, named, kept apart, and healed (rule 16)."""

import json
import os
import sqlite3

import pytest

from raftlog.exceptions import RaftlogError
from raftlog.runtime import clock
from raftlog.testing.processes import ProcessCluster
from tests.processes.test_orm import contents

pytestmark = pytest.mark.processes

SECONDS = 5.0  # in which it must be found and named, on a machine that has time
BOUND = 60.0  # seconds for everything else
TABLE = "bank_account"
SHELL = ("shell", "-v", "0", "-c")
IMPORTS = """
from demo_site.bank.models import Account
from tests.processes.dice.commands import boast, throw
"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    folder = tmp_path_factory.mktemp("divergence")
    with ProcessCluster(3, folder, settings_module="tests.processes.dice_settings") as made:
        made.start()
        made.wait_for_leader(timeout=BOUND)
        made["a"].manage("migrate", timeout=120)
        rows = "[Account(name=f'account {n}', balance=n, paid_in=n) for n in range(20)]"
        made["a"].manage(*SHELL, f"{IMPORTS}; Account.objects.bulk_create({rows})".replace("\n; ", "\n"), timeout=BOUND)
        made.wait_all_applied(timeout=BOUND)
        yield made


@pytest.fixture(autouse=True)
def equal_before_and_after(cluster):
    """Every case begins and ends with three nodes that know each other to be alike."""
    wait_until_alike(cluster)
    yield
    wait_until_alike(cluster)
    found = [contents(node) for node in cluster]
    assert found[0] == found[1] == found[2]


def wait_until_alike(cluster):
    def reached(statuses):
        if None in statuses.values():
            return False
        # As far as the migrations and rows of the fixture, which every node has applied.
        return all(
            len([index for index in status["fingerprint"]["alike"].values() if index >= 4]) == 2
            and not status["differing_peers"]
            and status["divergence"] is None
            for status in statuses.values()
        )

    cluster.wait_for(reached, BOUND, "all nodes found each other alike")
    cluster.wait_all_applied(timeout=BOUND)


def edit(node, sql):
    raw = sqlite3.connect(node.database, timeout=30)
    raw.execute(sql)
    raw.commit()
    raw.close()


def roles(cluster):
    """(leader, a follower, the other follower)."""
    leader = cluster.wait_for_leader(timeout=BOUND)
    return [leader, *[node.node_id for node in cluster if node.node_id != leader]]


def wait_for_divergence(cluster, victim, began):
    """What the node says of itself, once it has named it; how long that took is printed and judged."""
    statuses = cluster.wait_for(
        lambda found: bool(found[victim] and found[victim]["divergence"]), BOUND, f"{victim} knows that it has diverged"
    )
    took = clock.monotonic() - began
    print(f"found and named after {took:.2f} s")
    # Eight other test runs on two cores are no reason to fail.
    assert took < SECONDS * max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))
    return statuses[victim]["divergence"]


def assert_serves_no_reads(node):
    answer = node.client().request("read_index", {"timeout": 5.0}, timeout=10)
    assert answer["index"] == 0
    assert "has diverged" in answer["reason"]


def assert_kept_apart(cluster, victim):
    """The node refuses what it must; the other two go on, and say who differs."""
    node = cluster[victim]
    others = [other for other in cluster if other.node_id != victim]
    assert_serves_no_reads(node)
    with pytest.raises(RaftlogError, match="has diverged"):
        node.manage(*SHELL, f"{IMPORTS}\nAccount.objects.create(name='refused', balance=0, paid_in=0)", timeout=BOUND)
    assert cluster.wait_for_leader(timeout=BOUND, other_than=[victim]) != victim
    written = f"{IMPORTS}\nprint(Account.objects.get_or_create(name='after {victim}', balance=0, paid_in=0)[0].name)"
    assert f"after {victim}" in others[0].manage(*SHELL, written, timeout=BOUND)
    for other in others:
        assert other.client().request("read_index", {"timeout": 20.0}, timeout=30)["index"] > 0
    cluster.wait_for(
        lambda found: all(list(found[other.node_id]["differing_peers"]) == [victim] for other in others),
        BOUND,
        f"the others say that {victim} differs",
    )
    status = node.status(timeout=10)
    assert status["role"] == "follower"
    assert not status["healthy"]
    assert status["divergence"]["node_id"] == victim
    printed = node.log_file.read_text()
    assert f"CRITICAL raftlog.divergence: {victim}" in printed
    assert "raft repair --database" in printed
    signals = [json.loads(line.removeprefix("SIGNAL ")) for line in printed.splitlines() if line.startswith("SIGNAL ")]
    assert signals[-1] == status["divergence"]
    shown = others[0].manage("raft", "status", timeout=BOUND)
    assert "has diverged" in " ".join(shown.split())


def heal(cluster, victim, *, copy_from=None):
    """As the error and docs/operations.md say."""
    node = cluster[victim]
    copied = node.database.with_name("copy.sqlite3")
    if copy_from is not None:
        source, target = sqlite3.connect(copy_from.database), sqlite3.connect(copied)
        source.backup(target)
        source.close()
        target.close()
    assert node.stop() == 0
    for suffix in ("", "-wal", "-shm"):
        node.database.with_name(node.database.name + suffix).unlink(missing_ok=True)
    if copy_from is not None:
        copied.rename(node.database)
    node.start()


UPDATE = f"UPDATE {TABLE} SET balance = 777 WHERE name = 'account 3'"
INSERT = f"INSERT INTO {TABLE} (id, name, balance, paid_in) VALUES (5000, 'by hand', 1, 1)"
DELETE = f"DELETE FROM {TABLE} WHERE name = 'account 4'"


@pytest.mark.parametrize(
    ("role", "sql", "here", "there"),
    [
        (1, UPDATE, {"name": "account 3", "balance": 777}, {"name": "account 3", "balance": 3}),
        (0, INSERT, {"id": 5000, "name": "by hand"}, None),
        (2, DELETE, None, {"name": "account 4", "balance": 4}),
    ],
    ids=["update on a follower", "insert on the leader", "delete on a follower"],
)
def test_a_row_edited_by_hand_is_found_and_named(cluster, role, sql, here, there):
    victim = roles(cluster)[role]
    began = clock.monotonic()
    edit(cluster[victim], sql)
    found = wait_for_divergence(cluster, victim, began)
    assert (found["cause"], found["tables"], found["command"]) == ("not by an entry", [TABLE], "")
    (row,) = found["rows"]
    key = (here or there).get("id") or row["key"][0]
    assert (row["table"], row["key"]) == (TABLE, [key])
    for image, expected in ((row["here"], here), (row["there"], there)):
        assert (image is None) == (expected is None)
        assert expected is None or expected.items() <= image.items()
    assert_serves_no_reads(cluster[victim])
    if role == 0:
        assert_kept_apart(cluster, victim)
    heal(cluster, victim)


def test_a_row_edited_while_the_node_was_down_is_found_when_it_is_back(cluster):
    victim = roles(cluster)[1]
    cluster[victim].stop()
    edit(cluster[victim], UPDATE)
    cluster[victim].start()
    cluster.wait_for(lambda found: found[victim] is not None, BOUND, "it is back")
    found = wait_for_divergence(cluster, victim, clock.monotonic())
    assert found["tables"] == [TABLE]
    assert [row["here"]["balance"] for row in found["rows"]] == [777]
    # It remembers across restarts, until it is healed.
    cluster[victim].stop()
    cluster[victim].start()
    cluster.wait_for(lambda found: found[victim] is not None, BOUND, "it is back")
    assert_serves_no_reads(cluster[victim])
    heal(cluster, victim)


@pytest.mark.parametrize(
    ("role", "call", "name"),
    [(0, "throw.propose(name='account 5', on='{victim}')", "throw"), (1, "boast.propose(on='{victim}')", "boast")],
    ids=["rows, on the leader", "what it returns, on a follower"],
)
def test_a_command_that_is_not_deterministic_is_found_and_named(cluster, role, call, name):
    victim = roles(cluster)[role]
    pid = cluster[victim].pid
    by = next(node for node in cluster if node.node_id != victim)
    by.manage(*SHELL, f"{IMPORTS}\n{call.format(victim=victim)}", timeout=BOUND)
    applied = by.status(timeout=10)["last_applied"]
    began = clock.monotonic()
    found = wait_for_divergence(cluster, victim, began)
    assert (found["cause"], found["command"].rpartition(".")[2], found["version"]) == (
        *("command", name, 3 if name == "throw" else 1),
    )
    assert found["is_exact"]
    assert found["index"] <= applied
    rows = [(row["table"], row["here"]["balance"], row["there"]["balance"]) for row in found["rows"]]
    assert rows == ([(TABLE, pid, 0)] if name == "throw" else [])
    assert_serves_no_reads(cluster[victim])
    # Replayed, the command would do it again: so the third gets a copy of what the others have.
    heal(cluster, victim, copy_from=by)
