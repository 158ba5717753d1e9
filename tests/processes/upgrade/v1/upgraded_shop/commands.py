from upgraded_shop.models import Item

from raftlog import command


@command
def add(ctx, *, name: str) -> int:
    Item.objects.create(name=name, stock=1)
    return ctx.index
