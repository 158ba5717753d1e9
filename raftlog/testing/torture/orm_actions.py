"""What the transactions of a torture run do: code that any project might hold, inside atomic(), on one host.

Each tells its Attempt what it read and wrote. Versions of a row are told apart by the reference of the transaction
that wrote them, which is unique, together with the balance.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.db.models import F, Value

from raftlog.testing.torture.orm_rows import ACCOUNTS, BALANCE, JOINT_BALANCE, PAIRS, PLACES, version_of
from raftlog.testing.torture_site.models import Account, Booking, Hit, Job, Joint, Marker

if TYPE_CHECKING:
    from raftlog.testing.torture.orm_client import Attempt, Worker


def fill() -> None:
    """The rows that are there at first."""
    Account.objects.bulk_create([Account(pk=number, balance=BALANCE) for number in range(1, ACCOUNTS + 1)])
    joints = [Joint(pk=number, pair=number // 2, balance=JOINT_BALANCE) for number in range(2, 2 * PAIRS + 2)]
    Joint.objects.bulk_create(joints)
    Hit.objects.create(pk=1)


def version(row: Account | Joint) -> str | None:
    """The value of a row for the checker."""
    return version_of(row.reference, row.balance, BALANCE if isinstance(row, Account) else JOINT_BALANCE)


def transfer(attempt: Attempt, worker: Worker) -> None:
    """By F(), as in Django's documentation; the row is read again only to know what it was."""
    source, target = worker.rng.sample(range(1, ACCOUNTS + 1), 2)
    amount = worker.rng.randrange(1, 20)
    first = Account.objects.select_for_update().get(pk=source)
    attempt.read(f"account {source}", version(first))
    if first.balance >= amount:
        for pk, change in ((source, -amount), (target, amount)):
            Account.objects.filter(pk=pk).update(
                balance=F("balance") + change, previous=F("reference"), reference=Value(attempt.reference)
            )
            row = Account.objects.get(pk=pk)
            attempt.read(f"account {pk}", version_of(row.previous, row.balance - change, BALANCE))
            attempt.write(f"account {pk}", f"{row.reference}:{row.balance}")
    Marker.objects.create(reference=attempt.reference)


def transfer_by_save(attempt: Attempt, worker: Worker) -> None:
    """Read, modify, write."""
    pks = worker.rng.sample(range(1, ACCOUNTS + 1), 2)
    amount = worker.rng.randrange(1, 20)
    source, target = (Account.objects.get(pk=pk) for pk in pks)
    is_enough = source.balance >= amount
    for row, change in ((source, -amount), (target, amount)):
        attempt.read(f"account {row.pk}", version(row))
        if is_enough:
            _save(attempt, row, f"account {row.pk}", row.balance + change)
    Marker.objects.create(reference=attempt.reference)


def _save(attempt: Attempt, row: Account | Joint, key: str, balance: int) -> None:
    row.balance = balance
    row.previous, row.reference = row.reference, attempt.reference
    row.save()
    attempt.write(key, f"{row.reference}:{balance}")


def draw(attempt: Attempt, worker: Worker) -> None:
    """From one account of a pair, if both together allow it: the code for which snapshots are not enough."""
    rows = list(Joint.objects.filter(pair=worker.rng.randrange(1, PAIRS + 1)).order_by("pk"))
    for row in rows:
        attempt.read(f"joint {row.pk}", version(row))
    total = sum(row.balance for row in rows)
    if total < 0:
        worker.broken(f"pair {rows[0].pair} is at {total}")
    row = worker.rng.choice(rows)
    # What is taken is most of what there is, and is paid in again when little is left.
    change = -worker.rng.randrange(total // 2, total + 1) if total >= 20 else 2 * JOINT_BALANCE
    _save(attempt, row, f"joint {row.pk}", row.balance + change)
    Marker.objects.create(reference=attempt.reference)


def book(attempt: Attempt, worker: Worker) -> None:
    """A place in a slot, if there is one: counted, and nothing else in its way."""
    slot = worker.slot()
    taken = list(Booking.objects.filter(slot=slot).values_list("reference", flat=True))
    attempt.scan(slot, taken)
    if len(taken) > PLACES:
        worker.broken(f"slot {slot} has {PLACES} places, and {len(taken)} bookings")
    if len(taken) < PLACES:
        Booking.objects.create(slot=slot, reference=attempt.reference)
        attempt.write(f"booking {attempt.reference}", attempt.reference)
    Marker.objects.create(reference=attempt.reference)


def make_jobs(attempt: Attempt, worker: Worker) -> None:
    count = worker.rng.choice((1, 3, 10, 40))
    for job in Job.objects.bulk_create([Job(reference=attempt.reference) for _ in range(count)]):
        attempt.write(f"job {job.pk}", attempt.reference)
    Marker.objects.create(reference=attempt.reference)


def take_job(attempt: Attempt, worker: Worker) -> None:
    waiting = list(Job.objects.order_by("pk")[:8])
    for job in worker.rng.sample(waiting, min(len(waiting), worker.rng.randrange(1, 4))):
        attempt.read(f"job {job.pk}", job.reference)
        attempt.write(f"job {job.pk}", f"taken by {attempt.reference}")
        if job.delete() != (1, {"torture.Job": 1}):
            worker.broken(f"job {job.pk} was gone when its transaction deleted it")
    Marker.objects.create(reference=attempt.reference)


def audit(attempt: Attempt, worker: Worker) -> None:
    """Reads alone: the money is all there, at every moment."""
    accounts, joints = list(Account.objects.all()), list(Joint.objects.all())
    for account in accounts:
        attempt.read(f"account {account.pk}", version(account))
    for joint in joints:
        attempt.read(f"joint {joint.pk}", version(joint))
    total = sum(account.balance for account in accounts)
    if (len(accounts), total) != (ACCOUNTS, ACCOUNTS * BALANCE):
        worker.broken(f"{len(accounts)} accounts hold {total}, it should be {ACCOUNTS * BALANCE} in {ACCOUNTS}")
    slot = worker.slot()
    attempt.scan(slot, list(Booking.objects.filter(slot=slot).values_list("reference", flat=True)))
