"""Commands that succeed, fail, and misbehave."""

from django.db import IntegrityError, connection, transaction
from django.db.models import F

from raftlog import command
from tests.replication.warehouse.models import Item, Order, Shelf


class OutOfStock(Exception):
    """Fewer are there than were asked for."""


@command
def add_item(ctx, *, name: str, stock: int = 0) -> int:
    return Item.objects.create(id=ctx.index, name=name, stock=stock).pk


@command(raises=[OutOfStock])
def take(ctx, *, name: str, quantity: int) -> int:
    item = Item.objects.get(name=name)
    if item.stock < quantity:
        raise OutOfStock(f"{item.stock} left")
    Item.objects.filter(pk=item.pk).update(stock=F("stock") - quantity)
    return item.stock - quantity


@command
def take_blindly(ctx, *, name: str, quantity: int) -> int:
    return Item.objects.filter(name=name).update(stock=F("stock") - quantity)


@command
def add_row(ctx, *, table: str, row: dict) -> None:
    """Insert as told: whatever foreign keys say."""
    {"item": Item, "order": Order, "shelf": Shelf}[table].objects.create(**row)


@command
def change_rows(ctx, *, table: str, pk: int, values: dict) -> int:
    return {"item": Item, "order": Order, "shelf": Shelf}[table].objects.filter(pk=pk).update(**values)


@command
def delete_row(ctx, *, table: str, pk: int) -> int:
    """Without Django's own collector, which would look for children first."""
    with connection.cursor() as cursor:
        cursor.execute(f"DELETE FROM warehouse_{table} WHERE id = %s", [pk])
        return cursor.rowcount


@command
def replace_item(ctx, *, pk: int, name: str) -> None:
    """SQLite: deletes whatever stands in the way."""
    with connection.cursor() as cursor:
        cursor.execute("REPLACE INTO warehouse_item (id, name, stock) VALUES (%s, %s, 0)", [pk, name])


@command
def order(ctx, *, item_id: int, quantity: int) -> int:
    return Order.objects.create(id=ctx.index, item_id=item_id, quantity=quantity, made_at=ctx.now).pk


@command
def swallow(ctx, *, name: str) -> str:
    """Catches an error without an atomic() of its own: its changes are not whole."""
    try:
        Item.objects.create(id=ctx.index, name=name)
    except IntegrityError:
        return "swallowed"
    return "created"


@command
def get_or_add(ctx, *, name: str) -> bool:
    """Catches an error inside an atomic() of its own."""
    try:
        with transaction.atomic():
            Item.objects.create(id=ctx.index, name=name)
    except IntegrityError:
        return False
    return True


@command
def fail(ctx, *, kind: str, text: str = "as told") -> None:
    Item.objects.create(id=ctx.index, name=f"left behind by {ctx.index}")
    raise {"value": ValueError, "memory": MemoryError, "os": OSError, "key": KeyError, "exit": SystemExit}[kind](text)


@command
def draw(ctx) -> dict:
    """All that is drawn from the context."""
    return {"now": ctx.now, "index": ctx.index, "numbers": [ctx.random.random() for _ in range(3)], "uuid": ctx.uuid()}


@command
def return_object(ctx):
    return Item.objects.create(id=ctx.index, name="a model is no value")


@command
def return_much(ctx, *, size: int) -> str:
    return "x" * size


CHILD_TABLE = """CREATE TABLE child (
    id integer PRIMARY KEY,
    item_id integer REFERENCES warehouse_item DEFERRABLE INITIALLY DEFERRED
)"""


@command
def make_child_table(ctx) -> None:
    with connection.cursor() as cursor:
        cursor.execute(CHILD_TABLE)


@command
def add_child(ctx, *, item_id: int) -> None:
    with connection.cursor() as cursor:
        cursor.execute("INSERT INTO child (item_id) VALUES (%s)", [item_id])
