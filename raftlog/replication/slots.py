"""Slots: into which of 65,536 a row falls, or a value by which rows are looked up (rule 10). Alike on every node."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final
from zlib import crc32

import msgspec

SLOTS: Final = 65_536

_encode = msgspec.msgpack.Encoder().encode


def slots_of(table: str, keys: Iterable[tuple[Any, ...]]) -> set[int]:
    """The slots of rows of one table: by a CRC-32 of its name and the key.

    Keys that differ in a last integer only lie side by side, so that rows inserted one after the other touch few pages.
    """
    start = crc32(table.encode())
    return {
        (first_slot(table, key[:-1]) + key[-1] if key and type(key[-1]) is int else crc32(_encode(key), start)) % SLOTS
        for key in keys
    }


def first_slot(table: str, key: tuple[Any, ...]) -> int:
    """Of keys that are `key` and an integer: the slot of 0, modulo SLOTS."""
    return crc32(_encode(key), crc32(table.encode()))
