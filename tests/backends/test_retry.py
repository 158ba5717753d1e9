"""Work is run again after a conflict, and only if it has done nothing that would be done twice (rule 3)."""

from contextlib import contextmanager
from pathlib import Path

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.db import OperationalError, connections, models, transaction
from django.db.transaction import TransactionManagementError
from django.http import HttpResponse, StreamingHttpResponse
from django.test import Client, override_settings
from django.urls import path

from raftlog import retry_on_conflict
from raftlog.backends import heat
from raftlog.backends.cluster_turns import TransactionTurn
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

    def connected(self, cluster_id):
        self.log.connected(cluster_id)

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


def test_a_coroutine_function_is_refused():
    async def work():
        pass

    with pytest.raises(TypeError, match="sync_to_async"):
        retry_on_conflict(work)


def test_inside_a_transaction_it_is_refused(database):
    database.run("SELECT 1")
    with transaction.atomic(ALIAS), pytest.raises(TransactionManagementError, match="insert retries on conflict"):
        retry_on_conflict(insert)(database)


# Requests

SEEN = []


def insert_word(word):
    with transaction.atomic(ALIAS), connections[ALIAS].cursor() as cursor:
        cursor.execute("INSERT INTO plain VALUES (%s, 1)", [word])


def view(request):
    SEEN.append((request.POST.get("word"), request.FILES["file"].read()))
    insert_word(request.POST["word"])
    return HttpResponse("fine")


def moving_view(request):
    Path(request.FILES["file"].temporary_file_path()).unlink()  # as FileSystemStorage does
    SEEN.append("moved")
    insert_word("moved")
    return HttpResponse("fine")


def reading_view(request):
    SEEN.append(request.read())
    insert_word("read")
    return HttpResponse("fine")


def streaming_view(request):
    def rows():
        SEEN.append("streams")
        yield "a"
        insert_word("streamed")

    return StreamingHttpResponse(rows())


def marking_view(request):
    SEEN.append(getattr(request, "mark", "unmarked"))
    request.mark = "marked"
    request.META["MARK"] = "marked"
    insert_word(request.META.get("MARK"))
    return HttpResponse("fine")


def swallowing_view(request):
    SEEN.append("runs")
    try:
        insert_word("swallowed")
    except OperationalError:
        return HttpResponse("bad", status=400)
    return HttpResponse("fine")


def writing_view(request):
    SEEN.append("runs")
    insert_word("unseen")
    return HttpResponse("fine")


class WritesAfterwards:
    """A middleware that writes whatever the view did, as one that logs requests would."""

    def __init__(self, get_response):
        self.get_response = get_response

    def __call__(self, request):
        response = self.get_response(request)
        insert_word("log")
        return response


urlpatterns = [
    path("form/", view),
    path("move/", moving_view),
    path("read/", reading_view),
    path("stream/", streaming_view),
    path("mark/", marking_view),
    path("swallow/", swallowing_view),
    path("write/", writing_view),
]
RETRY = "raftlog.middleware.RetryConflicts"
requests_settings = override_settings(ROOT_URLCONF=__name__, MIDDLEWARE=[RETRY], ALLOWED_HOSTS=["*"])


@pytest.fixture(autouse=True)
def _nothing_seen():
    SEEN.clear()
    heat._conflicted_at.clear()


def post(url, data=None, **options):
    return Client(raise_request_exception=False).post(url, data, **options)


def words(database):
    return [word for (word,) in database.run("SELECT a FROM plain ORDER BY a")]


@requests_settings
def test_a_request_is_run_again_with_its_uploads(database):
    conflicts(database, 2)
    response = post("/form/", {"word": "w", "file": SimpleUploadedFile("f.txt", b"content")})
    assert response.content == b"fine"
    assert SEEN == [("w", b"content")] * 3
    assert words(database) == ["w"]


@requests_settings
def test_a_body_that_is_read_at_once_is_kept_if_it_is_small(database):
    conflicts(database, 1)
    response = post("/read/", b"read at once", content_type="application/json")
    assert response.content == b"fine"
    assert SEEN == [b"read at once"] * 2


@requests_settings
def test_a_request_that_cannot_be_read_again_is_not_run_again(database):
    conflicts(database, 1)
    with override_settings(DATA_UPLOAD_MAX_MEMORY_SIZE=5):
        response = post("/read/", b"read at once", content_type="application/json")
    assert response.status_code == 500
    assert SEEN == [b"read at once"]


@requests_settings
@override_settings(FILE_UPLOAD_HANDLERS=["django.core.files.uploadhandler.TemporaryFileUploadHandler"])
def test_a_request_whose_upload_was_moved_away_is_not_run_again(database):
    conflicts(database, 1)
    assert post("/move/", {"file": SimpleUploadedFile("f.txt", b"content")}).status_code == 500
    assert SEEN == ["moved"]


@requests_settings
def test_a_streaming_response_is_not_run_again(database):
    conflicts(database, 1)
    response = Client().get("/stream/")
    with pytest.raises(TransactionConflict):
        list(response.streaming_content)
    assert SEEN == ["streams"]


@requests_settings
def test_what_a_run_left_on_the_request_is_gone_in_the_next(database):
    conflicts(database, 2)
    assert post("/mark/").content == b"fine"
    assert SEEN == ["unmarked"] * 3
    assert words(database) == ["marked"]


@requests_settings
def test_a_conflict_that_became_an_error_response_is_run_again(database):
    conflicts(database, 1)
    assert post("/swallow/").content == b"fine"
    assert SEEN == ["runs"] * 2


