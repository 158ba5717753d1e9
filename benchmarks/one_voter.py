"""A fresh project without a node process, beside Django's own SQLite backend: `migrate`, and create() in a shell.

    python -m benchmarks.one_voter

Every process is the node for as long as it writes (raftlog/host.py). Prints each figure and its ratio.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
CREATE = """
import json, time
from django.contrib.auth.models import Group
def create(name):
    started = time.perf_counter()
    Group.objects.create(name=name)
    return time.perf_counter() - started
first = create("first")
next_ones = sorted(create(f"next {number}") for number in range(100))
time.sleep(1)
median, paused = next_ones[50], create("after a pause")
print(json.dumps({"first create()": first, "create(), median of 100": median, "create() after a pause": paused}))
"""
OURS = """
INSTALLED_APPS += ["raftlog"]
DATABASES["default"]["ENGINE"] = "raftlog.backends.sqlite3"
"""
STOCK = """
DATABASES["default"]["OPTIONS"] = {"init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL"}
"""


def measure(folder: Path, settings: str) -> dict[str, float]:
    """Seconds, by what was done."""
    folder.mkdir()
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    environment.pop("DJANGO_SETTINGS_MODULE", None)  # manage.py names its own

    def run(*arguments: str) -> str:
        command = [sys.executable, *arguments]
        return subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True, text=True).stdout

    run("-m", "django", "startproject", "project", ".")
    with (folder / "project" / "settings.py").open("a") as file:
        file.write(settings)
    started = time.perf_counter()
    run("manage.py", "migrate", "-v0")
    taken = {"manage.py migrate": time.perf_counter() - started}
    return taken | json.loads(run("manage.py", "shell", "-v0", "-c", CREATE).splitlines()[-1])


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        stock = measure(Path(folder) / "stock", STOCK)
        ours = measure(Path(folder) / "ours", OURS)
    for name, seconds in ours.items():
        print(f"{name:<26} {seconds * 1e3:8.1f} ms, stock {stock[name] * 1e3:8.1f} ms: {seconds / stock[name]:5.1f} x")


if __name__ == "__main__":
    main()
