"""An entry of the log as people read it: a command's arguments, a transaction's rows, by the names of their columns.

Plain data, fit for JSON but for values of the database's own types. Whatever the bytes, nothing is raised: what cannot
be decoded is said to be so.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, NamedTuple

import msgspec

from raftlog.consensus.configuration import decode_configuration
from raftlog.consensus.entries import (
    CLIENT_KINDS,
    COMMAND,
    CONFIGURATION,
    HEADER_BYTES,
    NO_OP,
    OPEN_SESSION,
    RESERVE,
    SCHEMA,
    TRANSACTION,
    WRITE_SET_KINDS,
    EntryBatch,
    client_header,
)
from raftlog.exceptions import InvalidEntry
from raftlog.replication import codec
from raftlog.replication.write_set import (
    Deletes,
    Inserts,
    Reserve,
    SequenceSet,
    Statement,
    Updates,
    WriteSet,
    decode_write_set,
)

KIND_NAMES: Final = {
    NO_OP: "no-op",
    CONFIGURATION: "configuration",
    OPEN_SESSION: "session",
    COMMAND: "command",
    TRANSACTION: "transaction",
    SCHEMA: "schema",
    RESERVE: "reserve",
}
SHOWN: Final = 60  # characters of a value in a line


class Columns(NamedTuple):
    """What names the values of a table's rows."""

    names: Sequence[str]
    key: Sequence[int]


# (table, digest of its shape when the entry was made) -> its columns; None where that shape is not known (any more).
ColumnsOf = Callable[[str, bytes], Columns | None]


def describe(batch: EntryBatch, columns_of: ColumnsOf, *, arguments: bool = True) -> Iterator[dict[str, Any]]:
    """Each entry as plain data. Without `arguments`, no value of an application's is in it."""
    index = batch.first_index
    for count, term, log_time in batch.runs:
        start = index - batch.first_index
        for payload in batch.payloads[start : start + count]:
            yield _entry(index, term, log_time, payload, columns_of, arguments)
            index += 1


def _entry(
    index: int, term: int, log_time: int, payload: bytes, columns_of: ColumnsOf, arguments: bool
) -> dict[str, Any]:
    kind = payload[0]
    moment = datetime.datetime.fromtimestamp(log_time / 1_000_000, datetime.UTC)
    entry: dict[str, Any] = {
        "index": index,
        "term": term,
        "time": moment.isoformat(timespec="milliseconds"),
        "kind": KIND_NAMES.get(kind, f"kind {kind}"),
        "bytes": len(payload),
    }
    try:
        if kind in CLIENT_KINDS:
            header = client_header(payload)
            entry |= {"session": header.session.hex(), "sequence": header.sequence}
        if kind == COMMAND:
            body = codec.decode_body(memoryview(payload)[HEADER_BYTES:])
            entry |= {"command": body.name, "version": body.version, "arguments": body.arguments if arguments else None}
            if body.keyed is not None:
                entry |= {"idempotency_scope": body.keyed.scope, "idempotency_key": body.keyed.key}
        elif kind in WRITE_SET_KINDS:
            entry |= _write_set(decode_write_set(payload[HEADER_BYTES:]), columns_of, arguments)
        elif kind == CONFIGURATION:
            entry["members"] = _members(payload)
    except (InvalidEntry, msgspec.DecodeError, IndexError, UnicodeDecodeError) as error:
        entry["undecodable"] = f"{type(error).__name__}: {error}"
    return entry


def _members(payload: bytes) -> dict[str, Any]:
    configuration = decode_configuration(payload)
    return {
        "voters": list(configuration.voters),
        "outgoing": list(configuration.outgoing),
        "learners": list(configuration.learners),
        "addresses": {node_id: server.address for node_id, server in configuration.servers.items()},
    }


