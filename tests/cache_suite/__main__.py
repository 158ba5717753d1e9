"""Runs BaseCacheTests on both backends and compares."""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

import django

from tests.suites.runner import ROOT, Suite, add_options, compare_all, fetch, finish

# Stands beside Django's cache/tests.py while it runs.
TESTS = ROOT / "tests" / "suites" / "suite_child" / "raftlog_cache_tests.py"
# Test -> why it differs. None does.
DIFFERS: dict[str, str] = {}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.cache_suite", description=__doc__)
    add_options(parser)
    parser.add_argument("--source", type=Path, help="unpacked source distribution (default: fetched with pip)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="cache_suite") as folder:
        source = options.source or fetch(f"django=={django.get_version()}", Path(folder))
        shutil.copy(TESTS, source / "tests" / "cache" / TESTS.name)
        arguments = ["-m", "suite_child.cache_tests", str(source), "cache.raftlog_cache_tests"]
        suite = Suite("cache", arguments, environment={"DJANGO_SETTINGS_MODULE": "suite_child.settings_cache"})
        return finish(compare_all([suite], options, Path(folder), DIFFERS))


if __name__ == "__main__":
    sys.exit(main())
