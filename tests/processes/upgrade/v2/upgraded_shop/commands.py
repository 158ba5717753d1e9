from upgraded_shop.models import Item

from raftlog import command


@command(name="upgraded_shop.add")
def add_1(ctx, *, name: str) -> int:
    """As it was: for entries in the log, and for hosts that propose it still."""
    Item.objects.create(name=name, stock=1)
    return ctx.index


@command(version=2)
def add(ctx, *, name: str, stock: int) -> int:
    Item.objects.create(name=name, stock=stock)
    return ctx.index


@command
def describe(ctx, *, name: str, note: str) -> int:
    return Item.objects.filter(name=name).update(note=note)
