"""Which tables a schema entry's statements leave with other rows, told by their text."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

_NAME: Final = r'(?:(?:"(?:[^"]|"")+"|\w+)\s*\.\s*)?(?:"((?:[^"]|"")+)"|(\w+))'
# At the beginning: what the schema editor copies rows into. Anywhere: what is dropped, perhaps to be made again, and
# what another table is renamed to.
_WRITTEN: Final = re.compile(rf"\s*(?:INSERT\s+INTO|UPDATE|DELETE\s+FROM)\s+{_NAME}", re.IGNORECASE)
_REMADE: Final = re.compile(rf"\b(?:DROP\s+TABLE(?:\s+IF\s+EXISTS)?|RENAME\s+TO)\s+{_NAME}", re.IGNORECASE)


def rewritten_tables(statements: Iterable[str]) -> set[str]:
    """Names, in lower case and without their schema. Too many do no harm: their rows are counted once more."""
    found = set()
    for sql in statements:
        first = _WRITTEN.match(sql)
        for match in [*([first] if first else []), *_REMADE.finditer(sql)]:
            found.add((match.group(1) or match.group(2)).replace('""', '"').lower())
    return found
