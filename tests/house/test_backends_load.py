"""Django imports a backend while it makes the first model: nothing that the backend imports may make one itself."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MAKES_A_MODEL = """
from django.conf import settings
settings.configure(DATABASES={"default": {"ENGINE": "raftlog.backends.%s"}}, INSTALLED_APPS=["raftlog"])
import django
django.setup()
"""


@pytest.mark.parametrize("vendor", ["sqlite3", "postgresql"])
def test_a_project_starts_with_the_backend(vendor):
    done = subprocess.run(
        [sys.executable, "-c", MAKES_A_MODEL % vendor], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
