"""The cache backend: reads are one query of the local database by primary key, writes are entries of the log."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

from django.core.cache import caches
from django.core.cache.backends.base import DEFAULT_TIMEOUT, BaseCache, InvalidCacheKey
from django.core.cache.backends.redis import RedisSerializer
from django.core.exceptions import ImproperlyConfigured
from django.db import connections, router
from django.utils.module_loading import import_string

from raftlog import InsideTransaction, clock, is_applying
from raftlog.contrib.cache.commands import MISSING, NO_INTEGER, OVERFLOW, write
from raftlog.contrib.cache.models import KEY_LENGTH, LOCATION_LENGTH, Entry
from raftlog.contrib.cache.pending import Change, in_entries, pending_changes, see, write_at_commit
from raftlog.contrib.cache.writer import writer

LONGEST_TTL: Final = 10**17  # microseconds, some 3,000 years: with the time of any clock it stays below 64 bits

_COLUMNS: Final = 'SELECT "name", "number", "data", "expires_at" FROM "raftlog_cache_entry"'
# As Django writes conditions on a column: so the backend knows that only these rows were read.
_BY_NAME: Final = f'{_COLUMNS} WHERE "raftlog_cache_entry"."name"'


class RaftlogCache(BaseCache):
    """See docs/howto/cache.md. Thread-safe, as its state is in the database.

    LOCATION names the cache: aliases with the same one share their entries. OPTIONS: MAX_ENTRIES, CULL_FREQUENCY
    (Django's), SERIALIZER (dumps(), loads(); default: that of Django's Redis backend, which pickles), FIRE_AND_FORGET
    (False: set and delete wait for the log).

    What writes raises NotProposed (NoLeader, NodeUnavailable, Overloaded, PayloadTooLarge: nothing was done) and
    OutcomeUnknown.
    """

    def __init__(self, location: str, params: dict[str, Any]) -> None:
        super().__init__(params)
        self.location = str(location or "default")
        if ":" in self.location or "\0" in self.location or len(self.location) > LOCATION_LENGTH:
            raise ImproperlyConfigured(
                f"CACHES: LOCATION is {location!r}; it must have at most {LOCATION_LENGTH} characters, no ':'"
            )
        self._serializer = _serializer(params.get("OPTIONS", {}).get("SERIALIZER"))
        self._has_table = False  # as far as is known
        self._is_waited_for = not params.get("OPTIONS", {}).get("FIRE_AND_FORGET", False)

    # Reading

    def get(self, key: Any, default: Any = None, version: int | None = None) -> Any:
        made = self._made(key, version)
        found = self._read([made])
        return self._load(found[made]) if made in found else default

    def get_many(self, keys: Iterable[Any], version: int | None = None) -> dict[Any, Any]:
        made = {self._made(key, version): key for key in keys}
        return {made[name]: self._load(value) for name, value in self._read(list(made)).items()}

    def has_key(self, key: Any, version: int | None = None) -> bool:
        made = self._made(key, version)
        return made in self._read([made])

    def get_or_set(self, key: Any, default: Any, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None) -> Any:
        """As Django's. In an open transaction the default is added once that is committed, unless another one was."""
        found = self.get(key, self._missing_key, version=version)
        if found is not self._missing_key:
            return found
        if callable(default):
            default = default()
        try:
            self.add(key, default, timeout=timeout, version=version)
        except InsideTransaction:
            self._write_later([["add", self._made(key, version), self._dump(default), self._ttl(timeout)]])
        return self.get(key, default, version=version)

    def _read(self, made: list[str]) -> dict[str, int | bytes]:
        """What is there and has not expired by this host's clock: {made key: value as stored}."""
        connection = connections[router.db_for_read(Entry)]
        gathered = [] if self._is_waited_for else writer.newest(self.location, made)
        found: dict[str, int | bytes] = {}
        start = len(self.location) + 1
        now = clock.wall_microseconds()
        for names in _chunks([f"{self.location}:{key}" for key in made]):
            condition = "= %s" if len(names) == 1 else f"IN ({', '.join(['%s'] * len(names))})"
            with connection.cursor() as cursor:
                cursor.execute(f"{_BY_NAME} {condition}", names)
                for name, number, data, expires_at in cursor.fetchall():
                    if expires_at is None or expires_at > now:
                        found[name[start:]] = bytes(data) if number is None else number
        if gathered:
            see(gathered, made, found)
        if connection.run_on_commit:
            see(pending_changes(connection, self.location), made, found)
        return found

    # Writing

    def set(self, key: Any, value: Any, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None) -> None:
        self._write([["set", self._made(key, version), self._dump(value), self._ttl(timeout)]])

    def set_many(self, data: dict[Any, Any], timeout: Any = DEFAULT_TIMEOUT, version: int | None = None) -> list[Any]:
        ttl = self._ttl(timeout)
        changes = [["set", self._made(key, version), self._dump(value), ttl] for key, value in data.items()]
        for some in in_entries(changes):
            self._write(some)
        return []

    def delete(self, key: Any, version: int | None = None) -> bool:
        return self._write_or_look(["delete", self._made(key, version)])

    def delete_many(self, keys: Iterable[Any], version: int | None = None) -> None:
        for some in in_entries([["delete", self._made(key, version)] for key in keys]):
            self._write(some)

    def touch(self, key: Any, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None) -> bool:
        return self._write_or_look(["touch", self._made(key, version), self._ttl(timeout)])

    def clear(self) -> None:
        self._write([["clear"]])

    def _write_or_look(self, change: Change) -> bool:
        """Whether the key was there: where the change waits for a commit, as this host sees it now."""
        try:
            if not self._is_for_writer([change]):
                return bool(self._propose([change])[0])
        except InsideTransaction:
            pass
        was_there = change[1] in self._read([change[1]])
        self._write([change])
        return was_there

    # Writing, with an answer that only the log knows

    def add(self, key: Any, value: Any, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None) -> bool:
        """True for exactly one caller in the cluster. Raises InsideTransaction in an open transaction."""
        change = ["add", self._made(key, version), self._dump(value), self._ttl(timeout)]
        return bool(self._ask(f"cache.add({key!r})", change))

    def incr(self, key: Any, delta: int = 1, version: int | None = None) -> int:
        """Add to a number that was set as an int, whose time to live stays.

        Raises:
            ValueError: the key is not there.
            TypeError: what is there, or `delta`, is no int of 64 bits.
            OverflowError: the sum would be none.
            InsideTransaction: in an open transaction.
        """
        if type(delta) is not int or not _is_64_bit(delta):
            raise TypeError(f"cache.incr({key!r}): delta is {delta!r}; it must be an int of at most 64 bits")
        answer = self._ask(f"cache.incr({key!r})", ["increment", self._made(key, version), delta])
        if answer == MISSING:
            raise ValueError(f"Key '{key}' not found")
        if answer == NO_INTEGER:
            raise TypeError(f"cache.incr({key!r}): what is cached there is no int of at most 64 bits")
        if answer == OVERFLOW:
            raise OverflowError(f"cache.incr({key!r}, {delta}): the sum has more than 64 bits")
        return int(answer)

    def decr(self, key: Any, delta: int = 1, version: int | None = None) -> int:
        return self.incr(key, -delta, version=version)

    def _ask(self, what: str, change: Change) -> Any:
        try:
            return self._propose([change])[0]
        except InsideTransaction as error:
            where = "a command" if is_applying() else "an open transaction"
            raise InsideTransaction(
                f"{what} inside {where}: its answer comes from the log, after that has ended. Call it before or after, "
                "or in transaction.on_commit(). set(), delete() and get_or_set() wait for the commit by themselves"
            ) from error

    # The way to the log

    def _write(self, changes: list[Change]) -> None:
        try:
            if self._is_for_writer(changes):
                writer.put(self.location, self._propose_now, changes)
            else:
                self._propose(changes)
        except InsideTransaction:
            self._write_later(changes)

    def _is_for_writer(self, changes: list[Change]) -> bool:
        """Whether nobody waits for these. Raises InsideTransaction, as proposing them would."""
        if self._is_waited_for or not all(change[0] in ("set", "delete") for change in changes):
            return False
        if is_applying() or connections[router.db_for_write(Entry)].in_atomic_block:
            raise InsideTransaction("a transaction is open")
        return True

    def _write_later(self, changes: list[Change]) -> None:
        """When the open transaction is committed. Raises InsideTransaction inside a command."""
        if is_applying():
            raise InsideTransaction(
                "a cache cannot be written from inside a command, which runs on every node: to forget keys there, call "
                "raftlog.contrib.cache.delete_in_command(ctx, key, …)"
            )
        connection = connections[router.db_for_write(Entry)]
        write_at_commit(connection, self.location, self._write, changes)

    def _propose(self, changes: list[Change]) -> Any:
        """Their answers, after all that this process has written before."""
        if not self._is_waited_for:
            writer.flush(self.location)
        return self._propose_now(changes)

    def _propose_now(self, changes: list[Change]) -> Any:
        self._refuse_without_table()
        return write.propose(
            location=self.location,
            changes=changes,
            max_entries=self._max_entries,
            cull_frequency=self._cull_frequency,
        )

    def _refuse_without_table(self) -> None:
        """Raises DatabaseError before `migrate`: no node could apply the entry, nor that migration, which is after it.

        Where this host has the table, the entry that made it is before what is proposed now.
        """
        using = router.db_for_write(Entry)
        if not self._has_table and not connections[using].in_atomic_block:
            Entry.objects.using(using).exists()
            self._has_table = True

    # Keys, values, times

    def _made(self, key: Any, version: int | None) -> str:
        made = self.make_and_validate_key(key, version=version)
        if len(made) > KEY_LENGTH or "\0" in made:
            raise InvalidCacheKey(
                f"{made[:60]!r}… has {len(made)} characters; with prefix and version it may have {KEY_LENGTH}, "
                "and no NUL"
            )
        return str(made)

    def _dump(self, value: Any) -> int | bytes:
        if type(value) is int and _is_64_bit(value):
            return value
        data = self._serializer.dumps(value)
        return data if isinstance(data, bytes) else str(data).encode()

    def _load(self, stored: int | bytes) -> Any:
        return stored if isinstance(stored, int) else self._serializer.loads(stored)

    def _ttl(self, timeout: Any) -> int | None:
        """Microseconds; None: for ever."""
        if timeout is DEFAULT_TIMEOUT:
            timeout = self.default_timeout
        return None if timeout is None else max(min(int(timeout * 1_000_000), LONGEST_TTL), 0)


