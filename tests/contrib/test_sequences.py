"""Numbers without gaps: used if and only if the transaction commits, from 1, anew with each period."""

import datetime
import threading

import pytest
from django.db import IntegrityError, connection, connections, models, transaction
from django.db.transaction import TransactionManagementError

from raftlog import retry_on_conflict
from raftlog.contrib import sequences
from raftlog.contrib.sequences import api
from raftlog.contrib.sequences.models import Sequence
from raftlog.replication.context import CommandContext
from tests.contrib.databases import inline, make_tables, node, postgresql, stock_file  # noqa: F401
from tests.replication.log import START

NEW_YEAR = datetime.date(2026, 12, 31), datetime.date(2027, 1, 1)


class Invoice(models.Model):
    number = sequences.SequenceNumberField("invoice")
    label = sequences.SequenceLabelField(
        "invoice label", "{year}-{number:04}", restart="year", date_field="issued", max_length=20
    )
    issued = models.DateField()

    class Meta:
        app_label = "tests_contrib"

    def __str__(self):
        return self.label


@pytest.fixture(params=["inline", "stock_file", "postgresql"])
def database(request):
    request.getfixturevalue(request.param)
    make_tables(Sequence, Invoice)


def draw(name="invoice", **options):
    with transaction.atomic():
        return sequences.next_number(name, **options)


def test_numbers_begin_at_1_and_each_name_has_its_own(database):
    assert [draw(), draw(), draw("order"), draw()] == [1, 2, 1, 3]
    assert (sequences.last_number("invoice"), sequences.last_number("order"), sequences.last_number("x")) == (3, 1, 0)


def test_what_is_rolled_back_is_used_by_the_next(database):
    assert draw() == 1
    with pytest.raises(ZeroDivisionError), transaction.atomic():  # noqa: PT012 (one block is what is tested)
        assert sequences.next_number("invoice") == 2
        raise ZeroDivisionError
    with transaction.atomic():
        assert sequences.next_number("invoice") == 2
        with pytest.raises(ZeroDivisionError), transaction.atomic():  # noqa: PT012 (one block is what is tested)
            assert sequences.next_number("invoice") == 3
            raise ZeroDivisionError
        assert sequences.next_number("invoice") == 3
    assert draw() == 4


def test_a_number_wants_a_transaction(database):
    with pytest.raises(TransactionManagementError, match=r"with transaction\.atomic\(\):"):
        sequences.next_number("invoice")
    assert sequences.last_number("invoice") == 0


def test_a_command_draws_by_its_context(database, monkeypatch):
    ctx = CommandContext(index=7, log_time=START)
    year = ctx.now.year
    assert [sequences.draw(ctx, "invoice"), sequences.draw(ctx, "invoice")] == [1, 2]
    assert sequences.draw_label(ctx, "invoice", "{name}-{year}/{number:03}", restart="year") == f"invoice-{year}/001"
    assert sequences.draw(ctx, "invoice", restart="month") == 1
    monkeypatch.setattr(api, "is_applying", lambda: True)
    with pytest.raises(TransactionManagementError, match=r"sequences\.draw\(ctx, 'invoice'\)"), transaction.atomic():
        sequences.next_number("invoice")


def test_a_sequence_begins_anew_with_its_period(database):
    old, new = NEW_YEAR
    assert [draw(restart="year", at=at) for at in (old, old, new, old)] == [1, 2, 1, 3]
    assert [draw(restart="month", at=at) for at in (old, new, new)] == [1, 1, 2]
    assert draw(restart="day", at=old) == 1
    assert sequences.last_number("invoice", restart="year", at=new) == 1
    with transaction.atomic():
        label = sequences.next_label("invoice", "{prefix}{year}-{number:04}", restart="year", at=new, prefix="R")
    assert label == "R2027-0002"


