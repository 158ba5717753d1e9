"""The plugin in a project of somebody else: that of docs/howto/testing.md, in a process of its own."""

import importlib.metadata
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "howto" / "testing.md"
FILES = re.compile(r"<!-- file: (\S+) -->\n```python\n(.*?)```", re.DOTALL)
SETTINGS = """
SECRET_KEY = "tests of a project"
INSTALLED_APPS = ["django.contrib.contenttypes", "raftlog", "shop"]
INSTALLED_APPS += ["raftlog.contrib.locks", "raftlog.contrib.sequences"]
DATABASES = {"default": {"ENGINE": "raftlog.backends.sqlite3", "NAME": "project.sqlite3"}}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
USE_TZ = True
"""


BATTERIES = """
import pytest
from django.db import transaction
from raftlog.contrib import locks, sequences


def use(number):
    with transaction.atomic():
        assert sequences.next_number("invoice") == number
    with locks.lock("till", ttl=30) as fence:
        return fence.token


def test_inline(raft_inline):
    assert use(1) < use(2)
    assert {entry.command for entry in raft_inline.entries} == {"raftlog_locks.acquire", "raftlog_locks.release"}


def test_cluster(raft_cluster):
    cluster = raft_cluster(nodes=3)
    first, killed = use(1), cluster.kill_leader()
    assert use(2) > first
    cluster.restart(killed)
    cluster.assert_equal()
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    folder = tmp_path_factory.mktemp("project")
    (folder / "shop").mkdir()
    (folder / "shop" / "__init__.py").touch()
    (folder / "settings.py").write_text(SETTINGS)
    (folder / "pytest.ini").write_text("[pytest]\npython_files = test_*.py\n")
    (folder / "batteries.py").write_text(BATTERIES)
    for name, text in FILES.findall(PAGE.read_text()):
        (folder / name).write_text(text)
    return folder


def run(folder, *arguments, **environment):
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{folder}", "PYTHONDONTWRITEBYTECODE": "1", **environment},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def run_pytest(folder, *arguments):
    # Where this checkout is not installed as it is now, pytest does not find the plugin by itself.
    is_found = "raftlog" in {entry.name for entry in importlib.metadata.entry_points(group="pytest11")}
    plugin = [] if is_found else ["-p", "raftlog.pytest_plugin"]
    return run(folder, "-m", "pytest", "-p", "no:cacheprovider", *plugin, *arguments)


def test_the_pages_tests_pass_under_pytest(project):
    ran = run_pytest(project, "--ds=settings", "-W", "error", "-v")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    written = sum(text.count("def test_") for name, text in FILES.findall(PAGE.read_text()) if name.startswith("test_"))
    assert f"{written} passed" in ran.stdout


def test_what_tests_propose_can_be_recorded_and_checked(project, tmp_path):
    ran = run_pytest(project, "--ds=settings", "--raft-record", str(tmp_path / "cases"), "test_shop.py")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    arguments = ("-m", "raftlog.testing.determinism", "--cases", str(tmp_path / "cases"))
    ran = run(project, *arguments, "shop.buy", DJANGO_SETTINGS_MODULE="settings")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "2 cases of 1 commands: none of them differ" in ran.stdout


def test_batteries_work_in_both(project):
    ran = run_pytest(project, "--ds=settings", "-W", "error", "-o", "python_files=batteries.py", "batteries.py")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "2 passed" in ran.stdout


def test_and_under_djangos_runner(project):
    ran = run(project, "-m", "django", "test", "shop", DJANGO_SETTINGS_MODULE="settings")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "Ran 2 tests" in ran.stderr


def test_a_project_without_raftlog_does_not_notice_it(tmp_path):
    (tmp_path / "test_plain.py").write_text(
        "import sys\n\ndef test_plain():\n    assert 'django.db' not in sys.modules\n"
        "\ndef test_asks(raft_inline):\n    pass\n"
    )
    ran = run_pytest(tmp_path, "-p", "no:django", "--strict-markers", "-W", "error", "-q", "--rootdir", str(tmp_path))
    assert "1 passed, 1 error" in ran.stdout, ran.stdout + ran.stderr
    assert "raftlog's fixtures need Django's settings" in ran.stdout