def _write_set(write_set: WriteSet, columns_of: ColumnsOf, arguments: bool) -> dict[str, Any]:
    changes: list[dict[str, Any]] = []
    for step in write_set.steps:
        if isinstance(step, Inserts | Updates | Deletes):
            table, digest = write_set.tables[step.table]
            changes += _rows(step, table, columns_of(table, digest), arguments)
        elif isinstance(step, Statement):
            changes.append({"operation": "statement", "sql": step.sql})
        elif isinstance(step, SequenceSet):
            changes.append({"operation": "counter", "table": step.table, "value": step.value})
        elif isinstance(step, Reserve):
            changes.append({"operation": "reserve", "table": step.table, "count": step.count})
    return {
        "base": write_set.base,
        "rows": write_set.row_count,
        "tables": sorted({change["table"] for change in changes if "table" in change}),
        "changes": changes,
        "read_tables": write_set.read_tables,
        "read_rows": len(write_set.read_rows),
    }


def _rows(
    step: Inserts | Updates | Deletes, table: str, columns: Columns | None, arguments: bool
) -> Iterator[dict[str, Any]]:
    for row in step.rows:
        change: dict[str, Any] = {"operation": type(step).__name__.lower()[:-1], "table": table}
        if isinstance(step, Inserts):
            values = dict(zip(_names(columns, range(len(row))), row, strict=True))
            change["values"] = values if arguments else None
        else:
            changed = step.columns if isinstance(step, Updates) else []
            width = len(row) - 1 - len(changed)  # the key, then the hash of the row as it was, then the new values
            key = _names(columns, columns.key) if columns else [f"key {n}" for n in range(width)]
            change["key"] = dict(zip(key, row[:width], strict=False)) if arguments else None
            if isinstance(step, Updates):
                values = dict(zip(_names(columns, changed), row[width + 1 :], strict=True))
                change["values"] = values if arguments else None
        yield change


def _names(columns: Columns | None, positions: Sequence[int]) -> list[str]:
    """Without known columns a value is named by its position, from 0 on."""
    names = columns.names if columns is not None else ()
    return [names[position] if position < len(names) else f"column {position}" for position in positions]


def plain(value: Any) -> Any:
    """For JSON: bytes as hex digits, keys and what JSON has no type for as text."""
    if isinstance(value, dict):
        return {key if isinstance(key, str) else str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, bytes):
        return value.hex()
    return value if value is None or isinstance(value, str | int | float) else str(value)


# In a line


def line_of(entry: dict[str, Any]) -> str:
    """What the entry does, for people, in one line."""
    if "undecodable" in entry:
        return f"cannot be decoded: {entry['undecodable']}"
    if "command" in entry:
        given = entry["arguments"]
        return f"{entry['command']} v{entry['version']} {'…' if given is None else _pairs(given)}".rstrip()
    if "changes" in entry:
        return "; ".join(map(_change_line, entry["changes"])) or "changes nothing"
    if "members" in entry:
        members = entry["members"]
        parts = [f"{name} {', '.join(members[name])}" for name in ("voters", "outgoing", "learners") if members[name]]
        return "; ".join(parts)
    return f"session {entry['session']}" if "session" in entry else ""


def _change_line(change: dict[str, Any]) -> str:
    operation = change["operation"]
    if operation == "statement":
        return " ".join(change["sql"].split())
    if operation == "counter":
        return f"counter of {change['table']} = {change['value']}"
    if operation == "reserve":
        return f"{change['count']} keys of {change['table']}"
    parts = [operation, change["table"]]
    parts += [_pairs(change[part]) for part in ("key", "values") if change.get(part) is not None]
    return " ".join(parts) if "key" not in change or "values" not in change else _update_line(change)


def _update_line(change: dict[str, Any]) -> str:
    if change["key"] is None:
        return f"update {change['table']}"
    return f"update {change['table']} {_pairs(change['key'])}: {_pairs(change['values'])}"


def _pairs(values: dict[str, Any]) -> str:
    return " ".join(f"{name}={shorten(value)}" for name, value in values.items())


def shorten(value: Any) -> str:
    text = value.hex() if isinstance(value, bytes) else repr(value)
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 1]}…"
