from django.db import models


class Item(models.Model):
    name = models.CharField(max_length=60, unique=True)
    stock = models.IntegerField(default=0)
    # db_default: hosts with the old code go on to write rows without it.
    note = models.CharField(max_length=60, default="", db_default="")

    def __str__(self):
        return self.name
