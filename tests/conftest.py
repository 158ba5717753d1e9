"""What holds for all tests: those that start processes come first, and a failure is told when it happens."""

import os

import pytest

from raftlog import pytest_plugin


def pytest_configure(config):
    # raftlog's own plugin, where this checkout is not installed, or was before it had one.
    if not config.pluginmanager.hasplugin("raftlog"):
        config.pluginmanager.register(pytest_plugin, "raftlog")
    if "PYTEST_XDIST_WORKER" not in os.environ:
        config.pluginmanager.register(FailuresAtOnce(config), "failures-at-once")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items):
    """The long ones first: the many short ones then fill whatever time one of the workers has left."""
    items.sort(key=lambda item: item.get_closest_marker("processes") is None)


class FailuresAtOnce:
    """A run that is ended from outside has told by then what failed."""

    def __init__(self, config):
        self._config = config

    @pytest.hookimpl(trylast=True)
    def pytest_runtest_logreport(self, report):
        if report.failed:
            terminal = self._config.get_terminal_writer()
            terminal.line()
            terminal.line(f"FAILED {report.nodeid} ({report.when}, {report.duration:.1f} s)")
            terminal.line(report.longreprtext)
