"""64 threads of four processes on one host, reading and then writing: nobody sees "database is locked"."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.processes


def test_nobody_sees_database_is_locked():
    """The figures are the benchmark's; here only the errors count."""
    command = [sys.executable, "-m", "benchmarks.locked", "--seconds", "3", "--nodes", "1", "--json"]
    done = subprocess.run(
        command, cwd=Path(__file__).parents[2], stdout=subprocess.PIPE, text=True, timeout=300, check=False
    )
    assert done.stdout, "the benchmark did not run"
    stock, ours = json.loads(done.stdout)["backends"]
    assert (ours["locked"], ours["other"]) == (0, {})
    assert done.returncode == 0
    assert min(ours["reads"]["per_second"], ours["writes"]["per_second"], stock["writes"]["per_second"]) > 0
