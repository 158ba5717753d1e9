"""Every page under a strict Content-Security-Policy, live and in both colour schemes: nothing is done against it."""

import pytest

from tests import services
from tests.browser.pages import Site, Tab
from tests.browser.policy import POLICY, violations_of
from tests.browser.test_cluster_pages import PAGES, browser  # noqa: F401  (a fixture)

pytestmark = pytest.mark.processes

# What leads from the members' page to each page that asks first.
CONFIRMATIONS = ["Make", "Remove", "Hand leadership over to"]
FRAGMENT = '<div id="rl-fragment">'


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    services.chromium()
    with Site(3, tmp_path_factory.mktemp("site"), settings_module="tests.browser.policy") as site:
        site.begin()
        yield site


@pytest.fixture
def open_tab(browser, site):  # noqa: F811
    """A tab in a colour scheme, and the list of what its pages did against the policy."""
    contexts = []

    def open_tab(scheme):
        contexts.append(browser.new_context(viewport={"width": 1200, "height": 900}, color_scheme=scheme))
        page = contexts[-1].new_page()
        violations = violations_of(page)
        return Tab(page, site.leader.http_address), violations

    yield open_tab
    for context in contexts:
        context.close()


def opened(tab, answer):
    assert answer.status == 200
    assert answer.header_value("content-security-policy") == POLICY
    tab.page.wait_for_load_state("networkidle" if not tab.page.query_selector("#rl-live") else "load")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_page_of_the_cluster_does_anything_against_it(open_tab, scheme):
    tab, violations = open_tab(scheme)
    for name in PAGES:
        opened(tab, tab.open(name))
        if tab.page.query_selector("#rl-live"):
            tab.is_live()
    tab.open("cluster")
    tab.is_live()
    for name in ["writes", "latency", "lag"]:
        tab.page.wait_for_selector(f"#rl-chart-{name} polyline", state="attached")
    tab.open("log")
    tab.page.click(".rl-what summary")
    tab.open("consistency")
    tab.page.click("input[value='Compare the rows of all nodes']")
    tab.wait_for_text(".rl-health", "a, b, c are alike at entry")
    assert violations == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_page_that_asks_first_does_anything_against_it(open_tab, scheme):
    tab, violations = open_tab(scheme)
    for label in CONFIRMATIONS:
        tab.open("members")
        tab.page.click(f"button[aria-label^='{label}']")
        tab.page.wait_for_selector(".rl-confirm")
    tab.open("members")
    tab.page.click("button[aria-label^='Replace']")
    tab.page.fill("#id_by", "d")
    tab.page.fill("#id_address", "ws://127.0.0.1:1")
    tab.page.click("input[value='Replace…']")
    tab.page.wait_for_selector(".rl-confirm, .messagelist .error, .errorlist")
    tab.open("members")
    tab.page.fill("#id_node_id", "d")
    tab.page.fill("#id_address", "nowhere")
    tab.page.click("input[value='Add…']")
    tab.page.wait_for_selector(".messagelist .error, .errorlist")
    assert violations == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_page_of_the_bank_does_anything_against_it(open_tab, scheme):
    tab, violations = open_tab(scheme)
    opened(tab, tab.page.goto(f"{tab.address}/"))
    assert tab.page.evaluate("getComputedStyle(document.body).maxWidth") == "896px"  # its style sheet was let in
    tab.page.fill("input[name=name]", f"Ada, {scheme}")
    tab.page.click("button[value=open]")
    tab.wait_for_text(".message", f"Opened an account for Ada, {scheme}.")
    opened(tab, tab.page.goto(f"{tab.address}/admin/"))
    assert violations == []


@pytest.mark.parametrize(
    ("inserted", "directive"),
    [
        ('<p style="color: red">', "style-src-attr inline"),
        ("<style>p { color: red }</style>", "style-src-elem inline"),
        ("<script>window.here = true</script>", "script-src-elem inline"),
        ('<img src="http://127.0.0.2:1/logo.png">', "img-src http://127.0.0.2:1/logo.png"),
    ],
)
def test_what_is_against_it_would_be_seen(open_tab, inserted, directive):
    tab, violations = open_tab("light")

    def insert(route):
        answer = route.fetch()
        route.fulfill(response=answer, body=answer.text().replace(FRAGMENT, inserted + FRAGMENT, 1))

    tab.page.route("**/admin/raftlog/cluster/", insert)
    tab.open("cluster")
    tab.page.wait_for_load_state("networkidle")
    assert [each for each in violations if directive in each]