@requests_settings
def test_a_request_in_which_something_else_was_written_is_not_run_again(database):
    conflicts(database, 1)
    with override_settings(MIDDLEWARE=[RETRY, f"{__name__}.WritesAfterwards"]):
        assert post("/write/").status_code == 500
    assert SEEN == ["runs"]
    assert words(database) == ["log"]


@requests_settings
def test_a_request_that_conflicts_again_and_again_ends(database):
    conflicts(database, 1000)
    response = post("/form/", {"word": "w", "file": SimpleUploadedFile("f.txt", b"content")})
    assert response.status_code == 500
    assert 1 < len(SEEN) < 20


# The cluster's turn


class TurnLog:
    """A log of a cluster, as far as turns go: who took one, when, and what was committed with it."""

    holds_turn = False
    key_blocks = None

    def __init__(self, log, verdicts=()):
        self.log = log
        self.verdicts = list(verdicts)
        self.told = []

    @contextmanager
    def cluster_turn(self, timeout, *, is_fence=False):
        self.told.append("fence" if is_fence else "turn")
        yield True
        self.told.append("end")

    def connected(self, cluster_id):
        self.log.connected(cluster_id)

    def commit(self, write_set, body, applier):
        self.told.append("commit")
        if self.verdicts:
            return Verdict(self.verdicts.pop(0), "as told")
        return self.log.commit(write_set, body, applier)


@pytest.fixture
def turns(database):
    database.run("INSERT INTO worded VALUES ('w', 1)")

    def make(conflicts=0):
        control = database.control
        control.log = TurnLog(database.log, [VerdictKind.CONFLICT] * conflicts)
        control.cluster = TransactionTurn(control.log)
        return control.log.told

    return make


INSERT = "INSERT INTO plain VALUES (1, 1)"
UPDATE = "UPDATE worded SET n = n + 1"
READ = "SELECT n FROM worded"


@pytest.mark.parametrize(
    ("statements", "told"),
    [
        ([INSERT, INSERT], ["commit"]),
        ([UPDATE], ["turn", "commit", "end"]),
        ([READ, INSERT], ["turn", "commit", "end"]),
        ([INSERT, UPDATE, UPDATE], ["turn", "commit", "end"]),
        (["INSERT OR IGNORE INTO plain VALUES (1, 1)"], ["turn", "commit", "end"]),
        ([READ], []),
        (["CREATE TABLE made (a)", UPDATE], ["fence", "commit", "end"]),
    ],
)
def test_where_nobody_runs_it_again_a_transaction_takes_the_turn_if_it_can_conflict(database, turns, statements, told):
    heard = turns()
    with transaction.atomic(ALIAS):
        for sql in statements:
            database.run(sql)
    assert heard == told
    assert database.run(READ) == [(1 + statements.count(UPDATE),)]
    database.assert_equal()


class Worded(models.Model):
    word = models.TextField(primary_key=True)
    n = models.IntegerField()

    class Meta:
        app_label = "tests_backends"
        db_table = "worded"
        managed = False

    def __str__(self):
        return self.word


def test_select_for_update_takes_the_turn_before_it_reads(database, turns):
    heard = turns()
    for _ in range(2):
        with transaction.atomic(ALIAS):
            words = Worded.objects.using(ALIAS).select_for_update().filter(word="w")
            heard.append(words.get().n)
            words.update(n=models.F("n") + 1)
    assert heard == ["turn", 1, "commit", "end", "turn", 2, "commit", "end"]


@pytest.mark.parametrize("sql", [INSERT, UPDATE])
def test_a_single_statement_takes_the_turn_when_it_is_run_again(database, turns, sql):
    heard = turns(conflicts=2)
    database.run(sql)
    assert heard == ["commit", "turn", "commit", "end", "turn", "commit", "end"]


def test_what_has_conflicted_lately_takes_the_turn_at_once(database, turns, monkeypatch):
    heard = turns(conflicts=1)
    database.run(UPDATE)
    heard.clear()
    database.run(INSERT)
    database.run(UPDATE)
    assert heard == ["commit", "turn", "commit", "end"]
    heard.clear()
    monkeypatch.setattr(heat, "COOLED", 0.0)
    database.run(UPDATE)
    assert heard == ["commit"]


def test_a_schema_statement_alone_is_behind_a_fence(database, turns):
    heard = turns()
    database.run("CREATE TABLE made (a)")
    assert heard == ["fence", "commit", "end"]


def test_all_that_a_schema_editor_does_is_behind_one_fence(database, turns):
    for atomic in (True, False):
        heard = turns()
        with database.connection.schema_editor(atomic=atomic) as editor:
            editor.execute(f"CREATE TABLE made_{atomic} (a)")
            editor.execute(f"CREATE TABLE again_{atomic} (a)")
            database.run(UPDATE)
        assert heard == ["fence", *["commit"] * (1 if atomic else 3), "end"]
    heard = turns()
    with pytest.raises(ZeroDivisionError), database.connection.schema_editor():
        database.run(f"SELECT {1 / 0}")
    assert heard == ["fence", "end"]


def test_a_retry_takes_the_turn_before_it_reads(database, turns):
    heard = turns(conflicts=1)

    @retry_on_conflict
    def work():
        with transaction.atomic(ALIAS):
            heard.append("begins")
            (n,) = database.run(READ)[0]
            database.run("UPDATE worded SET n = %s", n + 1)

    work()
    assert heard == ["begins", "commit", "turn", "begins", "commit", "end"]
    assert database.run(READ) == [(2,)]


def test_work_that_will_not_be_run_again_any_more_takes_the_turn(database, turns):
    heard = turns()

    @retry_on_conflict
    def work():
        for _ in range(2):
            with transaction.atomic(ALIAS):
                database.run(UPDATE)

    work()
    assert heard == ["commit", "turn", "commit", "end"]
