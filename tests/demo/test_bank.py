"""The bank's commands keep money: nothing is overdrawn, made or lost."""

import datetime
from types import SimpleNamespace

import pytest
from django.db import IntegrityError, transaction

from demo_site.bank.commands import NotEnoughMoney, open_account, transfer
from demo_site.bank.models import Account, Transfer

pytestmark = pytest.mark.django_db
NOW = datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC)


def at(index):
    return SimpleNamespace(index=index, now=NOW)


@pytest.fixture
def accounts():
    open_account(at(1), name="ada", balance=100)
    open_account(at(2), name="bob")


def balances():
    return dict(Account.objects.values_list("name", "balance"))


def test_a_transfer_moves_money_and_takes_number_and_time_from_the_log(accounts):
    assert transfer(at(7), source="ada", target="bob", amount=30, reference="r") == 7
    assert balances() == {"ada": 70, "bob": 30}
    made = Transfer.objects.get()
    assert (made.number, made.reference, made.made_at, made.amount) == (7, "r", NOW, 30)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"source": "ada", "target": "bob", "amount": 101}, NotEnoughMoney),
        ({"source": "bob", "target": "ada", "amount": 1}, NotEnoughMoney),
        ({"source": "ada", "target": "bob", "amount": 0}, ValueError),
        ({"source": "ada", "target": "ada", "amount": 1}, ValueError),
        ({"source": "ada", "target": "eve", "amount": 1}, Account.DoesNotExist),
    ],
)
def test_what_cannot_be_transferred_changes_nothing(accounts, arguments, error):
    with pytest.raises(error):
        transfer(at(7), **arguments)
    assert balances() == {"ada": 100, "bob": 0}
    assert not Transfer.objects.exists()


def test_a_name_that_is_taken_is_refused(accounts):
    with pytest.raises(IntegrityError), transaction.atomic():
        open_account(at(3), name="ada")
    with pytest.raises(ValueError, match="negative"):
        open_account(at(4), name="eve", balance=-1)
    assert set(balances()) == {"ada", "bob"}
