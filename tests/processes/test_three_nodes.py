"""Three nodes as the quickstart starts them: what a user does with them, and sees."""

import json
import sqlite3
import sys
import urllib.parse
import urllib.request
from contextlib import closing
from http.cookiejar import CookieJar
from pathlib import Path

import pytest

from raftlog.consensus.entries import OPEN_SESSION, client_payload
from raftlog.exceptions import RaftlogError
from raftlog.runtime import clock
from raftlog.runtime.ports import APPLIED, UNKNOWN
from raftlog.testing.processes import ProcessCluster, leader_of

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
        with closing(sqlite3.connect(f"file:{node.database}?mode=ro", uri=True)) as raw:
            assert raw.execute("SELECT balance FROM bank_account WHERE name = 'ada'").fetchall() == [(100,)]


def test_the_status_names_the_leader_from_any_host(cluster):
    leader = cluster.wait_for_leader(30)
    one, other = followers_of(cluster)
    report = json.loads(one.manage("raft", "status", "--json"))
    assert report["leader_id"] == leader
    assert report["voters_answering"] == 3
    assert all(row["reachable"] for row in report["members"])
    assert f"{leader} leads in term" in other.manage("raft", "status")


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


def test_a_leader_without_answers_steps_down_and_its_callers_get_one(cluster):
    """It hears nothing any more, while every connection stays open: its followers' processes are paused."""
    leader = cluster.wait_for_leader(40)
    others = [node for node in cluster if node.node_id != leader]
    answered = []
    client = cluster[leader].client()
    for node in others:
        node.pause()
    paused_at = clock.monotonic()
    client.propose([client_payload(OPEN_SESSION, b"waiting caller 1", 0, 0, b"")], 60.0, answered.extend)
    cluster.wait_for(lambda found: leader_of(found) is None, 20, "the leader steps down")
    # An election timeout (0.5 s), and what a busy machine needs to run the timer and this test.
    assert clock.monotonic() - paused_at < 5
    deadline = clock.monotonic() + 20
    while not answered:
        assert clock.monotonic() < deadline, "the caller was not answered although nobody leads"
        clock.sleep(0.05)
    assert answered[0].status == UNKNOWN
    for node in others:
        node.resume()
    cluster.wait_for_leader(40)
    later = []
    client.propose([client_payload(OPEN_SESSION, b"waiting caller 2", 0, 0, b"")], 30.0, later.extend)
    cluster.wait_for(lambda found: bool(later), 40, "writes go on")
    assert later[0].status == APPLIED
    cluster.wait_all_applied(30)


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
