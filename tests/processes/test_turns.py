"""Three real nodes, app processes of their own: hot rows make progress, nothing starves, nothing is lost."""

import json
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request

import pytest

from raftlog.testing.processes import ProcessCluster
from tests.processes.test_orm import contents

pytestmark = pytest.mark.processes

THREADS = 8  # of each of the three app processes


def start_load(node, kind, threads, count):
    return subprocess.Popen(
        [sys.executable, "-m", "tests.processes.shelf.load", kind, str(threads), str(count)],
        env=node.environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def finish(process, timeout=120):
    output, _ = process.communicate(timeout=timeout)
    assert process.returncode == 0
    return json.loads(output.splitlines()[-1])


def shell(node, code):
    return node.manage("shell", "-v", "0", "-c", code, timeout=120).strip()


def hits(node):
    return int(shell(node, "from tests.processes.shelf.models import Book; print(Book.objects.get(title='hot').hits)"))


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    folder = tmp_path_factory.mktemp("turns")
    with ProcessCluster(3, folder, settings_module="tests.processes.shelf_settings") as made:
        made.start()
        made.wait_for_leader(timeout=60)
        made["a"].manage("migrate", "shelf", "0001", timeout=120)
        shell(made["b"], "from tests.processes.shelf.models import Book; Book.objects.create(title='hot')")
        yield made


@pytest.mark.parametrize(("kind", "count"), [("increment", 5), ("read_then_write", 5), ("script", 3)])
def test_24_threads_on_three_nodes_increment_one_row(cluster, kind, count):
    cluster.wait_all_applied(timeout=60)
    before = hits(cluster["a"])
    processes = [start_load(node, kind, THREADS, count) for node in cluster]
    reports = [finish(process) for process in processes]
    for node, report in zip(cluster, reports, strict=True):
        print(f"{kind} on {node.node_id}: {report}")
        assert report["errors"] == []
    total = 3 * THREADS * count
    assert sum(report["done"] for report in reports) == total
    cluster.wait_all_applied(timeout=60)
    assert hits(cluster["c"]) == before + total
    found = [contents(node) for node in cluster]
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize("view", ["hit", "ahit"])
def test_views_on_three_nodes_increment_one_row(cluster, view):
    """ATOMIC_REQUESTS and an async view, under the middleware: nobody ever sees a conflict."""
    cluster.wait_all_applied(timeout=60)
    before = hits(cluster["a"])
    answers = []

    def work(node):
        for _ in range(4):
            try:
                with urllib.request.urlopen(f"{node.http_address}/{view}/hot/", timeout=60) as answer:
                    answers.append((answer.status, int(answer.read())))
            except urllib.error.HTTPError as error:
                answers.append((error.code, error.read().decode()[:2000]))

    threads = [threading.Thread(target=work, args=(node,)) for node in cluster for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert sorted(answers) == [(200, before + number) for number in range(1, 49)]
    cluster.wait_all_applied(timeout=60)
    assert hits(cluster["b"]) == before + 48


HOLDER = """
import sys
from django.db import transaction
from tests.processes.shelf.models import Book
with transaction.atomic():
    Book.objects.create(title="held")
    print("holds", flush=True)
    sys.stdin.readline()
print("done", flush=True)
"""


def test_a_stopped_process_that_holds_the_hosts_turn_is_named_by_its_node(cluster):
    node, other = cluster["a"], cluster["b"]
    command = [*node.command, "shell", "-v", "0", "-c", HOLDER]
    holder = subprocess.Popen(command, env=node.environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline() == "holds\n"
        holder.send_signal(signal.SIGSTOP)
        shell(other, "from tests.processes.shelf.models import Book; Book.objects.create(title='meanwhile')")
        words = f"held by process {holder.pid} for"
        found = cluster.wait_for(
            lambda statuses: statuses["a"] and any(words in problem for problem in statuses["a"]["problems"]),
            60,
            "the node says who holds the turn",
        )
        assert not found["a"]["healthy"]
        assert any(f"kill -CONT {holder.pid}" in problem for problem in found["a"]["problems"])
        cluster.wait_for(lambda statuses: words in node.output(200), 60, "the node logs it")
    finally:
        holder.send_signal(signal.SIGCONT)
        output, _ = holder.communicate("\n", timeout=60)
    assert output == "done\n"
    cluster.wait_for(lambda statuses: statuses["a"] and statuses["a"]["healthy"], 60, "the node is well again")
    cluster.wait_all_applied(timeout=60)
