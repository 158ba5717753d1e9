"""What flags there are: declared in code, with a default whose type is theirs. Reads no database and no model."""

from __future__ import annotations

import difflib
import json
import threading
from typing import Any, Final, NamedTuple

MAX_NAME: Final = 100  # characters
MAX_VALUE: Final = 65_536  # bytes of JSON; all flags stand in the memory of every process

_TYPES: Final = {bool: "bool", int: "int", float: "float", str: "str"}


class UnknownFlag(LookupError):
    """No such flag is defined; the message says how to."""


class Definition(NamedTuple):
    """`kind`: "bool", "int", "float", "str", or "json" where the default is None, a list or a dict."""

    name: str
    default: Any
    help: str
    kind: str

    def check(self, value: Any) -> Any:
        """The value as it is kept. Raises TypeError where it is of another type, ValueError where it is too large."""
        if self.kind == "float" and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if self.kind != "json" and _TYPES.get(type(value)) != self.kind:
            raise TypeError(f"flag {self.name!r}: {value!r} is of type {type(value).__name__}; it takes {self.kind}")
        try:
            size = len(json.dumps(value, allow_nan=False).encode())
        except (TypeError, ValueError) as error:
            raise TypeError(f"flag {self.name!r}: {value!r} cannot be kept as JSON: {error}") from error
        if size > MAX_VALUE:
            raise ValueError(f"flag {self.name!r}: the value takes {size} bytes of JSON, the limit is {MAX_VALUE}")
        return value

    def parse(self, text: str) -> Any:
        """A value typed by a person: true, 3, text as it is, JSON. Raises TypeError, ValueError."""
        if self.kind == "str":
            return self.check(text)
        words = {"on": True, "off": False, "yes": True, "no": False, "true": True, "false": False}
        if self.kind == "bool" and text.lower() in words:
            return words[text.lower()]
        try:
            return self.check(json.loads(text))
        except json.JSONDecodeError as error:
            raise ValueError(f"flag {self.name!r} takes {self.kind}, and {text!r} is none: {error}") from error


_guard = threading.Lock()
_definitions: dict[str, Definition] = {}


def define(name: str, default: Any, help: str = "") -> Definition:
    """Declare a flag. Its default holds until it is set, and where the database cannot be read.

    Args:
        name: at most 100 characters.
        default: a bool, int, float or str, which is the flag's type; anything else that JSON knows makes it JSON.

    Raises:
        ValueError: a name that is none, or is defined already with another default.
        TypeError: a default that is none.
    """
    if not isinstance(name, str) or not 0 < len(name) <= MAX_NAME or "\0" in name:
        raise ValueError(f"the flag's name is {name!r}; it must be text of 1 to {MAX_NAME} characters")
    made = Definition(name, default, help, _TYPES.get(type(default), "json"))
    made.check(default)
    with _guard:
        before = _definitions.setdefault(name, made)
        if (before.default, before.kind) != (made.default, made.kind):
            raise ValueError(f"flag {name!r} is defined twice, with {before.default!r} and with {default!r}")
    return before


def definition(name: str) -> Definition:
    """Raises UnknownFlag."""
    try:
        return _definitions[name]
    except KeyError:
        near = difflib.get_close_matches(str(name), _definitions, 1)
        hint = f"did you mean {near[0]!r}?" if near else f"define it: flags.define({name!r}, default=…)"
        raise UnknownFlag(f"no flag {name!r} is defined; {hint}") from None


def definitions() -> list[Definition]:
    """All, by name."""
    with _guard:
        return [_definitions[name] for name in sorted(_definitions)]
