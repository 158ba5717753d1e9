"""`manage.py demo --serve`, as a visitor tries it: nodes are killed, paused, cut off and brought back on the page."""

import json
import os
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request

import pytest

from raftlog.runtime import clock
from tests.browser.pages import IMAGES, ROOT
from tests.browser.policy import violations_of
from tests.browser.test_cluster_pages import browser  # noqa: F401  (a fixture)

pytestmark = pytest.mark.processes

TIMEOUT = 60_000  # ms


class Demo:
    def __init__(self, directory, nodes):
        self.output = (directory / "demo.txt").open("w+")
        command = [sys.executable, "manage.py", "demo", "--serve", "--nodes", str(nodes), "--port", "0", "--no-browser"]
        self.process = subprocess.Popen(command, cwd=ROOT, stdout=self.output, stderr=subprocess.STDOUT)

    def text(self):
        self.output.seek(0)
        return self.output.read()

    def address(self):
        deadline = clock.monotonic() + 120
        while (found := re.search(r"Open (http://\S+)", self.text())) is None:
            assert self.process.poll() is None, self.text()
            assert clock.monotonic() < deadline, self.text()
            clock.sleep(0.1)
        return found[1]

    def end(self):
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(120)


@pytest.fixture
def demo(tmp_path):
    demo = Demo(tmp_path, 5)
    yield demo
    if demo.process.poll() is None:
        demo.process.kill()
        demo.process.wait()
    demo.output.close()


def shoot(page, tmp_path, name):
    page.screenshot(path=str(tmp_path / f"{name}.png"), full_page=True)
    if os.environ.get("RAFTLOG_SCREENSHOTS"):
        IMAGES.mkdir(exist_ok=True)
        page.screenshot(path=str(IMAGES / f"{name}.png"), full_page=True)


def open_account(browser, address, name):  # noqa: F811
    page = browser.new_page()
    page.set_default_timeout(TIMEOUT)
    page.goto(address)
    page.fill("input[name=name]", name)
    page.click("button[value=open]")
    page.wait_for_selector(".message.success")
    page.close()


def test_a_visitor_kills_nodes_and_loses_nothing(browser, demo, tmp_path):  # noqa: F811
    address = demo.address()
    page = browser.new_page(viewport={"width": 1240, "height": 900})
    page.set_default_timeout(TIMEOUT)
    violations = violations_of(page)

    def health(text):
        page.wait_for_function("(text) => document.getElementById('health').textContent.includes(text)", arg=text)

    def writes():
        return int(page.inner_text("#acknowledged").replace(",", ""))

    page.goto(address)
    health("5 of 5 up; 2 more may fail.")
    page.wait_for_selector("td.right")
    assert page.is_disabled("#back-all")  # nothing to bring back
    old = re.search(r"(\w+) leads", page.inner_text("#health"))[1]
    page.click("#kill-leader")
    page.wait_for_function(
        "(old) => { const m = /(\\w+) leads/.exec(document.getElementById('health').textContent);"
        " return m && m[1] !== old; }",
        arg=old,
    )
    health("4 of 5 up")
    page.wait_for_selector("#events li.leader")
    page.click("#kill-most")
    health("3 of 5 up; none may fail.")
    page.wait_for_selector("#kill-most[disabled]")
    before = writes()
    page.wait_for_function(
        "(n) => +document.getElementById('acknowledged').textContent.replace(',', '') > n", arg=before
    )
    page.wait_for_timeout(1_000)
    shoot(page, tmp_path, "room")
    page.click("button[aria-label^='Cut off']:not([disabled])")
    health("no majority, nothing can be written")
    page.click("#back-all")
    health("5 of 5 up")
    page.click("button[aria-label^='Pause']:not([disabled])")
    health("4 of 5 up")
    open_account(browser, page.get_attribute("article.leader a", "href"), "Ada")
    page.wait_for_selector("article.leader td:text-is('Ada')")
    page.wait_for_timeout(600)  # until its other numbers are drawn too
    assert page.query_selector_all("td.wrong") == []  # what a visitor has paid in is no mistake
    assert violations == []
    assert demo.end() == 0, demo.text()
    health("The demo has ended")
    assert page.query_selector_all("button:not([disabled])") == []
    page.close()
    assert "OK: all databases equal, no money made or lost." in demo.text()


def test_only_its_own_page_may_act(demo):
    address = demo.address()
    body = json.dumps({"action": "kill", "node": "a"}).encode()
    request = urllib.request.Request(f"{address}act", body, {"Origin": "http://elsewhere.example"}, method="POST")
    with pytest.raises(urllib.error.HTTPError, match="403"):
        urllib.request.urlopen(request, timeout=10)
    request = urllib.request.Request(f"{address}act", b'{"action": "sell", "node": "a"}', method="POST")
    with pytest.raises(urllib.error.HTTPError, match="400") as refused:
        urllib.request.urlopen(request, timeout=10)
    assert "'sell' is none of kill, pause, cut, back" in refused.value.read().decode()
    refused.value.close()
