"""Runs the chosen suites on both engines and compares."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from tests.suites.runner import Suite, add_options, compare_all, fetch, finish

DISTRIBUTIONS = {
    "guardian": "django-guardian==3.5.2",
    "reversion": "django-reversion==6.4.0",
    "drf": "djangorestframework==3.18.3",
}
# Test -> why it differs. Short, and each for a documented reason.
DIFFERS: dict[str, str] = {}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.third_party_suites", description=__doc__)
    parser.add_argument(
        "suites", nargs="?", default=",".join(DISTRIBUTIONS), help="comma-separated (default: %(default)s)"
    )
    parser.add_argument("--tests", default="", help="of one suite: only this file or folder, from where its tests are")
    add_options(parser)
    options = parser.parse_args()
    names = options.suites.split(",")
    if unknown := sorted(set(names) - set(DISTRIBUTIONS)):
        parser.error(f"unknown suites {', '.join(unknown)}; there are {', '.join(DISTRIBUTIONS)}")
    with tempfile.TemporaryDirectory(prefix="third_party_suites") as folder:
        suites = [suite(name, fetch(DISTRIBUTIONS[name], Path(folder)), options.tests) for name in names]
        return finish(compare_all(suites, options, Path(folder), DIFFERS))


def suite(name: str, source: Path, tests: str) -> Suite:
    if name == "guardian":
        return pytest_suite(name, source, f"guardian/testapp/tests/{tests}", "suite_child.settings_guardian")
    if name == "reversion":
        folder = source / "tests"
        return pytest_suite(name, folder, f"test_app/tests/{tests}", "suite_child.settings_reversion", source)
    return pytest_suite(name, source, f"tests/{tests}", "")  # its conftest makes the settings


def pytest_suite(name: str, folder: Path, tests: str, settings: str, *path: Path) -> Suite:
    arguments = ["-m", "pytest", "-q", "-p", "suite_child.pytest_plugin", "-p", "no:cacheprovider", tests]
    return Suite(name, arguments, folder, {"DJANGO_SETTINGS_MODULE": settings}, (folder, *path))


if __name__ == "__main__":
    sys.exit(main())
