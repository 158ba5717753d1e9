"""A small warehouse: unique names, a check, foreign keys, one to itself, one deleted by the database."""

from django.db import models


class Item(models.Model):
    name = models.CharField(max_length=50, unique=True)
    stock = models.BigIntegerField(default=0)

    class Meta:
        constraints = [models.CheckConstraint(condition=models.Q(stock__gte=0), name="stock_not_negative")]

    def __str__(self) -> str:
        return self.name


class Order(models.Model):
    item = models.ForeignKey(Item, on_delete=models.DO_NOTHING)
    quantity = models.BigIntegerField()
    made_at = models.DateTimeField()

    def __str__(self) -> str:
        return f"{self.quantity} of {self.item_id}"


class Shelf(models.Model):
    code = models.CharField(max_length=20, unique=True)
    above = models.ForeignKey("self", null=True, on_delete=models.DO_NOTHING)
    item_name = models.ForeignKey(Item, null=True, to_field="name", on_delete=models.DO_NOTHING)

    def __str__(self) -> str:
        return self.code


MODELS = (Item, Order, Shelf)
