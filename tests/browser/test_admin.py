"""Django's own admin, in a real browser, on each of three nodes; the leader is killed between two clicks.

The project is the one of docs/tutorial.md. Whatever a click was told to have done is there, on all nodes.
"""

import re

import pytest

from tests import services
from tests.processes.tutorial import NODES, Tutorial, wait_until

pytestmark = pytest.mark.processes

TIMEOUT = 90_000  # ms until what a click leads to must be there


@pytest.fixture(scope="module")
def browser():
    path = services.chromium()
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@pytest.fixture
def tutorial(tmp_path):
    with Tutorial(tmp_path) as tutorial:
        tutorial.follow(leave_out="shell")
        yield tutorial


@pytest.fixture
def page(browser):
    page = browser.new_page()
    page.set_default_timeout(TIMEOUT)
    yield page
    page.close()


class Admin:
    """The catalog's admin on one node."""

    def __init__(self, page, address):
        self.page = page
        self.products = f"{address}/admin/catalog/product/"

    def log_in(self):
        self.page.goto(self.products)
        self.page.fill("#id_username", "admin")
        self.page.fill("#id_password", "tutorial")
        self.page.click("input[type=submit]")
        self.page.wait_for_selector("#changelist")

    def fill(self, name, price, picture=""):
        self.page.goto(f"{self.products}add/")
        self.page.fill("#id_name", name)
        self.page.fill("#id_price", str(price))
        if picture:
            self.page.fill("#id_picture_set-0-caption", picture)

    def save(self):
        self.page.click("input[name=_save]")
        return self.page.inner_text("ul.messagelist li.success")

    def open(self, name):
        self.page.goto(self.products)
        self.page.click(f"#result_list >> text={name}")
        self.page.wait_for_selector("#product_form")

    def act(self, action, names):
        self.page.goto(self.products)
        for name in names:
            self.page.check(f"tr:has-text('{name}') input.action-select")
        self.page.select_option("select[name=action]", action)
        self.page.click("button[name=index]")

    def names(self):
        self.page.goto(self.products)
        return sorted(self.page.locator("#result_list .field-name").all_inner_texts())

    def on_sale(self, name):
        return self.page.locator(f"tr:has-text('{name}') .field-on_sale img[alt=True]").count() == 1


def test_stock_admin_on_three_nodes_with_the_leader_killed_between_two_clicks(page, tutorial):
    admins = {node_id: Admin(page, tutorial.address(node_id)) for node_id in NODES}
    admins["a"].log_in()
    for node_id, admin in admins.items():  # one login is enough: sessions are replicated
        tell = lambda name, node_id=node_id: f"{name} of {node_id}"  # noqa: E731
        admin.fill(tell("Ale"), 250, picture="A glass")
        assert "was added successfully" in admin.save()
        admin.fill(tell("Tea"), 90)
        assert "was added successfully" in admin.save()
        admin.open(tell("Ale"))
        page.fill("#id_price", "300")
        page.fill("#id_picture_set-1-caption", "A barrel")
        assert "was changed successfully" in admin.save()
        admin.open(tell("Ale"))
        assert page.input_value("#id_picture_set-1-caption") == "A barrel"
        page.click("a.historylink")
        history = page.inner_text("#change-history")
        assert "Added" in history
        assert re.search(r"Changed .*Added picture", history, re.DOTALL)
        admin.act("put_on_sale", [tell("Ale"), tell("Tea")])
        page.wait_for_selector("#changelist")
        assert admin.on_sale(tell("Ale"))
        assert admin.on_sale(tell("Tea"))
        admin.act("delete_selected", [tell("Tea")])
        page.click("input[type=submit]")
        assert "Successfully deleted 1 product" in page.inner_text("ul.messagelist li.success")
    kept = [f"Ale of {node_id}" for node_id in NODES]
    wait_until(lambda: all(admin.names() == kept for admin in admins.values()), "every node shows what the others did")
    assert lost_nothing_when_the_leader_is_killed(page, tutorial, admins, kept)


def lost_nothing_when_the_leader_is_killed(page, tutorial, admins, kept):
    leader = tutorial.leader()
    alive = [node_id for node_id in NODES if node_id != leader]
    added = []
    for number, node_id in enumerate(alive):
        name = f"Gin {number}"
        admins[node_id].fill(name, 900, picture="A bottle")
        if number == 0:
            tutorial.kill(leader)
        assert f"“{name}” was added successfully" in admins[node_id].save()
        added.append(name)
    admins[alive[0]].open("Gin 1")
    page.click("a.deletelink")
    page.click("input[type=submit]")
    assert "was deleted successfully" in page.inner_text("ul.messagelist li.success")
    tutorial.start(leader)
    wait_until(tutorial.databases_are_equal, "the databases of all nodes are equal")
    return all(admin.names() == sorted([*kept, added[0]]) for admin in admins.values())
