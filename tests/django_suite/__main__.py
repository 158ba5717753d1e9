"""Runs the chosen apps on both engines and compares."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import django

from tests.suites.runner import Suite, add_options, compare_all, fetch, finish

APPS = [
    "basic",
    "queries",
    "expressions",
    "aggregation",
    "annotations",
    "lookup",
    "ordering",
    "prefetch_related",
    "model_fields",
    "model_forms",
    "model_inheritance",
    "many_to_many",
    "m2m_through",
    "many_to_one",
    "one_to_one",
    "generic_relations",
    "get_or_create",
    "bulk_create",
    "update",
    "delete",
    "transactions",
    "constraints",
    "custom_pk",
    "composite_pk",
    "fixtures",
    "serializers",
    "sessions_tests",
    "auth_tests",
    "contenttypes_tests",
    "admin_views",
    "schema",
    "migrations",
]
PROCESS_APPS = ["basic", "get_or_create", "bulk_create", "update", "delete", "transactions", "custom_pk", "fixtures"]
# Test -> why it differs. Short, and each for a documented reason.
DIFFERS: dict[str, str] = {
    "get_or_create.tests.UpdateOrCreateTransactionTests.test_creation_in_transaction": "PostgreSQL: READ COMMITTED "
    "lets a transaction go on that read of no row where another made one meanwhile: here a TransactionConflict",
    "serializers.test_deserialization.TestDeserializer.test_crafted_xml_performance": "it measures time: a loaded "
    "machine decides, not the backend",
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.django_suite", description=__doc__)
    add_options(parser)
    parser.add_argument("--apps", help="test apps (or labels) of Django, comma-separated (default: a set of 32)")
    parser.add_argument("--source", type=Path, help="unpacked source distribution (default: fetched with pip)")
    options = parser.parse_args()
    apps = options.apps.split(",") if options.apps else PROCESS_APPS if options.log == "processes" else APPS
    with tempfile.TemporaryDirectory(prefix="django_suite") as folder:
        source = options.source or fetch(f"django=={django.get_version()}", Path(folder))
        return finish(compare_all([suite(app, source) for app in apps], options, Path(folder), DIFFERS))


def suite(app: str, source: Path) -> Suite:
    arguments = ["-m", "suite_child.django_tests", str(source), app]
    return Suite(app, arguments, environment={"DJANGO_SETTINGS_MODULE": "suite_child.settings_django"})


if __name__ == "__main__":
    sys.exit(main())
