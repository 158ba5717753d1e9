"""Django's own SQLite backend, one file on one disk: WAL and synchronous=FULL, so that a commit is synced.

A put is a transaction of one row, made by the ORM in the client's own process, as in any Django project: no server is
asked, nothing is replicated. A process that connects has no other Django settings.
"""

from __future__ import annotations

import dataclasses
import functools
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.systems import Client, Target

BATCH = 100  # rows of one transaction of a pipeline

_setting_up = threading.Lock()


@dataclasses.dataclass(frozen=True)
class StockTarget:
    database: str

    def connect(self) -> Client:
        return StockClient(self.database)

    def pipeline(self, seconds: float, size: int, key: str) -> int:
        """SQLite has one commit under way: here many puts outstanding are many in one transaction."""
        model = _model(self.database)
        value = b"x" * size
        entries = [model(key=f"{key}-{number}", value=value) for number in range(BATCH)]
        count = 0
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            _put(model, entries)
            count += BATCH
        return count


class StockClient:
    def __init__(self, database: str) -> None:
        self._model = _model(database)

    def put(self, key: str, value: bytes) -> None:
        _put(self._model, [self._model(key=key, value=value)])

    def get(self, key: str) -> bytes | None:
        found = self._model.objects.filter(pk=key).values_list("value", flat=True).first()
        return None if found is None else bytes(found)

    def close(self) -> None:
        from django.db import connection

        connection.close()


def _put(model: Any, entries: list[Any]) -> None:
    """One INSERT … ON CONFLICT DO UPDATE, in a transaction of its own."""
    model.objects.bulk_create(entries, update_conflicts=True, unique_fields=["key"], update_fields=["value"])


def _model(database: str) -> Any:
    """The model, in a Django that has this database alone. Raises RuntimeError where Django was set up otherwise."""
    with _setting_up:
        return _set_up(database)


@functools.cache
def _set_up(database: str) -> Any:
    import django
    from django.conf import settings

    pragmas = "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL;"
    options = {"timeout": 120, "transaction_mode": "IMMEDIATE", "init_command": pragmas}
    settings.configure(
        DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": database, "OPTIONS": options}},
        DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
        USE_TZ=True,
    )
    django.setup()
    from django.db import models

    class Entry(models.Model):
        key: models.CharField[str, str] = models.CharField(primary_key=True, max_length=200)
        value: models.BinaryField[bytes, bytes] = models.BinaryField()

        class Meta:
            app_label = "bench"

        def __str__(self) -> str:
            return self.key

    return Entry


@dataclasses.dataclass(frozen=True)
class Stock:
    name: str = "stock"
    durability: str = "fsync of the write-ahead log of one file; no other node has it"

    def versions(self) -> dict[str, str]:
        return {}

    def missing(self) -> str:
        return ""

    @contextmanager
    def start(self, folder: Path, nodes: int) -> Iterator[Target]:
        """`nodes` says nothing: there is one file. Raises subprocess.CalledProcessError."""
        folder.mkdir(parents=True, exist_ok=True)
        database = str(folder / "stock.sqlite3")
        subprocess.run([sys.executable, "-m", "benchmarks.systems.stock", database], check=True, timeout=60)
        yield StockTarget(database)


SYSTEMS = [Stock()]


def main() -> None:
    """Make the table in the database that is named."""
    model = _model(sys.argv[1])
    from django.db import connection

    with connection.schema_editor() as editor:
        editor.create_model(model)


if __name__ == "__main__":
    main()
