"""Tables whose changes are told."""

import uuid

from django.db import models


class Article(models.Model):
    title = models.CharField(max_length=40, unique=True)
    views = models.IntegerField(default=0)

    class Meta:
        app_label = "tests_feed"

    def __str__(self):
        return self.title


class Page(models.Model):
    """Its key is no number."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4)
    slug = models.SlugField()

    class Meta:
        app_label = "tests_feed"

    def __str__(self):
        return self.slug


class Vote(models.Model):
    """Its key has two columns."""

    pk = models.CompositePrimaryKey("article_id", "voter")
    article_id = models.IntegerField()
    voter = models.CharField(max_length=20)
    stars = models.IntegerField(default=0)

    class Meta:
        app_label = "tests_feed"

    def __str__(self):
        return f"{self.article_id} by {self.voter}"


MODELS = [Article, Page, Vote]
