"""The application processes of the trial `feed`, beside one node: a reader of its change feed, or a writer.

    python -m raftlog.testing.trials._feed_client read FOLDER changes|achanges
    python -m raftlog.testing.trials._feed_client write FOLDER SEED

A reader keeps a mirror of the tables, made from what the feed says alone, and saves it together with the index: killed,
it goes on from there. FOLDER/journal gets one line for each value, FOLDER/state.json the newest state that was saved.
A writer works until FOLDER/stop is there.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
import sys
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path
from typing import Any

import django
from django.db import DatabaseError, connection, transaction
from django.db.models import F

import raftlog
from raftlog.exceptions import RaftlogError
from raftlog.runtime import clock

SAVE_EVERY = 4  # values between two saves: so a killed reader gets some again
PROGRESS = 0.3  # seconds
HITS = 5


def tables() -> dict[str, Any]:
    """The models whose rows are mirrored, by table."""
    from raftlog.testing.torture_site import models

    return {model._meta.db_table: model for model in (models.Marker, models.Hit, models.Pair, models.Entry)}


class Mirror:
    """What a reader knows. `keys`: of the rows that are there, by what was inserted and deleted; with their values."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.models = tables()
        self.index = self.resets = self.read_at = 0
        self.rows: dict[str, dict[str, Any]] = {table: {} for table in self.models}
        self._unsaved = 0
        with suppress(FileNotFoundError):
            saved = json.loads((folder / "state.json").read_text())
            self.index, self.resets, self.read_at = saved["index"], saved["resets"], saved["read_at"]
            self.rows = saved["rows"]
        self._journal = (folder / "journal").open("a", buffering=1)
        self._note("start", self.index)

    def _note(self, *words: object) -> None:
        self._journal.write(" ".join(map(str, words)) + "\n")

    def take(self, value: raftlog.Change | raftlog.Reset | raftlog.Progress) -> None:
        if isinstance(value, raftlog.Reset):
            self._note("reset", value.index)
            self._read_all(value.index)
            self.resets += 1
            self._unsaved = SAVE_EVERY
        elif isinstance(value, raftlog.Change):
            self._note("change", value.index, blake2b(repr((value.rows, value.command)).encode()).hexdigest()[:16])
            if value.index > self.read_at:
                for row in value.rows:
                    self._take_row(value.index, row)
        self.index = value.index
        self._unsaved += 1
        if self._unsaved >= SAVE_EVERY or isinstance(value, raftlog.Progress):
            self._save()

    def _take_row(self, index: int, row: raftlog.ChangedRow) -> None:
        rows, model, key = self.rows[row.table], self.models[row.table], str(row.pk)
        if row.operation == "schema":
            return
        if row.operation == "table":
            self.rows[row.table] = self._content(model)
            return
        is_there = key in rows
        if is_there == (row.operation == "insert"):
            was = "was" if is_there else "was not"
            self._note("wrong", index, f"{row.operation} of {row.table} {key}, which {was} there")
        if row.operation == "delete":
            rows.pop(key, None)
        else:
            found = model.objects.filter(pk=row.pk).values_list().first()
            rows[key] = found and list(found)

    def _read_all(self, index: int) -> None:
        """The tables as they are now, which may be later than `index`."""
        with transaction.atomic():
            with connection.cursor() as cursor:
                cursor.execute("SELECT applied_index FROM raftlog_appliedindex")
                self.read_at = max(index, cursor.fetchone()[0])
            self.rows = {table: self._content(model) for table, model in self.models.items()}

    @staticmethod
    def _content(model: Any) -> dict[str, Any]:
        return {str(values[0]): list(values) for values in model.objects.values_list()}

    def _save(self) -> None:
        self._unsaved = 0
        part = self.folder / "state.part"
        saved = {"index": self.index, "resets": self.resets, "read_at": self.read_at, "rows": self.rows}
        part.write_text(json.dumps(saved))
        part.replace(self.folder / "state.json")


def read(folder: Path, how: str) -> None:
    mirror = Mirror(folder)
    models = list(mirror.models.values())
    if how == "changes":
        for value in raftlog.changes(mirror.index, models=models, progress=PROGRESS):
            again(mirror.take, value)
        return

    async def main() -> None:
        from asgiref.sync import sync_to_async

        async for value in raftlog.achanges(mirror.index, models=models, progress=PROGRESS):
            await sync_to_async(again)(mirror.take, value)

    asyncio.run(main())


def again(function: Any, value: Any) -> None:
    """The node may be restarting, or its database being replaced, while a reader looks at rows."""
    while True:
        try:
            function(value)
            return
        except DatabaseError:
            connection.close()
            clock.sleep(0.05)


def write(folder: Path, seed: int) -> None:
    rng = random.Random(seed)
    count = failures = 0
    while not (folder / "stop").exists():
        count += 1
        try:
            one_write(rng, f"{seed}-{count}")
        except (DatabaseError, RaftlogError):  # conflicts, leaders that were killed: nothing is wrong with that here
            failures += 1
            clock.sleep(0.02)
    (folder / "written.json").write_text(json.dumps({"writes": count, "failures": failures}))


def one_write(rng: random.Random, reference: str) -> None:
    from raftlog.testing.torture_site.commands import change, withdraw
    from raftlog.testing.torture_site.models import Hit, Marker

    kind = rng.randrange(10)
    if kind < 3:
        with transaction.atomic():
            Marker.objects.create(reference=reference)
            Hit.objects.filter(pk=rng.randrange(HITS) + 1).update(count=F("count") + 1)
    elif kind < 5:
        Marker.objects.bulk_create([Marker(reference=f"{reference}-{number}" + "x" * 40) for number in range(10)])
    elif kind == 5:
        with transaction.atomic():
            keys = list(Marker.objects.order_by("reference").values_list("pk", flat=True)[: rng.randrange(1, 20)])
            Marker.objects.filter(pk__in=keys).delete()
    elif kind == 6:
        Hit.objects.update(count=F("count"))  # changes nothing
        with suppress(ZeroDivisionError), transaction.atomic():
            Marker.objects.create(reference="never")
            raise ZeroDivisionError
    elif kind == 7:
        with suppress(Exception):
            withdraw.propose(reference=reference, key="k1")  # fails, always
    else:
        action, argument = rng.choice([("put", json.dumps(reference)), ("delete", "null")])
        change.propose(reference=reference, action=action, key=f"k{rng.randrange(8)}", argument=argument)


if __name__ == "__main__":
    django.setup()
    logging.getLogger("raftlog.feed").setLevel(logging.WARNING)
    what, where, argument = sys.argv[1:]
    if what == "read":
        read(Path(where), argument)
    else:
        write(Path(where), int(argument))
