"""The cluster in the admin, in a real browser, on real nodes: what people see, and what they may do."""

import json
import time

import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from tests import services
from tests.browser.pages import Site, Tab

pytestmark = pytest.mark.processes

PAGES = ["cluster", "members", "log", "elections", "sessions", "consistency"]


@pytest.fixture(scope="module")
def browser():
    path = services.chromium()
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    services.chromium()
    with Site(3, tmp_path_factory.mktemp("site"), settings_module="demo_site.settings") as site:
        site.begin()
        yield site


@pytest.fixture
def all_up(site):
    """Whatever the test before has done, the three nodes run."""
    if (extra := site.nodes.pop("d", None)) is not None:
        extra.kill()
    for node in site:
        if not node.is_running:
            node.start()
    site.wait_all_applied(timeout=60)
    return site


def open_tab(browser, node, user="admin", **options):
    context = browser.new_context(viewport={"width": 1200, "height": 900}, **options)
    return Tab(context.new_page(), node.http_address, user)


def test_an_election_is_seen_on_the_page_without_reload(browser, all_up, tmp_path):
    old = all_up.leader
    tab = open_tab(browser, all_up.other)
    tab.open("cluster")
    tab.is_live()
    tab.page.evaluate("window.notReloaded = true")
    tab.shoot(tmp_path, "cluster")
    killed_at = time.monotonic()
    old.kill()
    tab.wait_for_text("#rl-health", "2 of 3 up; none may fail.")
    tab.page.wait_for_function(
        "(old) => { const m = /^(\\w+) leads in term/.exec(document.querySelector('.rl-sentence').textContent.trim());"
        " return m && m[1] !== old; }",
        arg=old.node_id,
    )
    took = time.monotonic() - killed_at
    assert took < 2
    assert tab.page.evaluate("window.notReloaded")
    tab.wait_for_text(".rl-warnings", "Start `manage.py raft run` on its host.")
    tab.page.emulate_media(color_scheme="dark")
    tab.shoot(tmp_path, "cluster-dark")
    tab.open("elections")
    tab.wait_for_text("#rl-terms", "became pre-candidate")
    tab.page.emulate_media(color_scheme="light")
    tab.shoot(tmp_path, "elections")
    tab.page.context.close()


def test_a_node_is_added_and_goes_from_learner_to_voter_on_the_page(browser, all_up, tmp_path):
    node = all_up.new_node("d")
    node.start()
    all_up.wait_for(lambda found: found["d"] is not None, 60, "d answers")
    tab = open_tab(browser, all_up.leader)
    tab.open("members")
    tab.is_live()
    tab.page.fill("#id_node_id", "d")
    tab.page.fill("#id_address", node.address)
    tab.page.click("input[value='Add…']")
    assert "3 voters, of which 1 may be lost" in tab.text(".rl-confirm")
    assert "4 voters, of which 1 may be lost" in tab.text(".rl-confirm")
    tab.shoot(tmp_path, "confirm")
    tab.page.click("input[value='Yes, I’m sure']")
    tab.wait_for_text(".messagelist", "Add d: begun.")
    tab.wait_for_text("tr[data-node=d]", "voter")
    tab.wait_for_text("#rl-health", "4 of 4 up")
    tab.shoot(tmp_path, "members")
    history = all_up.shell(
        all_up.leader,
        "from django.contrib.admin.models import LogEntry; e = LogEntry.objects.latest('pk');"
        "print(e.user.username, e.content_type.model, e.object_repr, e.change_message)",
    )
    assert "admin cluster member d Add d: voters a, b, c, d (begun)" in history
    tab.page.click("button[aria-label='Remove d']")
    tab.page.click("input[value='Yes, I’m sure']")
    tab.wait_for_text("#rl-health", "3 of 3 up")
    assert node.wait(30) == 3
    del all_up.nodes["d"]
    tab.page.context.close()


def test_a_removal_that_would_lose_the_majority_is_refused(browser, all_up):
    tab = open_tab(browser, all_up.leader)
    down = all_up.other
    down.kill()
    alive = next(node for node in all_up.running if node is not all_up.leader)
    tab.open("members")
    tab.is_live()
    tab.wait_for_text(f"tr[data-node={down.node_id}]", "cannot be reached")
    tab.page.click(f"button[aria-label='Remove {alive.node_id}']")
    tab.wait_for_text(".messagelist .error", "cannot be reached now, so nothing could be written any more")
    assert len(all_up.leader.status()["configuration"]["voters"]) == 3
    tab.page.context.close()


def test_leadership_is_handed_over(browser, all_up):
    to = all_up.other
    tab = open_tab(browser, to)
    tab.open("members")
    tab.page.click(f"button[aria-label='Hand leadership over to {to.node_id}']")
    tab.page.click("input[value='Yes, I’m sure']")
    tab.wait_for_text(".messagelist", "begun")
    all_up.wait_for(
        lambda found: found[to.node_id] and found[to.node_id]["role"] == "leader", 30, f"{to.node_id} leads"
    )
    tab.page.context.close()


