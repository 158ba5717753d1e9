"""`dumpdata` and `loaddata` beside raftlog's own tables: a fixture holds the project's rows, and can be loaded."""

import io
import json

import pytest
from django.apps import apps
from django.core.management import call_command
from django.db import connection

from raftlog.replication.tables import AppliedIndex, ClientSession, ensure_tables

INTERNAL = ("raftlog_appliedindex", "raftlog_clientsession", "raftlog_sessionresult")


def dumped(*options):
    output = io.StringIO()
    call_command("dumpdata", *options, stdout=output, skip_checks=True)
    return json.loads(output.getvalue())


@pytest.fixture
def no_tables(db):
    with connection.cursor() as cursor:
        for table in INTERNAL:
            cursor.execute(f"DROP TABLE IF EXISTS {table}")


@pytest.mark.parametrize("option", [[], ["--all"], ["raftlog"]])
def test_dumpdata_works_where_no_node_has_made_the_tables(no_tables, option):
    assert not [row for row in dumped(*option) if row["model"].startswith("raftlog.")]


@pytest.mark.parametrize("option", [[], ["--all"]])
def test_what_raftlog_keeps_for_itself_is_in_no_fixture_and_is_left_as_it_is_by_one(no_tables, option, tmp_path):
    from demo_site.bank.models import Account

    ensure_tables("default")
    ClientSession.objects.bulk_create(
        [ClientSession(session=b"s" * 16, opened_index=3, last_log_time=5, acknowledged_below=0)]
    )
    AppliedIndex.objects.update(applied_index=7)
    Account.objects.bulk_create([Account(name="Ada", balance=1, paid_in=1)])
    rows = dumped(*option)
    assert not {row["model"] for row in rows} & {"raftlog.appliedindex", "raftlog.clientsession", "raftlog.cluster"}
    fixture = tmp_path / "all.json"
    fixture.write_text(json.dumps(rows))
    AppliedIndex.objects.update(applied_index=9)  # the log has gone on meanwhile
    Account.objects.all().delete()
    call_command("loaddata", str(fixture), verbosity=0, skip_checks=True)
    assert Account.objects.filter(name="Ada").exists()
    assert AppliedIndex.objects.get().applied_index == 9
    assert ClientSession.objects.count() == 1


def test_every_unmanaged_model_of_raftlog_is_left_out():
    found = [model for model in apps.get_app_config("raftlog").get_models() if not model._meta.managed]
    assert sorted(model._meta.db_table for model in found) == sorted(INTERNAL)
    for model in found:
        assert model._default_manager.name == model._base_manager.name == "no_rows"
