"""The JSON lines of docs/reference/logs.md: its examples are taken from the page, and a real node logs with them."""

import json
import os
import re
import socket
from pathlib import Path

import pytest

from raftlog.log_fields import EVENTS, FIELDS, PREFIX
from raftlog.testing.processes import ProcessCluster
from raftlog.transport.close_codes import BROWSER_ORIGIN
from raftlog.transport.routing import PEER_PATH

pytestmark = pytest.mark.processes

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/reference/logs.md").read_text()


def example(name):
    return re.search(rf"<!-- example: {name} -->\n```python\n(.*?)```", PAGE, re.DOTALL)[1]


@pytest.fixture
def node(tmp_path):
    """Of a cluster of one, with the demo's settings and those of the page after them."""
    package = tmp_path / "project"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "json_lines.py").write_text(example("formatter"))
    (package / "settings.py").write_text("from demo_site.settings import *\n\n" + example("settings"))
    with ProcessCluster(1, tmp_path / "nodes", settings_module="project.settings") as cluster:
        cluster["a"].environment["PYTHONPATH"] += f"{os.pathsep}{tmp_path}"
        cluster.start()
        cluster.wait_for_leader(30)
        yield cluster["a"]


def records(node):
    lines = node.log_file.read_text().splitlines()
    return [json.loads(line) for line in lines if line.startswith("{")]


def connect_like_a_page(node):
    """As a browser would, whose page has no business there; returns once the node has closed the connection."""
    host, port = node.settings.bind
    with socket.create_connection((host, port), timeout=10) as browser:
        browser.sendall(
            f"GET {PEER_PATH} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
            "Origin: http://elsewhere.example\r\n\r\n".encode()
        )
        while browser.recv(4096):
            pass


def test_a_node_writes_json_lines_that_can_be_searched(node):
    connect_like_a_page(node)
    assert node.stop() == 0
    found = records(node)
    by_event = {record["raftlog_event"]: record for record in found if "raftlog_event" in record}
    elected = by_event["became_leader"]
    assert (elected["level"], elected["logger"], elected["raftlog_node"]) == ("INFO", "raftlog.runtime", "a")
    assert elected["raftlog_term"] >= 1
    assert elected["message"].startswith("a became leader in term")
    refused = by_event["connection_refused"]
    assert (refused["level"], refused["logger"]) == ("WARNING", "raftlog.transport")
    assert (refused["raftlog_code"], refused["raftlog_reason"]) == (BROWSER_ORIGIN, "browser origin")
    assert refused["raftlog_peer"].startswith("127.0.0.1:")
    assert by_event.keys() <= EVENTS.keys()
    assert {name for record in found for name in record if name.startswith(PREFIX)} <= {
        PREFIX + name for name in FIELDS
    }


def test_what_keeps_a_node_from_starting_is_a_record_too(node):
    assert node.stop() == 0
    before = len(records(node))
    options = node.options | {"NODE_ID": "z", "MEMBERS": {"z": node.address}}
    node.environment["RAFTLOG_OPTIONS"] = json.dumps(options, default=str)
    node.start()
    assert node.wait(30) == 1
    (refused,) = [record for record in records(node)[before:] if record["level"] == "CRITICAL"]
    assert (refused["raftlog_event"], refused["raftlog_node"]) == ("start_refused", "z")
    assert refused["message"].endswith(refused["raftlog_reason"])
