"""The tutorials, carried out: the code blocks of a page are taken from it and run; only the ports differ.

A block says in a comment before it what it is: commands to run, a file to write, what was printed.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

from raftlog.replication.fingerprint import scan
from raftlog.replication.shapes import Schema
from raftlog.runtime import clock
from raftlog.testing.processes import LAUNCHER, free_ports

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"<!-- (\w+)(?:: ([\w/.]+))? -->\n```\w+\n(.*?)```", re.DOTALL)
NODES = "abc"


def wait_until(condition, what, timeout=90):
    deadline = clock.monotonic() + timeout
    while not condition():
        assert clock.monotonic() < deadline, f"not within {timeout} s: {what}"
        clock.sleep(0.1)


class Tutorial:
    """Follows the page in `folder`. Use as a context manager; leaving it ends the nodes."""

    def __init__(self, folder: Path, page: str = "docs/tutorial.md") -> None:
        self.folder = folder
        self.ports = dict(zip(NODES, free_ports(len(NODES)), strict=True))
        self.nodes: dict[str, subprocess.Popen] = {}
        self.commands: dict[str, str] = {}
        self.printed: list[str] = []
        self._looked: str | None = None  # commands that may be run again until they print what the page says
        self.environment = {
            "PATH": f"{folder}/bin:/usr/bin:/bin",
            "PYTHONPATH": str(ROOT),
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        text = (ROOT / page).read_text()
        for number, port in zip(("8001", "8002", "8003"), self.ports.values(), strict=True):
            assert number in text
            text = text.replace(number, str(port))
        self.blocks = BLOCK.findall(text)
        self._make_commands()

    def _make_commands(self) -> None:
        """`python` and `django-admin` of the page are this interpreter and its Django."""
        (self.folder / "bin").mkdir()
        for name, command in (("python", sys.executable), ("django-admin", f"{sys.executable} -m django")):
            script = self.folder / "bin" / name
            script.write_text(f'#!/bin/sh\nexec {command} "$@"\n')
            script.chmod(0o755)

    def __enter__(self) -> Tutorial:
        return self

    def __exit__(self, *exc_info: object) -> None:
        for node in self.nodes.values():
            node.send_signal(signal.SIGTERM)
        for node in self.nodes.values():
            try:
                node.wait(20)
            except subprocess.TimeoutExpired:
                node.kill()
                node.wait()

    @property
    def project(self) -> Path:
        return self.folder / "mysite"

    def follow(self, *, leave_out: str = "") -> None:
        for kind, argument, text in self.blocks:
            if kind != leave_out:
                getattr(self, f"_{kind}")(argument, text)

    # What the page says to do

    def _run(self, _: str, text: str) -> None:
        self._looked = None
        self.printed.append(self._bash(text))

    def _look(self, _: str, text: str) -> None:
        self._looked = text
        self.printed.append("")

    def _bash(self, text: str) -> str:
        where = self.project if self.project.exists() else self.folder
        return self._check(["bash", "-euo", "pipefail", "-c", text], where)

    def _look_again(self) -> str:
        """What it prints now; a node that has just been started may not answer yet."""
        assert self._looked is not None
        return self._execute(["bash", "-c", self._looked], self.project, None).stdout

    def _prints(self, _: str, text: str) -> None:
        """Every line of it stands in what the commands before printed."""

        def printed() -> bool:
            found = self.printed[-1]
            if all(line in found for line in text.splitlines()):
                return True
            assert self._looked is not None, f"the page says\n{text}and it printed\n{found}"
            self.printed[-1] += self._look_again()
            return False

        wait_until(printed, f"it prints\n{text}")

    def _kill(self, node_id: str, _: str) -> None:
        self.kill(node_id)

    def _start(self, node_id: str, _: str) -> None:
        self.start(node_id)

    def _append(self, path: str, text: str) -> None:
        with (self.project / path).open("a") as file:
            file.write("\n" + text)

    def _write(self, path: str, text: str) -> None:
        assert (self.project / path).exists()  # made by startapp
        (self.project / path).write_text(text)

    def _create(self, path: str, text: str) -> None:
        assert not (self.project / path).exists()
        (self.project / path).write_text(text)

    def _terminals(self, _: str, text: str) -> None:
        for node_id, line in zip(NODES, text.splitlines(), strict=True):
            assert line.startswith(f"NODE={node_id} ")
            self.commands[node_id] = line
            self.start(node_id)
        wait_until(self._has_leader, "a leader and a majority")

    def _shell(self, node_id: str, text: str) -> None:
        self.printed.append(self.manage(node_id, "shell", "-v", "0", "-c", text))

    # The nodes

    def start(self, node_id: str) -> None:
        variable, python, *arguments = shlex.split(self.commands[node_id])
        name, _, value = variable.partition("=")
        assert python == "python"
        launch = [sys.executable, "-I", "-S", "-c", LAUNCHER, str(os.getpid()), sys.executable, *arguments]
        with (self.folder / f"{node_id}.log").open("ab") as output:
            self.nodes[node_id] = subprocess.Popen(
                launch, cwd=self.project, env=self.environment | {name: value}, stdout=output, stderr=output
            )

    def address(self, node_id: str) -> str:
        return f"http://127.0.0.1:{self.ports[node_id]}"

    def kill(self, node_id: str) -> None:
        self.nodes[node_id].kill()
        self.nodes[node_id].wait()

    def manage(self, node_id: str, *arguments: str) -> str:
        return self._check([sys.executable, "manage.py", *arguments], self.project, {"NODE": node_id})

    def status(self, node_id: str) -> dict:
        done = self._execute([sys.executable, "manage.py", "raft", "status", "--json"], self.project, {"NODE": node_id})
        return json.loads(done.stdout) if done.stdout.startswith("{") else {"leader_id": None, "members": []}

    def _has_leader(self) -> bool:
        return self.status("a")["leader_id"] is not None

    def leader(self) -> str:
        return self.status("a")["leader_id"]

    def databases_are_equal(self) -> bool:
        """Once all nodes have applied the same index: rows, schema and counters."""
        members = self.status("a")["members"]
        if len({member["last_applied"] for member in members}) != 1 or any(member["behind"] for member in members):
            return False
        found = [self._contents(node_id) for node_id in NODES]
        return found[0] == found[1] == found[2]

    def _contents(self, node_id: str) -> tuple:
        path = self.project / f"{node_id}.sqlite3"
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as raw:
            schema = raw.execute("SELECT type, name, sql FROM sqlite_master ORDER BY 1, 2").fetchall()
            return schema, scan(raw, Schema(raw)), raw.execute("SELECT * FROM sqlite_sequence ORDER BY 1").fetchall()

    def output(self, node_id: str) -> str:
        return (self.folder / f"{node_id}.log").read_text()

    def _check(self, command: list[str], where: Path, variables: dict | None = None) -> str:
        done = self._execute(command, where, variables)
        if done.returncode:
            logs = "".join(f"\n{node_id}: {self.output(node_id)[-1500:]}" for node_id in self.nodes)
            raise AssertionError(f"{command} ended with {done.returncode}:\n{done.stdout}{done.stderr}{logs}")
        return done.stdout

    def _execute(self, command: list[str], where: Path, variables: dict | None) -> subprocess.CompletedProcess:
        return subprocess.run(
            command,
            cwd=where,
            env=self.environment | (variables or {}),
            capture_output=True,
            text=True,
            timeout=180,
            check=False,
        )
