"""What a statement is, by its text: what kind, and what it reads.

The authorizer is called when a statement is prepared, not on each run of a cached one, so what it tells
is remembered by the statement's text (rule 10). A text that was never seen prepared reads everything.
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass, field
from typing import Final, NamedTuple


class Kind(enum.Enum):
    READ = "read"
    WRITE = "write"
    SCHEMA = "schema"
    BEGIN = "begin"
    COMMIT = "commit"
    ROLLBACK = "rollback"
    ROLLBACK_TO = "rollback to"
    SAVEPOINT = "savepoint"
    RELEASE = "release"
    VACUUM = "vacuum"
    # PRAGMA, EXPLAIN, ANALYZE and what is not known: the authorizer decides.
    OTHER = "other"


_KINDS: Final = {
    "SELECT": Kind.READ,
    "VALUES": Kind.READ,
    "INSERT": Kind.WRITE,
    "REPLACE": Kind.WRITE,
    "UPDATE": Kind.WRITE,
    "DELETE": Kind.WRITE,
    "CREATE": Kind.SCHEMA,
    "DROP": Kind.SCHEMA,
    "ALTER": Kind.SCHEMA,
    "REINDEX": Kind.SCHEMA,
    "BEGIN": Kind.BEGIN,
    "COMMIT": Kind.COMMIT,
    "END": Kind.COMMIT,
    "ROLLBACK": Kind.ROLLBACK,
    "SAVEPOINT": Kind.SAVEPOINT,
    "RELEASE": Kind.RELEASE,
    "VACUUM": Kind.VACUUM,
}

_SKIPPED: Final = r"(?:\s|--[^\n]*(?:\n|$)|/\*.*?\*/|\()*"
_FIRST_WORD: Final = re.compile(_SKIPPED + r"([A-Za-z]+)", re.DOTALL)
_WRITING_WORD: Final = re.compile(r"\b(INSERT|REPLACE|UPDATE|DELETE)\b", re.IGNORECASE)
_SAVEPOINT_NAME: Final = re.compile(
    r"\s*(?:ROLLBACK(?:\s+TRANSACTION)?\s+TO(?:\s+SAVEPOINT)?|RELEASE(?:\s+SAVEPOINT)?|SAVEPOINT)\s+"
    r"(?:\"([^\"]+)\"|\[([^\]]+)\]|`([^`]+)`|'([^']+)'|(\w+))\s*;?\s*$",
    re.IGNORECASE,
)
_OR_CLAUSE: Final = re.compile(r"\bOR\s+(FAIL|ROLLBACK)\b", re.IGNORECASE)
_CONFLICT_CLAUSE: Final = re.compile(r"^\s*REPLACE\b|\bOR\s+(?:IGNORE|REPLACE)\b|\bON\s+CONFLICT\b", re.IGNORECASE)
_SELECT_WORD: Final = re.compile(r"\bSELECT\b", re.IGNORECASE)
# Other ways to name a second table: UPDATE … FROM, and `x IN table`.
_SECOND_TABLE: Final = re.compile(
    r"\bSELECT\b|^\s*UPDATE\b.*\bFROM\b|\bIN\s+[^(\s]|^\s*WITH\b", re.IGNORECASE | re.DOTALL
)
_SEQUENCE: Final = re.compile(r"\bsqlite_sequence\b", re.IGNORECASE)
# Statements that look at one table by columns of its own, as Django writes them: conditions on them, with AND between.
# What stands before the last WHERE of an UPDATE may be any expression without SELECT: it sees the row only.
_NAME: Final = r'"([^"]+)"'
_COLUMN: Final = r'"\1"\."[^"]+"'
_TEST: Final = rf"{_COLUMN}(?: (?:(?:=|<>|<|>|<=|>=) \?|IN \((?:\?, )*\?\)|IS (?:NOT )?NULL|LIKE \? ESCAPE '\\'))?"
# With its parentheses closed: in NOT (a = ? AND b = ?) neither test must be met.
_TERM: Final = rf"(?:{_TEST}|NOT {_TEST}|(?:NOT )?\({_TEST}\))"
_TERMS: Final = rf"{_TERM}(?: AND {_TERM})*"
_WHERE: Final = rf" WHERE ({_TERMS}|\({_TERMS}\))"
_UPDATE_BY_COLUMN: Final = re.compile(rf"^UPDATE {_NAME} SET .*{_WHERE}$")
_DELETE_BY_COLUMN: Final = re.compile(rf"^DELETE FROM {_NAME}{_WHERE}$")
_ORDER: Final = rf"(?: ORDER BY {_COLUMN} (?:ASC|DESC)(?:, {_COLUMN} (?:ASC|DESC))*)?"
_SELECT_BY_COLUMN: Final = re.compile(rf"^SELECT .* FROM {_NAME}{_WHERE}{_ORDER}(?: LIMIT \d+)?(?: OFFSET \d+)?$")
_EQUALITY: Final = re.compile(r'^\(?"[^"]+"\.("[^"]+") (?:= \?|IN \((?:\?, )*\?\))\)?$')
EVERYTHING: Final = "*"


class Equality(NamedTuple):
    """A condition that a statement's rows must meet: `column` has one of the values parameters[start:stop]."""

    column: str
    start: int
    stop: int | None


