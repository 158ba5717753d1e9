"""A cluster of one voter needs no node process: whoever writes is the node meanwhile, and `raft run` takes over."""

import signal
import subprocess
import time

import pytest

from raftlog.exceptions import RaftlogError
from raftlog.testing.processes import ProcessCluster

pytestmark = pytest.mark.processes

WRITE = """
from django.contrib.auth.models import Group, User
from django.db import transaction
from django.db.models import F
from demo_site.bank.models import Account
for number in range({count}):
    with transaction.atomic():
        Group.objects.create(name=f"{name}-{{number}}")
    Account.objects.filter(name="shared").update(balance=F("balance") + 1)
    print("wrote", number, flush=True)
"""
ACCOUNT = """
from demo_site.bank.models import Account
Account.objects.create(name="shared", balance=0, paid_in=0)
"""
LOOK = """
from django.contrib.auth.models import Group
from demo_site.bank.models import Account
print("found", Group.objects.count(), Account.objects.get(name="shared").balance)
"""


@pytest.fixture
def cluster(tmp_path):
    with ProcessCluster(1, tmp_path, settings_module="tests.processes.orm_settings") as cluster:
        cluster["a"].directory.mkdir()
        yield cluster


def shell(node, code):
    command = [*node.command, "shell", "-v", "0", "-c", code]
    with (node.directory / "shells.log").open("ab") as errors:
        return subprocess.Popen(command, env=node.environment, stdout=subprocess.PIPE, stderr=errors, text=True)


def test_a_fresh_project_works_without_a_node_process(cluster):
    node = cluster["a"]
    started = time.monotonic()
    node.manage("migrate", timeout=120)
    print(f"migrate: {time.monotonic() - started:.2f} s")
    node.environment["DJANGO_SUPERUSER_PASSWORD"] = "x"
    node.manage("createsuperuser", "--noinput", "--username", "root", "--email", "root@example.com")
    node.manage("shell", "-v", "0", "-c", ACCOUNT + WRITE.format(name="first", count=3))
    assert "found 3 3" in node.manage("shell", "-v", "0", "-c", LOOK)
    node.start()
    cluster.wait_for_leader(30)
    node.manage("shell", "-v", "0", "-c", WRITE.format(name="second", count=3))
    assert node.stop() == 0
    node.manage("shell", "-v", "0", "-c", WRITE.format(name="third", count=3))
    assert "found 9 9" in node.manage("shell", "-v", "0", "-c", LOOK)


def test_several_processes_at_once_lose_and_double_nothing_and_raft_run_takes_over(cluster):
    node = cluster["a"]
    node.manage("migrate", "-v0", timeout=120)
    node.manage("shell", "-v", "0", "-c", ACCOUNT)
    writers = [shell(node, WRITE.format(name=name, count=60)) for name in "wxyz"]
    try:
        victim = writers.pop()
        told = [victim.stdout.readline() for _ in range(5)]
        assert told[-1] == "wrote 4\n"
        victim.send_signal(signal.SIGKILL)
        told += victim.stdout.readlines()
        node.start()  # while three write
        outputs = [writer.communicate(timeout=120)[0] for writer in writers]
    finally:
        for process in [*writers, victim]:
            process.kill()
            process.communicate()
    assert [output.splitlines()[-1] for output in outputs] == ["wrote 59"] * 3
    cluster.wait_for_leader(30)
    found = node.manage("shell", "-v", "0", "-c", LOOK).rsplit("found ", 1)[1]
    groups, balance = map(int, found.split())
    whole = len([line for line in told if line.endswith("\n")])
    # The killed one was told of so many; one more may have been under way.
    assert 180 + whole <= groups <= 181 + whole
    assert groups - 1 <= balance <= groups


def test_without_a_majority_at_hand_the_error_says_how_to_start_the_node(tmp_path):
    with ProcessCluster(3, tmp_path, settings_module="tests.processes.orm_settings") as cluster:
        cluster["a"].directory.mkdir()
        with pytest.raises(RaftlogError, match=r"DatabaseMissing: .*manage\.py raft run"):
            cluster["a"].manage("migrate", "-v0")
        assert not cluster["a"].database.exists()


def test_a_node_whose_database_is_deleted_builds_it_again_from_its_log_and_goes_on(cluster):
    node = cluster["a"]
    node.manage("migrate", "-v0", timeout=120)
    node.manage("shell", "-v", "0", "-c", ACCOUNT + WRITE.format(name="first", count=3))
    node.start()
    cluster.wait_for_leader(30)
    for file in node.directory.glob("db.sqlite3*"):
        file.unlink()
    # Whoever connects meanwhile waits until the node has filled it.
    assert "found 3 3" in node.manage("shell", "-v", "0", "-c", LOOK)
    assert "is brought up to date" in node.output()
    node.manage("shell", "-v", "0", "-c", WRITE.format(name="second", count=3))
    # The same while no node runs: whoever comes first is the node, and builds it.
    assert node.stop() == 0
    for file in node.directory.glob("db.sqlite3*"):
        file.unlink()
    assert "found 6 6" in node.manage("shell", "-v", "0", "-c", LOOK)
