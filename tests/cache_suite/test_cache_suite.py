"""Django's own tests of caches, through three real nodes in one process."""

import pytest

from tests.django_suite.test_django_suite import assert_alike, suite

pytestmark = pytest.mark.processes


def test_djangos_tests_of_caches_pass_through_three_nodes():
    report, code = suite("cache_suite")
    assert report["ran"] == report["passed"] > 50
    assert_alike(report, code)
