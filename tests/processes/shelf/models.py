"""A shelf of books, as of the first migration: code that is older than what the later ones do."""

from django.db import models


class Book(models.Model):
    title = models.CharField(max_length=100, unique=True)
    hits = models.IntegerField(default=0)

    def __str__(self):
        return self.title
