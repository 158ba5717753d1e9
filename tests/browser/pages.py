"""Nodes of the demo site with users of three kinds, and a browser's tab in which the cluster's pages are looked at."""

from __future__ import annotations

import os
import re
from pathlib import Path

from raftlog.testing.processes import ProcessCluster

TIMEOUT = 60_000  # ms
ROOT = Path(__file__).parents[2]
IMAGES = ROOT / "docs" / "images"

USERS = """
from django.contrib.auth.models import Permission, User
User.objects.create_superuser("admin", "admin@example.com", "admin")
viewer = User.objects.create_user("viewer", password="viewer", is_staff=True)
viewer.user_permissions.add(Permission.objects.get(codename="view_cluster"))
User.objects.create_user("stranger", password="stranger", is_staff=True)
"""


class Site(ProcessCluster):
    """Three nodes and their users; `leader` and `other` by role."""

    def begin(self) -> None:
        self.start()
        self.wait_for_leader(timeout=60)
        self.migrate()
        self.wait_all_applied(timeout=60)
        self.shell(self.leader, USERS)
        self.wait_all_applied(timeout=60)

    @property
    def leader(self):
        return self[self.wait_for_leader(timeout=30)]

    @property
    def other(self):
        leader = self.leader
        return next(node for node in self.running if node is not leader)

    def shell(self, node, code):
        return node.manage("shell", "-v", "0", "-c", code, timeout=120)


class Tab:
    """A page of the browser, logged in on one node."""

    def __init__(self, page, address, user="admin"):
        self.page = page
        self.address = address
        page.set_default_timeout(TIMEOUT)
        page.goto(f"{address}/admin/login/?next=/admin/")
        page.fill("#id_username", user)
        page.fill("#id_password", user)
        page.click("input[type=submit]")
        page.wait_for_selector("#user-tools")

    def open(self, name=""):
        path = "" if name == "cluster" else f"{name}/" if name else ""
        return self.page.goto(f"{self.address}/admin/raftlog/cluster/{path}")

    def is_live(self):
        self.page.wait_for_selector(".rl-live.rl-on")

    def text(self, selector):
        return re.sub(r"\s+", " ", self.page.inner_text(selector)).strip()

    def wait_for_text(self, selector, text, timeout=TIMEOUT):
        self.page.wait_for_function(
            "([selector, text]) => [...document.querySelectorAll(selector)].some((e) => e.textContent.includes(text))",
            arg=[selector, text],
            timeout=timeout,
        )

    def shoot(self, directory, name):
        """A picture; into docs/images too where RAFTLOG_SCREENSHOTS is set, which is how those there were made."""
        self.page.screenshot(path=str(directory / f"{name}.png"), full_page=True)
        if os.environ.get("RAFTLOG_SCREENSHOTS"):
            IMAGES.mkdir(exist_ok=True)
            self.page.screenshot(path=str(IMAGES / f"{name}.png"), full_page=True)
