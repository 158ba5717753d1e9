"""Three nodes as the quickstart starts them: what a user does with them, and sees."""

import json
import sys
import urllib.parse
import urllib.request
from contextlib import closing
from http.cookiejar import CookieJar
from pathlib import Path

import pytest

from raftlog.exceptions import RaftlogError
from raftlog.runtime import clock
from raftlog.testing.processes import ProcessCluster

pytestmark = pytest.mark.processes

MANAGE = [sys.executable, str(Path(__file__).parents[2] / "manage.py")]
IMPORTS = """
from demo_site.bank.commands import open_account, transfer
from demo_site.bank.models import Account
from raftlog.exceptions import ProposalError
"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    with ProcessCluster(3, tmp_path_factory.mktemp("nodes"), command=MANAGE) as cluster:
        cluster.start()
        cluster.migrate()
        cluster.wait_for_leader(30)
        yield cluster


def shell(node, code):
    """Run in `manage.py shell` on that node's host; returns what it printed."""
    return node.manage("shell", "--no-imports", "-c", IMPORTS + code).strip()


def followers_of(cluster):
    leader = cluster.wait_for_leader(30)
    return [node for node in cluster if node.node_id != leader]


def test_a_command_proposed_on_a_follower_returns_and_the_next_read_there_sees_it(cluster):
    follower = followers_of(cluster)[0]
    code = "open_account.propose(name='ada', balance=100)\nprint(Account.objects.get(name='ada').balance)"
    assert shell(follower, code) == "100"
    cluster.wait_all_applied(30)
    for node in cluster:
        assert shell(node, "print(Account.objects.get(name='ada').balance)") == "100"


def test_the_status_names_the_leader_from_any_host(cluster):
    leader = cluster.wait_for_leader(30)
    for node in cluster:
        report = json.loads(node.manage("raft", "status", "--json"))
        assert report["leader_id"] == leader
        assert report["voters_answering"] == 3
        assert all(row["reachable"] for row in report["members"])
    assert f"{leader} leads in term" in followers_of(cluster)[0].manage("raft", "status")


def test_the_site_is_served_by_every_node_and_its_forms_propose(cluster):
    follower = followers_of(cluster)[0]
    browser = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(CookieJar()))
    with closing(browser.open(follower.http_address + "/", timeout=20)) as page:
        text = page.read().decode()
    assert f"as node {follower.node_id} has it" in text
    token = text.partition('name="csrfmiddlewaretoken" value="')[2].partition('"')[0]
    form = {"csrfmiddlewaretoken": token, "action": "open", "name": "grace", "balance": "7"}
    with closing(browser.open(follower.http_address + "/", urllib.parse.urlencode(form).encode(), timeout=20)) as page:
        text = page.read().decode()
    assert "Opened an account for grace." in text
    assert "<td>grace</td>" in text


def test_a_follower_that_was_killed_catches_up(cluster):
    follower, other = followers_of(cluster)
    follower.kill()
    shell(other, "open_account.propose(name='bob')\ntransfer.propose(source='ada', target='bob', amount=30)")
    follower.start()
    cluster.wait_all_applied(30)
    assert shell(follower, "print(Account.objects.get(name='bob').balance)") == "30"


def test_without_a_majority_a_proposal_ends_in_time_and_says_so_and_goes_on_after_one_returns(cluster):
    survivor, *lost = cluster
    cluster.kill([node.node_id for node in lost])
    code = """
try:
    open_account.with_options(timeout=2).propose(name='eve')
except ProposalError as error:
    print(type(error).__name__, error)
"""
    started_at = clock.monotonic()
    answer = shell(survivor, code)
    assert clock.monotonic() - started_at < 15  # of which most is Python's start
    assert answer.startswith(("NoLeader", "OutcomeUnknown")), answer
    with pytest.raises(RaftlogError, match=r"ended with 1:(?s:.*)No leader \(1 of 3 voters answer: no majority"):
        survivor.manage("raft", "status")
    lost[0].start()
    cluster.wait_for_leader(30)
    assert shell(survivor, "open_account.propose(name='dan', balance=5)\nprint('done')") == "done"
    lost[1].start()
    cluster.wait_all_applied(30)
