"""The folders are the architecture: who may import whom (docs/internals/architecture.md)."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import raftlog

PACKAGE = Path(__file__).parents[2] / "raftlog"

# From the top down. A module imports only from layers below its own, or from its own.
LAYERS: list[set[str]] = [
    {"testing on top"},  # simulated applications, and what tests applications: they stand on all of it
    {"management", "apps", "checks", "urls", "middleware", "admin", "backends", "pytest_plugin", "routers"},
    {"templatetags", "views"},
    {"testing"},  # measures and tries the batteries, too
    {"contrib"},
    {"channels"},
    {"node", "node_events", "node_process", "node_services", "host", "feed"},
    {"asking", "comparison", "digests", "disaster", "observing", "snapshots"},
    {"models"},
    {"replication", "transport"},
    {"runtime"},
    {"storage"},
    {"consensus"},
    {"addresses", "conf", "signals", "exceptions", "log_fields"},
]
ABOVE = {name: depth for depth, names in enumerate(LAYERS) for name in names}
SIBLINGS_APART = {("replication", "transport"), ("transport", "replication")}

FORBIDDEN = {
    "consensus": {
        *("django", "channels", "websockets", "asyncio", "concurrent", "logging", "os", "pathlib", "queue"),
        *("socket", "threading", "time"),
    },
    "storage": {"django", "channels", "websockets", "threading", "queue", "asyncio", "concurrent", "logging"},
    "runtime": {"django", "channels", "websockets"},
}


def modules() -> list[Path]:
    return sorted(path for path in PACKAGE.rglob("*.py") if "migrations" not in path.parts)


TESTING_ON_TOP = {"sql", "inline", "inline_commits", "cluster", "cluster_databases", "determinism", "django"}


def part_of(path: Path) -> str:
    relative = path.relative_to(PACKAGE)
    if relative.parts[0] == "testing" and relative.parts[1].removesuffix(".py") in TESTING_ON_TOP:
        return "testing on top"
    return relative.parts[0] if len(relative.parts) > 1 else relative.stem


def imported_names(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module)
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return names


def violations(part: str, names: set[str]) -> list[str]:
    found = []
    for name in sorted(names):
        top, _, rest = name.partition(".")
        if top in FORBIDDEN.get(part, ()) or top in ("demo_site", "tests", "benchmarks"):
            found.append(f"{part} must not import {name}")
        target = rest.partition(".")[0]
        if top != "raftlog" or target not in ABOVE or target == part:
            continue
        if ABOVE[target] < ABOVE[part] or (part, target) in SIBLINGS_APART:
            found.append(f"{part} imports {name}, which does not stand below it")
    return found


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_each_module_imports_only_what_stands_below_it(path):
    part = part_of(path)
    if part == "__init__":
        assert not {name for name in imported_names(path) if name.startswith("raftlog.")}
        return
    assert part in ABOVE, f"{part} has no place in the layers of this test"
    assert violations(part, imported_names(path)) == []


@pytest.mark.parametrize(
    ("part", "name"),
    [
        ("consensus", "threading"),
        ("consensus", "raftlog.storage.interface"),
        ("storage", "threading"),
        ("runtime", "django.conf"),
        ("transport", "raftlog.replication.codec"),
        ("replication", "raftlog.node"),
        ("testing", "demo_site.bank.models"),
    ],
)
def test_a_planted_violation_is_found(part, name):
    assert violations(part, {name})


@pytest.mark.parametrize("part", ["consensus", "storage", "runtime"])
def test_the_lower_layers_load_without_django(part):
    code = (
        f"import pkgutil, importlib, sys, raftlog.{part} as p\n"
        f"[importlib.import_module(m.name) for m in pkgutil.walk_packages(p.__path__, 'raftlog.{part}.')]\n"
        "sys.exit('django' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=PACKAGE.parent, check=False).returncode == 0


# What contrib may import of raftlog, apart from its own: what every project may.
PUBLIC = {"exceptions", "log_fields", "signals", "models", "middleware", "backends.exceptions"}


@pytest.mark.parametrize("path", sorted((PACKAGE / "contrib").rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_batteries_use_the_public_api_only(path):
    used = {name.removeprefix("raftlog.") for name in imported_names(path) if name.startswith("raftlog.")}
    allowed = PUBLIC | set(raftlog.__all__)
    assert [
        name
        for name in sorted(used)
        if not (name.startswith("contrib") or name in allowed or name.rpartition(".")[0] in PUBLIC)
    ] == []
