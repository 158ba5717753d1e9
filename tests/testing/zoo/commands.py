"""The comment on a line names the condition that is to be found there."""

import datetime
import itertools
import os
import random
import secrets
import socket
import time
import uuid

from django.db import connection
from django.db.models import F
from django.db.models.functions import Now
from django.utils import timezone
from django.utils.crypto import get_random_string

from raftlog import command
from raftlog.testing.determinism import example
from tests.testing.zoo.models import Animal, Dated, Stamped, Tagged

NAMES = ["ant", "bee", "cat", "dog", "eel", "fox", "gnu", "hen"]
counter = itertools.count()


def animals() -> None:
    for number, name in enumerate(NAMES):
        Animal.objects.create(pk=number + 1, name=name, number=number % 2)


def add(ctx, name="x", **values):
    return Animal.objects.create(pk=ctx.index + 100, name=str(name), **values)


# Not deterministic


@example()
@command
def now(ctx):
    moment = timezone.now()  # clock
    add(ctx, moment.isoformat())


@example()
@command
def today(ctx):
    add(ctx, datetime.date.today())  # clock


@example()
@command
def datetime_now(ctx) -> str:
    return datetime.datetime.now(datetime.UTC).isoformat()  # clock


@example()
@command
def time_time(ctx):
    began = time.monotonic()
    add(ctx, number=int(time.time()))  # clock
    assert time.monotonic() >= began  # asked in vain


@example()
@command
def auto_now(ctx):
    Stamped.objects.create(pk=1, name="x")  # clock


@example()
@command
def database_now(ctx):
    Stamped.objects.bulk_create([Stamped(pk=1, name="x")])  # read in vain
    Stamped.objects.update(changed_at=datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC))
    Stamped.objects.update(changed_at=Now())  # clock


@example()
@command
def database_default(ctx):
    Dated.objects.create(pk=1, name="x")  # clock


@example()
@command
def current_timestamp(ctx):
    with connection.cursor() as cursor:
        cursor.execute("INSERT INTO zoo_animal (id, number, name) VALUES (1, 0, CURRENT_TIMESTAMP)")  # clock


@example()
@command
def uuid4(ctx):
    add(ctx, uuid.uuid4())  # random


@example()
@command
def uuid_key(ctx):
    Tagged.objects.create(pk=1, name="x")  # random


@example()
@command
def choice(ctx):
    lucky = random.choice(NAMES)  # random
    add(ctx, lucky)


@example()
@command
def unseeded(ctx) -> int:
    return random.Random().randrange(1 << 40)  # random


@example()
@command
def token(ctx):
    add(ctx, secrets.token_hex(8))  # random


@example()
@command
def random_string(ctx):
    add(ctx, get_random_string(12))  # random


@example()
@command
def sql_random(ctx):
    with connection.cursor() as cursor:
        cursor.execute("INSERT INTO zoo_animal (id, name, number) VALUES (1, 'x', random())")  # random


@example()
@command
def host_name(ctx):
    add(ctx, socket.gethostname())  # host


@example()
@command
def process_id(ctx) -> int:
    return os.getpid()  # host


@example(animals)
@command
def some_rows(ctx):
    some = list(Animal.objects.filter(number=0)[:2])  # rows
    for animal in some:
        Animal.objects.filter(pk=animal.pk).update(number=99)


@example(animals)
@command
def first_come(ctx) -> list:
    count = len(Animal.objects.order_by("pk"))
    names = Animal.objects.values_list("name", flat=True)
    return list(names)[:count]  # rows


@example()
@command
def set_order(ctx):
    for number, name in enumerate(set(NAMES)):  # hash
        Animal.objects.create(pk=number + 1, name=name)


@example()
@command
def hashed(ctx) -> int:
    return hash("tea")  # hash


@example()
@command
def local_time(ctx):
    add(ctx, datetime.datetime.fromtimestamp(1_000_000_000).isoformat())  # zone


@example()
@command
def environment(ctx):
    add(ctx, os.environ["LANG"])  # locale


@example()
@command
def counts(ctx):
    add(ctx, number=next(counter))  # memory


@example()
@command
def address(ctx) -> str:
    return str(object())  # again


@example()
@command
def fails_by_time(ctx):
    if time.time() > 1_750_000_000:  # clock
        raise ValueError("too late")


@command
def without_example(ctx) -> str:
    ctx.on_leader(print)
    return str(uuid.uuid4())


# Deterministic


@example()
@command
def good_context(ctx):
    add(ctx, f"{ctx.now.isoformat()} {ctx.uuid()} {ctx.random.random()}")


@example(animals)
@command
def good_rows(ctx) -> list:
    Animal.objects.filter(number=0).update(number=F("number") + 1)
    first = Animal.objects.order_by("-pk").first()
    count = sum(1 for animal in Animal.objects.all() if animal.number)
    return [first.name, count, sorted({animal.name for animal in Animal.objects.all()})]


@example()
@command
def good_automatic_key(ctx) -> int:
    return Animal.objects.create(name="x").pk


@example()
@command
def good_sets(ctx) -> list:
    seen = {name.lower() for name in NAMES}
    return [len(seen), "ant" in seen, sorted(seen), max(set(NAMES))]


@example()
@command
def good_seed(ctx) -> float:
    random.seed(7)
    return random.Random(3).random() + random.random()


@example()
@command
def good_clock_without_effect(ctx):
    began = time.time()
    add(ctx)
    print(f"took {time.time() - began}")


@example(name="ant")
@command
def good_failure(ctx, *, name: str):
    Animal.objects.get(name=name)
