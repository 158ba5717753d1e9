"""docs/quickstart.md, block by block, as somebody pastes it; with ports that are free here."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from raftlog.runtime import clock
from raftlog.testing.processes import free_ports

pytestmark = pytest.mark.processes

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.M | re.S)


@pytest.fixture
def blocks(tmp_path):
    """(language, code) of each block but the first, which makes the environment that this test runs in."""
    text = (ROOT / "docs/quickstart.md").read_text()
    for port, free in zip(("8001", "8002", "8003"), free_ports(3), strict=True):
        text = text.replace(f"127.0.0.1:{port}", f"127.0.0.1:{free}")
    text = text.replace(".venv/bin/python", sys.executable).replace("manage.py", str(ROOT / "manage.py"))
    first, *others = BLOCK.findall(text)
    assert first[1].splitlines()[0] == "python3 -m venv .venv"
    return others


class Terminal:
    """bash in the folder, with NODE set; what it prints is kept."""

    def __init__(self, folder, node):
        self._folder = folder
        self._environment = {k: v for k, v in os.environ.items() if not k.startswith(("RAFTLOG", "DJANGO"))}
        self._environment |= {"NODE": node, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
        self.output = (folder / f"{node}.txt").open("w+")
        self.process = None

    def start(self, code):
        command = ["bash", "-euo", "pipefail", "-c", code]
        self.process = subprocess.Popen(
            command,
            cwd=self._folder,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=self.output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def run(self, code, given=""):
        command = ["bash", "-euo", "pipefail", "-c", code]
        done = subprocess.run(
            command,
            cwd=self._folder,
            env=self._environment,
            input=given,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, f"{code}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def text(self):
        self.output.seek(0)
        return self.output.read()

    def close(self):
        if self.process is not None and self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        self.output.close()


def test_the_quickstart_works_as_it_is_written(blocks, tmp_path):
    (_, start), (_, fourth), (_, python) = blocks
    variables, run = start.split("export NODE=a\n")[1].split("mkdir")
    terminals = {node: Terminal(tmp_path, node) for node in "abc"}
    try:
        for terminal in terminals.values():
            terminal.start(f"{variables}mkdir{run}")
        deadline = clock.monotonic() + 60
        while not all("listening on" in terminal.text() for terminal in terminals.values()):
            assert clock.monotonic() < deadline, [terminal.text() for terminal in terminals.values()]
            clock.sleep(0.1)
        status, migrate, shell = fourth.strip().splitlines()
        with_b = Terminal(tmp_path, "b-fourth")
        asked = variables.replace("$NODE", "b")
        while "b leads" not in (told := with_b.run(f"{asked}{status} || true")) and " leads in term" not in told:
            assert clock.monotonic() < deadline, told
        with_b.run(f"{asked}{migrate}")
        more = "print('bob has', Account.objects.get(name='bob').balance)"
        printed = with_b.run(f"{asked}{shell}", f"{python}\n{more}\n")
        with_b.close()
        assert "bob has 30" in printed
    finally:
        for terminal in terminals.values():
            terminal.close()
