"""Django's tests of every cache backend, on ours; on Django's own in memory where the run is the stock one."""

import os

from cache import tests as djangos
from django.apps import apps
from django.test import TransactionTestCase, override_settings

from raftlog import clock

OURS = [name for name in ("raftlog", "raftlog.contrib.cache") if apps.is_installed(name)]
BACKEND = "raftlog.contrib.cache.RaftlogCache" if OURS else "django.core.cache.backends.locmem.LocMemCache"


@override_settings(CACHES=djangos.caches_setting_for_tests(BACKEND=BACKEND, LOCATION="test cache"))
class RaftlogCacheTests(djangos.BaseCacheTests, TransactionTestCase):
    available_apps = ["cache", *OURS]

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        if OURS and os.environ["SUITE_LOG"] == "inline":
            cls.enterClassContext(inline_with_a_clock())


def inline_with_a_clock():
    from raftlog.testing.inline import Inline

    class WithAClock(Inline):
        """Its log time is the wall clock's, since the tests sleep until something has expired."""

        def propose(self, payloads, timeout, done):
            self.travel(max(clock.wall_microseconds() / 1e6 - self.now.timestamp(), 0))
            super().propose(payloads, timeout, done)

    return WithAClock("default")
