"""The same database as in tests of apply, on both of raftlog's backends."""

import pytest

from raftlog.backends.log import InlineLog, use_log
from tests.backends import postgresql
from tests.replication.conftest import default_database, make_tables, sqlite_database


@pytest.fixture(params=["sqlite", "postgresql"])
def replicated(request, tmp_path, django_db_blocker):
    """DATABASES["default"] with raftlog's ENGINE, the warehouse's tables in it. Gives the vendor."""
    use_log("default", InlineLog())
    with django_db_blocker.unblock():
        if request.param == "sqlite":
            with sqlite_database(tmp_path, "raftlog.backends.sqlite3"):
                yield request.param
        else:
            with default_database(postgresql.settings(0)):
                make_tables()
                yield request.param
