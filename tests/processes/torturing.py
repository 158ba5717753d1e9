"""Runs of `python -m raftlog.testing.torture`, as processes of their own."""

import json
import os
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[2]


@contextmanager
def short_folder():
    """As short as the path of a Unix socket must be, also beside other workers of the tests."""
    with tempfile.TemporaryDirectory(prefix="raftlog-") as made:
        yield Path(made)


def start(folder, *arguments):
    environment = {name: value for name, value in os.environ.items() if name != "DJANGO_SETTINGS_MODULE"}
    environment["TMPDIR"] = str(folder)
    command = [sys.executable, "-m", "raftlog.testing.torture", *arguments]
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def processes_of(directory):
    """Pids of processes whose environment or command names the directory."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and int(folder.name) != os.getpid():
            try:
                text = (folder / "environ").read_bytes() + (folder / "cmdline").read_bytes()
            except OSError:
                continue  # gone meanwhile, or not ours
            if os.fsencode(directory) in text:
                found.append(int(folder.name))
    return found


def report_of(run):
    output, progress = run.communicate(timeout=400)
    assert output, progress
    report = json.loads(output)
    assert report["violations"] == [], f"{report['command']}\n" + "\n\n".join(report["violations"])
    assert run.returncode == 0
    assert report["verdict"] == "passed"
    assert (report["lost"], report["doubled"]) == (0, 0)
    assert report["databases_equal"]
    assert report["linearizable"] or report["serializable"]
    return report
