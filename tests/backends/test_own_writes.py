"""ReadYourWrites: the index of a user's last write travels with the user, and is waited for."""

import asyncio
import threading

import pytest
from django.core import signing
from django.db import connections, models
from django.http import HttpResponse
from django.test import AsyncClient, Client, override_settings
from django.urls import path

from raftlog.backends import reads
from raftlog.backends.log import use_log
from raftlog.backends.node_log import NodeLog
from raftlog.middleware.own_writes import SALT
from raftlog.replication import propose
from raftlog.replication.registry import command
from tests.replication.conftest import default_database, run_async
from tests.replication.node import OneNode


class Memo(models.Model):
    text = models.CharField(max_length=20)

    class Meta:
        app_label = "tests_backends"
        db_table = "memo"

    def __str__(self):
        return self.text


@command
def add_memo(ctx, *, text: str) -> int:
    return Memo.objects.create(pk=ctx.index, text=text).pk


def write(request):
    return HttpResponse(str(add_memo.propose(text="x")))


def write_rows(request):
    Memo.objects.create(text="y")
    return HttpResponse("written")


def read(request):
    return HttpResponse(",".join(Memo.objects.values_list("text", flat=True)))


async def async_write(request):
    return HttpResponse(str(await add_memo.apropose(text="z")))


async def async_read(request):
    return HttpResponse(",".join([memo.text async for memo in Memo.objects.all()]))


urlpatterns = [
    path("write/", write),
    path("rows/", write_rows),
    path("read/", read),
    path("async-write/", async_write),
    path("async-read/", async_read),
]
requests_settings = override_settings(
    ROOT_URLCONF=__name__,
    MIDDLEWARE=["raftlog.middleware.RetryConflicts", "raftlog.middleware.ReadYourWrites"],
    ALLOWED_HOSTS=["*"],
)
COOKIE = "raftlog_written"
FAR = 10**6


@pytest.fixture
def node(tmp_path, django_db_blocker):
    with django_db_blocker.unblock():
        use_log("default", NodeLog())
        with default_database({"ENGINE": "raftlog.backends.sqlite3", "NAME": str(tmp_path / "db.sqlite3")}):
            made = OneNode()
            propose.set_proposer_factory(lambda: made)
            try:
                with connections["default"].schema_editor() as editor:
                    editor.create_model(Memo)
                made.settle()
                yield made
            finally:
                propose.set_proposer_factory(None)
                made.stop()


def mark(index, cluster=None):
    return signing.dumps((reads.cluster_here() if cluster is None else cluster, index), salt=SALT)


def with_mark(value):
    client = Client()
    client.cookies[COOKIE] = value
    return client


@requests_settings
def test_who_wrote_carries_the_index_of_that_and_who_read_carries_nothing(node):
    client = Client()
    response = client.get("/write/")
    cluster, index = signing.loads(response.cookies[COOKIE].value, salt=SALT)
    assert index == int(response.content) == node.machine.last_applied
    assert cluster == reads.cluster_here() != ""
    assert response.cookies[COOKIE]["httponly"]
    assert response["Raftlog-Written"] == response.cookies[COOKIE].value
    response = client.get("/read/")
    assert response.content == b"x"
    assert COOKIE not in response.cookies
    assert "Raftlog-Written" not in response
    response = client.get("/rows/")
    assert signing.loads(response.cookies[COOKIE].value, salt=SALT)[1] == node.machine.last_applied


class SavesWhenTheResponsePasses:
    """As SessionMiddleware does."""

    def __init__(self, get_response):
        self.get_response = get_response

    def __call__(self, request):
        response = self.get_response(request)
        add_memo.propose(text="session")
        return response


