"""Arguments and results as bytes: msgpack, with extension types for what msgpack has no type for.

Kept exactly: None, bool, int (-2**63 to 2**64-1), float, str, bytes, list, dict (keys: str, int, bytes, UUID,
date, Decimal, …), datetime, date, time, timedelta, Decimal, UUID.
Kept by value: an aware datetime comes back in UTC, a tuple as a list, a member of an Enum as its value.
Everything else is refused, sets among them: their order differs between nodes.
"""

from __future__ import annotations

import datetime
import enum
import struct
import uuid
from decimal import Decimal
from hashlib import blake2b
from typing import Any, Final

import msgspec
from msgspec.msgpack import Ext

from raftlog.exceptions import InvalidArguments

MIN_INT: Final = -(2**63)
MAX_INT: Final = 2**64 - 1
DIGEST_BYTES: Final = 16

# Codes of the extension types. They stand in logs: never change or reuse one.
EXT_DATETIME_UTC: Final = 1
EXT_DATETIME_NAIVE: Final = 2
EXT_DATE: Final = 3
EXT_TIME: Final = 4
EXT_TIMEDELTA: Final = 5
EXT_DECIMAL: Final = 6
EXT_UUID: Final = 7
EXT_PAIRS: Final = 8  # a dict with keys for which msgpack has no type

_EPOCH: Final = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
_MICROSECOND: Final = datetime.timedelta(microseconds=1)
_INT64: Final = struct.Struct(">q")
_TIMEDELTA: Final = struct.Struct(">iii")


class CannotEncode(InvalidArguments):
    """A value is of a type that does not travel. `path` says where it stands, `reason` what to do."""

    def __init__(self, path: str, reason: str) -> None:
        self.path = path
        self.reason = reason
        super().__init__(f"{path or 'the value'} {reason}")


def encode(value: Any) -> bytes:
    """Raises CannotEncode, naming the place in `value` and the type."""
    try:
        return _encoder.encode(_pack(value))
    except RecursionError as error:
        raise CannotEncode("", "is nested too deeply, or contains itself") from error
    except UnicodeEncodeError as error:
        raise CannotEncode("", f"contains text that is not valid Unicode: {error}") from error


def decode(data: bytes | memoryview) -> Any:
    """Raises msgspec.DecodeError where `data` is not what encode() wrote."""
    return _decode(_decoder, data)


def digest(value: Any) -> bytes:
    """16 bytes that stand for a value, the same for equal ones: dicts are taken in the order of their keys.

    Raises CannotEncode.
    """
    return blake2b(_sorting_encoder.encode(_pack(value)), digest_size=DIGEST_BYTES).digest()


