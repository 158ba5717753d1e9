"""One command, run: its function, its idempotency key, and what it returned."""

from __future__ import annotations

from typing import Final

from raftlog.replication import codec, idempotency
from raftlog.replication.codec import CommandBody, Keyed
from raftlog.replication.context import CommandContext
from raftlog.replication.database import ApplyConnection
from raftlog.replication.idempotency import Recorded
from raftlog.replication.registry import Command
from raftlog.replication.sessions import Result
from raftlog.runtime.ports import APPLIED

MAX_RESULT_BYTES: Final = 1 << 20  # a constant of the code: it decides a verdict


def call(
    database: ApplyConnection, command: Command, context: CommandContext, body: CommandBody, *, alone: bool
) -> Result:
    """run(), and see that it really went through. Raises what it raises."""
    result = run(database.alias, command, context, body)
    database.check_entry(alone=alone)
    database.record(context.index)
    return result


def run(alias: str, command: Command, context: CommandContext, body: CommandBody) -> Result:
    """Run the command, unless it was run under the same key before. Raises what it raises."""
    keyed = body.keyed
    recorded = None
    if keyed is not None:
        idempotency.require_table(alias)
        recorded = idempotency.find(alias, keyed, context.log_time)
        if recorded is not None and not recorded.has_expired:
            return Result(APPLIED, recorded.at, recorded.result)
    value = command.function(context, **body.arguments)
    try:
        encoded = codec.encode(value)
    except codec.CannotEncode as error:
        raise TypeError(f"{command.name} returned a value that cannot be replicated: {error}") from None
    if len(encoded) > MAX_RESULT_BYTES:
        raise ValueError(f"{command.name} returned {len(encoded)} bytes, the limit is {MAX_RESULT_BYTES}")
    if keyed is not None:
        _record(alias, context, keyed, recorded, encoded)
    return Result(APPLIED, context.index, encoded)


def _record(alias: str, context: CommandContext, keyed: Keyed, before: Recorded | None, encoded: bytes) -> None:
    index, log_time = context.index, context.log_time
    idempotency.record(alias, keyed, before, index=index, log_time=log_time, result=encoded)
    if context.index % idempotency.FORGET_EVERY == 0:
        idempotency.forget_expired(alias, log_time)
