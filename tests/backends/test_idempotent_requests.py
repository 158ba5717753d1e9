"""`raftlog.middleware.Idempotency`: a request with a key is done once, and a repeat gets what the first one got."""

import json
import os
import threading

import pytest
from django.apps import apps
from django.contrib.auth.models import User
from django.core.files.uploadedfile import SimpleUploadedFile
from django.db import connection, transaction
from django.http import Http404, HttpResponse, HttpResponseRedirect, JsonResponse, StreamingHttpResponse
from django.test import Client, RequestFactory, override_settings
from django.urls import path

import raftlog
from raftlog.backends import heat
from raftlog.backends.exceptions import TransactionOutcomeUnknown
from raftlog.backends.log import InlineLog, use_log
from raftlog.contrib.locks.models import Holder
from raftlog.exceptions import NoLeader
from raftlog.middleware import Idempotency
from raftlog.middleware import idempotency as module
from raftlog.models import IdempotencyKey
from raftlog.replication import propose
from raftlog.replication.certify import Verdict, VerdictKind
from raftlog.replication.keyed import IdempotencyName
from raftlog.testing.inline import Inline
from tests.replication.conftest import sqlite_database
from tests.replication.warehouse import commands
from tests.replication.warehouse.models import Item

SEEN = []
OPTIONS = {"status": 200, "headers": {}}


def add(request):
    SEEN.append(request.body)
    number = Item.objects.count() + 1
    Item.objects.create(pk=number, name=f"item {number}", stock=1)
    return number


def create(request):
    response = JsonResponse({"made": add(request)}, status=OPTIONS["status"], headers=OPTIONS["headers"])
    response.set_cookie("secret", "of this user")
    return response


def upload(request):
    SEEN.append((request.POST["word"], request.FILES["file"].read()))
    Item.objects.create(pk=1, name="uploaded", stock=1)
    return HttpResponseRedirect("/there/")


def stream(request):
    return StreamingHttpResponse(iter([str(add(request)).encode()]))


def empty(request):
    response = HttpResponse(status=204)
    del response["Content-Type"]
    return response


def swallow(request):
    Item.objects.create(pk=99, name="lost", stock=1)
    try:
        with transaction.atomic(savepoint=False):
            raise ValueError
    except ValueError:
        return HttpResponse("as if all were well")


def fail(request):
    add(request)
    raise RuntimeError


@transaction.non_atomic_requests
def propose_two(request):
    SEEN.append("run")
    first = commands.add_item.propose(name="nail", stock=10)
    left = commands.take.propose(name="nail", quantity=3)
    if "fail" in request.GET and len(SEEN) == 1:
        raise RuntimeError
    return JsonResponse([first, left], safe=False)


@transaction.non_atomic_requests
def guarded(request):
    """Under a lock and a rate limit."""
    SEEN.append("run")
    answer = raftlog.ratelimit("orders", "10/d")
    with raftlog.lock("orders") as fence:
        first = commands.add_item.propose(name="nail", stock=10)
        if len(SEEN) == 1:
            raise RuntimeError
        left = commands.take.propose(name="nail", quantity=3)
    assert answer.allowed
    return JsonResponse([first, left, fence.token], safe=False)


def missing(request):
    add(request)
    raise Http404


urlpatterns = [
    path("guarded/", guarded),
    path("missing/", missing),
    path("shop/", lambda request: shop(request)),
    path("create/", create),
    path("other/", create),
    path("upload/", upload),
    path("stream/", stream),
    path("empty/", empty),
    path("swallow/", swallow),
    path("fail/", fail),
    path("propose/", propose_two),
]


class Users:
    """In place of AuthenticationMiddleware: who it is stands in a header."""

    def __init__(self, get_response):
        self.get_response = get_response

    def __call__(self, request):
        if "X-User" in request.headers:
            request.user = User(pk=int(request.headers["X-User"]))
        return self.get_response(request)


MIDDLEWARE = ["raftlog.middleware.RetryConflicts", f"{__name__}.Users", "raftlog.middleware.Idempotency"]


