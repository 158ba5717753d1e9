"""The values of lookups (shapes.Lookup) that the rows of an entry had or have."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from raftlog.replication.certify import MAX_MARKED_IMAGES
from raftlog.replication.shapes import MANY_VALUES, TableShape
from raftlog.replication.slots import SLOTS, slots_of


class WrittenValues:
    """Of one entry. It follows from the schema and the images alone, so it is alike on every node."""

    def __init__(self) -> None:
        self.slots: set[int] = set()
        self._images: dict[str, int] = {}  # table -> images so far

    def add(self, shape: TableShape, images: Sequence[Sequence[Any]]) -> None:
        """Rows had or have these images: whoever looked for one of their values read them, or that there was none."""
        if not shape.lookups:
            return
        count = self._images[shape.name] = self._images.get(shape.name, 0) + len(images)
        if count > MAX_MARKED_IMAGES:
            self.slots |= slots_of(shape.name, [MANY_VALUES])
            return
        for column, position, _, first_slot in shape.lookups:
            for image in images:
                value = image[position]
                if type(value) is int:
                    self.slots.add((first_slot + value) % SLOTS)
                elif value is not None:  # what is equal to NULL is nothing
                    self.slots |= slots_of(shape.name, [(column, value)])
