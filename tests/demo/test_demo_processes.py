"""The demo itself, with real processes: a leader is killed with SIGKILL while writers write, and nothing is lost."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from raftlog.runtime import clock

pytestmark = pytest.mark.processes

ROOT = Path(__file__).parents[2]


ENVIRONMENT = os.environ | {"DJANGO_SETTINGS_MODULE": "demo_site.settings"}


def demo(*arguments):
    return [sys.executable, "manage.py", "demo", *arguments]


def test_a_killed_leader_costs_no_acknowledged_command(tmp_path):
    """The whole story: writes, kill -9, election, restart, catching up, comparison of all databases.

    So many writes that they are not all done when the leader is found and killed.
    """
    done = subprocess.run(
        demo("--commands", "2000", "--json", "--dir", str(tmp_path / "demo")),
        cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["ok"] is True
    assert result["nodes"] == 3
    assert result["killed"] == 1
    assert result["acknowledged"] == 2000
    assert result["transactions"] == 200
    assert (result["lost"], result["doubled"], result["databases_equal"]) == (0, 0, True)
    assert result["failover_ms"] > 0
    assert result["write_gap_ms"] > 0
    assert result["catch_up_ms"] > 0
    assert "kill -9" in done.stderr
    assert processes_of(tmp_path) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_demo_leaves_no_process_behind(tmp_path, number):
    folder = tmp_path / "demo"
    with subprocess.Popen(
        demo("--commands", "100000000", "--dir", str(folder)),
        cwd=ROOT, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs ignore it
    ) as process:  # fmt: skip
        try:
            for line in process.stdout:
                if "was elected" in line:
                    break
            assert len(processes_of(tmp_path)) >= 3  # and migrate, if it has begun
            process.send_signal(number)
            process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 128 + number
    deadline = clock.monotonic() + 10
    while processes_of(tmp_path):
        assert clock.monotonic() < deadline
        clock.sleep(0.05)


def processes_of(folder):
    """Pids of this user's processes whose environment names `folder`: the nodes of the demo there."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and int(entry.name) != os.getpid():
            try:
                environment = (entry / "environ").read_bytes()
            except OSError:  # it has ended, or belongs to somebody else
                continue
            if f"RAFTLOG_DATA_DIR={folder}".encode() in environment:
                found.append(int(entry.name))
    return found
