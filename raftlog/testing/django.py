"""For Django's own test runner: the same objects that the fixtures raft_inline and raft_cluster give.

class BuyTest(RaftInlineTestCase):
    def test_buy(self):
        buy.propose(item_id=3)
        self.assertEqual(self.raft_inline.entries[0].command, "shop.buy")
"""

from __future__ import annotations

from typing import Any

from django.test import SimpleTestCase, TestCase

from raftlog.replication.registry import Command
from raftlog.testing.cluster import Cluster
from raftlog.testing.determinism.checking import Determinism
from raftlog.testing.inline import Inline


class RaftInlineMixin:
    """For a TestCase or TransactionTestCase: what the test proposes applies at once. `raft_inline` is the Inline.

    In setUpTestData() too. List it before Django's class.
    """

    raft_inline: Inline

    @classmethod
    def setUpClass(cls) -> None:
        cls.raft_inline = Inline()
        cls.raft_inline.__enter__()
        try:
            super().setUpClass()  # type: ignore[misc]
        except BaseException:
            cls.raft_inline.__exit__()
            raise

    @classmethod
    def tearDownClass(cls) -> None:
        cls.raft_inline.__exit__()
        super().tearDownClass()  # type: ignore[misc]

    def setUp(self) -> None:
        self.raft_inline.reset()
        super().setUp()  # type: ignore[misc]

    def assertDeterministic(self, command: Command, /, **arguments: Any) -> None:
        """`command` does the same on every node, on what the test's database holds; see Determinism.check()."""
        Determinism().check(command, **arguments)


class RaftInlineTestCase(RaftInlineMixin, TestCase):
    """A TestCase in which commands can be proposed."""


class RaftClusterTestCase(SimpleTestCase):
    """A test with a cluster of its own: `self.raft_cluster(nodes=3)` starts one, which ends with the test.

    Its databases are the cluster's alone: nothing is set up, rolled back or flushed in Django's own.
    """

    databases = "__all__"

    def raft_cluster(self, nodes: int = 3, **options: Any) -> Cluster:
        """See raftlog.testing.cluster.Cluster for the options."""
        cluster: Cluster = self.enterContext(Cluster(nodes, **options))
        return cluster
