"""ReplicatedRouter sends marked models to the replicated alias, and a check finds relations across."""

import subprocess
import sys
from pathlib import Path

import pytest
from django.contrib.auth.models import Group, User
from django.db import models
from django.test import override_settings
from django.test.utils import isolate_apps

from raftlog.backends import checks
from raftlog.models import ReplicatedModel
from raftlog.routers import ReplicatedRouter, is_replicated

ROOT = Path(__file__).parents[2]
SETTINGS = """
from pathlib import Path
BASE_DIR = Path(__file__).parent
SECRET_KEY = "of a test, and long enough"
INSTALLED_APPS = ["django.contrib.contenttypes", "django.contrib.auth", "raftlog", "shop"]
DATABASES = {
    "default": {"ENGINE": "django.db.backends.sqlite3", "NAME": BASE_DIR / "local.sqlite3"},
    "replicated": {"ENGINE": "raftlog.backends.sqlite3", "NAME": BASE_DIR / "replicated.sqlite3"},
}
DATABASE_ROUTERS = ["raftlog.routers.ReplicatedRouter"]
RAFTLOG = {"DATABASE": "replicated"}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
"""
MODELS = """
from django.db import models
from raftlog.models import ReplicatedModel

class Tag(ReplicatedModel):
    name = models.CharField(max_length=20)

class Item(ReplicatedModel):
    tags = models.ManyToManyField(Tag)

class Visit(models.Model):
    item_key = models.BigIntegerField()
"""
USE = """
from django.db import connections
from shop.models import Item, Tag, Visit
item = Item.objects.create()
item.tags.add(Tag.objects.create(name="new"))
Visit.objects.create(item_key=item.pk)
print("found", Item.objects.get(tags__name="new").pk == item.pk, Visit.objects.count())
for alias in ("default", "replicated"):
    print(alias, [n for n in connections[alias].introspection.table_names() if n.startswith(("shop", "auth_user"))])
"""


@isolate_apps("tests.surface")
@override_settings(RAFTLOG={"DATABASE": "other"})
def test_marked_models_and_what_joins_them_are_routed():
    class Marked(ReplicatedModel):
        friends = models.ManyToManyField("self")

        class Meta:
            app_label = "surface"

    router = ReplicatedRouter()
    for model in (Marked, Marked.friends.through):
        assert is_replicated(model)
        assert (router.db_for_read(model), router.db_for_write(model)) == ("other", "other")
    assert router.db_for_read(User) is None
    assert router.allow_relation(Marked(), Marked()) is True
    assert router.allow_relation(Marked(), User()) is False
    assert router.allow_relation(User(), Group()) is None


@override_settings(RAFTLOG={"DATABASE": "other"})
@pytest.mark.parametrize(
    ("arguments", "in_other", "in_default"),
    [
        (("auth", "user"), False, None),
        (("auth", "deleted_since"), False, None),
        (("auth",), False, None),
        (("gone_app", "model"), False, None),
        (("raftlog", "appliedindex"), True, False),
    ],
)
def test_migrations_go_where_their_models_are(arguments, in_other, in_default):
    router = ReplicatedRouter()
    assert router.allow_migrate("other", *arguments) is in_other
    assert router.allow_migrate("default", *arguments) is in_default


@override_settings(RAFTLOG={"DATABASE": "other"})
def test_hints_say_where_a_data_migration_belongs():
    router = ReplicatedRouter()
    assert router.allow_migrate("other", "auth", replicated=True) is True
    assert router.allow_migrate("other", "auth", replicated=False) is False
    assert router.allow_migrate("other", "auth", model_name="user") is False


@isolate_apps("tests.surface")
@override_settings(RAFTLOG={"DATABASE": "other"}, DATABASE_ROUTERS=["raftlog.routers.ReplicatedRouter"])
def test_relations_across_the_border_are_named(monkeypatch):
    class Inside(ReplicatedModel):
        class Meta:
            app_label = "surface"

    class Order(ReplicatedModel):
        buyer = models.ForeignKey(User, models.CASCADE)
        groups = models.ManyToManyField(Group)
        good = models.ForeignKey(Inside, models.CASCADE)

        class Meta:
            app_label = "surface"

    monkeypatch.setattr(checks.connections, "settings", {"default": {"ENGINE": ""}, "other": {"ENGINE": ""}})
    monkeypatch.setattr(checks.apps, "get_models", lambda **kwargs: [Inside, Order, User])
    [message] = checks.check_references(None)
    assert message.id == "raftlog.E018"
    assert message.msg.startswith("surface.Order.buyer, surface.Order.groups: ")


@pytest.mark.processes
def test_a_project_with_both_kinds_migrates_both_aliases(tmp_path):
    (tmp_path / "shop").mkdir()
    (tmp_path / "settings.py").write_text(SETTINGS)
    (tmp_path / "shop" / "__init__.py").write_text("")
    (tmp_path / "shop" / "models.py").write_text(MODELS)

    def manage(*arguments):
        environment = {
            "PATH": "/usr/bin:/bin",
            "PYTHONPATH": f"{tmp_path}:{ROOT}",
            "DJANGO_SETTINGS_MODULE": "settings",
        }
        command = [sys.executable, "-m", "django", *arguments]
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    manage("makemigrations", "shop")
    manage("migrate", "-v0")
    manage("migrate", "-v0", "--database=replicated")
    output = manage("shell", "-c", USE)
    assert "found True 1" in output
    assert "default ['auth_user', 'auth_user_groups', 'auth_user_user_permissions', 'shop_visit']" in output
    assert "replicated ['shop_item', 'shop_item_tags', 'shop_tag']" in output
