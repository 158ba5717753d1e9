"""Animals, some of which fill their own columns."""

import uuid

from django.db import models
from django.db.models.functions import Now


class Animal(models.Model):
    name = models.CharField(max_length=200)
    number = models.BigIntegerField(default=0)

    def __str__(self) -> str:
        return self.name


class Stamped(models.Model):
    name = models.CharField(max_length=50)
    changed_at = models.DateTimeField(auto_now=True)

    def __str__(self) -> str:
        return self.name


class Tagged(models.Model):
    tag = models.UUIDField(default=uuid.uuid4)
    name = models.CharField(max_length=50)

    def __str__(self) -> str:
        return self.name


class Dated(models.Model):
    name = models.CharField(max_length=50)
    made_at = models.DateTimeField(db_default=Now())

    def __str__(self) -> str:
        return self.name
