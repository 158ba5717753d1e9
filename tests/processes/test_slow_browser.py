"""A browser that does not read what it is told of changes: its connection fills, then its queue, and it is closed."""

import json
import socket
from contextlib import contextmanager

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from raftlog.channels import TOO_SLOW
from raftlog.testing.processes import ProcessCluster

pytestmark = pytest.mark.processes

ENTRIES = 120  # of 900 rows, 70 KB of keys each: more than the sockets of both sides and a queue of 20 hold
WRITE = f"""
from demo_site.bank.models import Account
for n in range({ENTRIES}):
    Account.objects.bulk_create(Account(name=f"{{n}} {{i}}", balance=1, paid_in=1) for i in range(900))
"""


@pytest.fixture
def node(tmp_path):
    with ProcessCluster(1, tmp_path, settings_module="tests.processes.changes_settings") as cluster:
        cluster.start()
        cluster.wait_for_leader(60)
        cluster["a"].manage("migrate", "-v0", timeout=200)
        yield cluster["a"]


@contextmanager
def browser(node, **subscription):
    """It has little room for what it does not read."""
    room = socket.socket()
    room.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    room.settimeout(20)
    room.connect(node.settings.bind)
    with connect(f"{node.address}/changes/", sock=room, max_queue=1, ping_interval=None) as found:
        found.send(json.dumps({"subscribe": ["bank.account"]} | subscription))
        yield found


def indices(connection):
    """Of the messages, until it is closed; and by what."""
    found = []
    try:
        while True:
            found.append(json.loads(connection.recv(30))["index"])
    except ConnectionClosed as closed:
        return found, closed.rcvd


def test_a_browser_that_does_not_read_is_closed_and_misses_nothing_when_it_comes_back(node):
    with browser(node) as slow:
        slow.recv(30)
        node.manage("shell", "-v", "0", "-c", WRITE, timeout=200)
        seen, why = indices(slow)
    assert (why.code, why.reason) == (TOO_SLOW, "come back with `since`")
    assert 0 < len(seen) < ENTRIES
    with browser(node, since=seen[-1]) as again:
        missed = [json.loads(again.recv(30)) for _ in range(1 + ENTRIES - len(seen))]
    assert [message["type"] for message in missed] == ["subscribed"] + ["change"] * (ENTRIES - len(seen))
