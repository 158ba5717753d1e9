"""What a statement is, by its text: read, captured, replayed as it is, refused (rules 10, 13, 14)."""

from __future__ import annotations

import enum
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final


class Kind(enum.Enum):
    READ = "read"
    WRITE = "write"
    SCHEMA = "schema"
    BEGIN = "begin"
    COMMIT = "commit"
    ROLLBACK = "rollback"
    ROLLBACK_TO = "rollback to"
    # SAVEPOINT and RELEASE: PostgreSQL keeps what was captured since by itself.
    SAVEPOINT = "savepoint"
    # SET, LISTEN, NOTIFY: takes effect on this connection alone, at once or at the commit.
    SESSION = "session"
    # VACUUM, ANALYZE, REINDEX: about how this host stores rows.
    MAINTENANCE = "maintenance"
    SEVERAL = "several"


_KINDS: Final = {
    **dict.fromkeys(("INSERT", "UPDATE", "DELETE", "MERGE", "TRUNCATE", "EXECUTE"), Kind.WRITE),
    **dict.fromkeys(
        ("CREATE", "ALTER", "DROP", "COMMENT", "GRANT", "REVOKE", "REFRESH", "SECURITY", "REASSIGN", "IMPORT"),
        Kind.SCHEMA,
    ),
    **dict.fromkeys(("BEGIN", "START"), Kind.BEGIN),
    **dict.fromkeys(("COMMIT", "END"), Kind.COMMIT),
    **dict.fromkeys(("ROLLBACK", "ABORT"), Kind.ROLLBACK),
    **dict.fromkeys(("SAVEPOINT", "RELEASE"), Kind.SAVEPOINT),
    **dict.fromkeys(("SET", "RESET", "LISTEN", "UNLISTEN", "NOTIFY", "DISCARD"), Kind.SESSION),
    **dict.fromkeys(("VACUUM", "ANALYZE", "REINDEX", "CLUSTER", "CHECKPOINT"), Kind.MAINTENANCE),
}

# Strings, quoted names, comments: what stands in them is no word of the statement.
_OPAQUE: Final = re.compile(r"[eE]'(?:[^'\\]|\\.|'')*'|'(?:[^']|'')*'|\$(\w*)\$.*?\$\1\$|--[^\n]*|/\*.*?\*/", re.DOTALL)
_PART: Final = re.compile(
    r"""(?:[eE]'(?:[^'\\]|\\.|'')*'|'(?:[^']|'')*'|"(?:[^"]|"")*"|\$(\w*)\$.*?\$\1\$|--[^\n]*|/\*.*?\*/|[^;])+""",
    re.DOTALL,
)
_FIRST_WORD: Final = re.compile(r"[\s(]*([A-Za-z]+)")
_WRITING_WORD: Final = re.compile(r"\b(INSERT|UPDATE|DELETE|MERGE)\b(?!\s+(?:OF|SKIP|NOWAIT)\b)", re.IGNORECASE)
_LOCKING: Final = re.compile(r"\bFOR\s+(?:NO\s+KEY\s+)?(?:UPDATE|SHARE|KEY\s+SHARE)\b", re.IGNORECASE)
_SCHEMA_WORD: Final = re.compile(r"\b(CREATE|ALTER|DROP)\b", re.IGNORECASE)
_CONCURRENTLY: Final = re.compile(r"^(\s*(?:CREATE(?:\s+UNIQUE)?|DROP)\s+INDEX)\s+CONCURRENTLY\b", re.IGNORECASE)
_SETS_OURS: Final = re.compile(r"\bset_config\s*\(\s*'(?:raftlog\.|session_replication_role)", re.IGNORECASE)
_SETVAL: Final = re.compile(r"\bsetval\s*\(\s*(?:pg_get_serial_sequence\s*\(\s*'([^']+)'|'([^']+)')", re.IGNORECASE)
_SAVEPOINT_NAME: Final = re.compile(
    r"\s*(?:ROLLBACK(?:\s+(?:TRANSACTION|WORK))?\s+TO(?:\s+SAVEPOINT)?|RELEASE(?:\s+SAVEPOINT)?|SAVEPOINT)\s+"
    r'("(?:[^"]|"")+"|\w+)\s*;?\s*$',
    re.IGNORECASE,
)
_RESTART: Final = re.compile(r"^\s*TRUNCATE\b.*\bRESTART\s+IDENTITY\b", re.IGNORECASE | re.DOTALL)
_WORDS: Final = re.compile(r'"((?:[^"]|"")+)"|([A-Za-z_]\w*)')