@dataclass(slots=True)
class StatementInfo:
    """One text. `reads` and `writes` are what the authorizer named; `prepared`: it was called at all."""

    kind: Kind
    word: str
    has_select: bool
    has_conflict_clause: bool
    # The one table in which the statement looks at no other rows than those that meet each of the conditions.
    by_column: tuple[str, list[Equality]] | None
    reads: set[str] = field(default_factory=set)
    writes: set[str] = field(default_factory=set)
    # Tables that triggers of the schema's own look at, or whose rows they change.
    trigger_reads: set[str] = field(default_factory=set)
    prepared: bool = False
    sets_sequence: bool = False

    @property
    def adds_rows_only(self) -> bool:
        """A plain INSERT: nothing that others do to rows that exist can make it conflict."""
        return self.word == "INSERT" and not self.has_select and not self.has_conflict_clause

    def tables_read(self) -> set[str]:
        """The tables that a run of this statement read, otherwise than through `by_column`."""
        if not self.prepared:
            return {EVERYTHING}
        return self._own_reads() | self.trigger_reads

    def _own_reads(self) -> set[str]:
        if self.kind is not Kind.WRITE:
            return self.reads
        if self.has_select:
            # INSERT … SELECT, too: where it inserts nothing, only this tells that its table was there.
            return self.reads | self.writes
        if self.word == "INSERT" or self.word == "REPLACE":
            # What a plain INSERT reads, it reads for its foreign keys, and those are certified by key.
            return set(self.writes) if self.has_conflict_clause else set()
        # A DELETE without WHERE is not reported as a read; the other reads are for foreign keys.
        return set(self.writes)


def describe(sql: str) -> StatementInfo:
    """Raises ValueError, with words for it, where the statement is refused by its text alone."""
    match = _FIRST_WORD.match(sql)
    word = match.group(1).upper() if match else ""
    kind = _KINDS.get(word, Kind.OTHER)
    if word == "WITH":
        kind = Kind.WRITE if _WRITING_WORD.search(sql) else Kind.READ
    elif word == "ROLLBACK" and re.search(r"\bTO\b", sql, re.IGNORECASE):
        kind = Kind.ROLLBACK_TO
    if kind is Kind.WRITE and (refused := _OR_CLAUSE.search(sql)):
        raise ValueError(
            f"{refused.group(0).upper()} leaves part of a failed statement behind, or ends the transaction; "
            "use OR ABORT, OR IGNORE or OR REPLACE"
        )
    has_select = word != "SELECT" and bool(_SECOND_TABLE.search(sql))
    conflict_clause = kind is Kind.WRITE and bool(_CONFLICT_CLAUSE.search(sql))
    by_column = None if has_select else _by_column(word, sql)
    return StatementInfo(kind, word, has_select, conflict_clause, by_column, sets_sequence=bool(_SEQUENCE.search(sql)))


def _by_column(word: str, sql: str) -> tuple[str, list[Equality]] | None:
    pattern = {"UPDATE": _UPDATE_BY_COLUMN, "DELETE": _DELETE_BY_COLUMN, "SELECT": _SELECT_BY_COLUMN}.get(word)
    match = pattern.match(sql) if pattern else None
    if match is None or (word == "SELECT" and len(_SELECT_WORD.findall(sql)) > 1):
        return None
    where = match.group(2)
    # Counted from the end: what stands before the WHERE may have parameters too.
    start = -where.count("?")
    found = []
    for term in where.split(" AND "):
        stop = start + term.count("?")
        if equality := _EQUALITY.match(term):
            found.append(Equality(equality.group(1)[1:-1], start, stop or None))
        start = stop
    return match.group(1), found


def savepoint_name(sql: str) -> str:
    match = _SAVEPOINT_NAME.match(sql)
    if match is None:
        raise ValueError(f"cannot tell the savepoint of {sql!r}")
    return next(group for group in match.groups() if group is not None).lower()
