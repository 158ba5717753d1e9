"""How a command that raised ended: its recorded failure, or that of this node."""

from __future__ import annotations

from django.db.utils import Error as DjangoDatabaseError

from raftlog.exceptions import ApplyStopped, NotMigrated
from raftlog.replication.database import ApplyConnection
from raftlog.replication.failures import Blame, blame, encode_failure, lacks_schema
from raftlog.replication.foreign_keys import Suspect
from raftlog.replication.registry import Command
from raftlog.replication.run import Cut, Entry, Mode, TryAgain
from raftlog.replication.sessions import Result
from raftlog.runtime.ports import FAILED


def judge(database: ApplyConnection, command: Command, entry: Entry, mode: Mode, error: BaseException) -> Result:
    """The recorded failure of an entry; raises where it has none. Called while the entry's changes are undone."""
    lacking = database.failure
    if lacking is not None:
        if database.transactions is None or not lacks_schema(lacking):
            raise lacking  # with its own cause, which tells what kind of failure it is
        database.failure = None  # it is this entry's verdict, and none of the next entries in the transaction
        # To wait for the migration would be to wait for ever: it can only come after this entry, through the log.
        error = NotMigrated(
            f"the command {command.name!r} uses what the replicated database lacks: {lacking}; run `manage.py migrate`"
        )
    whose = blame(error, command.raises, database.driver_error)
    if whose is Blame.INFRASTRUCTURE:
        if isinstance(error, DjangoDatabaseError):
            raise error
        raise DjangoDatabaseError(f"{type(error).__name__}: {error}") from error
    if mode is Mode.TOGETHER:
        raise TryAgain(Mode.GUARDED) from error
    if isinstance(error, Suspect) and mode is Mode.GUARDED:
        raise Cut(None) from error
    if whose is Blame.NODE:
        text = f"entry {entry.index}, command {command.name!r}: {type(error).__name__}: {error}"
        raise Cut(ApplyStopped(text)) from error
    return Result(FAILED, entry.index, encode_failure(error, command.raises))
