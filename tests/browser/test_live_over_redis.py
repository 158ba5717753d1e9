"""Two app processes beside a node, joined by Redis: live; Redis stopped: pages say so, raft goes on; back: live."""

import shutil
import subprocess
import sys

import pytest

from raftlog.runtime import clock
from raftlog.testing.processes import free_ports
from tests import services
from tests.browser.pages import Site, Tab
from tests.browser.test_cluster_pages import browser  # noqa: F401  (a fixture)

pytestmark = pytest.mark.processes


class Redis:
    """A server of the test's own, which it may stop."""

    def __init__(self, directory):
        if shutil.which("redis-server") is None:
            services.missing("redis-server is not installed")
        (self.port,) = free_ports(1)
        self._directory = directory
        self._process = None

    def start(self):
        self._process = subprocess.Popen(
            ["redis-server", "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--dir", self._directory],
            stdout=subprocess.DEVNULL,
        )

    def stop(self):
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


@pytest.fixture(scope="module")
def redis(tmp_path_factory):
    redis = Redis(tmp_path_factory.mktemp("redis"))
    redis.start()
    yield redis
    redis.stop()


@pytest.fixture(scope="module")
def site(tmp_path_factory, redis):
    services.chromium()
    environment = {"RAFTLOG_TEST_REDIS": str(redis.port)}
    with Site(
        3, tmp_path_factory.mktemp("site"), settings_module="tests.browser.redis_settings", environment=environment
    ) as site:
        site.begin()
        yield site


@pytest.fixture(scope="module")
def apps(site):
    """The addresses of two app processes on the host of node a."""
    ports = free_ports(2)
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "daphne", "-p", str(port), "tests.browser.redis_asgi:application"],
            env=site["a"].environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for port in ports
    ]
    yield [f"http://127.0.0.1:{port}" for port in ports]
    for process in processes:
        process.kill()
        process.wait()


def open_tab(browser, address):  # noqa: F811
    page = browser.new_context(viewport={"width": 1200, "height": 900}).new_page()
    deadline = clock.monotonic() + 60
    while True:
        try:
            return Tab(page, address)
        except Exception as error:
            if "ERR_CONNECTION_REFUSED" not in str(error) or clock.monotonic() > deadline:
                raise
            clock.sleep(0.2)


def test_pages_of_two_app_processes_are_live_while_redis_is_there(browser, site, apps, redis):  # noqa: F811
    tabs = [open_tab(browser, address) for address in apps]
    for tab in tabs:
        tab.open("cluster")
        tab.is_live()
    redis.stop()
    for tab in tabs:
        tab.wait_for_text("#rl-live", "Live updates are off")
    site.shell(
        site["b"], "from demo_site.bank.models import Account; Account.objects.create(name='x', balance=0, paid_in=0)"
    )
    index = site.wait_all_applied(timeout=60)
    assert all(status["healthy"] for status in site.statuses().values())
    redis.start()
    for tab in tabs:
        tab.is_live()
        tab.wait_for_text(".rl-table", f"{index:,}")
        tab.page.context.close()
