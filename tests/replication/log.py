"""A log to apply: entries as a client would propose them, and what the database holds afterwards."""

from collections.abc import Iterable

import msgspec
from django.db import connection

from raftlog.consensus.configuration import Configuration, Server, encode_configuration
from raftlog.consensus.entries import COMMAND, NO_OP_PAYLOAD, OPEN_SESSION, EntryBatch, Run, client_payload
from raftlog.replication import codec
from raftlog.replication.apply import DatabaseStateMachine
from raftlog.replication.keyed import IdempotencyName
from raftlog.replication.registry import Command
from raftlog.replication.tables import ensure_tables
from raftlog.runtime.ports import APPLIED, FAILED, REFUSED, Outcome

SESSION = bytes(range(16))
CLUSTER = "c" * 32
START = 1_700_000_000_000_000  # microseconds

TABLES = (
    *("warehouse_item", "warehouse_order", "warehouse_shelf"),
    *("raftlog_appliedindex", "raftlog_clientsession", "raftlog_sessionresult"),
)


def configuration(cluster_id: str = CLUSTER) -> bytes:
    return encode_configuration(Configuration(cluster_id, {"a": Server("ws://a")}, ("a",)))


class LogWriter:
    """Payloads of one client, in order."""

    def __init__(self, session: bytes = SESSION) -> None:
        self.session = session
        self.payloads: list[bytes] = []
        self._sequence = 0

    def open(self) -> "LogWriter":
        self.payloads.append(client_payload(OPEN_SESSION, self.session, 0, 0, b""))
        return self

    def add(
        self,
        command: Command,
        *,
        acknowledged_below: int = 0,
        sequence: int = 0,
        key: IdempotencyName | None = None,
        **arguments,
    ) -> bytes:
        self._sequence = sequence or self._sequence + 1
        payload = client_payload(
            COMMAND, self.session, self._sequence, acknowledged_below, command.encode(arguments, 1 << 20, key)
        )
        self.payloads.append(payload)
        return payload

    def raw(self, payload: bytes) -> None:
        self.payloads.append(payload)


def opened() -> LogWriter:
    """A log that begins as every log does."""
    writer = LogWriter()
    writer.payloads += [configuration(), NO_OP_PAYLOAD]
    return writer.open()


def batch(payloads: list[bytes], first_index: int, *, term: int = 1, log_time: int = START) -> EntryBatch:
    made = EntryBatch(first_index, [Run(len(payloads), term, log_time)], payloads)
    made.check()
    return made


def apply_all(
    machine: DatabaseStateMachine, payloads: list[bytes], sizes: Iterable[int] = (), *, log_time: int = START
) -> list[Outcome]:
    """Apply `payloads` after what has been applied, in batches of these sizes; the rest in one."""
    outcomes: list[Outcome] = []
    rest = list(payloads)
    for size in [*sizes, len(rest)]:
        part, rest = rest[:size], rest[size:]
        if part:
            outcomes += machine.apply(batch(part, machine.last_applied + 1, log_time=log_time))
    return outcomes


def told(outcome: Outcome):
    """An outcome, readable."""
    if outcome.status == APPLIED:
        return codec.decode(outcome.result)
    name, text = msgspec.msgpack.decode(outcome.result)
    return {FAILED: "failed", REFUSED: "refused"}[outcome.status], name, text


def dump() -> dict[str, list[tuple]]:
    """All rows of all tables."""
    content = {}
    with connection.cursor() as cursor:
        for table in TABLES:
            cursor.execute(f"SELECT * FROM {table}")
            rows = [tuple(bytes(v) if isinstance(v, memoryview) else v for v in row) for row in cursor.fetchall()]
            content[table] = sorted(rows, key=repr)
    return content


def empty() -> None:
    """The database as it was before the first entry."""
    ensure_tables("default")
    with connection.cursor() as cursor:
        for table in ("warehouse_shelf", "warehouse_order", "warehouse_item"):
            cursor.execute(f"UPDATE {table} SET above_id = NULL" if table.endswith("shelf") else "SELECT 1")
            cursor.execute(f"DELETE FROM {table}")
        for table in ("raftlog_sessionresult", "raftlog_clientsession", "raftlog_appliedindex"):
            cursor.execute(f"DELETE FROM {table}")
    ensure_tables("default")
