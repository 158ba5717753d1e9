"""The wheel, in an empty virtual environment, in a new project: what a user gets from the package index works."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests import services

pytestmark = pytest.mark.processes

ROOT = Path(__file__).parents[2]
SETTINGS = """
INSTALLED_APPS += ["raftlog", "raftlog.contrib.sequences"]
MIDDLEWARE = ["raftlog.middleware.RetryConflicts", *MIDDLEWARE]
DATABASES = {"default": {"ENGINE": "raftlog.backends.sqlite3", "NAME": BASE_DIR / "db.sqlite3"}}
"""
USE = """
from django.contrib.auth.models import User
from django.db import transaction
from django.test import Client
from raftlog.contrib.sequences import next_number
with transaction.atomic():
    print("number", next_number("invoice"))
User.objects.create_superuser("admin", "admin@example.com", "admin")
client = Client(SERVER_NAME="localhost")
client.login(username="admin", password="admin")
page = client.get("/admin/raftlog/cluster/")
print("page", page.status_code, b"rl-health" in page.content)
"""


def run(*command, cwd, **options):
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "DJANGO"))}
    done = subprocess.run(
        list(map(str, command)), cwd=cwd, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, f"{command}:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", folder, ROOT]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=300, check=False)
    if done.returncode:
        services.missing(f"no wheel can be built here (pip needs setuptools from an index): {done.stderr[-500:]}")
    (made,) = folder.glob("raftlog-*.whl")
    return made


def test_the_wheel_holds_templates_styles_and_types(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert "raftlog/py.typed" in names
    assert "raftlog/templates/admin/raftlog/cluster/cluster.html" in names
    assert {"raftlog/static/raftlog/cluster.css", "raftlog/static/raftlog/live.js"} <= set(names)
    assert "raftlog/contrib/sequences/migrations/0001_initial.py" in names
    assert not [name for name in names if name.startswith(("tests", "demo_site", "benchmarks"))]


def test_a_new_project_uses_it_in_an_empty_environment(wheel, tmp_path):
    run(sys.executable, "-m", "venv", tmp_path / "venv", cwd=tmp_path)
    python = tmp_path / "venv/bin/python"
    run(python, "-m", "pip", "install", "-q", wheel, cwd=tmp_path)
    run(python, "-m", "django", "startproject", "mysite", ".", cwd=tmp_path)
    with (tmp_path / "mysite/settings.py").open("a") as settings:
        settings.write(SETTINGS)
    manage = [python, "manage.py"]
    run(*manage, "migrate", "--verbosity=0", cwd=tmp_path)
    run(*manage, "check", "--fail-level=ERROR", cwd=tmp_path)
    printed = run(*manage, "shell", "-v", "0", "-c", USE, cwd=tmp_path)
    assert "number 1" in printed
    assert "page 200 True" in printed
    assert "raft run" in run(*manage, "raft", "run", "--help", cwd=tmp_path)