_TRIGGERS_OFF: Final = "capture and foreign keys rest on triggers; leave them on"
# Pattern of a statement (strings and comments taken out) -> why it is refused.
_REFUSED: Final = tuple(
    (re.compile(pattern, re.IGNORECASE | re.DOTALL), why)
    for pattern, why in (
        (r"^\s*CREATE\s+(?:LOCAL\s+|GLOBAL\s+)?TEMP", "a temporary table goes with the local transaction, which is "
         "rolled back when it is proposed; use a table that stays, or a WITH clause"),
        (r"^\s*CREATE\s+UNLOGGED\b|\bSET\s+UNLOGGED\b", "an unlogged table is emptied on the host that crashes alone"),
        (r"^\s*LOCK\b", "LOCK TABLE would hold back this host alone; use select_for_update()"),
        (r"^\s*(?:PREPARE\s+TRANSACTION|(?:COMMIT|ROLLBACK)\s+PREPARED)\b", "two-phase commit: a transaction is "
         "committed through the log"),
        (r"session_replication_role", _TRIGGERS_OFF),
        (r"\b(?:ENABLE|DISABLE)\s+TRIGGER\s+(?:ALL|USER|raftlog)", _TRIGGERS_OFF),
        (r"^\s*(?:CREATE|ALTER|DROP)\s+(?:DATABASE|TABLESPACE|ROLE|USER|GROUP)\b(?!\s+MAPPING)|^\s*ALTER\s+SYSTEM\b",
         "it concerns the server, not the replicated database; run it on each server with another connection"),
        (r"^\s*(?:CREATE|ALTER|DROP|TRUNCATE|UPDATE|DELETE|INSERT)\b[^;]*?\braftlog(?:_(?:positions|tables|slots|"
         r"counters)\b|\.)", "it belongs to raftlog"),
        (r"\braftlog\.(?:rows|chunk)\b", "it belongs to raftlog"),
        (r"\b(?:lo_create|lo_creat|lo_import|lo_put|lo_from_bytea|lo_unlink|lowrite)\s*\(", "large objects are not "
         "captured; use a bytea column"),
    )
)  # fmt: skip

# Statements that look at one table by one column, as Django writes them. What stands before the last WHERE
# of an UPDATE may be any expression without SELECT: it sees the row only.
_NAME: Final = r'"([^"]+)"'
_VALUES: Final = r"(?:= %s|IN \(((?:%s, )*%s)\))"
_BY_COLUMN: Final = (
    re.compile(rf'^UPDATE {_NAME} SET .* WHERE "\1"\.{_NAME} {_VALUES}$'),
    re.compile(rf'^DELETE FROM {_NAME} WHERE "\1"\.{_NAME} {_VALUES}$'),
    re.compile(rf'^SELECT .* FROM {_NAME} WHERE "\1"\.{_NAME} {_VALUES}(?: LIMIT \d+)?(?: FOR [A-Z ]+)?$'),
)
# An INSERT of given values, as Django writes it: it looks at no row that was there.
_GIVEN_VALUES: Final = re.compile(
    rf"^INSERT INTO {_NAME} \((?:{_NAME}(?:, )?)+\) VALUES (?:\((?:(?:%s|DEFAULT)(?:, )?)+\)(?:, )?)+"
    rf"(?: RETURNING (?:{_NAME}\.{_NAME}(?:, )?)+)?$"
)
_SECOND_TABLE: Final = re.compile(r"\bSELECT\b.*\bSELECT\b|^UPDATE\b.*\b(?:FROM|SELECT)\b|\bJOIN\b", re.DOTALL)


@dataclass(frozen=True, slots=True)
class StatementInfo:
    """One text."""

    kind: Kind
    word: str = ""
    # Why it is refused.
    refusal: str = ""
    # (table, column) where the statement finds its rows by this column only; its last parameters are the values.
    by_column: tuple[str, str] | None = None
    # What it changes, it also reads: UPDATE, DELETE, ON CONFLICT, and SELECT … FOR UPDATE.
    has_targets: bool = False
    # An INSERT of given values: it reads nothing.
    gives_values: bool = False
    # Names of sequences, or of tables with a sequence, that it sets.
    sets: tuple[str, ...] = ()
    restarts: bool = False
    words: frozenset[str] = frozenset()
    parts: tuple[str, ...] = ()


