"""Three real nodes, app processes of their own: hot rows make progress, nothing starves, nothing is lost."""

import json
import subprocess
import sys

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


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    folder = tmp_path_factory.mktemp("turns")
    with ProcessCluster(3, folder, settings_module="tests.processes.shelf_settings") as made:
        made.start()
        made.wait_for_leader(timeout=60)
        made["a"].manage("migrate", "shelf", "0001", timeout=120)
        shell(made["b"], "from tests.processes.shelf.models import Book; Book.objects.create(title='hot')")
        yield made


@pytest.mark.parametrize(("kind", "count"), [("increment", 10), ("read_then_write", 10), ("script", 5)])
def test_24_threads_on_three_nodes_increment_one_row(cluster, kind, count):
    read = "from tests.processes.shelf.models import Book; print(Book.objects.get(title='hot').hits)"
    cluster.wait_all_applied(timeout=60)
    before = int(shell(cluster["a"], read))
    processes = [start_load(node, kind, THREADS, count) for node in cluster]
    reports = [finish(process) for process in processes]
    for node, report in zip(cluster, reports, strict=True):
        print(f"{kind} on {node.node_id}: {report}")
        assert report["errors"] == []
    total = 3 * THREADS * count
    assert sum(report["done"] for report in reports) == total
    cluster.wait_all_applied(timeout=60)
    assert int(shell(cluster["c"], read)) == before + total
    found = [contents(node) for node in cluster]
    assert found[0] == found[1] == found[2]
