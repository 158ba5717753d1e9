"""raftlog's own plugin, where this checkout is not installed, or was before it had one."""

from raftlog import pytest_plugin


def pytest_configure(config):
    if not config.pluginmanager.hasplugin("raftlog"):
        config.pluginmanager.register(pytest_plugin, "raftlog")