@pytest.fixture(autouse=True)
def project(tmp_path, django_db_blocker):
    SEEN.clear()
    OPTIONS.update(status=200, headers={})
    heat._conflicted_at.clear()
    use_log("default", InlineLog())
    settings = override_settings(ROOT_URLCONF=__name__, MIDDLEWARE=MIDDLEWARE, ALLOWED_HOSTS=["*"])
    with django_db_blocker.unblock(), sqlite_database(tmp_path, "raftlog.backends.sqlite3"), settings:
        with connection.schema_editor() as editor:
            editor.create_model(IdempotencyKey)
        yield


def post(url="/create/", body=None, key="k", user=None, **options):
    headers = {} if key is None else {"Idempotency-Key": key}
    if user is not None:
        headers["X-User"] = str(user)
    if not isinstance(body, dict) or "file" not in body:
        options["content_type"] = "application/json"
        body = json.dumps(body)
    return Client(raise_request_exception=False).post(
        url, body, headers=headers | options.pop("headers", {}), **options
    )


def is_replayed(response):
    return response.headers.get("Idempotency-Replayed") == "true"


def test_a_repeat_gets_the_recorded_response_and_runs_nothing():
    OPTIONS.update(status=201, headers={"Location": "/items/1/", "X-Trace": "7"})
    first, again = post(), post()
    assert (first.status_code, first.content, is_replayed(first)) == (201, b'{"made": 1}', False)
    assert (again.status_code, again.content, is_replayed(again)) == (201, b'{"made": 1}', True)
    assert again["Location"] == "/items/1/"
    assert again["Content-Type"] == "application/json"
    assert "X-Trace" not in again
    assert not again.cookies
    assert len(SEEN) == Item.objects.count() == 1


def test_requests_without_a_key_and_safe_methods_run_as_ever():
    assert [post(key=None).content, post(key=None).content] == [b'{"made": 1}', b'{"made": 2}']
    client = Client()
    assert not any(is_replayed(client.get("/create/", headers={"Idempotency-Key": "k"})) for _ in range(2))
    assert not IdempotencyKey.objects.exists()


@pytest.mark.parametrize("other", [{"body": {"n": 2}}, {"url": "/other/"}, {"url": "/create/?page=2"}])
def test_another_request_with_the_same_key_is_refused(other):
    post(body={"n": 1})
    response = post(**{"body": {"n": 1}} | other)
    assert response.status_code == 422
    assert response["Content-Type"] == "application/problem+json"
    assert "something else before" in response.json()["detail"]
    assert Item.objects.count() == 1


def test_each_user_has_keys_of_their_own():
    answers = [post(user=user).content for user in (1, 2, None, 1, 2)]
    assert answers == [b'{"made": 1}', b'{"made": 2}', b'{"made": 3}', b'{"made": 1}', b'{"made": 2}']
    assert not is_replayed(post(headers={"Authorization": "Bearer x"}))
    assert is_replayed(post(headers={"Authorization": "Bearer x"}))
    assert not is_replayed(post(headers={"Authorization": "Bearer y"}))


def test_a_key_may_be_quoted_as_the_draft_says():
    post(key='"8e03978e-40d5"')
    assert is_replayed(post(key="8e03978e-40d5"))


@pytest.mark.parametrize("key", ["", "x" * 201, "\x01", '""'])
def test_what_is_no_key_is_refused(key):
    response = post(key=key)
    assert response.status_code == 400
    assert "1 to 200 printable characters" in response.json()["detail"]
    assert SEEN == []


@pytest.mark.parametrize("status", [500, 503, 429, 409, 401, 403])
def test_an_answer_that_may_be_another_one_next_time_is_not_recorded_and_what_was_written_is_rolled_back(status):
    OPTIONS["status"] = status
    assert post().status_code == status
    assert not Item.objects.exists()
    OPTIONS["status"] = 200
    assert not is_replayed(post())
    assert is_replayed(post())


def test_a_view_that_raises_records_nothing():
    assert post("/fail/").status_code == 500
    assert not Item.objects.exists()
    assert not IdempotencyKey.objects.exists()


def test_a_refusal_of_the_view_is_recorded():
    OPTIONS["status"] = 400
    post()
    assert post().status_code == 400
    assert len(SEEN) == 1


def test_a_transaction_that_the_view_has_broken_records_nothing():
    assert post("/swallow/").content == b"as if all were well"
    assert not Item.objects.exists()
    assert not IdempotencyKey.objects.exists()