def delete_in_command(ctx: Any, *keys: Any, using: str = "default", version: int | None = None) -> int:
    """Forget keys inside a command of one's own, which then does so on every node. Returns how many were there.

    Args:
        using: alias in CACHES, of a RaftlogCache. Its LOCATION, KEY_PREFIX, VERSION and KEY_FUNCTION must be the same
            on all hosts.
    """
    cache = caches[using]
    if not isinstance(cache, RaftlogCache):
        raise TypeError(f"CACHES[{using!r}] is no RaftlogCache, so a command must not touch it")
    changes = [["delete", cache._made(key, version)] for key in keys]
    return sum(write(ctx, location=cache.location, changes=changes, max_entries=0, cull_frequency=0))


def _serializer(given: Any) -> Any:
    """From OPTIONS["SERIALIZER"]: nothing, a dotted path, a class or an object."""
    found: Callable[..., Any] = import_string(given) if isinstance(given, str) else given or RedisSerializer
    made = found() if callable(found) else found
    if not callable(getattr(made, "dumps", None)) or not callable(getattr(made, "loads", None)):
        raise ImproperlyConfigured(f"CACHES: OPTIONS['SERIALIZER'] is {given!r}; it needs dumps() and loads()")
    return made


def _is_64_bit(number: int) -> bool:
    return -(2**63) < number < 2**63


def _chunks(names: list[str], size: int = 500) -> Iterator[list[str]]:
    for start in range(0, len(names), size):
        yield names[start : start + size]