@pytest.mark.parametrize("is_inside", [True, False])
def test_what_a_middleware_writes_counts_where_it_stands_behind(node, is_inside):
    """The reason for the check W009."""
    own, saver = "raftlog.middleware.ReadYourWrites", f"{__name__}.SavesWhenTheResponsePasses"
    middleware = [own, saver] if is_inside else [saver, own]
    with requests_settings, override_settings(MIDDLEWARE=middleware):
        response = Client().get("/read/")
    assert (COOKIE in response.cookies) is is_inside
    if is_inside:
        assert signing.loads(response.cookies[COOKIE].value, salt=SALT)[1] == node.machine.last_applied


@requests_settings
def test_the_next_request_waits_until_this_host_has_applied_it(node):
    client = with_mark(mark(node.machine.last_applied + 1))
    timer = threading.Timer(0.1, add_memo.propose, kwargs={"text": "mine"})
    timer.start()
    response = client.get("/read/")
    timer.join()
    assert response.content == b"mine"


@requests_settings
@override_settings(RAFTLOG={"READ_YOUR_WRITES_TIMEOUT": 0.01})
def test_a_host_that_is_too_late_says_so(node):
    response = with_mark(mark(FAR)).get("/read/")
    assert response.status_code == 503
    assert response["Retry-After"] == "1"
    assert str(FAR) in response.content.decode()
    response = Client().get("/read/", headers={"Raftlog-Written": mark(FAR)})
    assert response.status_code == 503
    with override_settings(RAFTLOG={"READ_YOUR_WRITES_TIMEOUT": 0.01, "READ_YOUR_WRITES_LATE": "serve"}):
        response = with_mark(mark(FAR)).get("/read/")
        assert response.status_code == 200
        assert str(FAR) in response["Raftlog-Late"]


@requests_settings
@override_settings(RAFTLOG={"READ_YOUR_WRITES_TIMEOUT": 0.01})
@pytest.mark.parametrize(
    "text",
    [
        "rubbish",
        "a:b:c",
        signing.dumps(("x" * 32, FAR), salt="another"),
        signing.dumps(FAR, salt=SALT),
        signing.dumps(["cluster", "text"], salt=SALT),
        "x" * 5000,
    ],
    # What is signed has the time in it, and two workers must find tests of one name.
    ids=["no signature", "no time", "another salt", "no pair", "no index", "too long"],
)
def test_what_this_project_did_not_sign_is_ignored(node, text):
    assert with_mark(text).get("/read/").status_code == 200


@requests_settings
@override_settings(RAFTLOG={"READ_YOUR_WRITES_TIMEOUT": 0.01})
def test_a_forged_index_and_one_of_another_cluster_or_too_old_are_ignored(node, monkeypatch):
    good = mark(FAR)
    rest = good.split(":", 1)[1]
    forged = mark(FAR + 1).split(":", 1)[0] + ":" + rest
    assert with_mark(good).get("/read/").status_code == 503
    assert with_mark(forged).get("/read/").status_code == 200
    assert with_mark(mark(FAR, "ab" * 16)).get("/read/").status_code == 200
    monkeypatch.setattr("raftlog.middleware.ReadYourWrites.max_age", -1)
    assert with_mark(good).get("/read/").status_code == 200


@override_settings(ROOT_URLCONF=__name__, MIDDLEWARE=["raftlog.middleware.ReadYourWrites"], ALLOWED_HOSTS=["*"])
def test_async_requests_wait_without_blocking_the_loop(node):
    async def run():
        client = AsyncClient()
        response = await client.get("/async-write/")
        index = signing.loads(response.cookies[COOKIE].value, salt=SALT)[1]
        assert index == int(response.content)
        assert (await client.get("/async-read/")).content == b"z"  # and its thread's connection is there
        client.cookies[COOKIE] = signing.dumps((cluster, node.machine.last_applied + 1), salt=SALT)
        reading = asyncio.create_task(client.get("/async-read/"))
        await asyncio.sleep(0.05)
        assert not reading.done()
        await add_memo.apropose(text="mine")
        assert (await reading).content == b"z,mine"

    cluster = reads.cluster_here()
    run_async(run())
