"""The tutorials work as they are printed."""

import urllib.request

import pytest

from tests.processes.tutorial import NODES, Tutorial, wait_until

pytestmark = pytest.mark.processes

COUNT = "from catalog.models import Picture; print('pictures', Picture.objects.count())"


def test_the_tutorial_works_from_startproject_to_three_equal_databases(tmp_path):
    with Tutorial(tmp_path) as tutorial:
        kinds = [kind for kind, _, _ in tutorial.blocks]
        assert kinds == ["run", "append", "write", "write", "terminals", "run", "shell"]
        tutorial.follow()
        wait_until(lambda: "pictures 1" in tutorial.manage("c", "shell", "-v", "0", "-c", COUNT), "c has it")
        for node_id in NODES:
            address = tutorial.address(node_id)
            with urllib.request.urlopen(f"{address}/admin/login/", timeout=30) as page:
                assert b"Django administration" in page.read()
            with urllib.request.urlopen(f"{address}/static/admin/css/base.css", timeout=30) as style:
                assert b"--primary" in style.read()
        wait_until(tutorial.databases_are_equal, "the databases of all nodes are equal")


def test_the_tutorial_of_the_batteries_works_though_a_leader_is_killed_in_it(tmp_path):
    with Tutorial(tmp_path, "docs/tutorial-batteries.md") as tutorial:
        kinds = [kind for kind, _, _ in tutorial.blocks]
        assert (kinds.count("prints"), kinds.count("kill"), kinds.count("create")) == (6, 1, 2)
        tutorial.follow()
        wait_until(tutorial.databases_are_equal, "the databases of all nodes are equal")
