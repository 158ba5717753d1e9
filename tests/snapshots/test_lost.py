"""The only member of a cluster has nobody to pull an image from: it is refused, and told the ways out."""

import pytest
from django.db import connections

from raftlog import conf
from raftlog.consensus.configuration import Configuration, Server
from raftlog.consensus.snapshot import LogBase
from raftlog.consensus.state import HardState
from raftlog.exceptions import DatabaseLost
from raftlog.node import Node
from raftlog.storage import open_storage
from tests.replication.conftest import default_database


@pytest.mark.parametrize(("members", "is_refused"), [("a", True), ("ab", False)])
def test_it_starts_only_where_somebody_else_may_have_it(tmp_path, django_db_blocker, members, is_refused):
    servers = {name: Server(f"ws://127.0.0.1:{port}") for port, name in enumerate(members, 1)}
    configuration = Configuration("c" * 32, servers, tuple(servers))
    storage = open_storage(tmp_path / "raft", node_id="a", cluster="raftlog", new_incarnation="a" * 32)
    storage.hard_state.save(HardState(1, ""))
    storage.log.reset_to(LogBase(index=9, term=1, configuration_index=1, configuration=configuration))
    storage.close()
    options = {"NODE_ID": "a", "MEMBERS": {"a": "ws://127.0.0.1:1"}, "DATA_DIR": str(tmp_path / "raft")}
    database = {"ENGINE": "raftlog.backends.sqlite3", "NAME": str(tmp_path / "db.sqlite3")}
    with django_db_blocker.unblock(), default_database(database):
        node = Node(conf.load_settings(options))
        try:
            if is_refused:
                with pytest.raises(DatabaseLost, match="raft restore"):
                    node.start()
            else:
                node.start()
                assert any("an image is needed" in problem for problem in node.status()["problems"])
                node.stop()
        finally:
            connections["default"].close()