class Keyed(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """The idempotency key under which something is asked for, and a digest of what (idempotency.py)."""

    scope: str
    key: str
    digest: bytes


class CommandBody(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """The body of a COMMAND entry: [name, version, arguments], and in newer ones `keyed`, where it has a key.

    An older version of raftlog refuses a body of four parts: a key is never passed over unseen.
    """

    name: str
    version: int
    arguments: dict[str, Any]
    keyed: Keyed | None = None


def encode_command(name: str, version: int, arguments: dict[str, Any], keyed: Keyed | None = None) -> bytes:
    """See CommandBody."""
    parts = [name, version, arguments]
    return encode(parts if keyed is None else [*parts, [keyed.scope, keyed.key, keyed.digest]])


def decode_body(body: bytes | memoryview) -> CommandBody:
    """Raises msgspec.DecodeError (ValidationError included)."""
    decoded: CommandBody = _decode(_command_decoder, body)
    return decoded


def decode_command(body: bytes | memoryview) -> tuple[str, int, dict[str, Any]]:
    """Name, version and arguments. Raises msgspec.DecodeError (ValidationError included)."""
    decoded = decode_body(body)
    return decoded.name, decoded.version, decoded.arguments


# Encoding


def _pack(value: Any) -> Any:
    kind = type(value)
    if kind in _PLAIN:
        return value
    if kind is int:
        return _pack_int(value)
    if kind is dict:
        return _pack_dict(value)
    if kind is list or kind is tuple:
        return _pack_list(value)
    packer = _PACKERS.get(kind)
    return packer(value) if packer is not None else _pack_subclass(value)


def _pack_int(value: int) -> int:
    if MIN_INT <= value <= MAX_INT:
        return value
    raise CannotEncode("", f"is {_shown_int(value)}, beyond 64 bits; pass it as str or Decimal")


def _shown_int(value: int) -> str:
    return f"an int of {value.bit_length()} bits" if value.bit_length() > 256 else str(value)


def _pack_dict(value: dict[Any, Any]) -> dict[Any, Any] | Ext:
    packed: list[tuple[Any, Any]] = []
    are_plain = True
    for key, item in value.items():
        try:
            if type(key) is tuple:
                raise CannotEncode("", "is a tuple as a key")
            packed_key = _pack(key)
            are_plain = are_plain and type(packed_key) is not Ext
            packed.append((packed_key, _pack(item)))
        except CannotEncode as error:
            raise CannotEncode(f"[{key!r}]{error.path}", error.reason) from None
    return dict(packed) if are_plain else Ext(EXT_PAIRS, _encoder.encode(packed))


def _pack_list(value: list[Any] | tuple[Any, ...]) -> list[Any]:
    packed = []
    for position, item in enumerate(value):
        try:
            packed.append(_pack(item))
        except CannotEncode as error:
            raise CannotEncode(f"[{position}]{error.path}", error.reason) from None
    return packed


def _pack_datetime(value: datetime.datetime) -> Ext:
    if value.utcoffset() is None:
        return Ext(EXT_DATETIME_NAIVE, _iso(value.replace(tzinfo=None)))
    return Ext(EXT_DATETIME_UTC, _INT64.pack((value - _EPOCH) // _MICROSECOND))


def _iso(value: datetime.datetime | datetime.time) -> bytes:
    """ISO 8601, and a mark for the second one of two equal readings of a clock that is set back."""
    return (value.isoformat() + "~" * value.fold).encode()


def _pack_timedelta(value: datetime.timedelta) -> Ext:
    return Ext(EXT_TIMEDELTA, _TIMEDELTA.pack(value.days, value.seconds, value.microseconds))


def _pack_subclass(value: Any) -> Any:
    """Members of enumerations (Django's choices) and subclasses (SafeString) travel as what they are underneath."""
    if isinstance(value, enum.Enum):
        return _pack(value.value)
    for base in _SUBCLASSED:
        if isinstance(value, base):
            return _pack(base(value))  # type: ignore[arg-type]
    kind = type(value)
    reason = f"is of type {kind.__module__}.{kind.__qualname__}, which cannot be replicated"
    if hasattr(value, "_meta") and hasattr(value, "pk"):
        reason += "; pass its primary key"
    elif isinstance(value, (set, frozenset)):
        reason += " (the order of a set differs between nodes); pass sorted(…)"
    raise CannotEncode("", reason)


_PLAIN: Final = frozenset({type(None), bool, float, str, bytes})
_SUBCLASSED: Final = (str, int, float, bytes, list, tuple, dict)
_PACKERS: Final[dict[type, Any]] = {
    datetime.datetime: _pack_datetime,
    datetime.date: lambda value: Ext(EXT_DATE, value.isoformat().encode()),
    datetime.time: lambda value: Ext(EXT_TIME, _iso(value)),
    datetime.timedelta: _pack_timedelta,
    Decimal: lambda value: Ext(EXT_DECIMAL, str(value).encode()),
    uuid.UUID: lambda value: Ext(EXT_UUID, value.bytes),
    bytearray: bytes,
    memoryview: bytes,
}

# Decoding


def _decode(decoder: msgspec.msgpack.Decoder[Any], data: bytes | memoryview) -> Any:
    try:
        return decoder.decode(data)
    except UnicodeDecodeError as error:
        raise msgspec.DecodeError(f"text is not valid Unicode: {error}") from error
    except RecursionError as error:
        raise msgspec.DecodeError("values are nested too deeply") from error
    except TypeError as error:  # a list as a key
        raise msgspec.DecodeError(str(error)) from error


def _text(data: memoryview) -> str:
    return str(data, "ascii")


def _from_iso(kind: Any, data: memoryview) -> Any:
    text = _text(data)
    value = kind.fromisoformat(text.removesuffix("~"))
    return value.replace(fold=1) if text.endswith("~") else value


def _unpack_datetime(data: memoryview) -> datetime.datetime:
    return _EPOCH + datetime.timedelta(microseconds=_INT64.unpack(data)[0])


_UNPACKERS: Final[dict[int, Any]] = {
    EXT_DATETIME_UTC: _unpack_datetime,
    EXT_DATETIME_NAIVE: lambda data: _from_iso(datetime.datetime, data),
    EXT_DATE: lambda data: datetime.date.fromisoformat(_text(data)),
    EXT_TIME: lambda data: _from_iso(datetime.time, data),
    EXT_TIMEDELTA: lambda data: datetime.timedelta(*_TIMEDELTA.unpack(data)),
    EXT_DECIMAL: lambda data: Decimal(_text(data)),
    EXT_UUID: lambda data: uuid.UUID(bytes=bytes(data)),
    EXT_PAIRS: lambda data: dict(decode(data)),
}


def _unpack(code: int, data: memoryview) -> Any:
    unpacker = _UNPACKERS.get(code)
    if unpacker is None:
        raise msgspec.DecodeError(f"extension type {code} is unknown")
    try:
        return unpacker(data)
    except (ValueError, TypeError, ArithmeticError, struct.error) as error:
        raise msgspec.DecodeError(f"extension type {code} does not hold its value: {error}") from error


_encoder = msgspec.msgpack.Encoder()
_sorting_encoder = msgspec.msgpack.Encoder(order="deterministic")
_decoder = msgspec.msgpack.Decoder(ext_hook=_unpack)
_command_decoder = msgspec.msgpack.Decoder(CommandBody, ext_hook=_unpack)