def test_fields_draw_when_a_row_is_saved_for_the_first_time(database):
    with transaction.atomic():
        first = Invoice.objects.create(issued=NEW_YEAR[0])
        second, third = Invoice.objects.bulk_create([Invoice(issued=NEW_YEAR[0]), Invoice(issued=NEW_YEAR[1])])
    assert [(each.number, each.label) for each in (first, second, third)] == [
        (1, "2026-0001"),
        (2, "2026-0002"),
        (3, "2027-0001"),
    ]
    first.issued = NEW_YEAR[1]
    first.save()  # keeps its number; needs no transaction
    assert Invoice.objects.get(pk=first.pk).label == "2026-0001"
    given = Invoice.objects.create(number=100, label="X", issued=NEW_YEAR[0])
    assert (given.number, sequences.last_number("invoice")) == (100, 3)
    with pytest.raises(TransactionManagementError):
        Invoice.objects.create(issued=NEW_YEAR[0])


def test_fields_can_stand_in_migrations():
    for name in ("number", "label"):
        field = Invoice._meta.get_field(name)
        _, path, args, kwargs = field.deconstruct()
        again = type(field)(*args, **kwargs)
        assert path == f"raftlog.contrib.sequences.fields.{type(field).__name__}"
        assert again.deconstruct()[1:] == field.deconstruct()[1:]
        assert (again.sequence, again.restart, again.unique, again.editable) == (
            field.sequence,
            field.restart,
            True,
            False,
        )


def test_reset_goes_forward_and_backward_only_where_that_is_said(database):
    sequences.reset("invoice", 1000)
    assert draw() == 1001
    with pytest.raises(ValueError, match=r"1001 is used, and from 501 on .* may_repeat=True"):
        sequences.reset("invoice", 500)
    assert draw() == 1002
    sequences.reset("invoice", 500, may_repeat=True)
    assert draw() == 501
    with pytest.raises(ZeroDivisionError), transaction.atomic():  # noqa: PT012 (one block is what is tested)
        sequences.reset("invoice", 7000)
        raise ZeroDivisionError
    assert draw() == 502


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: draw(""), "the sequence's name is ''"),
        (lambda: draw("a:b"), "without ':'"),
        (lambda: draw("a\0"), "1 to 100 characters"),
        (lambda: draw("x" * 101), "1 to 100 characters"),
        (lambda: draw(3), "the sequence's name is 3"),
        (lambda: draw(restart="week"), "restart is 'week'; it must be one of never, year, month, day"),
        (lambda: draw(restart="year", at="2026"), "at is '2026'; it must be a date"),
        (lambda: sequences.reset("x", -1), "last is -1"),
        (lambda: sequences.reset("x", True), "last is True"),
        (lambda: sequences.reset("x", 2**63), "whole number from 0 to"),
        (lambda: sequences.next_label("x", "{numbre}"), "the form '{numbre}' .* may name day, month, name, number"),
        (lambda: sequences.SequenceLabelField("x", "{number:04d}{"), "the form"),
        (lambda: sequences.SequenceNumberField("x", restart="weekly"), "restart is 'weekly'"),
    ],
)
def test_what_is_wrong_is_named_and_nothing_is_drawn(stock_file, call, message):  # noqa: F811
    make_tables(Sequence)
    with pytest.raises(ValueError, match=message):
        call()
    assert not Sequence.objects.exists()


def test_a_sequence_ends_where_64_bits_do(database):
    sequences.reset("invoice", 2**63 - 2)
    assert draw() == 2**63 - 1
    with pytest.raises(ValueError, match="is at its end"):
        draw()


def test_threads_of_a_host_never_get_one_number_twice_nor_leave_one_out(inline):  # noqa: F811
    make_tables(Sequence)
    drawn: list[int] = []

    @retry_on_conflict
    def one() -> int:
        with transaction.atomic():
            return sequences.next_number("invoice")

    def work():
        try:
            for _ in range(20):
                drawn.append(one())
        finally:
            connections.close_all()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(drawn) == list(range(1, 81))


def test_commands_draw_through_the_log(node):  # noqa: F811
    make_tables(Sequence)
    from raftlog.replication.registry import Command, registry

    def number(ctx, *, fail: bool = False) -> int:
        drawn = sequences.draw(ctx, "invoice")
        if fail:
            raise IntegrityError("no")
        return drawn

    command = Command(number, name="tests_contrib.number")
    registry.add(command)
    try:
        assert command.propose() == 1
        with pytest.raises(IntegrityError):
            command.propose(fail=True)
        assert command.propose() == 2
    finally:
        registry.remove(command)
    assert not connection.in_atomic_block
