"""raftlog's own tables, in the replicated database: what has been applied, and which answers were given.

But for IdempotencyKey they are unmanaged models: migrations do not touch them, each node makes them for itself when it
starts (`ensure_tables`), and their version is kept in the one row of AppliedIndex.

Replicated: their content follows from the log alone. Two nodes that have applied up to the same index hold the
same rows, so comparisons and snapshots include them.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from django.db import connections, models, router, transaction
from django.db.backends.base.base import BaseDatabaseWrapper

from raftlog.exceptions import ApplyStopped
from raftlog.replication.fingerprint import EMPTY
from raftlog.replication.has_table import has_table

SCHEMA_VERSION: Final = 2


class NoRows(models.Manager[Any]):
    """What Django finds when it goes through all models: nothing.

    A fixture of these tables would tell the database that it is loaded into that entries were applied which were not,
    and `dumpdata` would fail where no node has made the tables. raftlog itself reads them by `objects`.
    """

    def get_queryset(self) -> models.QuerySet[Any]:
        return super().get_queryset().none()


class Internal(models.Model):
    """Base of the unmanaged ones."""

    # The first one is the default, and that of `dumpdata`; `dumpdata --all` asks the base manager.
    no_rows = NoRows()
    objects: models.Manager[Any] = models.Manager()

    class Meta:
        abstract = True
        app_label = "raftlog"
        managed = False
        base_manager_name = "no_rows"


class AppliedIndex(Internal):
    """One row: the point of the log that this database stands at. Changes: in every transaction of apply."""

    # Always 1. Replicated.
    id: models.SmallIntegerField[int, int] = models.SmallIntegerField(primary_key=True)
    # Version of raftlog's tables. Node-local: a node changes it when it starts with newer code.
    schema_version: models.IntegerField[int, int] = models.IntegerField()
    # The cluster whose log this is, 32 hex digits; "" before the first configuration entry. Replicated.
    cluster_id: models.CharField[str, str] = models.CharField(max_length=32)
    # Index of the last entry applied, and its term; 0 before the first. Replicated.
    applied_index: models.BigIntegerField[int, int] = models.BigIntegerField()
    applied_term: models.BigIntegerField[int, int] = models.BigIntegerField()
    # Log time of that entry, microseconds since the epoch. Replicated.
    log_time: models.BigIntegerField[int, int] = models.BigIntegerField()
    # The running hash at that entry (running_hash.py), and the index after which it was begun. Replicated.
    fingerprint: models.BinaryField[bytes, bytes] = models.BinaryField()
    fingerprint_since: models.BigIntegerField[int, int] = models.BigIntegerField()
    # How this database differs from that of the cluster's majority, "": it is not known to. Node-local.
    diverged: models.TextField[str, str] = models.TextField()

    class Meta(Internal.Meta):
        abstract = False
        verbose_name_plural = "applied index"

    def __str__(self) -> str:
        return f"index {self.applied_index} of term {self.applied_term}"


class ClientSession(Internal):
    """A process that proposes. All columns are replicated."""

    # 16 random bytes, chosen by the client.
    session: models.BinaryField[bytes, bytes] = models.BinaryField(primary_key=True, max_length=16)
    # Index of the entry that opened it.
    opened_index: models.BigIntegerField[int, int] = models.BigIntegerField()
    # Log time of its newest entry, microseconds: the session expires by it.
    last_log_time: models.BigIntegerField[int, int] = models.BigIntegerField()
    # Every sequence below it has been answered; results below it are forgotten.
    acknowledged_below: models.BigIntegerField[int, int] = models.BigIntegerField()

    class Meta(Internal.Meta):
        abstract = False

    def __str__(self) -> str:
        return bytes(self.session).hex()


class SessionResult(Internal):
    """How an entry of a session ended: what a repeat of it is answered with. All columns are replicated."""

    pk = models.CompositePrimaryKey("session", "sequence")
    session: models.BinaryField[bytes, bytes] = models.BinaryField(max_length=16)
    sequence: models.BigIntegerField[int, int] = models.BigIntegerField()
    # raftlog.runtime.ports.APPLIED or FAILED
    status: models.SmallIntegerField[int, int] = models.SmallIntegerField()
    # Index of the entry that had the effect.
    index: models.BigIntegerField[int, int] = models.BigIntegerField(db_column="entry_index")
    # The encoded return value, or the encoded failure.
    result: models.BinaryField[bytes, bytes] = models.BinaryField()

    class Meta(Internal.Meta):
        abstract = False

    def __str__(self) -> str:
        return f"{bytes(self.session).hex()}:{self.sequence}"


class IdempotencyKey(models.Model):
    """What was done under a key that its caller gave: what a repeat of it is answered with (idempotency.py).

    Unlike the others it is an ordinary replicated table, made by a migration: a transaction inserts its own row.
    """

    # 32 hex digits that stand for scope and key.
    id: models.CharField[str, str] = models.CharField(primary_key=True, max_length=32)
    # Whose key it is, and the key, as they were given.
    scope: models.CharField[str, str] = models.CharField(max_length=200)
    key: models.CharField[str, str] = models.CharField(max_length=200)
    # Stands for what was asked for: the same key does not answer another question.
    digest: models.BinaryField[bytes, bytes] = models.BinaryField(max_length=16)
    # Index of the command's entry; 0 for a transaction, which does not know its own.
    index: models.BigIntegerField[int, int] = models.BigIntegerField(db_column="entry_index")
    # Log time, microseconds since the epoch: of the command, or of the state that the transaction saw.
    log_time: models.BigIntegerField[int, int] = models.BigIntegerField(db_index=True)
    # Encoded.
    result: models.BinaryField[bytes, bytes] = models.BinaryField()

    class Meta:
        app_label = "raftlog"

    def __str__(self) -> str:
        return f"{self.scope} {self.key}".strip()


_CREATE: Final = (
    """CREATE TABLE IF NOT EXISTS raftlog_appliedindex (
        id smallint NOT NULL PRIMARY KEY CHECK (id = 1),
        schema_version integer NOT NULL,
        cluster_id varchar(32) NOT NULL,
        applied_index bigint NOT NULL,
        applied_term bigint NOT NULL,
        log_time bigint NOT NULL,
        fingerprint {bytes} NOT NULL,
        fingerprint_since bigint NOT NULL,
        diverged text NOT NULL
    )""",
    """CREATE TABLE IF NOT EXISTS raftlog_clientsession (
        session {bytes} NOT NULL PRIMARY KEY,
        opened_index bigint NOT NULL,
        last_log_time bigint NOT NULL,
        acknowledged_below bigint NOT NULL
    ){options}""",
    """CREATE TABLE IF NOT EXISTS raftlog_sessionresult (
        session {bytes} NOT NULL,
        sequence bigint NOT NULL,
        status smallint NOT NULL,
        entry_index bigint NOT NULL,
        result {bytes} NOT NULL,
        PRIMARY KEY (session, sequence)
    ){options}""",
)
# From version 1. What was applied under it is in no running hash.
_UPGRADE: Final = (
    "ALTER TABLE raftlog_appliedindex ADD COLUMN fingerprint {bytes} NOT NULL DEFAULT {empty}",
    "ALTER TABLE raftlog_appliedindex ADD COLUMN fingerprint_since bigint NOT NULL DEFAULT 0",
    "ALTER TABLE raftlog_appliedindex ADD COLUMN diverged text NOT NULL DEFAULT ''",
    "UPDATE raftlog_appliedindex SET fingerprint_since = applied_index, schema_version = 2",
)
_VENDOR_TYPES: Final = {
    "sqlite": {"bytes": "blob", "options": " WITHOUT ROWID", "empty": f"x'{EMPTY.hex()}'"},
    "postgresql": {"bytes": "bytea", "options": "", "empty": rf"'\x{EMPTY.hex()}'"},
}


class Applied(NamedTuple):
    """The row of AppliedIndex."""

    cluster_id: str
    index: int  # type: ignore[assignment]  # a tuple's index(), which nobody misses here
    term: int
    log_time: int
    fingerprint: bytes
    fingerprint_since: int


def ensure_tables(alias: str) -> None:
    """Make raftlog's tables where they are missing. Idempotent; opens a transaction of its own.

    Raises ApplyStopped where the database was made by a newer version, or its vendor cannot be replicated.
    """
    connection = connections[alias]
    if connection.vendor not in _VENDOR_TYPES:
        raise ApplyStopped(f"DATABASES[{alias!r}] is {connection.vendor}; sqlite and postgresql can be replicated")
    with transaction.atomic(using=alias), connection.cursor() as cursor:
        for statement in _CREATE:
            cursor.execute(statement.format(**_VENDOR_TYPES[connection.vendor]))
        cursor.execute("SELECT schema_version FROM raftlog_appliedindex")
        row = cursor.fetchone()
        if row is None:
            row = [SCHEMA_VERSION, EMPTY]
            cursor.execute("INSERT INTO raftlog_appliedindex VALUES (1, %s, '', 0, 0, 0, %s, 0, '')", row)
        elif row[0] == 1:
            for statement in _UPGRADE:
                cursor.execute(statement.format(**_VENDOR_TYPES[connection.vendor]))
        elif row[0] != SCHEMA_VERSION:
            raise ApplyStopped(
                f"raftlog's tables in DATABASES[{alias!r}] have version {row[0]}, this raftlog knows {SCHEMA_VERSION}; "
                "install the version of raftlog that made them"
            )


def has_tables(connection: BaseDatabaseWrapper) -> bool:
    """Whether ensure_tables() was called on this database, and nobody has dropped them since."""
    return has_table(connection, "raftlog_appliedindex")


def require_table(model: type[models.Model], what: str, alias: str = "") -> None:
    """Raises a verdict against a command where there is no table, on every node alike, as the schema is replicated.

    Else apply would wait for it on every node, and so for ever: it can only come through the log. With an ENGINE of
    Django's own each host has its own schema: there apply waits until it is made.
    """
    connection = connections[alias or router.db_for_write(model)]
    if hasattr(connection, "apply_port") and not has_table(connection, model._meta.db_table):
        raise LookupError(f"there is no table for {what} in the replicated database: run `manage.py migrate`")


def read_applied(connection: BaseDatabaseWrapper) -> Applied:
    """Raises ApplyStopped where the row is missing."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT cluster_id, applied_index, applied_term, log_time, fingerprint, fingerprint_since"
            " FROM raftlog_appliedindex WHERE id = 1"
        )
        row = cursor.fetchone()
    if row is None:
        raise ApplyStopped(
            f"the row of raftlog_appliedindex in DATABASES[{connection.alias!r}] is gone: what has been applied is not "
            "known; restore the database from a peer or a backup"
        )
    cluster_id, index, term, log_time, fingerprint, since = row
    return Applied(cluster_id, index, term, log_time, bytes(fingerprint), since)


def read_diverged(connection: BaseDatabaseWrapper) -> str:
    """How this database was found to differ from the majority's, "" where it was not."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT diverged FROM raftlog_appliedindex WHERE id = 1")
        return str(cursor.fetchone()[0])


def write_diverged(connection: BaseDatabaseWrapper, text: str) -> None:
    """Remember it across restarts: it goes with the database, so that a new one begins without it."""
    with transaction.atomic(using=connection.alias), connection.cursor() as cursor:
        cursor.execute("UPDATE raftlog_appliedindex SET diverged = %s WHERE id = 1", [text])


def write_applied(cursor: Any, before: Applied, after: Applied) -> None:
    """Move the applied index, in the transaction of the changes. Raises ApplyStopped where it is not at `before`."""
    cursor.execute(
        "UPDATE raftlog_appliedindex SET cluster_id = %s, applied_index = %s, applied_term = %s, log_time = %s,"
        " fingerprint = %s, fingerprint_since = %s WHERE id = 1 AND applied_index = %s",
        [*after, before.index],
    )
    if cursor.rowcount != 1:
        raise ApplyStopped(
            f"the applied index in the database is not {before.index}, where this node left it: something else wrote "
            "it. Is another node using this database, or was it restored while the node ran?"
        )