def test_a_form_is_known_by_its_fields_and_files():
    def send(word="w", content=b"c", token="a"):
        data = {"word": word, "file": SimpleUploadedFile("f.txt", content), "csrfmiddlewaretoken": token}
        return post("/upload/", data)

    assert send()["Location"] == "/there/"
    again = send(token="b")
    assert (again.status_code, again["Location"], is_replayed(again)) == (302, "/there/", True)
    assert send(content=b"d").status_code == send(word="v").status_code == 422
    assert SEEN == [("w", b"c")]


def test_a_body_that_streams_or_is_too_large_is_not_recorded_but_what_was_done_is(monkeypatch):
    assert post("/stream/").getvalue() == b"1"
    again = post("/stream/")
    assert (again.status_code, again.content, again["Idempotency-Body-Omitted"]) == (200, b"", "true")
    monkeypatch.setattr(Idempotency, "max_body_bytes", 3)
    post(key="l")
    assert post(key="l")["Idempotency-Body-Omitted"] == "true"
    assert Item.objects.count() == 2


def test_an_answer_without_content_stays_without():
    post("/empty/")
    again = post("/empty/")
    assert (again.status_code, "Content-Type" in again.headers, is_replayed(again)) == (204, False, True)


class Losing:
    """An idempotent() that another one's transaction has outrun at its commit."""

    is_repeat, result = False, None

    def __init__(self, key, **options):
        """As idempotent()'s."""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.is_repeat = True
        self.result = {"status": 200, "headers": {}, "body": b"the first one's"}


def shop(request):
    """Changes the session, after what stood in it was read or not."""
    if "reads" in request.GET:
        assert request.session.get("cart") == ["before"]
    request.session.setdefault("cart", []).append("mine")
    request.session["seen"] = True
    if "cycles" in request.GET:
        request.session.cycle_key()
    return HttpResponse("mine")


@pytest.mark.parametrize("query", ["", "?reads", "?cycles"])
def test_a_request_that_another_one_outran_leaves_its_session_as_it_was(monkeypatch, query):
    """Its view was rolled back; what it has put into the session must not be saved either."""
    sessions = {
        "MIDDLEWARE": ["django.contrib.sessions.middleware.SessionMiddleware", "raftlog.middleware.Idempotency"],
        "SESSION_ENGINE": "django.contrib.sessions.backends.cache",
        "CACHES": {"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache", "LOCATION": query}},
    }
    with override_settings(**sessions):
        client = Client()
        stored = client.session
        stored["cart"] = ["before"]
        stored.save()
        client.cookies["sessionid"] = stored.session_key
        with monkeypatch.context() as patched:
            patched.setattr(module, "idempotent", Losing)
            response = client.post(f"/shop/{query}", headers={"Idempotency-Key": "k"})
        assert response.content == b"the first one's"
        assert "sessionid" not in response.cookies
        found = type(stored)(stored.session_key)
        if query != "?cycles":  # there it was in the cache, which no rollback brings back
            assert dict(found.items()) == {"cart": ["before"]}
        assert client.post("/shop/", headers={"Idempotency-Key": "l"}).content == b"mine"
        assert "seen" in type(stored)(client.cookies["sessionid"].value)


# Conflicts


class Log(InlineLog):
    """Says what it is told to say."""

    def __init__(self, *answers):
        super().__init__()
        self.answers = list(answers)

    def commit(self, write_set, body, applier):
        answer = self.answers.pop(0) if self.answers else None
        if isinstance(answer, Exception):
            if isinstance(answer, TransactionOutcomeUnknown):
                super().commit(write_set, body, applier)
            raise answer
        return answer or super().commit(write_set, body, applier)


def logged(*answers):
    connection.ensure_connection()
    connection.connection.control.log = Log(*answers)


def test_a_request_that_conflicts_is_run_again():
    logged(Verdict(VerdictKind.CONFLICT, "as told"))
    assert post().content == b'{"made": 1}'
    assert len(SEEN) == 2
    assert is_replayed(post())


@override_settings(MIDDLEWARE=MIDDLEWARE[1:])
def test_without_retries_the_conflict_is_the_clients():
    logged(Verdict(VerdictKind.CONFLICT, "as told"))
    assert post().status_code == 500
    assert not is_replayed(post())


