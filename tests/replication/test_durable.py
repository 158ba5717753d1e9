"""Making the database durable, in the node's own process, takes no lock away from its other connections.

POSIX locks belong to the process: closing any descriptor of the database's file would drop them all. Another process
that closes its connection would then take itself for the last one, and remove the WAL under the node.
"""

import subprocess
import sys

import pytest

from raftlog.consensus.snapshot import LogBase
from raftlog.replication import images
from raftlog.replication.apply import DatabaseStateMachine
from tests.replication.conftest import default_database
from tests.replication.log import batch, configuration

COME_AND_GO = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1])
connection.execute("SELECT count(*) FROM raftlog_appliedindex").fetchall()
connection.close()
"""


@pytest.mark.parametrize("do", ["make durable", "make an image", "estimate"])
def test_another_process_that_comes_and_goes_leaves_the_wal(tmp_path, django_db_blocker, do):
    path = tmp_path / "db.sqlite3"
    with django_db_blocker.unblock(), default_database({"ENGINE": "raftlog.backends.sqlite3", "NAME": str(path)}):
        machine = DatabaseStateMachine("default")
        machine.apply(batch([configuration()], 1))
        wal = tmp_path / "db.sqlite3-wal"
        identity = wal.stat().st_ino
        if do == "make durable":
            assert machine.make_durable() == 1
        elif do == "make an image":
            images.make_image("default", tmp_path / "image", lambda index, term: LogBase(index=index, term=term))
        else:
            assert images.estimated_bytes("default") > 0
        subprocess.run([sys.executable, "-c", COME_AND_GO, str(path)], check=True, timeout=60)
        assert wal.stat().st_ino == identity
        machine.apply(batch([configuration()], 2))
        machine.close()
        assert DatabaseStateMachine("default").last_applied == 2
