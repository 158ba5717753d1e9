"""What pages and views must not do: run a visitor's pattern, show rows or metrics to whoever asks, hide what failed."""

import pytest
from django.core.management.base import CommandError
from django.test import RequestFactory

from raftlog import views
from raftlog.conf import load_settings

CATASTROPHIC = "(a+)+$"


@pytest.fixture
def admin_pages(with_admin):
    from raftlog.admin import consistency, log

    return {"log": log, "consistency": consistency}


def test_what_is_searched_in_the_log_is_text_and_no_pattern(admin_pages, monkeypatch):
    """A pattern like this one holds the interpreter's lock for years, and with it the node."""
    log = admin_pages["log"]
    monkeypatch.setattr(log, "line_of", lambda entry: entry["line"])
    form = log.FilterForm({"text": CATASTROPHIC})
    assert form.is_valid()
    matches = form.matcher()
    assert not matches({"line": "a" * 40 + "!"})
    assert matches({"line": f"note='{CATASTROPHIC.upper()}'"})


def test_a_comparison_that_fails_says_why(admin_pages, monkeypatch):
    consistency = admin_pages["consistency"]

    def find_members(settings):
        raise CommandError("whatever it was")

    monkeypatch.setattr(consistency, "find_members", find_members)
    comparison = consistency.Comparison()
    comparison.begin()
    comparison._thread.join(10)
    assert comparison.error == "CommandError: whatever it was"


@pytest.mark.parametrize("may_run", [True, False])
def test_rows_that_differ_are_shown_to_those_who_may_compare(admin_pages, monkeypatch, may_run):
    consistency = admin_pages["consistency"]
    comparison = consistency.Comparison()
    row = {"key": [1], "reference": {"name": "Ada"}, "node": {"name": "Eve"}}
    since = {"exact": True, "index": 3}
    difference = {"node": "b", "table": "bank_account", "since": since, "cause": "a command", "rows": [row]}
    comparison.found = {"differences": [difference], "reference": "a"}
    monkeypatch.setattr(consistency, "_comparison", comparison)
    monkeypatch.setattr(consistency, "sentence", lambda found: "b differs")
    monkeypatch.setattr(consistency, "hashes", dict)
    monkeypatch.setattr(consistency, "may", lambda request, permission: may_run)
    monkeypatch.setattr(consistency, "render", lambda request, template, context: context)
    shown = consistency.view(RequestFactory().get("/"), {})
    assert ("Ada" in str(shown["lines"])) is may_run


@pytest.mark.parametrize(
    ("meta", "is_shown"),
    [
        ({"REMOTE_ADDR": "127.0.0.1"}, True),
        ({"REMOTE_ADDR": "::1"}, True),
        ({"REMOTE_ADDR": "10.0.0.9"}, False),
        ({"REMOTE_ADDR": ""}, False),  # a Unix socket: whoever a proxy on this host speaks for
        ({"REMOTE_ADDR": "127.0.0.1", "HTTP_X_FORWARDED_FOR": "10.0.0.9"}, False),
        ({"REMOTE_ADDR": "127.0.0.1", "HTTP_X_REAL_IP": "10.0.0.9"}, False),
        ({"REMOTE_ADDR": "127.0.0.1", "HTTP_FORWARDED": "for=10.0.0.9"}, False),
        ({"REMOTE_ADDR": "127.0.0.1", "HTTP_VIA": "1.1 proxy"}, False),
    ],
)
def test_metrics_without_a_token_are_for_this_host_and_nobody_whom_a_proxy_speaks_for(settings, meta, is_shown):
    settings.RAFTLOG = {}
    request = RequestFactory().get("/raft/metrics", **meta)
    assert views._may_see_metrics(request, load_settings()) is is_shown