@lru_cache(maxsize=4096)
def describe(sql: str) -> StatementInfo:
    parts = tuple(_statements(sql))
    if len(parts) > 1:
        return _several(parts)
    text = _OPAQUE.sub(" '' ", sql)
    refusal = next((why for pattern, why in _REFUSED if pattern.search(text)), "")
    if not refusal and _SETS_OURS.search(sql):
        refusal = "these settings are what capture rests on"
    match = _FIRST_WORD.match(text)
    word = match.group(1).upper() if match else ""
    return StatementInfo(
        kind=_kind(word, text, sql),
        word=word,
        refusal=refusal and f"{word} is refused: {refusal}",
        by_column=_by_column(sql),
        has_targets=bool(_LOCKING.search(text))
        or (word != "INSERT" and bool(_WRITING_WORD.search(text)))
        or word in ("TRUNCATE", "EXECUTE", "CALL", "DO")
        or bool(re.search(r"\bON\s+CONFLICT\b", text, re.IGNORECASE)),
        gives_values=bool(_GIVEN_VALUES.match(sql)),
        sets=tuple(first or second for first, second in _SETVAL.findall(sql)),
        restarts=bool(_RESTART.match(text)),
        words=frozenset(quoted.replace('""', '"') or bare.lower() for quoted, bare in _WORDS.findall(text)),
    )


def _statements(sql: str) -> Iterator[str]:
    if ";" not in sql.rstrip("; \t\r\n") or re.search(r"\bBEGIN\s+ATOMIC\b", sql, re.IGNORECASE):
        yield sql
        return
    for match in _PART.finditer(sql):
        if _OPAQUE.sub("", match.group(0)).strip() or "'" in match.group(0):
            yield match.group(0)


def _several(parts: tuple[str, ...]) -> StatementInfo:
    found = [describe(part) for part in parts]
    refusal = next((info.refusal for info in found if info.refusal), "")
    if any(info.kind in (Kind.BEGIN, Kind.COMMIT, Kind.ROLLBACK) for info in found):
        refusal = "BEGIN, COMMIT and ROLLBACK among several statements are refused: use atomic()"
    return StatementInfo(Kind.SEVERAL, refusal=refusal, parts=parts)


def _kind(word: str, text: str, sql: str) -> Kind:
    if word in ("DO", "CALL"):
        return Kind.SCHEMA if _SCHEMA_WORD.search(sql) else Kind.WRITE
    if word == "COPY":
        return Kind.WRITE if re.search(r"\bFROM\s+(?:STDIN|PROGRAM|'')", text, re.IGNORECASE) else Kind.READ
    if word in ("WITH", "EXPLAIN"):
        return Kind.WRITE if _WRITING_WORD.search(_LOCKING.sub("", text)) else Kind.READ
    if word in ("SELECT", "WITH") and re.search(r"\bINTO\b", text, re.IGNORECASE):
        return Kind.SCHEMA
    if word == "ROLLBACK" and re.search(r"\bTO\b", text, re.IGNORECASE):
        return Kind.ROLLBACK_TO
    if word == "SET" and re.match(r"\s*SET\s+(?:LOCAL|CONSTRAINTS|TRANSACTION)\b", text, re.IGNORECASE):
        return Kind.READ
    return _KINDS.get(word, Kind.READ)


def _by_column(sql: str) -> tuple[str, str] | None:
    for pattern in _BY_COLUMN:
        match = pattern.match(sql)
        if match:
            return None if _SECOND_TABLE.search(sql) else (match.group(1), match.group(2))
    return None


def key_parameters(sql: str, parameters: Sequence[Any]) -> Sequence[Any]:
    """The values by which a statement with `by_column` finds its rows: its last parameters."""
    count = sql[sql.rindex("WHERE") :].count("%s")
    return parameters[len(parameters) - count :]


def savepoint_name(sql: str) -> str:
    """As it stands there, quoted or not."""
    match = _SAVEPOINT_NAME.match(sql)
    if match is None:
        raise ValueError(f"cannot tell the savepoint of {sql!r}")
    return match[1]


def replayable(sql: str) -> str:
    """A schema statement as it travels: an index is built inside the transaction, not concurrently."""
    return _CONCURRENTLY.sub(r"\1", sql)
