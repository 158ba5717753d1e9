"""README's example works as it is printed: its code blocks are taken from README.md and run on three hosts.

Three copies of a project made by `startproject` stand for the hosts; only ports and node ids differ from the text.
"""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from raftlog.runtime import clock
from raftlog.testing.processes import free_ports

pytestmark = pytest.mark.processes

ROOT = Path(__file__).parents[2]
MODELS = """
from django.db import models


class Item(models.Model):
    stock = models.IntegerField()


class Order(models.Model):
    id = models.BigIntegerField(primary_key=True)
    item = models.ForeignKey(Item, on_delete=models.PROTECT)
    quantity = models.IntegerField()
    placed_at = models.DateTimeField()
"""
STOCK = "Item.objects.get_or_create(pk=3, defaults={'stock': 10})"


def example(name):
    """The python block that follows `<!-- example: name -->` in README.md."""
    text = (ROOT / "README.md").read_text()
    match = re.search(rf"<!-- example: {name} -->\n```python\n(.*?)```", text, re.DOTALL)
    assert match, f"README.md has no example {name!r}"
    return match[1]


class Host:
    def __init__(self, folder, node_id, settings):
        self.folder = folder
        self.process = None
        shutil.copytree(folder.parent / "template", folder)
        with (folder / "project" / "settings.py").open("a") as file:
            file.write(settings.replace('"NODE_ID": "a"', f'"NODE_ID": "{node_id}"'))

    def command(self, *arguments):
        return [sys.executable, "manage.py", *arguments]

    def environment(self):
        return {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}

    def run(self, *arguments):
        return subprocess.run(
            self.command(*arguments),
            cwd=self.folder,
            env=self.environment(),
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def manage(self, *arguments):
        done = self.run(*arguments)
        assert done.returncode == 0, f"{arguments} failed:\n{done.stdout}{done.stderr}"
        return done.stdout

    def run_node(self):
        with (self.folder / "node.log").open("wb") as output:
            self.process = subprocess.Popen(
                self.command("raft", "run"), cwd=self.folder, env=self.environment(), stdout=output, stderr=output
            )

    def stop(self):
        if self.process is not None:
            self.process.terminate()
            try:
                self.process.wait(20)
            finally:
                self.process.kill()
                self.process.wait()


@pytest.fixture
def hosts(tmp_path):
    template = tmp_path / "template"
    template.mkdir()
    django = [sys.executable, "-m", "django"]
    subprocess.run([*django, "startproject", "project", str(template)], check=True, timeout=60)
    (template / "shop" / "migrations").mkdir(parents=True)
    for name, text in (("__init__", ""), ("migrations/__init__", ""), ("models", MODELS)):
        (template / "shop" / f"{name}.py").write_text(text)
    (template / "shop" / "commands.py").write_text(example("commands"))
    settings = example("settings")
    for old, new in zip(("8001", "8002", "8003"), free_ports(3), strict=True):
        assert old in settings
        settings = settings.replace(old, str(new))
    settings += '\nDEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"\n'
    hosts = [Host(tmp_path / node_id, node_id, settings) for node_id in "abc"]
    try:
        yield hosts
    finally:
        for host in hosts:
            host.stop()


def test_the_example_of_the_readme_works_on_three_hosts(hosts):
    hosts[0].manage("makemigrations", "shop")
    for host in hosts[1:]:
        shutil.copytree(
            hosts[0].folder / "shop" / "migrations", host.folder / "shop" / "migrations", dirs_exist_ok=True
        )
    for host in hosts:
        host.run_node()
    wait_until(lambda: hosts[1].run("raft", "status").returncode == 0, "a leader and a majority")
    hosts[2].manage("migrate", "-v0")
    hosts[0].manage("shell", "-c", f"from shop.models import Item; {STOCK}")
    look = "from shop.models import Item\nprint('left', Item.objects.get(pk=3).stock)"
    assert "ordered 2" in hosts[1].manage("shell", "-c", example("use") + "\nprint('ordered', order.quantity)")
    assert "left 8" in hosts[1].manage("shell", "-c", look)
    for host in hosts:
        wait_until(lambda host=host: "left 8" in host.manage("shell", "-c", look), "every host has applied it")


def wait_until(condition, what):
    deadline = clock.monotonic() + 60
    while not condition():
        assert clock.monotonic() < deadline, f"not within a minute: {what}"
