"""Work is run again after a conflict, and only if it has done nothing that would be done twice (rule 3)."""

import io

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.db import connections, transaction
from django.db.transaction import TransactionManagementError
from django.http import HttpResponse
from django.test import Client, override_settings
from django.urls import path

from raftlog import retry_on_conflict
from raftlog.backends.exceptions import TransactionConflict
from raftlog.replication import effects
from raftlog.replication.certify import Verdict, VerdictKind

ALIAS = "replicated"


class ConflictingLog:
    """Every commit conflicts until `left` is used up."""

    holds_turn = True
    key_blocks = None

    def __init__(self, log, left):
        self.log = log
        self.left = left

    def commit(self, write_set, body, applier):
        if self.left:
            self.left -= 1
            return Verdict(VerdictKind.CONFLICT, "as told")
        return self.log.commit(write_set, body, applier)


@pytest.fixture
def database(make_database):
    return make_database()


def conflicts(database, count):
    database.control.log = ConflictingLog(database.log, count)


def insert(database):
    with transaction.atomic(ALIAS):
        database.run("INSERT INTO plain VALUES (1, 1)")


def test_a_function_is_run_again(database):
    conflicts(database, 3)
    runs = []

    @retry_on_conflict
    def work():
        runs.append(1)
        insert(database)
        return "done"

    assert work() == "done"
    assert len(runs) == 4
    assert database.run("SELECT count(*) FROM plain") == [(1,)]


def test_not_for_ever(database):
    conflicts(database, 1000)
    with pytest.raises(TransactionConflict, match="as told"):
        retry_on_conflict(insert)(database)
    assert 1 < 1000 - database.control.log.left < 20


@pytest.mark.parametrize("final", ["entry", "command", "other alias"])
def test_what_has_done_something_final_is_not_run_again(database, final):
    runs = []

    @retry_on_conflict
    def work():
        runs.append(1)
        if final == "entry":
            database.run("INSERT INTO plain VALUES (0, 0)")
        elif final == "command":
            effects.happened()
        else:
            with connections["default"].cursor() as cursor:
                cursor.execute("CREATE TABLE IF NOT EXISTS elsewhere (a)")
        conflicts(database, 1)
        insert(database)

    with pytest.raises(TransactionConflict):
        work()
    assert len(runs) == 1


def test_inside_a_transaction_it_is_refused(database):
    database.run("SELECT 1")
    with transaction.atomic(ALIAS), pytest.raises(TransactionManagementError, match="insert retries on conflict"):
        retry_on_conflict(insert)(database)


# Requests

SEEN = []


def view(request):
    SEEN.append((request.POST.get("word"), request.FILES["file"].read()))
    with transaction.atomic(ALIAS), connections[ALIAS].cursor() as cursor:
        cursor.execute("INSERT INTO plain VALUES (%s, 1)", [request.POST["word"]])
    return HttpResponse("fine")


def streaming_view(request):
    SEEN.append(request.read())
    with transaction.atomic(ALIAS), connections[ALIAS].cursor() as cursor:
        cursor.execute("INSERT INTO plain VALUES (1, 1)")
    return HttpResponse("fine")


urlpatterns = [path("form/", view), path("stream/", streaming_view)]
requests_settings = override_settings(
    ROOT_URLCONF=__name__, MIDDLEWARE=["raftlog.middleware.RetryConflicts"], ALLOWED_HOSTS=["*"]
)


def post(url, **data):
    return Client(raise_request_exception=False).post(url, **data)


@requests_settings
def test_a_request_is_run_again_with_its_uploads(database):
    SEEN.clear()
    conflicts(database, 2)
    response = post("/form/", data={"word": "w", "file": SimpleUploadedFile("f.txt", b"content")})
    assert response.content == b"fine"
    assert SEEN == [("w", b"content")] * 3
    assert database.run("SELECT a FROM plain") == [("w",)]


@requests_settings
def test_a_request_that_cannot_be_read_again_is_not_run_again(database):
    SEEN.clear()
    conflicts(database, 1)
    response = post("/stream/", data=io.BytesIO(b"streamed").read(), content_type="application/octet-stream")
    assert response.status_code == 500
    assert SEEN == [b"streamed"]


@requests_settings
def test_a_request_that_conflicts_again_and_again_ends(database):
    SEEN.clear()
    conflicts(database, 1000)
    response = post("/form/", data={"word": "w", "file": SimpleUploadedFile("f.txt", b"content")})
    assert response.status_code == 500
    assert 1 < len(SEEN) < 20
