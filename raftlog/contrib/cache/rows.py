"""The rows that one entry of the log changes: read together, changed in memory, written together.

So that a batch costs three queries, however many keys it has. Values are not read: no change needs one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

from django.db import router

from raftlog.contrib.cache.models import Entry, Size

CHUNK = 500  # keys in one query


@dataclasses.dataclass(slots=True)
class Row:
    """One key, as it is or is to be. `is_stored`: in the table. `is_whole`: with its value, to be written."""

    number: int | None
    data: bytes | None
    expires_at: int | None
    is_stored: bool
    is_whole: bool
    is_there: bool = True
    is_changed: bool = False


class Rows:
    """Of one location, under one entry (`ctx`)."""

    def __init__(self, location: str, ctx: Any) -> None:
        self._location = location
        self._now = ctx.log_time
        self._index = ctx.index
        using = router.db_for_write(Entry)
        self._entries = Entry.objects.using(using)
        self._sizes = Size.objects.using(using)
        self._rows: dict[str, Row] = {}

    # Reading

    def load(self, keys: set[str]) -> None:
        self._rows = {}
        names = {f"{self._location}:{key}": key for key in sorted(keys)}
        for chunk in _chunks(list(names)):
            found = self._entries.filter(name__in=chunk).values_list("name", "number", "expires_at")
            for name, number, expires_at in found:
                self._rows[names[name]] = Row(number, None, expires_at, is_stored=True, is_whole=number is not None)

    def missing(self, keys: set[str]) -> int:
        """How many of them have no row, not even one that has expired."""
        return len(keys - self._rows.keys())

    def is_live(self, key: str) -> bool:
        row = self._rows.get(key)
        return row is not None and row.is_there and (row.expires_at is None or row.expires_at > self._now)

    def number(self, key: str) -> int | None:
        return self._rows[key].number

    # Changing

    def put(self, key: str, value: int | bytes, ttl: int | None) -> None:
        if ttl is not None and ttl <= 0:
            self.remove(key)
            return
        before = self._rows.get(key)
        number, data = (value, None) if isinstance(value, int) else (None, value)
        is_stored = before is not None and before.is_stored
        self._rows[key] = Row(number, data, self._expiry(ttl), is_stored=is_stored, is_whole=True, is_changed=True)

    def touch(self, key: str, ttl: int | None) -> None:
        if ttl is not None and ttl <= 0:
            self.remove(key)
            return
        row = self._rows[key]
        row.expires_at, row.is_changed = self._expiry(ttl), True

    def renumber(self, key: str, number: int) -> None:
        row = self._rows[key]
        row.number, row.is_changed = number, True

    def remove(self, key: str) -> None:
        if key in self._rows:
            self._rows[key].is_there = False

    def _expiry(self, ttl: int | None) -> int | None:
        return None if ttl is None else self._now + ttl

    # Writing

    def save(self) -> None:
        """All that has changed."""
        there = {key: row for key, row in self._rows.items() if row.is_there and row.is_changed}
        self._upsert({key: row for key, row in there.items() if row.is_whole})
        for key, row in sorted(there.items()):
            if not row.is_whole:  # its value was not read
                changed = {"expires_at": row.expires_at, "written": self._index}
                self._entries.filter(name=f"{self._location}:{key}").update(**changed)
        gone = sorted(key for key, row in self._rows.items() if row.is_stored and not row.is_there)
        for chunk in _chunks(gone):
            self._entries.filter(name__in=[f"{self._location}:{key}" for key in chunk]).delete()
        if difference := sum(not row.is_stored for row in there.values()) - len(gone):
            self._set_size(self._size() + difference)

    def _upsert(self, rows: dict[str, Row]) -> None:
        self._entries.bulk_create(
            [
                Entry(
                    name=f"{self._location}:{key}",
                    location=self._location,
                    number=row.number,
                    data=row.data,
                    expires_at=row.expires_at,
                    written=self._index,
                )
                for key, row in sorted(rows.items())
            ],
            update_conflicts=True,
            unique_fields=["name"],
            update_fields=["number", "data", "expires_at", "written"],
        )

    def clear(self) -> None:
        self._entries.filter(location=self._location).delete()
        self._set_size(0)

    # Culling

    def make_room(self, new: int, max_entries: int, cull_frequency: int) -> None:
        """Where `new` keys more are too many, make them fewer; then read again what was loaded."""
        if self._size() + new <= max_entries:
            return
        ours = self._entries.filter(location=self._location)
        ours.filter(expires_at__lte=self._now).delete()
        count = ours.count()
        if count and count + new > max_entries:
            fewer = count // cull_frequency if cull_frequency > 0 else count
            fewer = min(max(fewer, count + new - max_entries, 1), count)
            # By the index of their entries, in which nodes agree, as they might not about the order of texts.
            last = ours.order_by("written").values_list("written", flat=True)[fewer - 1]
            ours.filter(written__lte=last).delete()
            count = ours.count()
        self._set_size(count)
        self.load(set(self._rows))

    def _size(self) -> int:
        found = self._sizes.filter(pk=self._location).values_list("entries", flat=True).first()
        return 0 if found is None else found

    def _set_size(self, entries: int) -> None:
        self._sizes.bulk_create(
            [Size(location=self._location, entries=max(entries, 0))],
            update_conflicts=True,
            unique_fields=["location"],
            update_fields=["entries"],
        )


def _chunks(names: list[str]) -> Iterator[list[str]]:
    for start in range(0, len(names), CHUNK):
        yield names[start : start + CHUNK]