def test_with_atomic_requests(monkeypatch):
    monkeypatch.setitem(connection.settings_dict, "ATOMIC_REQUESTS", True)
    logged(Verdict(VerdictKind.CONFLICT, "as told"))
    assert post("/create/").content == b'{"made": 1}'
    assert is_replayed(post("/create/"))
    assert post("/fail/", key="l").status_code == 500
    assert Item.objects.count() == 1


def test_where_the_outcome_is_not_known_the_client_is_told_to_ask_again():
    logged(TransactionOutcomeUnknown("no answer", "id"))
    response = post()
    assert (response.status_code, response["Retry-After"]) == (503, "1")
    assert is_replayed(post())
    assert Item.objects.count() == 1


def test_a_request_whose_key_is_being_used_waits_and_then_gives_up(monkeypatch):
    monkeypatch.setattr(Idempotency, "wait", 0.05)
    name = IdempotencyName("address 127.0.0.1", "k")
    with module._running.alone(name, 0):
        response = post()
        assert (response.status_code, response["Retry-After"]) == (409, "1")
        assert post(key="other").status_code == 200
    monkeypatch.setattr(Idempotency, "wait", 10)
    entered = threading.Event()

    def hold():
        with module._running.alone(name, 0):
            entered.set()
            threading.Event().wait(0.1)

    holder = threading.Thread(target=hold)
    holder.start()
    assert entered.wait(10)
    assert post().status_code == 200
    holder.join()


# Views that propose


def test_commands_of_a_view_are_done_once_though_it_is_run_again():
    with Inline("default") as inline:
        assert post("/propose/?fail").status_code == 500
        again = post("/propose/?fail")
        assert (again.json(), is_replayed(again)) == ([1, 7], False)
        assert is_replayed(post("/propose/?fail"))
        assert [entry.result for entry in inline.entries] == [1, 7, 1, 7]
    assert SEEN == ["run", "run"]
    assert Item.objects.get().stock == 7


def test_a_long_key_is_shortened_for_the_commands():
    with Inline("default"):
        assert post("/propose/", key="x" * 200).json() == [1, 7]
    assert max(map(len, IdempotencyKey.objects.values_list("key", flat=True))) == 200


def test_commands_that_cannot_be_proposed():
    with Inline("default") as inline:
        inline.fail_next(NoLeader)
        assert post("/propose/").status_code in (500, 503)
        assert post("/propose/").status_code == 200


def test_a_view_that_proposes_and_is_not_marked_is_told_how():
    with pytest.raises(raftlog.InsideTransaction, match="non_atomic_requests"), transaction.atomic():
        propose.refuse_inside_transaction("default", "x")


def test_scope_may_be_ones_own():
    class Own(Idempotency):
        def scope(self, request):
            return "all"

    request = RequestFactory().post("/create/", headers={"Idempotency-Key": "k"})
    Own(lambda request: HttpResponse("a"))(request)
    assert IdempotencyKey.objects.get().scope == "all"


def test_a_view_that_takes_a_lock_or_a_token_can_be_run_again():
    """What they answer is true for a moment: it is asked for anew, and counts for no key."""
    with connection.schema_editor() as editor:
        for label in ("raftlog_locks", "raftlog_ratelimit"):
            for model in apps.get_app_config(label).get_models():
                editor.create_model(model)
    with Inline("default"):
        assert post("/guarded/?fail").status_code == 500
        again = post("/guarded/?fail")
        assert again.status_code == 200
        added, left, token = again.json()
        assert (left, token > added) == (7, True)
        assert is_replayed(post("/guarded/?fail"))
    assert Item.objects.get().stock == 7
    assert Holder.objects.count() == 0


def test_what_a_view_that_raises_has_written_is_rolled_back_whatever_its_answer():
    assert post("/missing/").status_code == 404
    assert not Item.objects.exists()
    assert not is_replayed(post("/missing/"))


def test_the_requests_of_a_parent_are_not_waited_for_in_a_child():
    name = IdempotencyName("address 127.0.0.1", "k")
    with module._running.alone(name, 0):
        child = os.fork()
        if not child:
            with module._running.alone(name, 0) as is_alone:
                os._exit(not is_alone)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
