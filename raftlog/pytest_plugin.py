"""The pytest plugin, found by itself where raftlog is installed: raft_inline, raft_cluster, raft_determinism.

Importing it imports no Django; a project without raftlog never notices it. See docs/howto/testing.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from raftlog.testing.cluster import Cluster
    from raftlog.testing.determinism.checking import Determinism
    from raftlog.testing.inline import Inline


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.getgroup("raftlog").addoption(
        "--raft-record",
        metavar="FOLDER",
        help="keep what tests propose through raft_inline, for `manage.py raft determinism --cases FOLDER`",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "raft_cluster(nodes=3, **options): what the fixture raft_cluster starts with")
    has_django = config.pluginmanager.hasplugin("django")
    config.pluginmanager.register(PytestDjango() if has_django else NoPytestDjango(), "raftlog-database")


class PytestDjango:
    """pytest-django makes the databases that the tests name among their fixtures when they are collected."""

    @pytest.fixture
    def raft_test_database(self, db: None) -> None:
        """What raft_inline works on."""


class NoPytestDjango:
    """Somebody else has set up Django and its databases."""

    @pytest.fixture
    def raft_test_database(self) -> None:
        """What raft_inline works on."""


@pytest.fixture
def raft_needs_app() -> None:
    """Fails with what to do where raftlog's fixtures cannot work."""
    from django.apps import apps
    from django.conf import settings

    if not settings.configured and not apps.ready:
        pytest.fail("raftlog's fixtures need Django's settings: install pytest-django, set DJANGO_SETTINGS_MODULE")
    if not apps.is_installed("raftlog"):
        pytest.fail("raftlog's fixtures need 'raftlog' in INSTALLED_APPS")


@pytest.fixture
def raft_inline(request: pytest.FixtureRequest, raft_needs_app: None, raft_test_database: None) -> Iterator[Inline]:
    """What is proposed applies at once, on the test's connection, and is rolled back with the test."""
    from raftlog.testing.inline import Inline

    with Inline() as inline:
        # Where the plugin was loaded late, there is no such option.
        if folder := request.config.getoption("--raft-record", None):
            from raftlog.testing.determinism.recorder import record

            record(inline, Path(folder))
        yield inline


@pytest.fixture
def raft_determinism(raft_needs_app: None, raft_test_database: None) -> Determinism:
    """`raft_determinism.check(buy, item_id=3)`: is the command the same on every node, on the test's data?"""
    from raftlog.testing.determinism.checking import Determinism

    return Determinism()


@pytest.fixture
def raft_cluster(request: pytest.FixtureRequest, raft_needs_app: None) -> Iterator[Callable[..., Cluster]]:
    """A function that starts a cluster of nodes in this process; it ends with the test.

    Its arguments are those of raftlog.testing.cluster.Cluster; the marker raft_cluster(nodes=5) gives defaults.
    """
    from raftlog.testing.cluster import Cluster

    marker = request.node.get_closest_marker("raft_cluster")
    defaults: dict[str, Any] = dict(marker.kwargs) if marker else {}
    if marker and marker.args:
        defaults["nodes"] = marker.args[0]
    with ExitStack() as stack:
        if request.config.pluginmanager.hasplugin("django"):
            stack.enter_context(request.getfixturevalue("django_db_blocker").unblock())

        def start(nodes: int | None = None, **options: Any) -> Cluster:
            arguments = {**defaults, **options} | ({"nodes": nodes} if nodes is not None else {})
            return stack.enter_context(Cluster(**arguments))

        yield start
