"""Whose failure is it: the command's, alike on every node, or this node's (rule 2 of the design)?

verdict         IntegrityError, DataError, exceptions the command declares, and any other that its function raises:
                rolled back and recorded alike on every node, raised at the caller.
                Also a table or column that is missing, where the schema comes through the log: lacks_schema().
infrastructure  the database is locked, full, gone: apply tries again until it works.
stop            MemoryError, OSError, RecursionError, ImportError, SystemExit…: apply stops on this node.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterable
from typing import Final

import msgspec
from django.db import DatabaseError, DataError, IntegrityError, InterfaceError, transaction
from django.db.utils import Error as DjangoDatabaseError

from raftlog import exceptions
from raftlog.exceptions import ApplyStopped, CommandFailed, NotLeader, NotMigrated, NotProposed, SessionExpired
from raftlog.runtime.ports import REFUSED, Outcome

MAX_TEXT: Final = 2_000  # characters of an exception's text that are kept
IN_FAILED_TRANSACTION: Final = "25P02"  # PostgreSQL: an earlier statement failed, and the command went on

STOPPING: Final = (ApplyStopped, MemoryError, OSError, RecursionError, ImportError)
# Declaring one of these would make this node's trouble the command's verdict.
NOT_DECLARABLE: Final = (MemoryError, RecursionError, ApplyStopped, InterfaceError)

# SQLite reports these as OperationalError, though they are about the data alone, alike on every node.
SQLITE_DATA_ERRORS: Final = (
    *("integer overflow", "malformed JSON", "bad JSON path", "JSON path error", "JSON cannot hold BLOB values"),
    *("LIKE or GLOB pattern too complex", "string or blob too big"),
)

# The command names a table or column that is not there.
SQLITE_LACKS: Final = re.compile(r"no such (table|column): |table \S+ has no column named ")
POSTGRESQL_LACKS: Final = ("42P01", "42703")  # undefined_table, undefined_column

_VERDICTS: Final[dict[str, type[Exception]]] = {"IntegrityError": IntegrityError, "DataError": DataError}
_DRIVERS: Final = ("sqlite3", "psycopg", "psycopg2")

# Exceptions that commands declare, by the name under which they are recorded.
_declared: dict[str, type[Exception]] = {}

_ADDRESS = re.compile(r"\b0x[0-9a-f]{6,}")
_decoder = msgspec.msgpack.Decoder(tuple[str, str])


class Blame(enum.Enum):
    """Who a failure belongs to."""

    COMMAND = "command"
    INFRASTRUCTURE = "infrastructure"
    NODE = "node"


def blame(error: BaseException, declared: tuple[type[Exception], ...], driver_error: type[Exception]) -> Blame:
    """Judge what a command's function raised. `driver_error` is the base of the database driver's exceptions."""
    if declared and isinstance(error, declared):
        return Blame.COMMAND
    if isinstance(error, STOPPING) or not isinstance(error, Exception):
        return Blame.NODE
    return Blame.INFRASTRUCTURE if is_infrastructure(error, driver_error) else Blame.COMMAND


def is_infrastructure(error: BaseException, driver_error: type[Exception]) -> bool:
    """Whether the database said that it could not do something, rather than that the data may not be so."""
    if isinstance(error, (IntegrityError, DataError, transaction.TransactionManagementError)):
        return False
    cause = error.__cause__ if isinstance(error, DjangoDatabaseError) else error
    if not isinstance(cause, driver_error):  # Django's own word: no row was updated, and the like
        return False
    if getattr(cause, "sqlstate", None) == IN_FAILED_TRANSACTION:
        return False
    if str(cause).startswith(SQLITE_DATA_ERRORS):
        return False
    # Where a raw cursor of the driver was used, past Django's wrapping.
    return not any(kind.__name__ in _VERDICTS for kind in type(cause).__mro__)


def lacks_schema(error: BaseException) -> bool:
    """Whether a statement failed because a table or column is missing.

    Where migrations are entries of the log, the schema at an entry is alike on every node, and so is this failure.
    Where each host has its own schema it is that host's trouble, until somebody migrates it.
    """
    cause = error.__cause__ if isinstance(error, DjangoDatabaseError) else error
    code = getattr(cause, "sqlstate", None)
    return code in POSTGRESQL_LACKS if code else bool(SQLITE_LACKS.match(str(cause)))


# Recorded failures


def declare(kinds: Iterable[type[Exception]], where: str) -> tuple[type[Exception], ...]:
    """Remember exceptions that a command declares. Raises TypeError for what cannot be a verdict."""
    declared = tuple(kinds)
    for kind in declared:
        if not isinstance(kind, type) or not issubclass(kind, Exception):
            raise TypeError(f"{where}: raises=[…] must list subclasses of Exception, not {kind!r}")
        is_database = issubclass(kind, DatabaseError) and not issubclass(kind, (IntegrityError, DataError))
        if is_database or issubclass(kind, NOT_DECLARABLE) or kind is Exception:
            raise TypeError(f"{where}: {kind.__qualname__} cannot be declared; it may be this node's trouble alone")
        _declared[type_name(kind)] = kind
    return declared


def type_name(kind: type[BaseException]) -> str:
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def encode_failure(error: BaseException, declared: tuple[type[Exception], ...]) -> bytes:
    """(type name, text), the same on every node: a declared exception under the declared class's name."""
    kind = type(error)
    for base in kind.__mro__:
        if base in declared or base in (IntegrityError, DataError):
            kind = base
            break
        if base.__module__.partition(".")[0] in _DRIVERS and base.__name__ in _VERDICTS:
            kind = _VERDICTS[base.__name__]
            break
    text = _ADDRESS.sub("0x…", str(error))
    return msgspec.msgpack.encode((type_name(kind), text[:MAX_TEXT].encode(errors="replace").decode()))


def decode_failure(result: bytes) -> Exception:
    """The exception to raise at the caller for a recorded failure."""
    name, text = _decoder.decode(result)
    known: dict[str, type[Exception]] = {type_name(kind): kind for kind in (IntegrityError, DataError, NotMigrated)}
    kind = _declared.get(name) or known.get(name)
    if kind is None:
        return CommandFailed(name.removeprefix("builtins."), text)
    return _make(kind, text)


def _make(kind: type[Exception], text: str) -> Exception:
    try:
        return kind(text)
    except TypeError:  # its __init__ wants something else: the text alone must do
        error = kind.__new__(kind, text)
        error.args = (text,)
        return error


# Outcomes that are no result

SESSION_EXPIRED: Final = "SessionExpired"  # refused because its session is unknown or has expired
REFUSED_OTHERWISE: Final = "Refused"


def refusal_of(outcome: Outcome) -> tuple[str, str]:
    """(name, text) in an outcome REFUSED, NOT_PROPOSED or UNKNOWN; texts of our own where it holds none."""
    if not outcome.result:
        return SESSION_EXPIRED if outcome.status == REFUSED else "", "no reason was given"
    return _decoder.decode(outcome.result)


def proposal_failure(outcome: Outcome) -> Exception:
    """The exception for an outcome REFUSED or NOT_PROPOSED."""
    name, text = refusal_of(outcome)
    if outcome.status == REFUSED:
        return SessionExpired(text)
    kind = getattr(exceptions, name, NotProposed)
    is_known = isinstance(kind, type) and issubclass(kind, NotProposed) and kind is not NotLeader
    return kind(text) if is_known else NotProposed(text)