def test_staff_without_the_permission_see_and_cannot_act(browser, all_up):
    tab = open_tab(browser, all_up.other, "viewer")
    tab.open("members")
    assert "3 of 3 up" in tab.text("#rl-health")
    assert tab.page.query_selector_all("#rl-members button") == []
    assert tab.page.query_selector("#rl-add") is None
    token = tab.page.context.cookies()
    answer = tab.page.context.request.post(
        f"{tab.address}/admin/raftlog/cluster/members/",
        form={"action": "remove", "node_id": "a", "confirmed": "yes"},
        headers={"X-CSRFToken": next(c["value"] for c in token if c["name"] == "csrftoken"), "Referer": tab.address},
    )
    assert answer.status == 403
    assert tab.open("log").status == 403
    stranger = open_tab(browser, all_up.other, "stranger")
    assert stranger.open("cluster").status == 403
    tab.page.context.close()
    stranger.page.context.close()


def test_a_socket_without_a_session_or_from_elsewhere_is_refused(browser, all_up):
    node = all_up.other
    address = f"{node.address}/raft/live/"
    with pytest.raises(InvalidStatus, match="403"):
        connect(address, origin=node.http_address, proxy=None)
    tab = open_tab(browser, node, "stranger")
    cookie = "; ".join(f"{c['name']}={c['value']}" for c in tab.page.context.cookies())
    with pytest.raises(InvalidStatus, match="403"):
        connect(address, origin=node.http_address, additional_headers={"Cookie": cookie}, proxy=None)
    tab.page.context.close()


def test_without_javascript_the_pages_show_the_state(browser, all_up):
    tab = open_tab(browser, all_up.other, java_script_enabled=False)
    for name in PAGES:
        assert tab.open(name).status == 200
    tab.open("cluster")
    assert tab.text("#rl-health") == "3 of 3 up; one more may fail."
    assert tab.text("#rl-live").startswith("This page shows one moment")
    tab.page.context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_page_has_serious_accessibility_findings(browser, all_up, scheme):
    from axe_playwright_python.sync_playwright import Axe

    tab = open_tab(browser, all_up.other, color_scheme=scheme)
    found = []
    for name in PAGES:
        tab.open(name)
        results = Axe().run(tab.page, context={"include": [["#content"]]}).response
        found += [
            (name, each["id"], each["nodes"][0]["html"])
            for each in results["violations"]
            if each["impact"] in ("serious", "critical")
        ]
    assert found == []
    tab.page.context.close()


def test_tabs_and_buttons_are_reached_by_keyboard(browser, all_up):
    tab = open_tab(browser, all_up.other)
    tab.open("cluster")
    tab.page.focus(".rl-tabs a:first-child")
    tab.page.keyboard.press("Tab")
    tab.page.keyboard.press("Enter")
    tab.page.wait_for_selector("#rl-members")
    tab.is_live()
    tab.page.focus("button[aria-label^='Demote'], button[aria-label^='Make']")
    name = tab.page.evaluate("document.activeElement.getAttribute('aria-label')")
    time.sleep(2.5)  # the fragment is replaced meanwhile
    assert tab.page.evaluate("document.activeElement.getAttribute('aria-label')") == name
    tab.page.context.close()


def test_the_log_is_decoded_and_filtered(browser, all_up, tmp_path):
    all_up.shell(
        all_up.leader,
        "from demo_site.bank.models import Account; Account.objects.create(name='Ada', balance=7, paid_in=7)\n"
        "from demo_site.bank.commands import *",
    )
    all_up.wait_all_applied()
    tab = open_tab(browser, all_up.other)
    tab.open("log")
    tab.wait_for_text(".rl-what", "insert bank_account")
    assert "applied" in tab.text(".rl-log")
    tab.page.fill("#id_text", "name='Ada'")
    tab.page.click("input[value=Show]")
    assert len(tab.page.query_selector_all(".rl-log tbody tr")) == 1
    tab.page.click(".rl-what summary")
    assert '"balance": 7' in tab.page.inner_text(".rl-what pre")
    tab.shoot(tmp_path, "log")
    tab.page.goto(f"{tab.address}/admin/raftlog/cluster/log/?text=(a%2B)%2B$")
    assert "Nothing matches" in tab.text("#content")  # it is text, not a pattern
    tab.page.context.close()


def test_rows_of_all_nodes_are_compared_from_the_page(browser, all_up):
    tab = open_tab(browser, all_up.other)
    tab.open("consistency")
    tab.page.click("input[value='Compare the rows of all nodes']")
    tab.wait_for_text(".rl-health", "a, b, c are alike at entry")
    tab.page.context.close()


def test_pages_say_so_where_no_node_answers(browser, all_up):
    node = all_up.other
    tab = open_tab(browser, node)
    for each in all_up:
        if each is not node:
            each.kill()
    tab.open("cluster")
    tab.wait_for_text("#rl-health", "1 of 3 up: no majority, nothing can be written; bring one more back.")
    while json.loads(tab.page.context.request.get(f"{node.http_address}/raft/readyz").text())["ok"]:
        time.sleep(0.1)  # until it has noticed that nobody leads
    tab.page.context.close()
