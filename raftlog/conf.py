"""The settings, RAFTLOG = {...}: read lazily, typed, with default, unit and limits beside each.

All are optional: with none, one node "node1" serves ws://127.0.0.1:8000 and is a cluster by itself.
`load_settings()` is the only reader of django.conf.settings.RAFTLOG; every mistake is collected as a
`Problem`, which the system checks show as raftlog.E001 and so on (docs/reference/settings.md).
"""

from __future__ import annotations

import difflib
import hashlib
import hmac
import os
import stat
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from django.conf import settings as django_settings
from django.core.exceptions import ImproperlyConfigured

from raftlog.addresses import parse_address as parse_address
from raftlog.addresses import parse_bind as parse_bind

KIB = 1 << 10
MIB = 1 << 20

# A Unix socket's path may have 107 bytes on Linux and fewer elsewhere.
MAX_SOCKET_PATH_BYTES = 100
MIN_SECRET_BYTES = 16


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake in the settings: what is wrong, under which key, and what to do."""

    code: str  # "E002": the id of the system check, without "raftlog."
    key: str  # "HEARTBEAT_INTERVAL"; "" for the dictionary itself
    message: str
    hint: str

    def __str__(self) -> str:
        return f"{self.message} {self.hint}"


class SettingsError(ImproperlyConfigured):
    """RAFTLOG cannot be used as it is. `problems` holds every mistake, each with its fix."""

    def __init__(self, problems: list[Problem]) -> None:
        self.problems = problems
        super().__init__("\n".join(f"(raftlog.{problem.code}) {problem}" for problem in problems))


@dataclass(frozen=True, slots=True)
class Settings:
    """RAFTLOG, read and checked. Durations in seconds, sizes in bytes."""

    # Name of the cluster: all members must agree on it; part of the derived secret keys.
    cluster: str
    # This server's name in `members`.
    node_id: str
    # Where peers and clients on other hosts reach this node: ws://host:port or wss://host:port.
    address: str
    # (host, port) that `raft run` listens on; from ADDRESS where BIND is not given.
    bind: tuple[str, int]
    # The first members of the cluster, id -> address, this node included; afterwards the log knows.
    members: dict[str, str]
    # Log segments, hard state, identity, lock and local socket.
    data_dir: Path
    # Alias of the database that holds the replicated state.
    database: str
    # Keys of the handshake between members; the first signs, all verify (so that keys can rotate).
    secret_keys: list[bytes] = field(repr=False)
    # A follower that hears nothing from a leader for a random time in [t, 2t) starts an election.
    election_timeout: float = 0.5
    # How often an idle leader is heard from; at most a third of election_timeout (default: a fifth, at most 0.1).
    heartbeat_interval: float = 0.1
    # Largest command, encoded.
    max_command_bytes: int = MIB
    # Largest transaction or schema entry, encoded.
    max_transaction_bytes: int = 64 * MIB
    # Size of a log file, preallocated.
    segment_bytes: int = 64 * MIB
    # How fast the scrubber reads the folder to check it; 0: there is none.
    scrub_bytes_per_second: int = MIB
    # What a leader accepts beyond what is committed, before it answers Overloaded.
    max_uncommitted_bytes: int = 128 * MIB
    # Proposals that wait on this node for an outcome, before it answers Overloaded.
    max_waiting_proposals: int = 65_536
    # How long propose() waits for an outcome where the caller says nothing else.
    proposal_timeout: float = 10.0
    # This node lets nobody be elected while its leader was heard from within election_timeout, and reads by that.
    read_lease: bool = False
    # ReadYourWrites: how long a request waits for its user's last write; what happens then ("refuse" or "serve").
    read_your_writes_timeout: float = 2.0
    read_your_writes_late: str = "refuse"
    # Alias in STORAGES for backups and archived entries; "": none.
    backup_storage: str = ""
    # A backup is made once the newest one is older; 0: only by `raft backup`.
    backup_interval: float = 0.0
    # Who is not on this host sends it to see the metrics; "": only this host, and staff, may.
    metrics_token: str = field(default="", repr=False)
    # How many backups are kept.
    backup_keep: int = 7
    # How often what was committed is archived; 0: never.
    archive_interval: float = 0.0
    # How fast this node pulls an image of the database from a peer, at most.
    snapshot_bytes_per_second: int = 32 * MIB
    # The log is compacted where its files, its entries, or the age of its oldest entry are above one of these …
    compact_log_bytes: int = 512 * MIB
    compact_log_entries: int = 5_000_000
    compact_log_age: float = 7 * 86_400
    # … and keeps the newest entries: so many bytes and so many entries at least, for followers that were briefly away.
    keep_log_bytes: int = 128 * MIB
    keep_log_entries: int = 100_000
    # How many entries the change feed goes back, about; 0: there is none.
    change_feed_entries: int = 100_000
    # "database", or "log" for benchmarks of the log alone (internal).
    state_machine: str = "database"
    # For wss addresses: PEM files; `tls_ca` verifies the certificates of the peers (None: the system's roots).
    tls_certificate: Path | None = None
    tls_key: Path | None = None
    tls_ca: Path | None = None
    # State outside the database that travels in images: name -> dotted path of its hook.
    snapshot_hooks: dict[str, str] = field(default_factory=dict)

    @property
    def uses_tls(self) -> bool:
        return self.address.startswith("wss://")

    @property
    def socket_path(self) -> Path:
        """Path of the node's Unix socket: DATA_DIR/node.sock, or a short one where that is too long for a socket.

        The short one lives in a folder of this user alone (mode 0700) under the system's temporary folder.
        """
        path = self.data_dir.absolute() / "node.sock"
        if len(os.fsencode(path)) <= MAX_SOCKET_PATH_BYTES:
            return path
        name = hashlib.blake2b(os.fsencode(path), digest_size=12).hexdigest()
        return _private_folder() / f"{name}.sock"


def _private_folder() -> Path:
    folder = Path(tempfile.gettempdir()) / f"raftlog-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        message = f"{folder} must be a folder of this user alone (mode 0700), and is not."
        raise SettingsError([Problem("E004", "DATA_DIR", message, "Remove it, or choose a shorter DATA_DIR.")])
    return folder


# One row for each key: name in RAFTLOG, field, kind, default and limits


@dataclass(frozen=True, slots=True)
class Option:
    """A key of RAFTLOG whose value stands for itself. The limits are inclusive; `unit` is for messages."""

    key: str
    kind: type | tuple[type, ...]
    default: Any
    minimum: float | None = None
    maximum: float | None = None
    unit: str = ""

    @property
    def type_name(self) -> str:
        kinds = self.kind if isinstance(self.kind, tuple) else (self.kind,)
        return " or ".join(kind.__name__ for kind in kinds)


_NUMBER = (int, float)
_PATH = (str, os.PathLike)

SIMPLE_OPTIONS = (
    Option("CLUSTER", str, "raftlog"),
    Option("DATABASE", str, "default"),
    Option("ELECTION_TIMEOUT", _NUMBER, 0.5, 0.05, 600, "seconds"),
    Option("HEARTBEAT_INTERVAL", _NUMBER, 0.1, 0.005, 200, "seconds"),
    Option("MAX_COMMAND_BYTES", int, MIB, KIB, 64 * MIB, "bytes"),
    Option("MAX_TRANSACTION_BYTES", int, 64 * MIB, 64 * KIB, 1024 * MIB, "bytes"),
    Option("SEGMENT_BYTES", int, 64 * MIB, 64 * KIB, 1024 * MIB, "bytes"),
    Option("SCRUB_BYTES_PER_SECOND", int, MIB, 0, 10_000 * MIB, "bytes"),
    Option("MAX_UNCOMMITTED_BYTES", int, 128 * MIB, MIB, 4096 * MIB, "bytes"),
    Option("MAX_WAITING_PROPOSALS", int, 65_536, 1, 10_000_000, "proposals"),
    Option("PROPOSAL_TIMEOUT", _NUMBER, 10.0, 0.01, 86_400, "seconds"),
    Option("READ_LEASE", bool, False),
    Option("READ_YOUR_WRITES_TIMEOUT", _NUMBER, 2.0, 0, 3600, "seconds"),
    Option("READ_YOUR_WRITES_LATE", str, "refuse"),
    Option("BACKUP_STORAGE", str, ""),
    Option("METRICS_TOKEN", str, ""),
    Option("BACKUP_INTERVAL", _NUMBER, 0.0, 0, 366 * 86_400, "seconds"),
    Option("BACKUP_KEEP", int, 7, 1, 100_000, "backups"),
    Option("ARCHIVE_INTERVAL", _NUMBER, 0.0, 0, 86_400, "seconds"),
    Option("SNAPSHOT_BYTES_PER_SECOND", int, 32 * MIB, 64 * KIB, 16_384 * MIB, "bytes"),
    Option("COMPACT_LOG_BYTES", int, 512 * MIB, 64 * KIB, 1 << 50, "bytes"),
    Option("COMPACT_LOG_ENTRIES", int, 5_000_000, 1, 1 << 50, "entries"),
    Option("COMPACT_LOG_AGE", _NUMBER, 7 * 86_400, 1, 100 * 366 * 86_400, "seconds"),
    Option("KEEP_LOG_BYTES", int, 128 * MIB, 0, 1 << 50, "bytes"),
    Option("KEEP_LOG_ENTRIES", int, 100_000, 0, 1 << 50, "entries"),
    Option("CHANGE_FEED_ENTRIES", int, 100_000, 0, 10_000_000, "entries"),
    Option("STATE_MACHINE", str, "database"),
    Option("TLS_CERTIFICATE", _PATH, None),
    Option("TLS_KEY", _PATH, None),
    Option("TLS_CA", _PATH, None),
)
DERIVED_KEYS = ("NODE_ID", "ADDRESS", "BIND", "MEMBERS", "DATA_DIR", "SECRET_KEYS", "SNAPSHOT_HOOKS")
KNOWN_KEYS = frozenset({option.key for option in SIMPLE_OPTIONS} | set(DERIVED_KEYS))

DEFAULT_NODE_ID = "node1"
DEFAULT_ADDRESS = "ws://127.0.0.1:8000"


def load_settings(raw: Mapping[str, Any] | None = None) -> Settings:
    """Read RAFTLOG (or `raw`, a dictionary of the same keys). Raises SettingsError with every mistake found."""
    reader = _Reader(getattr(django_settings, "RAFTLOG", {}) if raw is None else raw)
    settings = reader.read()
    if reader.problems or settings is None:
        raise SettingsError(reader.problems)
    return settings


def find_problems(raw: Mapping[str, Any] | None = None) -> list[Problem]:
    """As load_settings, but returns the mistakes (none: an empty list)."""
    try:
        load_settings(raw)
    except SettingsError as error:
        return error.problems
    return []


class _Reader:
    """Reads one dictionary once, and collects what is wrong with it."""

    def __init__(self, raw: Any) -> None:
        self.raw: Mapping[str, Any] = {}
        self.problems: list[Problem] = []
        if isinstance(raw, Mapping):
            self.raw = raw
        else:
            self.problem("E001", "", f"RAFTLOG must be a dictionary, not {_shown(raw)}.", "Write RAFTLOG = {…}.")

    def problem(self, code: str, key: str, message: str, hint: str) -> None:
        self.problems.append(Problem(code, key, message, hint))

    def read(self) -> Settings | None:
        self._unknown_keys()
        values = {option.key.lower(): self._simple(option) for option in SIMPLE_OPTIONS}
        node_id = self._typed("NODE_ID", str, DEFAULT_NODE_ID)
        members = self._members()
        address = self._address(node_id, members)
        bind = self._bind(address)
        values |= {
            "node_id": node_id,
            "address": address,
            "bind": bind,
            "members": members or {node_id: address},
            "data_dir": self._data_dir(),
            "secret_keys": self._secret_keys(str(values["cluster"])),
            "snapshot_hooks": self._snapshot_hooks(),
        }
        if "HEARTBEAT_INTERVAL" not in self.raw:
            values["heartbeat_interval"] = min(0.1, values["election_timeout"] / 5)
        for name in ("tls_certificate", "tls_key", "tls_ca"):
            values[name] = Path(values[name]) if values[name] else None
        if self.problems:
            return None
        settings = Settings(**values)
        for rule in (_check_names, _check_timing, _check_sizes, _check_compaction, _check_tls, _check_backup):
            rule(settings, self.problem)
        return settings

    def _unknown_keys(self) -> None:
        for key in self.raw:
            if key not in KNOWN_KEYS:
                close = difflib.get_close_matches(str(key).upper(), sorted(KNOWN_KEYS), n=1)
                hint = f"Did you mean {close[0]!r}?" if close else f"Known keys: {', '.join(sorted(KNOWN_KEYS))}."
                self.problem("E002", str(key), f"RAFTLOG has an unknown key {key!r}.", hint)

    def _typed(self, key: str, kind: type | tuple[type, ...], default: Any, type_name: str = "") -> Any:
        value = self.raw.get(key, default)
        if value is default:
            return default
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            names = type_name or Option(key, kind, default).type_name
            message = f"RAFTLOG[{key!r}] must be {names}, not {_shown(value)}."
            self.problem("E003", key, message, f"The default is {_shown(default)}; leave the key out to use it.")
            return default
        if value == "":
            self.problem("E003", key, f"RAFTLOG[{key!r}] must not be empty.", "Leave the key out to use its default.")
        return value

    def _simple(self, option: Option) -> Any:
        value = self._typed(option.key, option.kind, option.default)
        low, high = option.minimum, option.maximum
        if low is not None and high is not None and not low <= value <= high:
            message = f"RAFTLOG[{option.key!r}] is {value!r}, outside {low} to {high} {option.unit}."
            self.problem("E004", option.key, message, f"Choose a value in that range (default {option.default}).")
            return option.default
        return value

    def _members(self) -> dict[str, str]:
        members = self._typed("MEMBERS", Mapping, None, "a dictionary {node id: address}")
        if members is None:
            return {}
        if not members:
            self.problem("E003", "MEMBERS", "RAFTLOG['MEMBERS'] must not be empty.", "Leave it out for one node.")
        usable: dict[str, str] = {}
        for node_id, address in members.items():
            if not isinstance(node_id, str) or not node_id or not isinstance(address, str):
                message = f"RAFTLOG['MEMBERS'] must map node ids to addresses; it holds {node_id!r}: {_shown(address)}."
                self.problem("E003", "MEMBERS", message, "Write {'a': 'ws://10.0.0.1:8000', …}.")
            else:
                self._check_address("MEMBERS", address, f"RAFTLOG['MEMBERS'][{node_id!r}]")
                usable[node_id] = address
        addresses = list(usable.values())
        for address in sorted({address for address in addresses if addresses.count(address) > 1}):
            message = f"RAFTLOG['MEMBERS'] gives the address {address} to more than one node."
            self.problem("E007", "MEMBERS", message, "Give each node an address of its own.")
        return usable

    def _address(self, node_id: str, members: dict[str, str]) -> str:
        listed = members.get(node_id)
        address = self._typed("ADDRESS", str, listed if isinstance(listed, str) else DEFAULT_ADDRESS)
        if "ADDRESS" in self.raw:
            self._check_address("ADDRESS", address, "RAFTLOG['ADDRESS']")
        if members and node_id not in members and "ADDRESS" not in self.raw:
            message = f"RAFTLOG['NODE_ID'] is {node_id!r}, which is not in RAFTLOG['MEMBERS'] ({', '.join(members)})."
            hint = (
                f"Set NODE_ID to one of them, or add {node_id!r} to MEMBERS; or, for a node that is to be added to a "
            )
            self.problem("E005", "NODE_ID", message, hint + "running cluster (raft add), set its ADDRESS.")
        elif listed is not None and listed != address:
            message = f"RAFTLOG['ADDRESS'] is {address}, but RAFTLOG['MEMBERS'][{node_id!r}] is {listed}."
            self.problem("E007", "ADDRESS", message, "Make them equal, or leave ADDRESS out.")
        return str(address)

    def _check_address(self, key: str, address: str, where: str) -> None:
        try:
            parse_address(address)
        except ValueError as error:
            self.problem("E006", key, f"{where} is {address!r}: {error}.", "Write ws://host:port or wss://host:port.")

    def _bind(self, address: str) -> tuple[str, int]:
        value = self._typed("BIND", (str, tuple, list), None, "'host:port'")
        try:
            return parse_address(address)[1:] if value is None else parse_bind(value)
        except ValueError as error:
            if value is not None:  # what is wrong with an address has been said
                self.problem("E006", "BIND", f"RAFTLOG['BIND'] is {value!r}: {error}.", "Write 'host:port'.")
            return ("127.0.0.1", 8000)

    def _data_dir(self) -> Path:
        default = Path(getattr(django_settings, "BASE_DIR", None) or Path.cwd()) / "raft"
        return Path(self._typed("DATA_DIR", _PATH, default, "a path"))

    def _secret_keys(self, cluster: str) -> list[bytes]:
        keys = self._typed("SECRET_KEYS", (list, tuple), None, "a list of keys")
        if keys is None:
            return derived_secret_keys(cluster)
        if not keys:
            self.problem(
                "E008", "SECRET_KEYS", "RAFTLOG['SECRET_KEYS'] must not be empty.", "Leave it out, or add one."
            )
        encoded = []
        for number, key in enumerate(keys):
            if not isinstance(key, (str, bytes)):
                message = f"RAFTLOG['SECRET_KEYS'][{number}] must be str or bytes, not {type(key).__name__}."
                self.problem("E008", "SECRET_KEYS", message, "Write keys as text or bytes.")
                continue
            encoded.append(key.encode() if isinstance(key, str) else key)
            if len(encoded[-1]) < MIN_SECRET_BYTES:
                message = f"RAFTLOG['SECRET_KEYS'][{number}] has {len(encoded[-1])} bytes, under {MIN_SECRET_BYTES}."
                hint = "Make one with python -c 'import secrets; print(secrets.token_urlsafe(32))'."
                self.problem("E008", "SECRET_KEYS", message, hint)
        return encoded

    def _snapshot_hooks(self) -> dict[str, str]:
        hooks = self._typed("SNAPSHOT_HOOKS", Mapping, {}, "a dictionary {name: dotted path}")
        for name, path in hooks.items():
            if not isinstance(name, str) or not name or not isinstance(path, str):
                message = (
                    f"RAFTLOG['SNAPSHOT_HOOKS'] must map names to dotted paths; it holds {name!r}: {_shown(path)}."
                )
                self.problem("E003", "SNAPSHOT_HOOKS", message, "Write {'media': 'shop.files.Uploads'}.")
        return dict(hooks)


def derived_secret_keys(cluster: str) -> list[bytes]:
    """Keys from SECRET_KEY and its fallbacks, bound to this use and this cluster: knowing one tells nothing of them."""
    sources = [django_settings.SECRET_KEY, *django_settings.SECRET_KEY_FALLBACKS]
    purpose = b"raftlog.secret_keys\0" + cluster.encode()
    return [hmac.digest(key.encode() if isinstance(key, str) else key, purpose, "sha256") for key in sources]


# Rules between keys

Report = Callable[[str, str, str, str], None]


def _check_names(settings: Settings, report: Report) -> None:
    if settings.state_machine not in ("database", "log"):
        message = f"RAFTLOG['STATE_MACHINE'] is {settings.state_machine!r}."
        report("E004", "STATE_MACHINE", message, "Use 'database' ('log' is for benchmarks).")
    if settings.read_your_writes_late not in ("refuse", "serve"):
        message = f"RAFTLOG['READ_YOUR_WRITES_LATE'] is {settings.read_your_writes_late!r}."
        report("E004", "READ_YOUR_WRITES_LATE", message, "Use 'refuse' (503) or 'serve' (what is there).")
    for key, value in [("CLUSTER", settings.cluster), *(("MEMBERS", node_id) for node_id in settings.members)]:
        if len(value) > 64 or not value.isascii() or not all(letter.isalnum() or letter in "-_." for letter in value):
            message = f"RAFTLOG[{key!r}]: {value!r} is no valid name."
            report("E004", key, message, "Use at most 64 ASCII letters, digits, '-', '_' and '.'.")


def _check_timing(settings: Settings, report: Report) -> None:
    if settings.read_lease and sys.platform != "linux":
        message = "RAFTLOG['READ_LEASE'] needs a clock that goes on while the machine sleeps, which only Linux offers."
        report("E004", "READ_LEASE", message, "Leave it out: linearizable reads then ask the followers.")
    limit = settings.election_timeout / 3
    if settings.heartbeat_interval > limit + 1e-9:
        message = (
            f"RAFTLOG['HEARTBEAT_INTERVAL'] is {settings.heartbeat_interval} s, more than a third of "
            f"ELECTION_TIMEOUT ({settings.election_timeout} s)."
        )
        report("E009", "HEARTBEAT_INTERVAL", message, f"Set it to at most {limit:.4g}, or raise ELECTION_TIMEOUT.")


def _check_sizes(settings: Settings, report: Report) -> None:
    if settings.max_uncommitted_bytes < max(settings.max_command_bytes, settings.max_transaction_bytes):
        message = (
            f"RAFTLOG['MAX_UNCOMMITTED_BYTES'] is {settings.max_uncommitted_bytes}, less than one entry may have "
            f"(MAX_TRANSACTION_BYTES {settings.max_transaction_bytes}, MAX_COMMAND_BYTES {settings.max_command_bytes})."
        )
        report("E004", "MAX_UNCOMMITTED_BYTES", message, "Raise it, or lower the others.")


def _check_compaction(settings: Settings, report: Report) -> None:
    for keep, kept, compact, limit in (
        ("KEEP_LOG_BYTES", settings.keep_log_bytes, "COMPACT_LOG_BYTES", settings.compact_log_bytes),
        ("KEEP_LOG_ENTRIES", settings.keep_log_entries, "COMPACT_LOG_ENTRIES", settings.compact_log_entries),
    ):
        if kept >= limit:
            message = f"RAFTLOG[{keep!r}] is {kept}, not below {compact} ({limit}): the log could not be compacted."
            report("E004", keep, message, f"Lower it, or raise {compact}.")


def _check_tls(settings: Settings, report: Report) -> None:
    schemes = {address.partition(":")[0] for address in settings.members.values()}
    if len(schemes) > 1:
        message = "RAFTLOG['MEMBERS'] mixes ws:// and wss:// addresses."
        report("E010", "MEMBERS", message, "Use wss:// for all of them, or for none.")
    certificate = ("TLS_CERTIFICATE", settings.tls_certificate)
    key = ("TLS_KEY", settings.tls_key)
    for name, path in (certificate, key, ("TLS_CA", settings.tls_ca)):
        if path is not None and not os.path.isfile(path):
            report("E010", name, f"RAFTLOG[{name!r}] is {path}, which is no file.", "Give the path of a PEM file.")
        if path is None and name != "TLS_CA" and settings.uses_tls:
            report("E010", name, f"A wss:// address needs RAFTLOG[{name!r}].", "Give the path of a PEM file.")


def _shown(value: Any) -> str:
    return f"{value!r} ({type(value).__name__})"


def _check_backup(settings: Settings, report: Report) -> None:
    for key in ("BACKUP_INTERVAL", "ARCHIVE_INTERVAL"):
        if getattr(settings, key.lower()) and not settings.backup_storage:
            message = f"RAFTLOG[{key!r}] is set, and RAFTLOG['BACKUP_STORAGE'] is not."
            report("E004", key, message, "Name one of Django's STORAGES in BACKUP_STORAGE, or leave it out.")
